"""A store that an earlier version left is brought to the newest schema with all that is in it."""

import random

from msgspec.structs import astuple

from headgate.ledger.sums import DIMENSIONS, sum_of, total
from headgate.ledger.usage import UsageRecord, parted
from headgate.store.migrate import migrate, migrations
from headgate.store.open import connect
from headgate.store.usage import Usage

DAY_S = 86_400
FIELDS = [
    *("request", "tenant", "key_id", "model", "tier", "class", "endpoint", "engine", "outcome"),
    *("status", "attempts", "input_tokens", "cached_tokens", "output_tokens", "counted"),
    *("price_nano", "started_s", "queued_s", "first_byte_s", "took_s", "work_order"),
]


def old_records() -> list[UsageRecord]:
    """Of several doors, keys and days; more under one heading than a block takes."""
    dice = random.Random(11)
    records = [
        UsageRecord(
            request,
            dice.choice(["acme", 'O\'Neil "&" Söhne']),
            dice.choice(["key_1", "key_2"]),
            "small",
            "default",
            "maas",
            "chat/completions",
            dice.choice(["e0", "e1"]),
            dice.choice(["done", "done", "done", "left"]),  # type: ignore[arg-type]
            attempts=1 + (i % 50 == 0),
            input_tokens=dice.randrange(10**6),
            cached_tokens=dice.randrange(10),
            output_tokens=dice.randrange(10**4),
            price_nano=2**53 + 1 if i % 400 == 0 else dice.randrange(10**12),
            started_s=(20_000 + dice.randrange(3)) * DAY_S + dice.random() * (DAY_S - 1),
            queued_s=dice.random(),
            first_byte_s=dice.random() / 1000,
            took_s=dice.random() * 100,
            order=f"batch_{i % 3}/{i}" if i % 10 == 0 else "",
        )
        for i in range(2_000)
        for request in [f"req_{i % 2:012x}{i:010x}" if i % 97 else f"r{i}"]
    ]
    return records + [
        UsageRecord(f"req_{7:012x}{i:010x}", "bolt", "k", "m", "flex", "c", started_s=5 * DAY_S)
        for i in range(2_500)
    ]


def test_usage_by_rows_becomes_usage_by_blocks(url: str) -> None:
    database = connect(url)
    records = old_records()
    with database.transaction() as transaction:
        for number, script in migrations()[:2]:
            transaction.script(script)
            transaction.execute("put_schema_version", {"version": number})
        for first in range(0, len(records), 500):
            values = ", ".join(
                f"({', '.join(map(as_sql, astuple(one)))}, {int(one.started_s // DAY_S)})"
                for one in records[first : first + 500]
            )
            transaction.script(f"INSERT INTO usage ({', '.join(FIELDS)}, day) VALUES {values}")
        transaction.script(
            "INSERT INTO usage_days SELECT tenant, day, model, tier, count(*), sum(input_tokens),"
            " sum(cached_tokens), sum(output_tokens), sum(price_nano)"
            " FROM usage GROUP BY tenant, day, model, tier"
        )
    assert migrate(database) == len(migrations()) - 2
    assert migrate(database) == 0
    usage = Usage(database)
    assert usage.open_days() == (len(records), [])
    everything = total(map(sum_of, records))
    for dimension in DIMENSIONS:
        assert total(usage.sums([dimension]).values()) == everything
    for one in records[::119]:
        heading, item = parted(one)
        assert usage.record(one.request) == heading.record(item)
    acme = usage.records("acme", limit=10_000)
    assert len(acme) == sum(one.tenant == "acme" for one in records)
    assert [one.started_s for one in acme] == sorted((o.started_s for o in acme), reverse=True)
    with database.transaction(write=False) as transaction:
        where = {"tenant": "bolt", "first_day": 0, "last_day": 10}
        blocks = transaction.query("newest_blocks", where | {"limit": 100, "offset": 0})
    assert len(blocks) == 3
    usage.add([UsageRecord("req_new", "bolt", "k", "m", "flex", "c", started_s=5.0 * DAY_S)])
    assert usage.open_days() == (len(records) + 1, [])
    database.close()


def as_sql(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)

"""Usage records and their sums, on both stores."""

import contextlib
import random
import sqlite3
from typing import Any

import pytest
from msgspec.structs import astuple

from headgate.ledger.sums import DIMENSIONS, sum_of, total
from headgate.ledger.usage import UsageRecord, filed, parted
from headgate.store.blocks import Blocks
from headgate.store.database import Database
from headgate.store.usage import Moved, Position, Step, Usage

DAY_S = 86_400.0
# Of the view `usage`, in the order of a UsageRecord's fields.
COLUMNS = [
    *("request", "tenant", "key_id", "model", "tier", "class", "endpoint", "engine", "outcome"),
    *("status", "attempts", "input_tokens", "cached_tokens", "output_tokens", "counted"),
    *("price_nano", "started_s", "queued_s", "first_byte_s", "took_s", "work_order"),
]


def record(request: str, tenant: str = "acme", **values: object) -> UsageRecord:
    defaults = {
        "key": "key_1",
        "model": "small",
        "tier": "default",
        "class_": "maas",
        "started_s": 20_000 * DAY_S + 5,
        "input_tokens": 10,
        "output_tokens": 5,
        "price_nano": 150,
    }
    return UsageRecord(request=request, tenant=tenant, **(defaults | values))  # type: ignore[arg-type]


def some_records(count: int) -> list[UsageRecord]:
    dice = random.Random(7)
    return [
        record(
            f"req_{i}",
            dice.choice(["acme", "bolt"]),
            model=dice.choice(["small", "large"]),
            tier=dice.choice(["default", "flex"]),
            input_tokens=dice.randrange(10_000),
            output_tokens=dice.randrange(1_000),
            price_nano=dice.randrange(10**12),
            started_s=(20_000 + dice.randrange(3)) * DAY_S + dice.random(),
        )
        for i in range(count)
    ]


def in_microseconds(one: UsageRecord) -> UsageRecord:
    heading, item = parted(one)
    return heading.record(item)


def rows_of(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What a person's own SQL says."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as store:
            return store.execute(sql).fetchall()
    import psycopg

    with psycopg.connect(url) as store:
        return store.execute(sql.encode()).fetchall()


def test_a_record_comes_back_as_it_went_in(database: Database) -> None:
    usage = Usage(database)
    one = record("req_1", outcome="left", status=499, queued_s=0.25, order="", attempts=2)
    usage.add([one])
    assert usage.record("req_1") == one
    assert usage.records("acme") == [one]
    assert usage.records("bolt") == []


def test_what_lies_between_two_positions_is_added_once(database: Database) -> None:
    usage = Usage(database)
    records = some_records(50)
    start = usage.position("w1")
    assert start == Position(0, 0)
    step = Step("w1", start, Position(1, 700))
    assert usage.ship(step, Blocks(filed(records))) == 50
    before = usage.day_sums()
    for _ in range(2):  # read again by one who does not know that the store took it
        with pytest.raises(Moved):
            usage.ship(step, Blocks(filed(records)))
    assert usage.position("w1") == Position(1, 700)
    assert usage.day_sums() == before
    assert len(usage.records("acme")) + len(usage.records("bolt")) == 50
    more = [record("req_new")]
    assert usage.ship(Step("w1", Position(1, 700), Position(2, 80)), Blocks(filed(more))) == 1
    assert total(usage.day_sums().values()) == total(before.values()) + sum_of(more[0])


def test_writers_do_not_share_a_position(database: Database) -> None:
    usage = Usage(database)
    for writer in ("w1", "w2"):
        step = Step(writer, usage.position(writer), Position(1, 100))
        assert usage.ship(step, Blocks(filed([record(f"req_{writer}")]))) == 1
    assert total(usage.day_sums().values()).requests == 2


def test_a_writer_that_has_ended_takes_nothing_more_and_can_be_forgotten(
    database: Database,
) -> None:
    usage = Usage(database)
    end = usage.position("w1").ending()
    usage.ship(Step("w1", Position(), end), Blocks())
    assert usage.position("w1") == end
    with pytest.raises(Moved):
        usage.ship(Step("w1", Position(), Position(1, 10)), Blocks(filed([record("req_late")])))
    usage.forget("w1")
    usage.position("w2")
    usage.forget("w2")  # which lives: it stays
    with database.transaction(write=False) as transaction:
        assert transaction.query("writer", {"writer": "w1"}) == []
        assert transaction.query("writer", {"writer": "w2"}) == [(0, 0, 0)]


def test_records_of_before_there_were_positions_are_known_by_their_ids(
    database: Database,
) -> None:
    usage = Usage(database)
    records = some_records(60)
    usage.add(records[:20])
    step = Step("w1", usage.position("w1"), Position(1, 10))
    assert (
        usage.ship(step, Blocks(filed([record("req_new")])), {}, [*records[:30], records[29]]) == 11
    )
    assert total(usage.day_sums().values()).requests == 31
    assert usage.ship(Step("w1", Position(1, 10), Position(1, 20)), Blocks(), {}, records) == 30
    assert total(usage.day_sums().values()).requests == 61


def test_a_request_is_found_by_its_id_among_many(database: Database) -> None:
    usage = Usage(database)
    doors = [f"req_{door:012x}" for door in range(3)]
    records = [
        record(f"{door}{number:010x}", dice, model=model)
        for number in range(300)
        for door in doors
        for dice, model in [("acme" if number % 3 else "bolt", "small" if number % 5 else "large")]
    ]
    random.Random(5).shuffle(records)
    for first in range(0, len(records), 100):
        usage.add(records[first : first + 100])
    usage.add([record("of another make")])
    for one in [*records[::37], record("of another make")]:
        assert usage.record(one.request) == one
    for unknown in (f"{doors[0]}{300:010x}", f"req_{9:012x}{5:010x}", "", "req_1"):
        assert usage.record(unknown) is None


def test_a_tenants_newest_records_come_first_however_they_arrived(database: Database) -> None:
    usage = Usage(database)
    records = [one for one in some_records(400) if one.tenant == "acme"]
    for first in range(0, len(records), 7):
        usage.add(records[first : first + 7])
    expected = sorted(records, key=lambda one: -one.started_s)
    micro = [round(one.started_s * 1e6) for one in expected]
    for limit in (1, 10, 1_000):
        found = usage.records("acme", limit=limit)
        assert [round(one.started_s * 1e6) for one in found] == micro[:limit]
    day = usage.records("acme", first_day=20_001, last_day=20_001)
    assert {one.request for one in day} == {
        one.request for one in records if 20_001 * DAY_S <= one.started_s < 20_002 * DAY_S
    }


def test_the_view_shows_each_record_as_a_row(database: Database, url: str) -> None:
    usage = Usage(database)
    records = [
        *some_records(40),
        record("req_left", outcome="left", status=499, queued_s=0.25, took_s=1.5, attempts=2),
        record("req_line", order="batch_1/7", first_byte_s=0.125, cached_tokens=3),
    ]
    usage.add(records)
    rows = rows_of(url, f"SELECT {', '.join(COLUMNS)}, day FROM usage")
    assert sorted(row[:-1] for row in rows) == sorted(
        astuple(in_microseconds(one)) for one in records
    )
    assert all(row[-1] == row[COLUMNS.index("started_s")] // DAY_S for row in rows)
    [(count, price)] = rows_of(
        url, "SELECT count(*), sum(price_nano) FROM usage WHERE tenant = 'acme' AND day = 20001"
    )
    those = [one for one in records if one.tenant == "acme" and one.started_s // DAY_S == 20_001]
    assert (count, price) == (len(those), sum(one.price_nano for one in those))


def test_records_of_one_heading_are_one_row_for_each_day(database: Database, url: str) -> None:
    usage = Usage(database)
    late, early = 20_001 * DAY_S - 0.5, 20_001 * DAY_S
    usage.add(record(f"req_{i}", started_s=late if i % 2 else early) for i in range(100))
    rows = rows_of(url, "SELECT day, requests FROM usage_blocks ORDER BY day")
    assert rows == [(20_000, 50), (20_001, 50)]


def test_the_bills_proof_finds_what_was_changed(database: Database) -> None:
    usage = Usage(database)
    usage.add(some_records(100))
    assert usage.open_days() == (100, [])
    for statement in (
        "UPDATE usage_blocks SET records = replace(records, '[\"req_3\",', '[\"req_3\",1')",
        "UPDATE usage_sums SET requests = requests + 1 WHERE day = 20001",
        "UPDATE usage_days SET output_tokens = 0 WHERE day = 20002",
        "DELETE FROM usage_blocks WHERE day = 20000",
    ):
        with database.transaction() as transaction:
            transaction.script(statement)
        assert usage.open_days()[1], statement
    assert usage.open_days()[1] == ["2024-10-04", "2024-10-05", "2024-10-06"]
    assert usage.open_days(first_day=20_003) == (0, [])


def test_sums_close_against_the_records_however_they_are_cut(database: Database) -> None:
    usage = Usage(database)
    records = some_records(200)
    usage.add(records[:120])
    usage.add(records[120:])
    everything = total(map(sum_of, records))
    for dimension in DIMENSIONS:
        assert total(usage.sums([dimension]).values()) == everything
    assert total(usage.day_sums().values()) == everything
    by = usage.sums(["tenant", "model", "day", "tier"])
    kept = usage.day_sums()
    assert sorted(by.values(), key=repr) == sorted(kept.values(), key=repr)
    acme = usage.sums(["tenant"], tenant="acme")
    assert acme == {("acme",): total(sum_of(one) for one in records if one.tenant == "acme")}


def test_sums_are_exact_beyond_what_a_float_can_hold(database: Database) -> None:
    usage = Usage(database)
    usage.add([record(f"req_{i}", price_nano=10**15 + 1) for i in range(100)])
    assert usage.sums(["tenant"])[("acme",)].price_nano == 100 * (10**15 + 1)


def test_a_line_of_a_batch_is_billed_once_though_it_was_done_twice(database: Database) -> None:
    usage = Usage(database)
    first = record("req_1", order="batch_1/7")
    usage.add([record("req_0", order="batch_1/7", outcome="engine_lost", price_nano=0)])
    usage.add([first])
    usage.add([record("req_2", order="batch_1/7")])
    usage.add([record("req_3", order="batch_1/8"), record("req_4", order="batch_1/7")])
    prices = {one.request: one.price_nano for one in usage.records("acme")}
    assert prices == {"req_0": 0, "req_1": 150, "req_2": 0, "req_3": 150, "req_4": 0}
    assert total(usage.day_sums().values()).price_nano == 300
    assert total(usage.sums(["tier"]).values()).price_nano == 300


def test_nothing_of_a_group_is_kept_when_part_of_it_fails(database: Database) -> None:
    usage = Usage(database)
    broken = record("req_2", input_tokens="not a number")
    try:
        usage.add([record("req_1"), broken])
    except Exception:
        assert usage.record("req_1") is None
        assert usage.day_sums() == {}
    else:
        raise AssertionError("a record without a number was taken")

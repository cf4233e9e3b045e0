"""Usage records and their sums, on both stores."""

import random

from headgate.ledger.sums import DIMENSIONS, sum_of, total
from headgate.ledger.usage import UsageRecord
from headgate.store.database import Database
from headgate.store.usage import Usage

DAY_S = 86_400.0


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


def test_a_record_comes_back_as_it_went_in(database: Database) -> None:
    usage = Usage(database)
    one = record("req_1", outcome="left", status=499, queued_s=0.25, order="", attempts=2)
    usage.add([one])
    assert usage.record("req_1") == one
    assert usage.records("acme") == [one]
    assert usage.records("bolt") == []


def test_a_record_added_again_changes_nothing(database: Database) -> None:
    usage = Usage(database)
    records = some_records(50)
    assert usage.add(records) == 50
    before = usage.day_sums()
    assert usage.add(records[:20]) == 0
    assert usage.add([*records[10:], record("req_new")]) == 1
    assert total(usage.day_sums().values()) == total(before.values()) + sum_of(record("req_new"))


def test_the_same_record_twice_in_one_group_counts_once(database: Database) -> None:
    usage = Usage(database)
    assert usage.add([record("req_1"), record("req_1")]) == 1
    assert total(usage.day_sums().values()).requests == 1


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
    usage.add([first])
    assert [one.price_nano for one in usage.records("acme")] == [0, 150, 0]
    assert total(usage.day_sums().values()).price_nano == 150


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

"""What may be given out of a rate, held against a plain account of every single use."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.ledger.accounts import Limit
from headgate.ledger.rates import (
    MINUTE,
    SLICE_SLOTS,
    SLOTS_PER_S,
    Rate,
    grant,
    rates_of,
)

steps = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 60), st.integers(0, 80), st.integers(0, 50)),
    max_size=60,
)


@settings(max_examples=300)
@given(steps, st.integers(1, 200), st.integers(1, 200), st.data())
def test_no_minute_and_no_second_passes_its_limit(
    steps: list[tuple[int, int, int, int]], per_min: int, per_s: int, data: st.DataObject
) -> None:
    """Each grant is used at any time while it may be: the worst a process can do."""
    rate = Rate(per_min, min(per_s, per_min))
    booked: dict[int, int] = {}
    used: list[tuple[float, int]] = []
    slot = 1_000
    for wait, need, unmet, ahead in steps:
        slot += wait
        given_out = grant(booked, slot, rate, need, unmet, ahead)
        assert given_out.amount == 0 or given_out.amount >= need
        assert (given_out.amount == 0) == (given_out.bound is not None)
        if given_out.amount:
            until = slot + SLICE_SLOTS
            booked[until] = booked.get(until, 0) + given_out.amount
            at = data.draw(st.floats(slot, until, exclude_max=True))
            used.append((at, given_out.amount))
    for at, amount in used:
        minute = sum(n for then, n in used if at - MINUTE < then <= at)
        assert minute <= per_min
        second = sum(n for then, n in used if at - SLOTS_PER_S < then <= at)
        assert second <= max(rate.per_s, amount)


@given(steps, st.integers(1, 200))
def test_who_comes_back_when_told_is_let_through(
    steps: list[tuple[int, int, int, int]], per_min: int
) -> None:
    rate = Rate(per_min, per_min)
    booked: dict[int, int] = {}
    slot = 1_000
    for wait, need, _, _ in steps:
        slot += wait
        given_out = grant(booked, slot, rate, need, need)
        if given_out.bound is None:
            booked[slot + SLICE_SLOTS] = booked.get(slot + SLICE_SLOTS, 0) + given_out.amount
        elif given_out.bound != "size":
            later = slot + int(given_out.retry_after_s * SLOTS_PER_S)
            assert later > slot
            assert grant(booked, later, rate, need, need).amount == need


def test_load_may_double_each_minute_and_no_faster() -> None:
    rate = Rate(1_000_000, 1_000_000, growth_per_min=2.0, growth_floor=100)
    booked: dict[int, int] = {}
    slot, minutes = 10_000, []
    for _ in range(6):
        minute = 0
        for _ in range(30):
            given_out = grant(booked, slot, rate, 1, 1_000)
            if given_out.amount:
                booked[slot] = booked.get(slot, 0) + given_out.amount
                minute += given_out.amount
            slot += MINUTE // 30
        minutes.append(minute)
    assert minutes[0] == 100
    assert all(after <= 2 * before for before, after in itertools.pairwise(minutes))
    assert minutes[-1] > 400


def test_a_limit_becomes_its_rates() -> None:
    assert rates_of(Limit()) == {}
    limit = Limit(requests_per_min=60, tokens_per_min=6_000, burst_s=1.0)
    rates = rates_of(limit)
    assert (rates["requests"].per_s, rates["tokens"].per_s) == (1, 100)
    reserved = rates_of(Limit(reserved_input_per_min=5, reserved_output_per_min=7))
    assert [rate.per_min for rate in reserved.values()] == [5, 7]

"""The machine's edge: time, patience, names, and facts that cannot be."""

import pytest
from tests.unit.control.pools import Small, rules

from headgate.core.errors import InputError, LawBroken
from headgate.core.facts import (
    NodeJoined,
    RefuseWork,
    TenantChanged,
    WindowClosed,
    WorkCancelled,
    WorkStarted,
    WorkSubmitted,
)
from headgate.kernels import layout as k


def test_time_never_runs_back() -> None:
    pool = Small(1, rules(1))
    pool.tell(WindowClosed(10.0, 10.0, ()))
    with pytest.raises(LawBroken, match="time never runs back"):
        pool.tell(WindowClosed(9.0, 10.0, ()))


def test_who_waits_beyond_his_patience_is_refused_with_a_reason() -> None:
    pool = Small(1, rules(1))
    pool.run("a", 8)
    row = pool.submit("a", 8, patience_s=100.0, ref=7)
    patient = pool.submit("a", 8)
    pool.tell(WindowClosed(60.0, 60.0, ()))
    assert pool.state(row) == k.WAITING
    wishes = pool.tell(WindowClosed(120.0, 60.0, ()))
    assert wishes == [RefuseWork(wishes[0].fact, 0, row, "patience-over", 7)]
    assert pool.state(row) == k.REFUSED
    assert pool.state(patient) == k.WAITING


def test_patience_is_about_the_first_start_only() -> None:
    pool = Small(1, rules(3))
    row = pool.run("b", 8, patience_s=100.0)
    pool.submit("a", 8)
    pool.stopped(row)
    assert pool.tell(WindowClosed(500.0, 60.0, ())) == []
    assert pool.state(row) == k.WAITING


def test_a_wish_carries_its_facts_number_and_its_place() -> None:
    pool = Small(2, rules(3))
    pool.run("b", 8)
    pool.run("b", 8)
    pool.submit("a", 16, ref=42)
    number = pool.machine.ground.fact
    assert [(w.fact, w.position, w.by) for w in pool.wishes] == [(number, 0, 2), (number, 1, 2)]


@pytest.mark.parametrize(
    "fact",
    [
        WorkStarted(0.0, 99),
        WorkCancelled(0.0, 1),
        NodeJoined(0.0, 9),
        TenantChanged(0.0, 3, ()),
        WorkSubmitted(0.0, "w", "gang", 3, 0),
        WorkSubmitted(0.0, "w", "gang", 0, 99),
    ],
    ids=lambda fact: f"{type(fact).__name__}",
)
def test_a_fact_about_nobody_known_is_refused_before_anything_changes(fact) -> None:
    pool = Small(1, rules(1))
    pool.run("a", 4)
    before = pool.machine.ground.fact
    with pytest.raises(InputError, match="not known"):
        pool.tell(fact)
    assert pool.machine.ground.fact == before
    pool.machine.check_laws(looked=False)
    assert pool.state(pool.submit("a", 4)) == k.STARTING

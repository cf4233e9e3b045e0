"""Whose accelerators come back, and whose do not."""

import numpy as np
from tests.unit.control.pools import Small, rules

from headgate.core.facts import NodeFailed, WindowClosed, WorkFinished, WorkStarted
from headgate.kernels import layout as k
from headgate.policy.rules import Rank


def test_a_higher_level_takes_from_a_lower_one_and_starts_when_it_has_stopped() -> None:
    pool = Small(1, rules(3))
    low = pool.run("b", 8)
    high = pool.submit("a", 8)
    assert pool.told_to_stop() == [low]
    assert pool.state(high) == k.WAITING
    pool.stopped(low)
    assert pool.told_to_start() == [high]
    assert pool.state(low) == k.WAITING


def test_nobody_takes_from_an_equal_or_higher_level() -> None:
    pool = Small(1, rules(3))
    pool.run("a", 8)
    for class_ in "ab":
        pool.submit(class_, 8)
        assert pool.told_to_stop() == []


def test_no_more_is_taken_than_is_needed() -> None:
    pool = Small(2, rules(3))
    for _ in range(4):
        pool.run("b", 4)
    pool.submit("a", 4)
    assert len(pool.told_to_stop()) == 1


def test_the_newest_yields_first_where_loss_is_not_asked() -> None:
    pool = Small(2, rules(3))
    old = pool.run("b", 8, checkpoint_s=60.0, bid=1.0)
    pool.now_s = 3000.0
    new = pool.run("b", 8, checkpoint_s=3600.0, bid=9.0)
    pool.now_s = 5000.0
    pool.submit("a", 8)
    assert pool.told_to_stop() == [new]
    assert pool.state(old) == k.RUNNING


def test_what_loses_least_yields_first() -> None:
    pool = Small(2, rules(3, least_loss=True))
    old = pool.run("b", 8, checkpoint_s=60.0, bid=1.0)
    pool.now_s = 3000.0
    new = pool.run("b", 8, checkpoint_s=3600.0, bid=1.0)
    pool.now_s = 5000.0
    pool.submit("a", 8)
    assert pool.told_to_stop() == [old], "20 s since its checkpoint, against 2,000 s"
    assert pool.state(new) == k.RUNNING


def test_a_costly_restart_counts_as_loss() -> None:
    pool = Small(2, rules(3, least_loss=True))
    pool.run("b", 8, restart_s=600.0, bid=1.0)
    cheap = pool.run("b", 8, restart_s=30.0, bid=1.0)
    pool.submit("a", 8)
    assert pool.told_to_stop() == [cheap]


def test_firm_work_is_never_taken_back() -> None:
    pool = Small(1, rules(3, guarantees=True), guarantees=(0, 0, 0))
    pool.run("c", 8, kind="lease", firm=True)
    pool.submit("a", 8)
    assert pool.told_to_stop() == []


def test_a_guarantee_protects_its_class_from_a_higher_level() -> None:
    pool = Small(2, rules(3, guarantees=True), guarantees=(0, 8, 0))
    pool.run("b", 8)
    pool.now_s = 10.0
    borrowed = pool.run("b", 8)
    pool.submit("a", 16)
    assert pool.told_to_stop() == [], "only what is borrowed may be taken, and that is too little"
    pool.submit("a", 8)
    assert pool.told_to_stop() == [borrowed]


def test_two_victims_on_one_node_do_not_break_their_classs_guarantee() -> None:
    pool = Small(1, rules(3, guarantees=True), guarantees=(0, 4, 0))
    pool.run("b", 4)
    pool.run("b", 4)
    pool.submit("a", 8)
    assert pool.told_to_stop() == []
    pool.submit("a", 4)
    assert len(pool.told_to_stop()) == 1
    assert pool.held("b") == 8, "and it keeps the other four"


def test_a_class_inside_its_guarantee_takes_back_what_a_higher_one_borrows() -> None:
    pool = Small(2, rules(3, guarantees=True), guarantees=(8, 8, 0))
    first, second = pool.run("a", 8), pool.run("a", 8)
    row = pool.submit("b", 8)
    assert len(pool.told_to_stop()) == 1
    assert pool.rule(pool.told_to_stop()[0]) == k.RECLAIM_GUARANTEE
    pool.stopped(pool.told_to_stop()[0])
    assert row in pool.told_to_start()
    assert pool.state(first) != pool.state(second)


def test_a_guarantee_is_taken_back_once_and_not_for_each_waiting_work() -> None:
    pool = Small(4, rules(1, guarantees=True), guarantees=(16, 8, 0))
    for _ in range(4):
        pool.run("a", 8)
    for _ in range(3):
        pool.submit("b", 8)
    tables = pool.machine.ground.tables
    assert int(tables.pools["stopping"][0]) == 8
    assert int(tables.claims[1, 0, k.COMING]) == 8


def test_many_works_of_one_lane_are_made_room_for_at_once() -> None:
    pool = Small(4, rules(3))
    for _ in range(4):
        pool.run("b", 8)
    for _ in range(4):
        pool.submit("a", 8)
    assert int(pool.machine.ground.tables.pools["stopping"][0]) == 32


def test_what_is_given_back_is_kept_for_the_claimant() -> None:
    pool = Small(1, rules(3))
    victim = pool.run("b", 8)
    high = pool.submit("a", 8)
    pool.submit("c", 1)
    pool.stopped(victim)
    assert pool.told_to_start() == [high]


def test_a_claim_ends_when_its_node_is_lost_and_the_claimant_looks_elsewhere() -> None:
    pool = Small(2, rules(3, least_loss=True))
    cheap = pool.run("b", 8, bid=0.0)
    dear = pool.run("b", 8, restart_s=100.0, bid=1.0)
    high = pool.submit("a", 8)
    assert pool.told_to_stop() == [cheap]
    pool.now_s = 20.0
    pool.tell(NodeFailed(20.0, pool.nodes_of(cheap)[0]))
    assert pool.told_to_stop() == [dear]
    pool.stopped(dear)
    assert high in pool.told_to_start()


def test_a_claimant_that_finds_room_elsewhere_takes_it_and_leaves_its_nodes() -> None:
    pool = Small(2, rules(3))
    pool.run("a", 8)
    victim = pool.run("b", 8)
    high = pool.submit("a", 8)
    assert pool.told_to_stop() == [victim]
    pool.tell(WorkFinished(0.0, 0))
    assert pool.told_to_start() == [high]
    assert not pool.machine.ground.tables.nodes["reserved"].max() >= 0


def test_a_firm_work_starts_only_where_no_guarantee_is_given_away() -> None:
    pool = Small(2, rules(1, guarantees=True), guarantees=(8, 4, 0))
    fits = pool.submit("c", 4, kind="lease", firm=True)
    too_much = pool.submit("c", 1, kind="lease", firm=True)
    assert pool.state(fits) == k.STARTING
    assert pool.state(too_much) == k.WAITING
    assert pool.rule(too_much) == k.LENT_NOT_GIVEN
    assert pool.state(pool.submit("c", 1)) == k.STARTING, "lent work may have it"


def test_a_class_holds_no_more_than_its_cap() -> None:
    caps = np.array([[8], [4], [4], [0]], np.int64)
    pool = Small(2, rules(1, caps=caps))
    pool.run("b", 4)
    row = pool.submit("b", 1)
    assert pool.state(row) == k.WAITING
    assert pool.rule(row) == k.CLASS_CAP
    assert pool.state(pool.submit("a", 8)) == k.STARTING


def kept_by(pool: Small, row: int) -> list[int]:
    """The nodes kept for a work."""
    return np.flatnonzero(pool.machine.ground.tables.nodes["reserved"] == row).tolist()


def kept_for_a_low_gang() -> tuple[Small, int]:
    """Both nodes of a pool kept empty for a gang of class c; one is empty by now."""
    pool = Small(2, rules(3, reserve_after_s=600.0))
    first, _ = pool.run("c", 8), pool.run("c", 8)
    keeper = pool.submit("c", 16)
    pool.now_s = 600.0
    pool.tell(WorkFinished(pool.now_s, first))
    assert pool.rule(keeper) == k.HELD_FOR_LARGE_GANG
    return pool, keeper


def test_a_higher_level_takes_nodes_that_are_kept_for_a_lower_one() -> None:
    pool, keeper = kept_for_a_low_gang()
    high = pool.submit("a", 8)
    assert pool.told_to_start() == [high]
    assert pool.state(keeper) == k.WAITING
    assert not pool.machine.ground.tables.works["claiming"][high]


def test_a_keeper_that_lost_a_node_keeps_nodes_again_as_soon_as_it_can() -> None:
    pool, keeper = kept_for_a_low_gang()
    high = pool.submit("a", 8)
    pool.tell(WorkStarted(pool.now_s, high))
    assert pool.machine.ground.tables.works["reserved"][keeper] == 2, "both, whoever is on them"
    for row in (1, high):
        pool.tell(WorkFinished(pool.now_s, row))
    assert pool.told_to_start() == [keeper]


def test_nodes_kept_for_an_equal_level_are_left_alone() -> None:
    pool, keeper = kept_for_a_low_gang()
    assert pool.state(pool.submit("c", 8)) == k.WAITING
    assert pool.machine.ground.tables.works["reserved"][keeper] == 2


def test_a_class_inside_its_guarantee_takes_nodes_kept_for_a_class_that_borrows() -> None:
    pool = Small(2, rules(1, guarantees=True, reserve_after_s=600.0), (0, 8, 0))
    first, _ = pool.run("a", 8), pool.run("a", 8)
    keeper = pool.submit("a", 16)
    pool.now_s = 600.0
    pool.tell(WorkFinished(pool.now_s, first))
    assert pool.rule(keeper) == k.HELD_FOR_LARGE_GANG
    owed = pool.submit("b", 8)
    assert pool.told_to_start() == [owed]
    assert pool.told_to_stop() == []


def test_open_nodes_are_taken_before_those_kept_for_another() -> None:
    pool = Small(3, rules(3, reserve_after_s=600.0))
    first, going = pool.run("c", 8), pool.run("c", 8)
    pool.run("a", 8)
    keeper = pool.submit("c", 8)
    pool.now_s = 600.0
    pool.tell(NodeFailed(pool.now_s, 2))
    tables = pool.machine.ground.tables
    assert tables.works["reserved"][keeper] == 1
    kept = int(np.flatnonzero(tables.nodes["reserved"] == keeper)[0])
    other = going if pool.nodes_of(first) == [kept] else first
    pool.submit("a", 8)
    assert pool.told_to_stop() == [other], "neither loses more, so the kept node is left"


def test_who_keeps_nodes_goes_on_looking_for_victims() -> None:
    pool = Small(2, rules(3, reserve_after_s=600.0))
    first, second = pool.run("a", 8), pool.run("a", 8)
    wide = pool.submit("b", 16)
    pool.now_s = 600.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert pool.rule(wide) == k.HELD_FOR_LARGE_GANG
    # What runs on a kept node turns into lent work: now it may be taken back.
    ground = pool.machine.ground
    for row in (first, second):
        ground.move(row, Rank(2, 0.0), fill=False, mode=0)
    pool.now_s = 660.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert sorted(pool.told_to_stop()) == [first, second]
    assert pool.rule(wide) == k.WAITS_FOR_RECLAIM


def test_who_keeps_nodes_is_not_kept_from_looking_by_one_who_looks_first() -> None:
    pool = Small(3, rules(3, reserve_after_s=600.0))
    first, second = pool.run("a", 8), pool.run("a", 8)
    pool.run("a", 8)
    keeper = pool.submit("b", 16)
    pool.now_s = 600.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert pool.rule(keeper) == k.HELD_FOR_LARGE_GANG
    # Another of its lane, tried before it and as often in vain: there is no second pair of nodes.
    rival, ground = pool.submit("b", 16), pool.machine.ground
    ground.move(rival, Rank(1, -1.0), fill=False, mode=0)
    for pool.now_s in (660.0, 720.0):
        pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    for row in (first, second):
        ground.move(row, Rank(2, 0.0), fill=False, mode=0)
    kept = [row for row in (first, second) if pool.nodes_of(row)[0] in kept_by(pool, keeper)]
    for pool.now_s in (780.0, 840.0):
        pool.tell(WindowClosed(pool.now_s, 60.0, ()))
        kept = [row for row in kept if row not in pool.told_to_stop()]
    assert kept == []


def test_a_work_larger_than_its_classs_guarantee_does_not_shield_it() -> None:
    pool = Small(2, rules(1, guarantees=True), guarantees=(4, 8, 0))
    straddler = pool.run("a", 16)
    pool.submit("b", 8)
    assert pool.told_to_stop() == [straddler], "12 of its 16 are borrowed"


def test_a_straddling_work_goes_only_when_no_other_will_do() -> None:
    pool = Small(2, rules(1, guarantees=True), guarantees=(4, 8, 0))
    straddler, lent = pool.run("a", 8), pool.run("c", 8)
    pool.now_s = 900.0
    pool.submit("b", 8)
    assert pool.told_to_stop() == [lent]
    assert pool.state(straddler) == k.RUNNING


def test_a_class_that_borrows_nothing_is_left_alone() -> None:
    pool = Small(2, rules(1, guarantees=True), guarantees=(16, 0, 0))
    pool.run("a", 16)
    pool.submit("b", 8)
    assert pool.told_to_stop() == []


def test_a_higher_level_takes_a_work_that_no_guarantee_could_have_asked_for() -> None:
    pool = Small(2, rules(3, guarantees=True), guarantees=(0, 4, 0))
    pool.run("b", 2)
    straddler = pool.run("b", 12)
    pool.submit("a", 8)
    assert pool.told_to_stop() == [straddler], "12 were never guaranteed to a class with 4"


def test_a_victim_that_a_larger_one_makes_needless_is_spared() -> None:
    pool = Small(1, rules(3, least_loss=True))
    small = pool.run("b", 1, restart_s=10.0, bid=1.0)
    pool.run("b", 3, restart_s=1e4, bid=1.0)
    large = pool.run("b", 4, restart_s=10.0, bid=1.0)
    pool.submit("a", 4)
    assert pool.told_to_stop() == [large]
    assert pool.state(small) == k.RUNNING

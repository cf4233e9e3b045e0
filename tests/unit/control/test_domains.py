"""Topology domains: gangs in as few as can be, and those bound to one in one or not at all."""

import numpy as np
import pytest
from tests.stories import Thrown
from tests.unit.control.pools import Small, rules

from headgate.core.facts import NodeFailed, WindowClosed, WorkFinished, WorkStarted
from headgate.kernels import layout as k


def domains_of(pool: Small, row: int) -> set[int]:
    nodes = pool.machine.ground.tables.nodes
    return {int(nodes["domain"][node]) for node in pool.nodes_of(row)}


def kept_for(pool: Small, row: int) -> list[int]:
    return np.flatnonzero(pool.machine.ground.tables.nodes["reserved"] == row).tolist()


def test_a_gang_takes_the_domain_that_it_fills_best() -> None:
    pool = Small(5, rules(1), domain_nodes=3)  # three nodes and two
    assert domains_of(pool, pool.run("a", 16)) == {1}


def test_a_gang_that_no_domain_holds_spans_as_few_as_it_can() -> None:
    pool = Small(9, rules(1), domain_nodes=3)
    pool.run("a", 8)
    gang = pool.run("a", 40)
    assert domains_of(pool, gang) == {0, 1}, "all of one, and the two left of the tightest other"
    assert domains_of(pool, pool.run("a", 24, bound=True)) == {2}


def test_a_rest_lies_beside_its_whole_nodes() -> None:
    pool = Small(4, rules(1), domain_nodes=2)
    pool.run("a", 4)  # half of a node of the first domain
    gang = pool.run("a", 12)
    assert pool.nodes_of(gang) == [0, 1]


def test_small_work_takes_the_tightest_node_and_leaves_empty_domains_whole() -> None:
    pool = Small(6, rules(1), domain_nodes=3)
    pool.run("a", 16)
    assert pool.nodes_of(pool.run("a", 3)) == [2], "the last empty one of its domain"
    assert pool.nodes_of(pool.run("a", 5)) == [2]
    assert domains_of(pool, pool.run("a", 24, bound=True)) == {1}


def test_a_gang_bound_to_a_domain_waits_rather_than_span() -> None:
    pool = Small(4, rules(1), domain_nodes=2)
    first, second = pool.run("a", 8), pool.run("a", 8)
    third = pool.run("a", 8)
    bound = pool.submit("a", 16, bound=True)
    spans = pool.submit("b", 16)
    assert (pool.state(bound), pool.state(spans)) == (k.WAITING, k.WAITING)
    assert domains_of(pool, first) == domains_of(pool, second) == {0}
    pool.tell(WorkFinished(0.0, first))
    assert pool.told_to_start() == [spans], "two nodes of two domains will do for this one"
    pool.tell(WorkFinished(0.0, third))
    pool.tell(WorkFinished(0.0, second))
    assert pool.told_to_start() == []


def test_the_last_domain_may_be_smaller_than_the_rest() -> None:
    pool = Small(5, rules(1), domain_nodes=2)
    for _ in range(2):
        assert pool.state(pool.submit("a", 16, bound=True)) == k.STARTING
    assert pool.state(pool.submit("a", 16, bound=True)) == k.WAITING


def test_victims_of_a_bound_gang_lie_in_the_domain_that_loses_least() -> None:
    pool = Small(4, rules(3, least_loss=True), domain_nodes=2)
    rows = [pool.run("b", 8, restart_s=cost, bid=1.0) for cost in (1.0, 9.0, 4.0, 5.0)]
    high = pool.submit("a", 16, bound=True)
    assert pool.told_to_stop() == rows[2:], "nine in all, against ten"
    for row in rows[2:]:
        pool.stopped(row)
    assert pool.told_to_start() == [high]
    assert domains_of(pool, high) == {1}


def test_a_gang_that_may_span_loses_less_over_domains() -> None:
    pool = Small(4, rules(3, least_loss=True), domain_nodes=2)
    rows = [pool.run("b", 8, restart_s=cost, bid=1.0) for cost in (1.0, 9.0, 4.0, 5.0)]
    pool.submit("a", 16)
    assert pool.told_to_stop() == [rows[0], rows[2]]


def test_nodes_kept_for_a_bound_gang_are_those_of_the_emptiest_domain() -> None:
    pool = Small(4, rules(1, reserve_after_s=1800.0), domain_nodes=2)
    small = [pool.run("a", 4) for _ in range(8)]
    bound = pool.submit("a", 16, bound=True)
    for row in (small[0], small[4], small[6]):
        pool.tell(WorkFinished(0.0, row))
    pool.now_s = 1800.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert kept_for(pool, bound) == [2, 3]
    for row in (small[5], small[7]):
        pool.tell(WorkFinished(pool.now_s, row))
    assert pool.told_to_start() == [bound]
    assert pool.rule(bound) == k.RESERVED_NODES


def test_an_open_node_stands_in_for_a_kept_one_of_the_same_domain_only() -> None:
    pool = Small(6, rules(1, reserve_after_s=1800.0), domain_nodes=3)
    rows = [pool.run("a", 8) for _ in range(6)]
    bound = pool.submit("a", 16, bound=True)
    pool.now_s = 1800.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert kept_for(pool, bound) == [0, 1]
    pool.tell(WorkFinished(pool.now_s, rows[0]))
    pool.tell(WorkFinished(pool.now_s, rows[5]))
    assert pool.told_to_start() == [], "one here and one in the other domain"
    pool.tell(WorkFinished(pool.now_s, rows[2]))
    assert pool.told_to_start() == [bound]


def test_a_bound_gang_that_lost_a_kept_node_keeps_another_domain() -> None:
    pool = Small(4, rules(1, reserve_after_s=1800.0), domain_nodes=2)
    for _ in range(4):
        pool.run("a", 8)
    bound = pool.submit("a", 16, bound=True)
    pool.now_s = 1800.0
    pool.tell(WindowClosed(pool.now_s, 60.0, ()))
    assert kept_for(pool, bound) == [0, 1]
    pool.tell(NodeFailed(pool.now_s, 1))
    assert kept_for(pool, bound) == [2, 3]


@pytest.mark.parametrize("seed", range(40))
def test_victims_make_the_gang_fit_where_it_is_placed_and_none_could_be_spared(seed: int) -> None:
    dice = Thrown(seed)
    pool = Small(6, rules(3, least_loss=dice.one_of((True, False))), domain_nodes=2)
    for _ in range(14):
        cost = float(dice.one_of(range(1, 9)))
        gpus = dice.one_of((1, 2, 3, 4, 8, 12))
        row = pool.submit("b", gpus, restart_s=cost, bid=1.0)
        if pool.state(row) == k.STARTING:
            pool.tell(WorkStarted(0.0, row))
    gpus, bound = dice.one_of((1, 3, 4, 8, 11, 16)), dice.one_of((True, False))
    gang = pool.submit("a", gpus, bound=bound)
    victims = pool.told_to_stop()
    nodes = kept_for(pool, gang)
    owner = pool.machine.ground.tables.gpus["owner"].reshape(6, 8).copy()
    if not victims:
        assert pool.state(gang) != k.WAITING
        return

    def fits(stopped: list[int]) -> bool:
        free = sorted(int(np.isin(owner[n], [-1, *stopped]).sum()) for n in nodes)[::-1]
        whole, rest = divmod(gpus, 8)
        return free[:whole] == [8] * whole and (rest == 0 or max(free[whole:]) >= rest)

    assert fits(victims)
    for victim in victims:
        assert not fits([other for other in victims if other != victim])
    for victim in victims:
        pool.stopped(victim)
    assert gang in pool.told_to_start()
    assert set(pool.nodes_of(gang)) <= set(nodes)
    assert not bound or len(domains_of(pool, gang)) == 1

"""Where gangs are placed, who waits in which order, and nodes kept for large gangs."""

from tests.unit.control.pools import Small, rules

from headgate.core.facts import NodeFailed, NodeJoined, WorkCancelled, WorkFinished, WorkStarted
from headgate.kernels import layout as k


def test_a_gang_starts_whole_or_not_at_all() -> None:
    pool = Small(2, rules(1))
    pool.submit("a", 12)
    late = pool.submit("a", 8)
    assert pool.state(late) == k.WAITING
    assert pool.machine.ground.tables.works["gpus"][late] == 0


def test_a_gang_that_does_not_fit_never_blocks_its_neighbours() -> None:
    pool = Small(2, rules(1))
    pool.run("a", 4)
    wide = pool.submit("a", 16)
    small = pool.submit("a", 8)
    assert (pool.state(wide), pool.state(small)) == (k.WAITING, k.STARTING)


def test_whole_nodes_come_first_and_the_rest_fills_the_fullest_node() -> None:
    pool = Small(4, rules(1))
    five = pool.run("a", 5)
    two = pool.run("a", 2)
    assert pool.nodes_of(two) == pool.nodes_of(five)
    gang = pool.run("a", 17)
    assert len(pool.nodes_of(gang)) == 3
    assert set(pool.nodes_of(gang)) & set(pool.nodes_of(five))


def test_a_gang_lies_on_as_few_nodes_as_it_can() -> None:
    pool = Small(3, rules(1))
    for _ in range(3):
        pool.run("a", 4)
        pool.run("a", 3)
    assert pool.state(pool.submit("a", 2)) == k.WAITING  # one free on each of three nodes
    assert pool.state(pool.submit("a", 1)) == k.STARTING


def test_equal_works_start_in_the_order_they_came() -> None:
    pool = Small(1, rules(1))
    first = pool.run("a", 8)
    waiting = [pool.submit("a", 8) for _ in range(3)]
    started = []
    for row in [first, *waiting]:
        pool.tell(WorkFinished(pool.now_s, row))
        started += pool.told_to_start()
        for new in pool.told_to_start():
            pool.tell(WorkStarted(pool.now_s, new))
    assert started == waiting


def test_a_higher_level_starts_before_an_earlier_lower_one() -> None:
    pool = Small(1, rules(3))
    holder = pool.run("a", 8)
    low, high = pool.submit("b", 8), pool.submit("a", 8)
    pool.tell(WorkFinished(pool.now_s, holder))
    assert pool.told_to_start() == [high]
    assert pool.state(low) == k.WAITING


def test_nothing_starts_on_a_node_that_is_lost() -> None:
    pool = Small(1, rules(1))
    pool.tell(NodeFailed(0.0, 0))
    row = pool.submit("a", 1)
    assert pool.state(row) == k.WAITING
    pool.tell(NodeJoined(0.0, 0))
    assert pool.told_to_start() == [row]


def test_a_rack_that_joins_serves_who_waits() -> None:
    pool = Small(2, rules(1), up=1)
    row = pool.submit("a", 16)
    assert pool.state(row) == k.WAITING
    pool.tell(NodeJoined(60.0, 1))
    assert pool.told_to_start() == [row]


def large_gang_that_waited() -> tuple[Small, int, list[int]]:
    """A gang of two nodes for which nodes are kept, in a pool kept busy by small ones."""
    pool = Small(2, rules(1, reserve_after_s=1800.0))
    small = [pool.run("a", 4) for _ in range(4)]
    large = pool.submit("a", 16)
    pool.now_s = 1800.0
    pool.tell(WorkFinished(pool.now_s, small.pop(0)))
    return pool, large, small


def test_nodes_kept_for_a_large_gang_let_it_land() -> None:
    pool, large, small = large_gang_that_waited()
    assert pool.rule(large) == k.HELD_FOR_LARGE_GANG
    late = pool.submit("a", 4)
    assert pool.state(late) == k.WAITING, "kept nodes are not given to others"
    for row in small:
        pool.tell(WorkFinished(pool.now_s, row))
    assert pool.told_to_start() == [large]


def test_without_keeping_nodes_small_work_starves_a_large_gang() -> None:
    pool = Small(2, rules(1))
    small = [pool.run("a", 4) for _ in range(4)]
    large = pool.submit("a", 16)
    pool.now_s = 1800.0
    late = pool.submit("a", 4)
    pool.tell(WorkFinished(pool.now_s, small[0]))
    assert pool.told_to_start() == [late]
    assert pool.state(large) == k.WAITING


def test_kept_nodes_are_dropped_when_one_of_them_is_lost() -> None:
    pool, large, small = large_gang_that_waited()
    pool.tell(NodeFailed(pool.now_s, pool.nodes_of(small[-1])[0]))
    tables = pool.machine.ground.tables
    assert tables.works["reserved"][large] == 0
    assert pool.state(pool.submit("a", 4)) == k.STARTING, "what was kept is open again"


def test_kept_nodes_are_dropped_when_the_gang_is_cancelled() -> None:
    pool, large, _ = large_gang_that_waited()
    late = pool.submit("a", 4)
    pool.tell(WorkCancelled(pool.now_s, large))
    assert pool.told_to_start() == [late]


def test_a_lost_work_waits_again_in_its_old_place() -> None:
    pool = Small(1, rules(1))
    row = pool.run("a", 8)
    pool.now_s = 10.0
    later = pool.submit("a", 8)
    pool.now_s = 50.0
    pool.stopped(row)
    assert pool.told_to_start() == [row]
    assert pool.state(later) == k.WAITING
    assert pool.machine.ground.tables.works["evictions"][row] == 1

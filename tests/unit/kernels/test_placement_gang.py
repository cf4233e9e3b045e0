"""Gangs start whole, in the domain that suits, and their victims free the nodes they get."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.kernels.placement_gang import (
    earliest_start,
    make_room,
    may_backfill,
    place_gang,
)

NODE = 8
frees = st.lists(st.integers(0, NODE), min_size=1, max_size=5)
gangs = (
    st.tuples(st.integers(0, 2), st.sampled_from([(), (4,), (2,), (4, 2), (2, 1), (1,)]))
    .map(lambda t: np.array([NODE] * t[0] + list(t[1]), dtype=np.int64))
    .filter(len)
)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def seats_hold(free, sizes, nodes) -> bool:
    used = np.zeros(len(free), dtype=np.int64)
    np.add.at(used, nodes, sizes)
    return bool((used <= free).all())


def any_seating(free, sizes) -> bool:
    return any(
        seats_hold(free, sizes, list(nodes))
        for nodes in itertools.product(range(len(free)), repeat=len(sizes))
    )


@settings(deadline=None, max_examples=80)
@given(frees, gangs)
def test_a_gang_is_placed_whole_exactly_when_some_seating_holds_it(frees, sizes):
    free = np.array(frees, dtype=np.int64)
    nodes = np.full(len(sizes), -1, dtype=np.int64)
    used = place_gang(free, np.zeros(len(free), dtype=np.int64), 1, sizes, 1, nodes)
    assert (used == 1) == any_seating(free, sizes)
    assert seats_hold(free, sizes, nodes) if used else (nodes == -1).all()


def test_a_gang_takes_the_domain_that_it_fills_best():
    free, domain = whole(8, 8, 8, 8, 8), whole(0, 0, 0, 1, 1)
    nodes = whole(-1, -1)
    assert place_gang(free, domain, 2, whole(8, 8), 1, nodes) == 1
    assert set(nodes) == {3, 4}


def test_a_gang_spans_domains_only_as_far_as_it_may():
    free, domain = whole(8, 8, 8), whole(0, 1, 2)
    nodes = whole(-1, -1)
    assert place_gang(free, domain, 3, whole(8, 8), 1, nodes) == 0
    assert (nodes == -1).all()
    assert place_gang(free, domain, 3, whole(8, 8), 2, nodes) == 2
    assert len(set(nodes)) == 2


def test_a_gang_stays_off_nodes_of_no_domain():
    nodes = whole(-1)
    assert place_gang(whole(8, 4), whole(-1, 0), 1, whole(8), 1, nodes) == 0


# Works on nodes: each node's list of (work, GPUs), a work at most once on a node.
@st.composite
def fleets(draw):
    works = draw(st.integers(1, 5))
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        room, held = NODE, []
        for work in range(works):
            gpus = draw(st.integers(0, min(room, 4)))
            if gpus:
                held.append((work, gpus))
                room -= gpus
        pieces.append(held)
    loss = np.array([draw(st.integers(1, 9)) for _ in range(works)], dtype=np.float64)
    if draw(st.booleans()):
        loss[0] = np.inf
    return pieces, loss


def columns(pieces):
    start = np.cumsum([0, *map(len, pieces)])
    gpus = np.array([g for held in pieces for _, g in held], dtype=np.int64)
    work = np.array([w for held in pieces for w, _ in held], dtype=np.int64)
    free = np.array([NODE - sum(g for _, g in held) for held in pieces], dtype=np.int64)
    return free, start.astype(np.int64), gpus, work


def freed_by(stop, free, start, gpus, work):
    node = np.repeat(np.arange(len(free)), np.diff(start))
    after = free.copy()
    np.add.at(after, node, gpus * stop[work])
    return after


@settings(deadline=None, max_examples=80)
@given(fleets(), gangs)
def test_victims_make_the_gang_fit_where_it_is_placed_and_none_could_be_spared(fleet, sizes):
    pieces, loss = fleet
    free, start, gpus, work = columns(pieces)
    domain = np.arange(len(free)) % 2
    stop, nodes = np.zeros(len(loss), dtype=np.int64), np.full(len(sizes), -1, dtype=np.int64)
    lost = make_room(free, domain, 2, sizes, start, gpus, work, loss, stop, nodes)
    everyone = freed_by(np.isfinite(loss).astype(np.int64), free, start, gpus, work)
    possible = any(any_seating(everyone[domain == d], sizes) for d in range(2))
    assert np.isfinite(lost) == possible
    if not possible:
        return
    after = freed_by(stop, free, start, gpus, work)
    assert lost == loss[stop == 1].sum()
    assert seats_hold(after, sizes, nodes)
    assert len(set(domain[nodes])) == 1
    for victim in np.flatnonzero(stop):
        spared = stop.copy()
        spared[victim] = 0
        assert not seats_hold(freed_by(spared, free, start, gpus, work), sizes, nodes)


@settings(deadline=None, max_examples=80)
@given(fleets(), st.integers(1, NODE))
def test_a_gang_of_one_member_loses_the_least_that_any_victims_would(fleet, size):
    pieces, loss = fleet
    free, start, gpus, work = columns(pieces)
    domain = np.zeros(len(free), dtype=np.int64)
    stop, nodes = np.zeros(len(loss), dtype=np.int64), whole(-1)
    lost = make_room(free, domain, 1, whole(size), start, gpus, work, loss, stop, nodes)
    least = min(
        (
            loss[list(victims)].sum()
            for count in range(len(loss) + 1)
            for victims in itertools.combinations(range(len(loss)), count)
            if freed_by(np.bincount(victims, minlength=len(loss)), free, start, gpus, work).max()
            >= size
        ),
    )
    assert lost == least


def story(seed: int, reserve: bool, until_s: float = 400.0) -> float:
    """When a gang of three whole nodes starts on four nodes that small work keeps busy.

    Small work of 1 to 4 GPUs arrives faster than it leaves and runs at most 20 s; the gang
    arrives at 50 s. Infinite: not by the end.
    """
    dice = np.random.default_rng(seed)
    free, domain, sizes = np.full(4, NODE), np.zeros(4, dtype=np.int64), whole(8, 8, 8)
    running: list[tuple[float, int, int]] = []  # (end, node, GPUs)
    nodes, start_s = np.full(3, -1, dtype=np.int64), np.inf
    for now_s in np.arange(0.0, until_s, 0.25):
        for end_s, node, gpus in [r for r in running if r[0] <= now_s]:
            free[node] += gpus
            running.remove((end_s, node, gpus))
        if now_s >= 50.0:
            if place_gang(free, domain, 1, sizes, 1, np.empty(3, dtype=np.int64)):
                return float(now_s)
            if reserve and start_s == np.inf:
                ends = np.array([r[0] for r in running])
                held_on, held = (np.array([r[i] for r in running], dtype=np.int64) for i in (1, 2))
                start_s = earliest_start(free, domain, 1, sizes, now_s, ends, held_on, held, nodes)
        gpus, end_s = int(dice.integers(1, 5)), now_s + float(dice.uniform(5, 20))
        for node in range(4):
            then = free[node] + sum(g for e, n, g in running if n == node and e <= start_s)
            wanted = int(sizes[nodes == node].sum())
            if may_backfill(free[node], then, wanted, gpus, end_s, start_s):
                free[node] -= gpus
                running.append((end_s, node, gpus))
                break
    return np.inf


def test_a_reserved_gang_starts_within_the_longest_run_of_what_ran_before_it():
    assert max(story(seed, reserve=True) for seed in range(10)) <= 50.0 + 20.0 + 0.25


def test_without_a_reservation_the_same_gang_starves():
    assert min(story(seed, reserve=False) for seed in range(10)) == np.inf


def test_a_gang_that_no_end_makes_room_for_is_told_so():
    nodes = whole(-1)
    ends = np.array([np.inf])
    assert (
        earliest_start(whole(4), whole(0), 1, whole(8), 0.0, ends, whole(0), whole(4), nodes)
        == np.inf
    )

"""The programme of prices: against finite differences, exhaustive search and plain reasoning."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from headgate.policy.price.programme import Floats, Programme, Uses, unit_cost
from headgate.policy.price.solver import Solver, Unsolved


def programme(
    seed: int, pools: int = 3, buckets: int = 6, uses: int = 7, *, starts: bool = False
) -> Programme:
    """A made-up programme with every kind of use in it."""
    dice = np.random.default_rng(seed)
    rate = dice.uniform(0.2, 1.0, (uses, pools)) * (dice.random((uses, pools)) < 0.8)
    rate[:, 0] = np.maximum(rate[:, 0], 0.3)
    hours = dice.choice([0.25, 0.5, 1.0], buckets)
    may_wait = np.where(np.arange(uses)[:, None] % 3 == 0, 0.0, np.inf) * np.ones(buckets)
    may_wait[1] = dice.uniform(0.0, 8.0, buckets)
    return Programme(
        hours=hours,
        capacity=dice.uniform(3.0, 12.0, (pools, buckets)),
        uses=Uses(
            value=dice.uniform(1.0, 9.0, uses),
            loss=dice.uniform(0.0, 1.0, uses),
            wait=dice.uniform(0.0, 0.05, uses),
            rate=rate,
            arrives=dice.uniform(0.0, 6.0, (uses, buckets)) * hours,
            may_wait=may_wait,
            width=np.where(np.arange(uses)[:, None] == 2, 4.0, np.inf) * np.ones(buckets),
            class_=np.arange(uses) % 3,
            tier=np.arange(uses) % 3,
            family=np.arange(uses),
            held=np.zeros((uses, pools)),
            start_h=np.full(uses, 0.05 if starts else 0.0),
        ),
        floors=np.zeros((3, pools, buckets)),
    )


def with_capacity(p: Programme, pool: int, bucket: int, more: float) -> Programme:
    capacity = p.capacity.copy()
    capacity[pool, bucket] += more
    return replace(p, capacity=capacity)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("starts", [False, True])
def test_a_price_is_what_one_more_unit_of_capacity_is_worth(seed, starts):
    p = programme(seed, starts=starts)
    answer = Solver().solve(p)
    step = 1e-3
    for pool, bucket in itertools.product(range(3), range(6)):
        more = Solver().solve(with_capacity(p, pool, bucket, step)).worth
        slope = (more - answer.worth) / (step * p.hours[bucket])
        assert answer.price[pool, bucket] == pytest.approx(slope, abs=1e-4)


def test_at_a_kink_the_price_is_that_of_the_next_unit_not_of_the_last():
    # Ten units of demand worth 5 and plenty worth 2 meet exactly ten units of capacity.
    p = one_bucket(values=[5.0, 2.0], arrives=[10.0, 50.0], capacity=10.0)
    assert Solver().solve(p).price[0, 0] == pytest.approx(2.0)


def one_bucket(
    values: list[float], arrives: list[float], capacity: float, floors: list[float] | None = None
) -> Programme:
    """One pool for an hour; every use of a class of its own, at one unit of output per hour."""
    n = len(values)
    every: Floats = np.ones((n, 1))
    return Programme(
        hours=np.ones(1),
        capacity=np.full((1, 1), capacity),
        uses=Uses(
            value=np.array(values),
            loss=np.zeros(n),
            wait=np.zeros(n),
            rate=every,
            arrives=np.array(arrives)[:, None],
            may_wait=np.zeros((n, 1)),
            width=np.full((n, 1), np.inf),
            class_=np.arange(n),
            tier=np.arange(n),
            family=np.arange(n),
            held=np.zeros((n, 1)),
            start_h=np.zeros(n),
        ),
        floors=np.array(floors or [0.0] * n).reshape(n, 1, 1),
    )


def test_a_guarantee_costs_what_honouring_it_loses():
    free = Solver().solve(one_bucket([5.0, 2.0], [10.0, 10.0], 10.0))
    kept = Solver().solve(one_bucket([5.0, 2.0], [10.0, 10.0], 10.0, floors=[0.0, 4.0]))
    assert kept.floor_price[1, 0, 0] == pytest.approx(3.0)
    assert free.worth - kept.worth == pytest.approx(kept.floor_price[1, 0, 0] * 4.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_guarantee_price_is_the_slope_of_the_value_lost(seed):
    p = programme(seed)
    floors = p.floors.copy()
    floors[2, 0] = 1.5
    p = replace(p, floors=floors)
    answer = Solver().solve(p)
    for bucket in range(6):
        raised = floors.copy()
        raised[2, 0, bucket] += 1e-3
        lost = answer.worth - Solver().solve(replace(p, floors=raised)).worth
        slope = lost / (1e-3 * p.hours[bucket])
        assert answer.floor_price[2, 0, bucket] == pytest.approx(slope, abs=1e-4)


def best_by_trying(p: Programme) -> float:
    """Every way to give whole units of capacity to uses in every bucket, one after another."""
    uses, pools = p.uses.rate.shape
    buckets = len(p.hours)
    choices = [
        [
            shares
            for shares in itertools.product(range(int(p.capacity[pool, t]) + 1), repeat=uses)
            if sum(shares) <= p.capacity[pool, t]
        ]
        for pool, t in itertools.product(range(pools), range(buckets))
    ]
    best = -np.inf
    for picked in itertools.product(*choices):
        served = np.array(picked, float).reshape(pools, buckets, uses)
        worth, waiting = 0.0, np.zeros(uses)
        for t in range(buckets):
            made = np.einsum("pu,up->u", served[:, t], p.uses.rate) * p.hours[t]
            waiting = waiting + p.uses.arrives[:, t]
            taken = np.minimum(made, waiting)
            worth += float(taken @ p.uses.value)
            waiting = waiting - taken
            late = np.maximum(waiting - p.uses.may_wait[:, t], 0.0)
            worth -= float(late @ p.uses.loss)
            waiting = waiting - late
        best = max(best, worth)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_small_cases_equal_exhaustive_search(seed):
    """Whole arrivals and rates of one make an interval matrix: the optimum is whole."""
    dice = np.random.default_rng(seed)
    uses, buckets = 3, 2
    p = one_bucket([1.0] * uses, [0.0] * uses, 1.0)
    may_wait = np.where(dice.random((uses, 1)) < 0.5, 0.0, np.inf) * np.ones(buckets)
    p = Programme(
        np.ones(buckets),
        dice.integers(1, 4, (1, buckets)).astype(float),
        replace(
            p.uses,
            value=dice.integers(1, 9, uses).astype(float),
            loss=dice.integers(0, 3, uses).astype(float),
            arrives=dice.integers(0, 3, (uses, buckets)).astype(float),
            may_wait=may_wait,
            width=np.full((uses, buckets), np.inf),
        ),
        np.zeros((uses, 1, buckets)),
    )
    assert Solver().solve(p).worth == pytest.approx(best_by_trying(p), abs=1e-3)


def test_strict_gives_the_first_class_all_it_can_use_whatever_it_is_worth():
    p = one_bucket([1.0, 9.0], [6.0, 10.0], 10.0)
    value, strict = Solver().solve(p), Solver().solve(p, "strict")
    assert value.served[:, 0, 0] == pytest.approx([0.0, 10.0], abs=1e-3)
    assert strict.served[:, 0, 0] == pytest.approx([6.0, 4.0], abs=1e-3)
    assert value.worth - strict.worth == pytest.approx(6 * 8.0, abs=1e-2)


def test_deferrable_work_goes_to_the_cheapest_bucket_before_its_deadline():
    p = programme(0, pools=1, buckets=3, uses=2)
    uses = replace(
        p.uses,
        value=np.array([9.0, 1.0]),
        loss=np.zeros(2),
        wait=np.zeros(2),
        rate=np.ones((2, 1)),
        arrives=np.array([[10.0, 2.0, 0.0], [6.0, 0.0, 0.0]]),
        may_wait=np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]]),  # due by the end of the second
        width=np.full((2, 3), np.inf),
        held=np.zeros((2, 1)),
    )
    p = Programme(np.ones(3), np.full((1, 3), 10.0), uses, np.zeros((3, 1, 3)))
    answer = Solver().solve(p)
    assert answer.served[1, 0] == pytest.approx([0.0, 6.0, 0.0], abs=1e-3)


def test_a_second_solve_of_the_same_shape_starts_from_the_last_basis():
    solver = Solver()
    first = solver.solve(programme(1, buckets=6))
    p = programme(1, buckets=6)
    again = solver.solve(replace(p, capacity=p.capacity * 1.001))
    assert again.iterations < max(5, first.iterations // 2)
    fresh = Solver().solve(replace(p, capacity=p.capacity * 1.001))
    assert again.worth == pytest.approx(fresh.worth)
    assert again.price == pytest.approx(fresh.price, abs=1e-6)


def test_floors_beyond_capacity_are_said_to_be_so():
    with pytest.raises(Unsolved):
        Solver().solve(one_bucket([5.0, 2.0], [10.0, 10.0], 10.0, floors=[8.0, 4.0]))


def test_unit_cost_is_price_over_rate_and_infinite_where_the_use_cannot_go():
    cost = unit_cost(np.array([2.0, 3.0]), np.array([[0.5, 0.0]]))
    assert cost.tolist() == [[4.0, np.inf]]

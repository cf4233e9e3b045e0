"""The simulator against queueing formulas; each tolerance is the spread of repeated runs."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.stories import POLICIES, Thrown, small_fleet

from headgate.control.machine import Machine
from headgate.core.facts import Fact, RefuseWork, StartWork, Wish, WorkStopped, WorkSubmitted
from headgate.core.fleet import Fleet, Pool, Shape, Tenant
from headgate.kernels import layout as k
from headgate.policy.baselines import Fifo
from headgate.sim.driver import run
from headgate.sim.nature import Failures, Nature, Truth

RUNS = 12
JOBS = 3000
# A mean of RUNS runs lies within four of its standard errors but once in a thousand times.
STANDARD_ERRORS = 4.0

Sizes = Callable[[np.random.Generator, int], np.ndarray]


def waits(seed: int, gap_s: float, service_s: Sizes, gpus: int, wanted: int) -> np.ndarray:
    """Seconds each job waits: Poisson arrivals, one shape of job, first come first served.

    The first tenth, in which the queue builds up, is left out.
    """
    dice = np.random.default_rng(seed)
    at_s = np.cumsum(dice.exponential(gap_s, JOBS))
    run_s = service_s(dice, JOBS)
    truth = Truth()

    def arrivals() -> Iterator[Fact]:
        for n in range(JOBS):
            ref = truth.add(float(run_s[n]), 0.0, fixed_term=True)
            yield WorkSubmitted(float(at_s[n]), f"job-{n}", "gang", 0, 0, ref=ref)

    fleet = Fleet(
        pools=(Pool(name="pool", generation="any", nodes=gpus // 4, gpus_per_node=4),),
        classes=("training",),
        tenants=(Tenant(name="tenant", class_=0),),
        shapes=(Shape(name="job", gpus=(wanted,), speed=(1.0,), start_s=(0.0,)),),
    )
    machine = Machine(fleet, Fifo())
    until_s = float(at_s[-1]) + 1e7
    run(machine, Nature(fleet, arrivals(), truth, until_s=until_s, window_s=1e6))
    works = machine.ground.tables.works[:JOBS]
    assert np.all(works["state"] == k.DONE)
    return np.asarray(works["waited_s"][JOBS // 10 :].copy())


def agrees(figures: list[float], theory: float) -> bool:
    """Whether the runs' mean lies as near to the formula as their own spread allows."""
    error = float(np.std(figures, ddof=1)) / math.sqrt(len(figures))
    assert error < 0.1 * theory, "the runs are too noisy to tell"
    return abs(float(np.mean(figures)) - theory) <= STANDARD_ERRORS * error


def exponential(mean_s: float) -> Sizes:
    return lambda dice, count: dice.exponential(mean_s, count)


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits in M/M/c; `load` is arrival rate times service time."""
    busy = load**servers / math.factorial(servers) * servers / (servers - load)
    return busy / (sum(load**n / math.factorial(n) for n in range(servers)) + busy)


def test_single_gpu_jobs_wait_as_erlang_c_says() -> None:
    servers, service_s, gap_s = 4, 100.0, 36.0
    load = service_s / gap_s
    runs = [waits(seed, gap_s, exponential(service_s), servers, 1) for seed in range(RUNS)]
    waiting = erlang_c(servers, load)
    mean_s = waiting * service_s / (servers - load)
    assert agrees([float((run > 0).mean()) for run in runs], waiting)
    assert agrees([float(run.mean()) for run in runs], mean_s)
    # The same runs refute a formula that is off by one accelerator.
    assert not agrees([float((run > 0).mean()) for run in runs], erlang_c(servers + 1, load))


@pytest.mark.parametrize(
    ("name", "service_s"),
    [
        ("fixed", lambda dice, count: np.full(count, 100.0)),
        ("exponential", exponential(100.0)),
        ("even", lambda dice, count: dice.uniform(20.0, 180.0, count)),
    ],
)
def test_gangs_that_need_the_whole_pool_wait_as_pollaczek_and_khinchine_say(
    name: str, service_s: Sizes
) -> None:
    gap_s = 160.0
    second_moment = {"fixed": 1e4, "exponential": 2e4, "even": 1e4 + 160.0**2 / 12}[name]
    mean_s = second_moment / gap_s / (2 * (1 - 100.0 / gap_s))
    runs = [waits(seed, gap_s, service_s, 8, 8) for seed in range(RUNS)]
    assert agrees([float(run.mean()) for run in runs], mean_s)
    assert agrees([float((run > 0).mean()) for run in runs], 100.0 / gap_s)


class Waiting:
    """Counts who waits from facts and wishes alone, and sums it over time."""

    def __init__(self) -> None:
        self.count = 0
        self.now_s = 0.0
        self.work_s = 0.0

    def __call__(self, fact: Fact, wishes: list[Wish]) -> None:
        self.work_s += self.count * (fact.at_s - self.now_s)
        self.now_s = fact.at_s
        self.count += isinstance(fact, WorkSubmitted | WorkStopped)
        self.count -= sum(isinstance(wish, StartWork | RefuseWork) for wish in wishes)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_littles_law_holds_in_a_story_with_preemption_and_failures(policy: str) -> None:
    """Works waiting on average = arrivals per second x seconds each waits."""
    fleet, dice, truth, facts = small_fleet(services=False), Thrown(2), Truth(), []
    for n in range(150):
        ref = truth.add(dice.one_of((60.0, 900.0, 4000.0)), 600.0, fixed_term=False)
        facts.append(
            WorkSubmitted(
                200.0 * n, f"work-{n}", "gang", dice.one_of(range(6)), dice.one_of(range(7)),
                checkpoint_s=600.0, patience_s=dice.one_of((None, 3000.0)), ref=ref,
            )
        )  # fmt: skip
    machine, waiting = Machine(fleet, POLICIES[policy]()), Waiting()
    nature = Nature(
        fleet, iter(facts), truth, until_s=40_000.0, failures=Failures(30_000.0, 2000.0)
    )
    run(machine, nature, (waiting,))
    works = machine.ground.tables.works[: machine.ground.rows]
    still = np.where(works["state"] == k.WAITING, machine.now_s - works["since_s"], 0.0)
    span_s = machine.now_s
    arrivals_per_s, wait_s = len(works) / span_s, float((works["waited_s"] + still).mean())
    assert waiting.work_s / span_s == pytest.approx(arrivals_per_s * wait_s, rel=1e-9)
    assert waiting.work_s > 0

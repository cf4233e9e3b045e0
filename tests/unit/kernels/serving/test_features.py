"""Law: each feature of a simulated service does what a plain twin does, to 1e-8 s."""

from collections import Counter
from dataclasses import replace
from math import inf

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as some
from tests.unit.kernels.serving.service_twin import (
    Choice,
    PrefixAware,
    Seat,
    Service,
    least_outstanding,
    round_robin,
)
from tests.unit.kernels.serving.test_skipping import LINEAR, linear_step_s, workload_of
from tests.unit.kernels.serving.twin import Replica, Request
from tests.unit.kernels.serving.vllm_twin import VllmReplica

from headgate.kernels.serving import layout as at
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.serving.replay import Replayed, replay
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.service import DOWN, DRAINING, UP, Settings, SimulatedService
from headgate.sim.serving.workload import Workload

CHUNK, CAP, BLOCK, BLOCKS = 32, 8, 4, 120
PROFILES = ["sarathi", "vllm-v1"]
# A caller who hangs up leaves an asynchronous plan one step early, which the documentation says.
WITH_AHEAD = [*PROFILES, "vllm-v1 ahead"]
GROUPS = ("chat", "search", "batch")

rows = some.lists(
    some.tuples(some.floats(0, 0.3, allow_subnormal=False), *(some.integers(1, 90),) * 2),
    min_size=1,
    max_size=50,
)
seeds = some.integers(0, 1 << 30)


def scheduler(profile: str) -> Scheduler:
    ahead = profile.endswith("ahead")
    return Scheduler(profile.split()[0], CHUNK, CAP, BLOCK, watermark=0.05, plan_ahead=ahead)


def seats(profile: str, count: int, by_priority: bool = False, yields: bool = False) -> list[Seat]:
    made: list[Seat] = []
    for _ in range(count):
        rules = {"by_priority": by_priority, "yields": yields}
        if profile == "sarathi":
            plain = Replica(linear_step_s, BLOCKS, CHUNK, CAP, BLOCK, 0.05, **rules)
            made.append(Seat(plain))
        else:
            ahead = profile.endswith("ahead")
            engine = VllmReplica(
                linear_step_s, BLOCKS - 1, CHUNK, CAP, BLOCK, plan_ahead=ahead, **rules
            )
            made.append(Seat(engine))
    return made


def as_requests(workload: Workload) -> list[Request]:
    n = len(workload)
    level = np.broadcast_to(workload.priority, n)
    group = np.broadcast_to(workload.group, n)
    leaves = workload.cancelled_s if workload.cancelled_s.size else np.full(n, inf)
    return [
        Request(
            i,
            float(workload.arrived_s[i]),
            int(workload.prefill[i]),
            int(workload.decode[i]),
            priority=int(level[i]),
            cancelled_at=float(leaves[i]),
            group=int(group[i]),
        )
        for i in range(n)
    ]


def assert_like(replayed: Replayed, slow: list[Request]) -> None:
    for i, request in enumerate(slow):
        if request.finished_at is None:
            assert np.isnan(replayed.e2e_s[i]), i
            continue
        assert request.first_token_at is not None
        assert abs(replayed.ttft_s[i] - (request.first_token_at - request.arrived_at)) < 1e-8
        assert abs(replayed.e2e_s[i] - (request.finished_at - request.arrived_at)) < 1e-8
        assert replayed.preemptions[i] == request.preemptions


def totals(seen: list[Seen]) -> Counter[tuple[str, int]]:
    columns = {
        "finished": at.W_FINISHED,
        "refused": at.W_REFUSED,
        "cancelled": at.W_CANCELLED,
        "failed": at.W_FAILED,
        "moved": at.W_REROUTED,
        "preempted": at.W_PREEMPTED,
    }
    found: Counter[tuple[str, int]] = Counter()
    for one in seen:
        for name, column in columns.items():
            for group in range(len(one.settings.groups)):
                found[name, group] += one.count(column, group)
    return +found


def totals_of(slow: list[Request]) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for request in slow:
        found["finished", request.group] += request.finished_at is not None
        found["refused", request.group] += request.refused
        found["cancelled", request.group] += request.left
        found["failed", request.group] += request.failed
        found["moved", request.group] += request.moved
        found["preempted", request.group] += request.preemptions
    return +found


def mixed(workload: Workload, seed: int, levels: int, leaving: float) -> Workload:
    """The same requests with classes, priority levels, and callers who hang up."""
    dice = np.random.default_rng(seed)
    n = len(workload)
    leaves = workload.arrived_s + dice.exponential(1.0, n)
    return replace(
        workload,
        group=dice.integers(0, len(GROUPS), n) if n > 1 else np.zeros(1, np.int64),
        groups=GROUPS,
        priority=dice.integers(0, levels, n) if n > 1 else np.zeros(1, np.int64),
        cancelled_s=np.where(dice.random(n) < leaving, leaves, inf),
    )


def play_both(
    profile: str, workload: Workload, levels: int, yields: bool, replicas: int
) -> tuple[Replayed, list[Request]]:
    asked = Settings(
        scheduler(profile),
        routing="least-outstanding",
        groups=GROUPS,
        levels=levels,
        objectives=((inf, inf),) * len(GROUPS),
        yields=yields,
    )
    replayed = replay(SimulatedService(asked, [LINEAR], replicas, BLOCKS), workload)
    slow = as_requests(workload)
    Service(seats(profile, replicas, levels > 1, yields), least_outstanding).play(slow)
    return replayed, slow


@given(some.sampled_from(WITH_AHEAD), rows, seeds, some.booleans(), some.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_priorities_and_classes_that_yield_are_those_of_the_twin(
    profile: str, rows: list, seed: int, yields: bool, replicas: int
) -> None:
    workload = mixed(workload_of(rows), seed, levels=3, leaving=0.0)
    replayed, slow = play_both(profile, workload, 3, yields, replicas)
    assert_like(replayed, slow)
    assert totals([replayed.seen]) == totals_of(slow)


@given(some.sampled_from(PROFILES), rows, seeds, some.booleans(), some.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_callers_that_hang_up_are_those_of_the_twin(
    profile: str, rows: list, seed: int, levelled: bool, replicas: int
) -> None:
    levels = 2 if levelled else 1
    workload = mixed(workload_of(rows), seed, levels, leaving=0.4)
    replayed, slow = play_both(profile, workload, levels, False, replicas)
    assert_like(replayed, slow)
    assert totals([replayed.seen]) == totals_of(slow)


@given(some.sampled_from(WITH_AHEAD), rows, seeds, some.sampled_from([1, 2]))
@example("vllm-v1", [(0.024, 58, 42), (0.0, 24, 26), (0.0, 78, 89)], 16, 1)
@example(
    "sarathi",
    [(0.031, 46, 44), (0, 1, 1), (0, 76, 42), (0.031, 33, 41), (0, 64, 38), (0.25, 64, 23)],
    16,
    1,
)
@settings(max_examples=80, deadline=None)
def test_replicas_that_boot_drain_and_die_are_those_of_the_twin(
    profile: str, rows: list, seed: int, levels: int
) -> None:
    workload = mixed(workload_of(rows), seed, levels, leaving=0.0)
    asked = Settings(
        scheduler(profile),
        routing="round-robin",
        groups=GROUPS,
        levels=levels,
        objectives=((inf, inf),) * len(GROUPS),
    )
    played = SimulatedService(asked, [LINEAR], 2, BLOCKS)
    slow = as_requests(workload)
    plain = Service(seats(profile, 2, levels > 1), round_robin())
    dice = np.random.default_rng(seed)
    last_s = float(workload.arrived_s[-1]) + 2.0
    seen, start = [], 0
    for moment in np.sort(dice.random(6)) * last_s:
        stop = int(np.searchsorted(workload.arrived_s, moment))
        seen.append(played.window(rows_of(workload, start, stop), float(moment)))
        for request in slow[start:stop]:
            plain.arrive(request)
        start = stop
        r, state = int(dice.integers(0, 2)), int(dice.choice([UP, DRAINING, DOWN]))
        seen.append(played.set_replica(r, state, float(moment)))
        if state == DOWN:
            plain.lose(r, float(moment))
        plain.seats[r].up = state == UP
    seen.append(played.play(rows_of(workload, start, len(workload))))
    for request in slow[start:]:
        plain.arrive(request)
    plain.run_to(inf)
    assert totals(seen) == totals_of(slow)
    real_s = sum(one.books.histograms[:, at.E2E].sum() for one in seen)
    assert real_s == sum(request.finished_at is not None for request in slow)
    ours = np.sort(ended_bins(seen))
    theirs = np.sort([r.finished_at - r.arrived_at for r in slow if r.finished_at is not None])
    assert np.allclose(ours, theirs, rtol=0.004, atol=1e-6)


def rows_of(workload: Workload, start: int, stop: int) -> Workload:
    n = len(workload)
    group, level = np.broadcast_to(workload.group, n), np.broadcast_to(workload.priority, n)
    return replace(
        workload,
        arrived_s=workload.arrived_s[start:stop],
        prefill=workload.prefill[start:stop],
        decode=workload.decode[start:stop],
        group=group[start:stop].copy() if stop > start else np.zeros(1, np.int64),
        priority=level[start:stop].copy() if stop > start else np.zeros(1, np.int64),
        cancelled_s=np.zeros(0),
    )


def ended_bins(seen: list[Seen]) -> np.ndarray:
    """End-to-end times of the finished, each the middle of its bin."""
    from headgate.sim.serving.seen import bin_middle_s

    bins = np.sum([one.books.histograms[:, at.E2E].sum(axis=0) for one in seen], axis=0)
    return np.repeat([bin_middle_s(int(b)) for b in np.flatnonzero(bins)], bins[bins > 0])


# Powers of two: expected work adds up exactly, so that no tie hangs on a rounding.
EXACT = StepModel(
    name="exact",
    source="test",
    linear_s=2.0**-7 + 2.0**-13 * np.arange(600),
    sequence_s=np.zeros(1),
    kv_s=2.0**-22,
    mixed_kv_s=2.0**-21,
    chunk_s=2.0**-28,
)


def exact_step_s(prefills: list[tuple[int, int]], decodes: list[int]) -> float:
    tokens = len(decodes) + sum(chunk for _, chunk in prefills)
    area = sum(chunk * (done + chunk / 2) for done, chunk in prefills)
    slope = 2.0**-21 if prefills else 2.0**-22
    return 2.0**-7 + 2.0**-13 * tokens + slope * sum(decodes) + 2.0**-28 * area


@given(some.sampled_from(WITH_AHEAD), rows, seeds, some.booleans())
@settings(max_examples=80, deadline=None)
def test_prefixes_found_by_routing_are_those_of_the_twin(
    profile: str, rows: list, seed: int, prefixes: bool
) -> None:
    plain = workload_of(rows)
    # Arrivals at odd multiples of 2^-31 s: no step ends there, and clocks stay exact.
    arrived = np.sort((np.floor(plain.arrived_s * 2**20) * 2 + 1) / 2**31 * 2**10)
    dice = np.random.default_rng(seed)
    per_prompt, block_tokens = 3, 8
    known = dice.integers(0, 6, (len(plain), 1)) * per_prompt + np.arange(per_prompt)
    workload = replace(
        plain,
        arrived_s=arrived + 2.0**-33,
        blocks=known.ravel(),
        block_starts=np.arange(len(plain) + 1) * per_prompt,
        block_tokens=block_tokens,
    )
    asked = Settings(scheduler(profile), routing="prefix" if prefixes else "least-expected")
    played = SimulatedService(asked, [EXACT], 3, BLOCKS)
    replayed = replay(played, workload)
    slow = as_requests(workload)
    prompt_s, output_s = played.tables.token_s[0]
    usable = int(played.fleet.rep[0, at.BLOCKS])
    rule: Choice = PrefixAware(
        float(prompt_s),
        float(output_s),
        block_tokens,
        usable * BLOCK // block_tokens,
        {i: list(map(int, blocks)) for i, blocks in enumerate(known)} if prefixes else {},
    )
    made = seats(profile, 3)
    for seat in made:
        seat.replica.step_s = exact_step_s
    Service(made, rule).play(slow)
    assert_like(replayed, slow)


def test_the_laws_are_tried_with_what_they_are_about() -> None:
    """On one long workload each feature happens often, and the twin still agrees."""
    dice = np.random.default_rng(3)
    columns = zip(
        dice.exponential(0.06, 700),
        dice.integers(1, 90, 700),
        dice.integers(1, 90, 700),
        strict=True,
    )
    rows = [(float(gap), int(prefill), int(decode)) for gap, prefill, decode in columns]
    for profile in PROFILES:
        workload = mixed(workload_of(rows), 4, levels=3, leaving=0.2)
        replayed, slow = play_both(profile, workload, 3, True, 1)
        assert_like(replayed, slow)
        counted = totals([replayed.seen])
        assert counted == totals_of(slow)
        by_name: Counter[str] = Counter()
        for (name, _), count in counted.items():
            by_name[name] += count
        assert by_name["preempted"] > 100
        assert by_name["cancelled"] > 50

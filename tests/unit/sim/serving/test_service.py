"""A simulated service: windows, routing, callers that leave and replicas that are lost."""

from dataclasses import replace

import numpy as np
import pytest
from numba import cfunc

from headgate.core.errors import InputError
from headgate.kernels.serving import layout as at
from headgate.kernels.serving.layout import (
    W_ARRIVED,
    W_CANCELLED,
    W_FAILED,
    W_FINISHED,
    W_GOOD,
    W_PREEMPTED,
    W_REFUSED,
    W_REROUTED,
)
from headgate.kernels.serving.run import RULE_TYPE
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.serving.replay import replay
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.service import DOWN, DRAINING, UP, Settings, SimulatedService
from headgate.sim.serving.workload import Workload

MODEL = StepModel(
    name="linear",
    source="test",
    linear_s=0.01 + 1e-4 * np.arange(300),
    sequence_s=np.zeros(1),
    kv_s=1e-7,
    mixed_kv_s=1e-7,
)
PROFILES = ["sarathi", "vllm-v1"]
ROUTINGS = ["round-robin", "least-outstanding", "least-expected"]


def workload(n: int = 2000, seed: int = 1, gap_s: float = 0.02) -> Workload:
    dice = np.random.default_rng(seed)
    return Workload(
        np.cumsum(dice.exponential(gap_s, n)), dice.integers(1, 200, n), dice.integers(1, 80, n)
    )


def service(
    profile: str = "sarathi", routing: str = "round-robin", replicas: int = 3, **more: object
) -> SimulatedService:
    scheduler = Scheduler(profile, chunk=256, batch_cap=32, block_tokens=16)
    settings = Settings(scheduler, routing=routing, **more)  # type: ignore[arg-type]
    return SimulatedService(settings, [MODEL], replicas, kv_blocks=200)


def ended(seen: Seen) -> int:
    return sum(seen.count(c) for c in (W_FINISHED, W_REFUSED, W_CANCELLED, W_FAILED))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_everything_that_arrives_ends_and_gives_its_memory_back(profile: str, routing: str) -> None:
    played = service(profile, routing)
    seen = played.play(workload())
    assert seen.count(W_ARRIVED) == ended(seen) == 2000
    assert seen.outstanding == seen.waiting == 0
    assert (played.fleet.rep[:, [at.USED, at.HELD, at.KV, at.DECODING]] == 0).all()
    assert np.allclose(played.fleet.repf[:, at.BACKLOG], 0.0, atol=1e-9)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_playing_in_windows_equals_playing_at_once(profile: str, routing: str) -> None:
    requests = workload()
    whole = service(profile, routing).play(requests)
    parts = service(profile, routing)
    seen = []
    for start in np.arange(0.0, 60.0, 0.7):
        rows = (requests.arrived_s >= start) & (requests.arrived_s < start + 0.7)
        part = Workload(requests.arrived_s[rows], requests.prefill[rows], requests.decode[rows])
        seen.append(parts.window(part, start + 0.7))
    seen.append(parts.play(workload(0)))
    for column in (W_ARRIVED, W_FINISHED, W_PREEMPTED):
        assert sum(one.count(column) for one in seen) == whole.count(column)
    bins = np.sum([one.books.histograms for one in seen], axis=0)
    assert np.abs(bins - whole.books.histograms).sum() <= 8  # a time on the edge of a bin


def test_a_request_longer_than_the_memory_is_refused_and_counted() -> None:
    long = Workload(np.array([0.0, 0.1]), np.array([5000, 20]), np.array([10, 10]))
    replayed = replay(service(replicas=1), long)
    assert replayed.seen.count(W_REFUSED) == 1
    assert np.isnan(replayed.e2e_s[0])
    assert replayed.e2e_s[1] > 0


def test_urgent_requests_overtake_and_batch_yields_to_them() -> None:
    base = workload(600, gap_s=0.004)
    urgent = np.arange(600) % 4 == 0
    classes = replace(
        base,
        group=urgent.astype(np.int64),
        priority=np.where(urgent, 0, 1),
        groups=("batch", "interactive"),
    )
    settings = {"groups": ("batch", "interactive"), "objectives": ((9.0, 9.0),) * 2}
    waits = []
    for levels, yields in ((1, False), (2, False), (2, True)):
        mixed = classes if levels == 2 else replace(classes, priority=np.zeros(1, np.int64))
        played = service("vllm-v1", replicas=1, levels=levels, yields=yields, **settings)
        replayed = replay(played, mixed)
        assert ended(replayed.seen) == 600
        waits.append(float(np.mean(replayed.ttft_s[urgent])))
    assert waits[1] < 0.5 * waits[0]
    assert waits[2] < waits[1]


@pytest.mark.parametrize("profile", PROFILES)
def test_callers_that_leave_free_their_place(profile: str) -> None:
    requests = workload(800, gap_s=0.01)
    dice = np.random.default_rng(5)
    leaves = np.where(
        dice.random(800) < 0.3, requests.arrived_s + dice.exponential(0.5, 800), np.inf
    )
    played = service(profile, replicas=1)
    replayed = replay(played, replace(requests, cancelled_s=leaves))
    seen = replayed.seen
    assert ended(seen) == 800
    assert seen.count(W_CANCELLED) > 100
    assert np.isnan(replayed.e2e_s).sum() == seen.count(W_CANCELLED) + seen.count(W_REFUSED)
    assert (played.fleet.rep[:, [at.USED, at.HELD, at.KV]] == 0).all()
    stayed = replay(service(profile, replicas=1), requests)
    finished = np.isfinite(replayed.e2e_s)
    assert np.mean(replayed.e2e_s[finished]) < np.mean(stayed.e2e_s[finished])


@pytest.mark.parametrize("profile", PROFILES)
def test_callers_leave_at_their_time_in_whatever_window_that_lies(profile: str) -> None:
    requests = workload(800, gap_s=0.01)
    dice = np.random.default_rng(5)
    leaves = requests.arrived_s + dice.exponential(0.5, 800)
    requests = replace(requests, cancelled_s=np.where(dice.random(800) < 0.3, leaves, np.inf))
    whole = service(profile, replicas=2).play(requests)
    parts = service(profile, replicas=2)
    seen = []
    for start in np.arange(0.0, 10.0, 0.3):
        rows = (requests.arrived_s >= start) & (requests.arrived_s < start + 0.3)
        part = slice_of(requests, start, start + 0.3)
        seen.append(
            parts.window(replace(part, cancelled_s=requests.cancelled_s[rows]), start + 0.3)
        )
        seen.append(parts.set_replica(0, UP, start + 0.3))
    seen.append(parts.play(workload(0)))
    for column in (W_ARRIVED, W_FINISHED, W_CANCELLED, W_PREEMPTED):
        assert sum(one.count(column) for one in seen) == whole.count(column)


def test_a_draining_replica_finishes_what_it_holds_and_takes_no_more() -> None:
    played = service(routing="least-outstanding", replicas=2)
    requests = workload(400)
    played.window(slice_of(requests, 0.0, 4.0), 4.0)
    held = int(played.fleet.rep[0, at.OUTSTANDING])
    assert held > 0
    played.set_replica(0, DRAINING, 4.0)
    played.window(slice_of(requests, 4.0, 5.0), 5.0)
    assert played.fleet.rep[0, at.OUTSTANDING] < held
    played.play(slice_of(requests, 5.0, np.inf))
    assert played.idle(0)
    assert played.fleet.rep[1, at.SERIAL] > played.fleet.rep[0, at.SERIAL]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_lost_replica_fails_started_streams_and_moves_the_rest(profile: str) -> None:
    played = service(profile, routing="least-outstanding", replicas=2)
    requests = workload(600, gap_s=0.005)
    seen = [played.window(slice_of(requests, 0.0, 2.0), 2.0), played.set_replica(1, DOWN, 2.0)]
    seen.append(played.window(slice_of(requests, 2.0, 2.5), 2.5))
    seen.append(played.set_replica(1, UP, 2.5))
    seen.append(played.play(slice_of(requests, 2.5, np.inf)))
    assert sum(one.count(W_FAILED) for one in seen) > 0
    assert sum(one.count(W_REROUTED) for one in seen) > 0
    assert sum(ended(one) for one in seen) == 600


def test_nobody_is_served_while_no_replica_is_up() -> None:
    for routing in ROUTINGS:
        played = service(routing=routing, replicas=2)
        for r in range(2):
            played.set_replica(r, DOWN, 0.0)
        assert played.play(workload(50)).count(W_REFUSED) == 50


def test_prefix_routing_finds_what_a_replica_still_holds() -> None:
    dice = np.random.default_rng(2)
    user = dice.integers(0, 40, 1500)
    requests = workload(1500, gap_s=0.02)
    blocks = (user[:, None] * 4 + np.arange(4)).ravel()
    starts = np.arange(1501) * 4
    shared = replace(
        requests,
        prefill=np.full(1500, 140),
        blocks=blocks,
        block_starts=starts,
        block_tokens=32,
    )
    plain = replay(service(routing="least-expected"), shared)
    aware = replay(service(routing="prefix"), shared)
    assert ended(aware.seen) == 1500
    assert np.mean(aware.ttft_s) < 0.8 * np.mean(plain.ttft_s)
    with pytest.raises(InputError, match="hash_ids"):
        service(routing="prefix").play(requests)


@cfunc(RULE_TYPE)
def second_only(prefill, decode, outstanding, backlog_s, memory):  # type: ignore[no-untyped-def]
    memory[0] += 1
    return 1


def test_a_callers_own_compiled_rule_routes() -> None:
    replayed = replay(service(routing="rule", rule=second_only), workload(100))
    assert set(replayed.replica.tolist()) == {1}


def test_goodput_counts_requests_within_both_limits() -> None:
    requests = workload(300)
    replayed = replay(service(objectives=((0.05, 0.02),)), requests)
    tpot = np.nan_to_num(replayed.tpot_s, nan=0.0)
    good = (replayed.ttft_s <= 0.05) & (tpot <= 0.02)
    assert replayed.seen.count(W_GOOD) == good.sum()
    assert 0 < good.sum() < 300


def test_histograms_give_quantiles_within_half_a_percent() -> None:
    requests = workload()
    exact = replay(service(), requests)
    binned = service().play(requests)
    for q in (0.5, 0.9, 0.99):
        assert binned.quantile_s(at.E2E, q) == pytest.approx(np.quantile(exact.e2e_s, q), rel=0.01)
    assert binned.mean_s(at.TTFT) == pytest.approx(np.mean(exact.ttft_s), rel=0.004)


def slice_of(requests: Workload, start: float, stop: float) -> Workload:
    rows = (requests.arrived_s >= start) & (requests.arrived_s < stop)
    return Workload(requests.arrived_s[rows], requests.prefill[rows], requests.decode[rows])

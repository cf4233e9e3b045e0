"""Law: skipping iterations gives what walking them gives, to 1e-8 s, whatever the workload."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as some
from tests.unit.kernels.serving.twin import Replica, Request, run_one
from tests.unit.kernels.serving.vllm_twin import VllmReplica, run_vllm

from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.serving.replay import replay
from headgate.sim.serving.service import Settings, SimulatedService
from headgate.sim.serving.workload import Workload

# Irregular on purpose: coefficients that make ties between an arrival and a step's end improbable.
C0, C1, C2, C3, C6 = 0.0123457, 0.0000731, 1.37e-7, 3.1e-9, 2.11e-7


def linear_step_s(prefills: list[tuple[int, int]], decodes: list[int]) -> float:
    tokens = len(decodes) + sum(chunk for _, chunk in prefills)
    area = sum(chunk * (done + chunk / 2) for done, chunk in prefills)
    return C0 + C1 * tokens + (C6 if prefills else C2) * sum(decodes) + C3 * area


LINEAR = StepModel(
    name="linear",
    source="test",
    linear_s=C0 + C1 * np.arange(600),
    sequence_s=np.zeros(1),
    kv_s=C2,
    mixed_kv_s=C6,
    chunk_s=C3,
)


def bucketed_step_s(prefills: list[tuple[int, int]], decodes: list[int]) -> float:
    tokens = len(decodes) + sum(chunk for _, chunk in prefills)
    seconds = C0 + C1 * tokens
    if decodes:
        mean = sum(decodes) // len(decodes)
        seconds += 1e-5 * len(decodes) * (1.0 + 0.37 * -(-mean // 8))
    if prefills:
        context = sum(-(-done // 8) for done, _ in prefills)
        chunk = round(sum(chunk**2 for _, chunk in prefills) ** 0.5)
        seconds += 1e-6 * chunk * (1 + context) * (1.1 if len(prefills) > 1 else 1.0)
    return seconds


BUCKETED = StepModel(
    name="bucketed",
    source="test",
    linear_s=C0 + C1 * np.arange(600),
    sequence_s=np.zeros(1),
    decode_s=1e-5 * np.arange(40)[:, None] * (1.0 + 0.37 * np.arange(400)[None, :]),
    mixed_s=1e-5 * np.arange(40)[None, :, None] * (1.0 + 0.37 * np.arange(400)[None, None, :]),
    prefill_s=1e-6 * np.arange(600)[None, :] * (1 + np.arange(400)[:, None]),
    bucket=8,
    several=1.1,
)

PROFILES = ["sarathi", "vidur", "vllm-v1", "vllm-v1 in turn", "vllm-v1 forgetful"]

requests = some.lists(
    some.tuples(
        some.floats(0, 0.4, allow_subnormal=False),  # gap, s
        some.integers(1, 150),  # prompt
        some.integers(1, 120),  # output
    ),
    min_size=1,
    max_size=60,
)


def workload_of(rows: list[tuple[float, int, int]]) -> Workload:
    at_s = np.cumsum([gap for gap, _, _ in rows])
    return Workload(
        at_s,
        np.array([prefill for _, prefill, _ in rows], np.int64),
        np.array([decode for _, _, decode in rows], np.int64),
    )


def assert_same(profile: str, tables: bool, rows: list, blocks: int, chunk: int, cap: int) -> int:
    workload = workload_of(rows)
    ahead, caching = profile != "vllm-v1 in turn", profile != "vllm-v1 forgetful"
    scheduler = Scheduler(
        profile.split()[0],
        chunk=max(chunk, cap) if "vllm" in profile else chunk,
        batch_cap=cap,
        block_tokens=4,
        watermark=0.05,
        plan_ahead=ahead,
        prefix_caching=caching,
    )
    model = BUCKETED if tables else LINEAR
    replayed = replay(SimulatedService(Settings(scheduler), [model], 1, blocks), workload)
    step_s = bucketed_step_s if tables else linear_step_s
    slow = [
        Request(i, float(at), int(p), int(d))
        for i, (at, p, d) in enumerate(
            zip(workload.arrived_s, workload.prefill, workload.decode, strict=True)
        )
    ]
    if "vllm" in profile:
        run_vllm(
            VllmReplica(
                step_s,
                blocks - 1,
                scheduler.chunk,
                cap,
                4,
                plan_ahead=ahead,
                prefix_caching=caching,
            ),
            slow,
        )
    else:
        truncate = profile == "vidur"
        run_one(Replica(step_s, blocks, chunk, cap, 4, 0.05, truncate), slow)
    for i, request in enumerate(slow):
        if request.refused:
            assert np.isnan(replayed.e2e_s[i])
            continue
        assert request.finished_at is not None
        assert request.first_token_at is not None
        assert replayed.preemptions[i] == request.preemptions
        assert abs(replayed.ttft_s[i] - (request.first_token_at - request.arrived_at)) < 1e-8
        assert abs(replayed.e2e_s[i] - (request.finished_at - request.arrived_at)) < 1e-8
    return sum(request.preemptions for request in slow)


@given(
    some.sampled_from(PROFILES),
    some.booleans(),
    requests,
    some.integers(75, 400),
    some.integers(4, 200),
    some.integers(1, 30),
)
@example("vidur", True, [(0.0, 20, 100)] * 30, 80, 40, 20)
@example("vllm-v1", True, [(0.0, 20, 100)] * 30, 80, 40, 20)
@settings(max_examples=300, deadline=None)
def test_skipping_equals_walking(
    profile: str, tables: bool, rows: list, blocks: int, chunk: int, cap: int
) -> None:
    assert_same(profile, tables, rows, blocks, chunk, cap)


def test_the_law_is_tried_with_hundreds_of_preemptions() -> None:
    dice = np.random.default_rng(7)
    rows = [
        (float(gap), int(prefill), int(decode))
        for gap, prefill, decode in zip(
            dice.exponential(0.05, 1500),
            dice.integers(1, 120, 1500),
            dice.integers(1, 120, 1500),
            strict=True,
        )
    ]
    for profile in PROFILES:
        assert assert_same(profile, True, rows, 100, 64, 24) > 300

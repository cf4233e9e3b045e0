"""Queueing theory where it has an answer: one sequence at a time is a single server."""

import numpy as np
import pytest

from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.serving.replay import replay
from headgate.sim.serving.service import Settings, SimulatedService
from headgate.sim.serving.workload import Workload

STEP_S = 0.01


def one_at_a_time(decode: np.ndarray, gap_s: float, seed: int):  # type: ignore[no-untyped-def]
    dice = np.random.default_rng(seed)
    n = len(decode)
    requests = Workload(np.cumsum(dice.exponential(gap_s, n)), np.full(n, 8), decode)
    constant = StepModel("constant", "test", np.full(64, STEP_S), np.zeros(1))
    scheduler = Scheduler("sarathi", chunk=32, batch_cap=1)
    return replay(SimulatedService(Settings(scheduler), [constant], 1, 1000), requests)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_constant_service_waits_as_m_d_1_says(load: float) -> None:
    decode = np.full(200_000, 5)
    service_s = 5 * STEP_S
    replayed = one_at_a_time(decode, service_s / load, seed=4)
    waited = np.mean(replayed.e2e_s) - service_s
    assert waited == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.03)


def test_random_service_waits_as_pollaczek_and_khinchine_say() -> None:
    decode = np.random.default_rng(9).geometric(0.1, 300_000)
    service_s = decode * STEP_S
    load = 0.6
    replayed = one_at_a_time(decode, float(np.mean(service_s)) / load, seed=5)
    waited = np.mean(replayed.e2e_s - service_s)
    rate = load / np.mean(service_s)
    assert waited == pytest.approx(rate * np.mean(service_s**2) / (2 * (1 - load)), rel=0.05)


def test_requests_in_the_system_obey_littles_law() -> None:
    decode = np.random.default_rng(9).geometric(0.1, 50_000)
    replayed = one_at_a_time(decode, 0.2, seed=6)
    arrived = replayed.workload.arrived_s
    left = arrived + replayed.e2e_s
    span = left.max() - arrived[0]
    moments = np.linspace(arrived[0], left.max(), 40_000)
    present = np.searchsorted(arrived, moments, "right") - np.searchsorted(np.sort(left), moments)
    assert np.mean(present) == pytest.approx(
        len(arrived) / span * np.mean(replayed.e2e_s), rel=0.02
    )

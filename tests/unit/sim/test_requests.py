"""Traffic played request by request against the same traffic as a fluid."""

from typing import Any

import msgspec
import pytest

from headgate.core.errors import InputError
from headgate.sim.contest import Settings, run_policy
from headgate.sim.requests import chunk_tokens, step_model
from headgate.sim.scenario import ReplicaPart, Scenario
from headgate.sim.story import build

SERVICE: dict[str, Any] = {
    "name": "chat",
    "class": "maas",
    "model": "70B",
    "demand": {"generated": {"like": "large", "requests_per_s": 40, "tenants": 10}},
    "replicas": {"h100": {"gpus": 2, "tokens_per_s": 2680, "in_flight": 44}},
    "input_weight": 0.23,
    "start_s": 60,
    "tpot_s": 0.045,
    "wait_s": 2,
    "patience_s": 30,
    "usd_per_million": 1,
    "batch_usd_per_million": 0.5,
    "usd_source": "test",
    "replicas_source": "test",
}


def scenario(fidelity: str, nodes: int = 8) -> Scenario:
    """Twenty minutes of one service on a pool of its own."""
    return msgspec.convert(
        {
            "name": "minutes",
            "about": "one service",
            "days": 1 / 72,
            "fidelity": fidelity,
            "stop_s": 30,
            "stop_source": "test",
            "pools": [{"name": "h100", "generation": "H100", "nodes": nodes}],
            "order": {},
            "services": [SERVICE],
            "worth": {
                "foundation_usd_per_gpu_h": 1,
                "gang_usd_per_gpu_h": 1,
                "lease_usd_per_gpu_h": {},
                "application_usd_per_gpu_h": 1,
                "source": "test",
            },
        },
        Scenario,
    )


def played(fidelity: str, nodes: int = 8) -> dict[str, Any]:
    story = build(scenario(fidelity, nodes), None, 0)
    return run_policy("fifo", story, Settings())


def test_a_service_with_room_attains_its_objective_either_way() -> None:
    fluid, requests = played("windows"), played("requests")
    assert fluid["attainment"] == 1.0
    # The fluid knows no prompt that delays its neighbours' tokens; a few requests in a hundred.
    assert 0.95 < requests["attainment"] <= 1.0
    assert (
        requests["services"]["chat"]["arrived_tokens"]
        == (fluid["services"]["chat"]["arrived_tokens"])
    )


def test_a_service_short_of_replicas_refuses_and_misses_either_way() -> None:
    fluid, requests = played("windows", nodes=1), played("requests", nodes=1)
    assert fluid["attainment"] < 0.9
    assert requests["attainment"] < 0.9
    for result in (fluid, requests):
        assert result["services"]["chat"]["refused_tokens"] > 0


def test_the_same_seed_plays_the_same_requests() -> None:
    once, again = played("requests"), played("requests")
    for result in (once, again):
        del result["wall_s"]
    assert once == again


def test_step_times_go_through_the_stated_capacity() -> None:
    part = scenario("requests").services[0]
    model = step_model(part, part.replicas["h100"], "h100")
    assert 44 / model.linear_s[44] == pytest.approx(2680)
    chunk = chunk_tokens(part, model)
    assert model.linear_s[chunk] <= part.tpot_s < model.linear_s[chunk + 1]


def test_a_replica_without_its_sequences_in_flight_is_refused_in_one_sentence() -> None:
    part = scenario("requests").services[0]
    with pytest.raises(InputError, match=r"no in_flight for pool h100"):
        step_model(part, ReplicaPart(gpus=2, tokens_per_s=2680), "h100")

"""The example scenario and the example policy run, and their result has the documented keys."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tools.reference.results import KEYS

from headgate.cli.simulate import summary
from headgate.policy.rules import Traffic
from headgate.sim.contest import Settings, run_policy
from headgate.sim.policies import make
from headgate.sim.scenario import read
from headgate.sim.story import Story, build

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NIGHT = f"{EXAMPLES / 'night_batch.py'}:NightBatch"
WORDS = {
    "value_usd": "SOURCE", "busy_share_by_pool": "POOL", "classes": "CLASS", "services": "SERVICE",
    "refused": "RULE", "use": "SOURCE", "waiting_gpus": "CLASS", "policies": "NAME",
    "token_worth": "SERVICE", "price_usd_per_gpu_h": "POOL", "guarantee_usd_per_gpu_h": "POOL",
}  # fmt: skip


@pytest.fixture(scope="module")
def story() -> Story:
    scenario = read(EXAMPLES / "small-pool.toml")
    return build(msgspec.structs.replace(scenario, days=0.125))


def keys(value: object, path: str = "") -> set[str]:
    """Paths of a result's leaves, with names replaced by what they are names of."""
    if not isinstance(value, dict):
        return {path}
    found: set[str] = set()
    for key, inner in value.items():
        word = WORDS.get(path.rpartition(".")[2], key)
        found |= keys(inner, f"{path}.{word}" if path else word)
    return found


def test_every_key_of_a_result_is_documented_and_every_documented_key_is_there(story):
    results = {"headgate": run_policy("headgate", story, Settings())}
    outcome = summary(story.scenario, story, results, 0, None) | {"worth": 0}
    there = keys(outcome)
    documented = {key for key, _, _ in KEYS}
    optional = {"policies.NAME.classes.CLASS.refused.RULE"}
    assert there - documented == set()
    assert documented - there <= optional


def test_the_scenario_that_extends_pool_day_changes_what_it_says_and_nothing_else():
    more = read(EXAMPLES / "more-leases.toml")
    assert more.order.preset == "external_first"
    assert more.leases is not None
    assert more.leases.gpus_offered == 1400
    assert more.leases.tenants == 24
    assert len(more.pools) == 4


def test_the_example_policy_runs_and_keeps_the_deadlines(story):
    result = run_policy(NIGHT, story, Settings())
    assert result["ledger_residual"] < 1e-9
    assert result["batch"]["deadlines_met"] == 1.0


def traffic(now_s: float) -> Traffic:
    return Traffic(
        now_s=now_s, window_s=60.0, arrived=np.full((128, 1), 6e5), queued=np.zeros(1),
        batch_tokens=np.array([7.2e8]), batch_due_per_s=np.array([1e4]),
    )  # fmt: skip


def test_the_example_policy_asks_for_less_batch_by_day_than_at_night(story):
    policy = make(NIGHT, story)
    night, day = policy.plan(traffic(3 * 3600.0)), policy.plan(traffic(15 * 3600.0))
    assert day.batch[0] == pytest.approx(1.25e4)
    assert night.batch[0] > day.batch[0]
    np.testing.assert_array_equal(night.online, day.online)

"""Explanations are held against what the simulated world does."""

from pathlib import Path

import msgspec
import pytest

from headgate.sim.contest import Settings
from headgate.sim.counterfactual import verify
from headgate.sim.scenario import read
from headgate.sim.story import Story, build

SCENARIOS = Path(__file__).parents[3] / "src" / "headgate" / "scenarios"


@pytest.fixture(scope="module")
def story() -> Story:
    scenario = read(SCENARIOS / "pool-day.toml")
    return build(msgspec.structs.replace(scenario, days=0.4), None, 3)


@pytest.mark.parametrize("policy", ["headgate", "priority"])
def test_what_is_stated_admits_the_work_when_it_is_done(story: Story, policy: str) -> None:
    found = verify(policy, story, Settings(3), 12)
    assert found.cases + found.unexplained == 12
    assert found.by_kind["nodes"] > 0
    assert found.admitted == found.cases


def test_the_run_that_is_split_never_hears_of_it(story: Story) -> None:
    one, other = (verify("headgate", story, Settings(3), cases) for cases in (0, 4))
    assert one.waits == other.waits
    assert one.waits.judged > 0

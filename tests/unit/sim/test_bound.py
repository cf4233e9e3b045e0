"""The hindsight bound's buckets."""

import msgspec
import pytest

from headgate.cli.simulate import SCENARIOS
from headgate.sim.bound import programme_of
from headgate.sim.scenario import read
from headgate.sim.story import build


@pytest.mark.parametrize("days", [0.0625, 0.06255, 0.1])
def test_a_span_of_any_length_is_cut_into_buckets_that_cover_it(days: float) -> None:
    story = build(msgspec.structs.replace(read(SCENARIOS / "pool-day.toml"), days=days), None, 0)
    programme, rows = programme_of(story, 0)
    assert programme.hours.sum() == pytest.approx(24 * days)
    assert programme.hours.min() * 3600.0 >= story.scenario.window_s / 2
    assert programme.uses.arrives.shape == (len(rows), len(programme.hours))

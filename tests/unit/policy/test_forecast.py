"""Forecasts: what earns its place on the days seen, and what is said before there are any."""

import numpy as np
import pytest

from headgate.core.tables import Floats
from headgate.policy.forecast import (
    CHOSEN_FROM,
    PULLS,
    STEPS_PER_DAY,
    UNTRIED,
    choose,
    expected,
    forecast,
)


def daily(days: float, noise: float = 0.0, seed: int = 0) -> Floats:
    """[quarter, 1] a service with a peak and a valley every day."""
    steps = np.arange(round(days * STEPS_PER_DAY))
    level = 100.0 * (1.0 + 0.8 * np.sin(2 * np.pi * steps / STEPS_PER_DAY))
    level *= 1.0 + noise * np.random.default_rng(seed).standard_normal(len(steps))
    return level[:, None]


def wandering(days: float, seed: int) -> Floats:
    """[quarter, 1] a walk without a day in it: nothing known beats its last value."""
    steps = np.random.default_rng(seed).normal(0.0, 0.03, round(days * STEPS_PER_DAY))
    return 100.0 * np.exp(np.cumsum(steps))[:, None]


def test_a_day_that_repeats_is_learned_and_tells_the_hours_to_come():
    seen = daily(4, noise=0.02)
    pull = choose(seen)
    assert pull[0] < 1.0
    steps = (16, 32, 48)
    truth = np.array([daily(5)[len(seen) - 1 + step, 0] for step in steps])
    said = expected(seen, steps, pull)[:, 0]
    assert np.abs(said - truth).sum() < 0.5 * np.abs(seen[-1, 0] - truth).sum()


def test_where_nothing_beats_the_last_value_the_last_value_it_is():
    kept = 0
    for seed in range(8):
        seen = wandering(6, seed)
        if choose(seen)[0] == 1.0:
            kept += 1
            assert expected(seen, (4, 96), np.ones(1)).ravel() == pytest.approx(seen[-1, 0])
    assert kept >= 6


def test_before_two_days_are_known_a_peak_falls_back_to_the_mean():
    seen = daily(0.25)  # it rises from the mean to its peak
    assert len(seen) < CHOSEN_FROM
    pull = choose(seen)
    assert pull[0] == UNTRIED
    said = expected(seen, (1, 4, 16, 64), pull)[:, 0]
    assert np.all(np.diff(said) < 0.0)
    assert said[0] == pytest.approx(seen[-1, 0], rel=0.02)
    assert seen.mean() < said[-1] < seen.mean() + 0.2 * (seen[-1, 0] - seen.mean())


def test_services_are_judged_apart():
    seen = np.concatenate([daily(4, noise=0.02), wandering(4, 1)], axis=1)
    pull = choose(seen)
    assert pull[0] in PULLS
    assert pull[0] < 1.0
    assert pull[1] == 1.0


def test_the_ninetieth_percentile_holds_nine_times_of_ten():
    seen = daily(8, noise=0.1, seed=5)
    held = [
        seen[at + 3, 0] <= forecast(seen[:at], (4,), choose(seen[:CHOSEN_FROM])).p90[0, 0]
        for at in range(4 * STEPS_PER_DAY, len(seen) - 4, 3)
    ]
    assert 0.85 <= np.mean(held) <= 0.95

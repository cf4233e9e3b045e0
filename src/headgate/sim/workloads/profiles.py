"""Shapes of a day, and times drawn from them."""

from functools import lru_cache
from statistics import NormalDist

import numpy as np

from headgate.sim.demand import Floats, Ints

DAY_S = 86_400.0


def numbers(text: str) -> Floats:
    """A row of figures as a table prints it."""
    return np.array([float(word) for word in text.split()])


def at_hours(profile: Floats, at_s: Floats) -> Floats:
    """A 24-hour profile, read on a line between the middles of its hours; mean about 1."""
    hour = at_s / 3600.0 - 0.5
    level: Floats = np.interp(hour % 24, np.arange(-1, 25), np.r_[profile[-1], profile, profile[0]])
    relative: Floats = level / profile.mean()
    return relative


def times(dice: np.random.Generator, profile: Floats, per_day: float, span_s: float) -> Floats:
    """Poisson times over the span, in order, whose rate follows the 24-hour profile."""
    hours = np.arange(int(np.ceil(span_s / 3600.0)))
    level = profile[hours % 24] / profile.mean()
    count = dice.poisson(per_day / 24.0 * level)
    at_s: Floats = (np.repeat(hours, count) + dice.random(count.sum())) * 3600.0
    at_s.sort()
    within: Floats = at_s[at_s < span_s]
    return within


def heavy_tailed_shares(tenants: int, busiest_tenth: float) -> Floats:
    """Shares of the whole, largest first, of which the busiest tenth of tenants holds this much.

    Even quantiles of a lognormal, its sigma found by bisection. A tenth of few tenants may be a
    part of the first one.
    """
    quantiles = normal_quantiles(tenants)[::-1]
    tenth = np.clip(tenants / 10 - np.arange(tenants), 0.0, 1.0)
    low, high = 0.0, 20.0
    for _ in range(50):
        sigma = (low + high) / 2
        level = np.exp(sigma * (quantiles - quantiles[0]))
        low, high = (sigma, high) if level @ tenth < busiest_tenth * level.sum() else (low, sigma)
    shares: Floats = level / level.sum()
    return shares


@lru_cache
def normal_quantiles(count: int) -> Floats:
    """The standard normal at `count` even quantiles, rising."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((row + 0.5) / count) for row in range(count)])


def pick(dice: np.random.Generator, shares: Floats, count: int) -> Ints:
    """Rows drawn with the given shares."""
    return dice.choice(len(shares), count, p=shares / shares.sum())

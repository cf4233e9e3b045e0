"""Shapes of a day, and times drawn from them."""

from statistics import NormalDist

import numpy as np

from headgate.sim.demand import Floats, Ints

DAY_S = 86_400.0


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


def heavy_tailed_shares(tenants: int, sigma: float) -> Floats:
    """Shares of `tenants`, largest first, at even quantiles of a lognormal; they sum to 1.

    The largest tenth of many tenants holds Phi(sigma - 1.2816) of the whole.
    """
    quantile = 1.0 - (np.arange(tenants) + 0.5) / tenants
    level = np.exp(sigma * np.array([NormalDist().inv_cdf(q) for q in quantile]))
    shares: Floats = level / level.sum()
    return shares


def pick(dice: np.random.Generator, shares: Floats, count: int) -> Ints:
    """Rows drawn with the given shares."""
    return dice.choice(len(shares), count, p=shares / shares.sum())

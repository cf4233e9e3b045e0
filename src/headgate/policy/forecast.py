"""Demand in the hours to come: a median and a 90th percentile that must earn their place.

An hour ahead the last value is hard to beat on published traffic (WAPE 0.15-0.19). What is tried
against it is the last value drawn towards the same hour of the day before, or towards the mean
when there is no day before, the more so the further ahead. How strongly is chosen on the days
seen so far; where nothing beats the last value on them, the last value it is. Before two days are
known nothing can be judged, and the last value falls back to the mean slowly: that a peak goes on
for a day is the worse guess (docs/why/prices.md).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from headgate.core.tables import Floats

STEPS_PER_DAY = 96  # quarters of an hour
# What of the last value's distance from the profile is left after an hour; 1 is persistence.
PULLS = (1.0, 0.95, 0.85, 0.7, 0.5)
TESTED_AT = (1, 4, 8, 16, 32)  # steps ahead at which a pull is judged: a quarter to eight hours
AT_LEAST = 32  # errors seen before a percentile is taken from them
# A pull is chosen when a day has been seen and another to judge it by; until then it is this.
CHOSEN_FROM = 2 * STEPS_PER_DAY
UNTRIED = 0.9


@dataclass(frozen=True, slots=True)
class Forecast:
    """Values for steps ahead: the median and the 90th percentile, [step, service]."""

    p50: Floats
    p90: Floats


def profile(seen: Floats, ahead: int) -> Floats:
    """[time, service] what the day before, or the mean so far, says of `ahead` steps after each
    time seen."""
    n = len(seen)
    mean = np.cumsum(seen, axis=0) / np.arange(1, n + 1)[:, None]
    back = STEPS_PER_DAY - ahead % STEPS_PER_DAY
    said = mean.copy()
    if n > back:
        said[back:] = seen[: n - back]
    return np.asarray(said)


def drawn(seen: Floats, pull: float, ahead: int) -> Floats:
    """[time, service] the forecast made at each time for `ahead` steps later."""
    if pull == 1.0:
        return seen
    left = pull ** (ahead / 4.0)
    return np.asarray(left * seen + (1.0 - left) * profile(seen, ahead))


def choose(seen: Floats) -> Floats:
    """[service] the pull with the least error on what was seen; 1 where persistence is best, and
    `UNTRIED` while too little was seen.

    Judged over several horizons on all that was seen; another pull must beat persistence by 2 %,
    so that chance alone does not switch it on.
    """
    return _chosen(seen.tobytes(), seen.shape[1])


@lru_cache(maxsize=4)  # plans are made several times in a quarter, on the same history
def _chosen(history: bytes, services: int) -> Floats:
    seen = np.frombuffer(history).reshape(-1, services)
    if len(seen) < CHOSEN_FROM:
        return np.full(services, UNTRIED)
    error = np.zeros((len(PULLS), services))
    for ahead in TESTED_AT:
        if ahead >= len(seen):
            break
        truth = seen[ahead:]
        scale = np.maximum(truth.sum(axis=0), 1e-9)
        for i, pull in enumerate(PULLS):
            made = drawn(seen, pull, ahead)[:-ahead]
            error[i] += np.abs(truth - made).sum(axis=0) / scale
    best = error.argmin(axis=0)
    better = error[best, np.arange(services)] < 0.98 * error[0]
    return np.where(better, np.array(PULLS)[best], 1.0)


def expected(seen: Floats, steps: tuple[int, ...], pull: Floats) -> Floats:
    """[step, service] medians; `seen` is [quarter, service], the latest last."""
    p50 = np.zeros((len(steps), seen.shape[1]))
    for row, ahead in enumerate(steps):
        said = profile(seen, ahead)[-1]
        left = np.where(pull == 1.0, 1.0, pull ** (ahead / 4.0))
        p50[row] = left * seen[-1] + (1.0 - left) * said
    return p50


def forecast(seen: Floats, steps: tuple[int, ...], pull: Floats) -> Forecast:
    """`seen` is [quarter, service], the latest last; `steps` are quarters ahead.

    The 90th percentile is the median times the ratio that nine of ten past truths stayed under.
    """
    services = seen.shape[1]
    p50, p90 = expected(seen, steps, pull), np.zeros((len(steps), services))
    for row, ahead in enumerate(steps):
        for v in range(services):
            made = drawn(seen[:, v : v + 1], float(pull[v]), ahead)[:, 0]
            past = made[:-ahead] if ahead < len(seen) else made[:0]
            ratio = seen[len(seen) - len(past) :, v] / np.maximum(past, 1e-9)
            high = float(np.quantile(ratio, 0.9)) if len(ratio) >= AT_LEAST else 1.25
            p90[row, v] = made[-1] * max(1.0, high)
    return Forecast(p50, p90)

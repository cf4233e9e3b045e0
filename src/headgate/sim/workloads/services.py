"""Token demand of a model service, generated from published statistics alone.

The statistics are those of ServeGen (Xiang et al., arXiv:2505.09999; Alibaba Cloud Model Studio,
Apache-2.0), computed on the first published week of each language model and the one day of
deepseek-r1. Not kept from the trace: who its clients are and when each of them was busy.
"""

from dataclasses import dataclass

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import Floats, ServiceDemand
from headgate.sim.dice import stream
from headgate.sim.workloads import draws, profiles

SLOW_S = 600.0  # rates change from one window of this to the next, as in the trace


@dataclass(frozen=True, slots=True)
class Shape:
    """How a service is used, whatever its size; every figure weighted by requests."""

    like: str  # the model of the trace
    day: Floats  # mean requests by hour of day, mean 1
    busiest_tenth: float  # share of the requests that the busiest tenth of tenants sends
    rate_sigma: float  # log sd of a tenant's rate; gives the whole service its published swing
    rate_memory_s: float  # the swing's autocorrelation falls by e in this time
    cv_median: float  # of the gaps between a tenant's requests
    cv_sigma: float
    input_mean: float  # tokens of a request, over all tenants
    output_mean: float
    tenant_input_sigma: float  # log sd of tenants' mean lengths
    tenant_output_sigma: float
    input_cv: float  # sd over mean of the lengths of one tenant's requests
    output_cv: float


SHAPES = {
    "large": Shape(
        like="m-large",
        day=profiles.numbers(
            "0.98 0.96 0.96 0.91 0.90 0.89 0.84 0.83 0.83 0.92 1.02 1.09 "
            "1.01 1.04 1.09 1.06 1.04 1.04 1.02 1.17 1.19 1.08 1.07 1.07"
        ),
        busiest_tenth=0.74,
        rate_sigma=0.88,
        rate_memory_s=4 * 3600.0,
        cv_median=1.14,
        cv_sigma=0.84,
        input_mean=1031.0,
        output_mean=168.0,
        tenant_input_sigma=1.08,
        tenant_output_sigma=1.40,
        input_cv=0.95,
        output_cv=1.00,
    ),
    "mid": Shape(
        like="m-mid",
        day=profiles.numbers(
            "0.92 0.94 1.02 1.05 0.97 0.86 0.82 0.88 0.96 1.06 1.15 1.15 "
            "0.86 1.08 1.01 0.94 0.96 1.06 0.99 1.06 1.13 1.04 1.07 1.03"
        ),
        busiest_tenth=0.79,
        rate_sigma=0.88,
        rate_memory_s=8 * 3600.0,
        cv_median=1.29,
        cv_sigma=0.83,
        input_mean=330.0,
        output_mean=60.0,
        tenant_input_sigma=1.26,
        tenant_output_sigma=1.93,
        input_cv=0.39,
        output_cv=0.89,
    ),
    "small": Shape(
        like="m-small",
        day=profiles.numbers(
            "0.84 0.67 0.66 0.66 0.62 0.64 0.72 0.81 0.98 1.18 1.15 1.10 "
            "1.04 1.01 1.05 1.04 1.07 1.08 1.07 1.22 1.47 1.47 1.34 1.11"
        ),
        busiest_tenth=0.71,
        rate_sigma=0.30,
        rate_memory_s=3 * 3600.0,
        cv_median=1.19,
        cv_sigma=0.84,
        input_mean=145.0,
        output_mean=22.0,
        tenant_input_sigma=1.37,
        tenant_output_sigma=1.61,
        input_cv=0.29,
        output_cv=1.35,
    ),
    "reasoning": Shape(
        like="deepseek-r1",
        day=profiles.numbers(
            "1.21 1.39 2.03 1.79 1.06 0.91 0.75 0.58 0.60 0.66 0.81 0.83 "
            "0.45 0.54 0.68 0.70 0.88 0.55 0.75 0.59 1.24 1.62 2.19 1.18"
        ),
        busiest_tenth=0.60,
        rate_sigma=0.85,
        rate_memory_s=2 * 3600.0,
        cv_median=1.03,
        cv_sigma=0.66,
        input_mean=1377.0,
        output_mean=1502.0,
        tenant_input_sigma=1.44,
        tenant_output_sigma=0.73,
        input_cv=0.95,
        output_cv=0.67,
    ),
}


def generate(
    service: str,
    shape: Shape,
    *,
    rate_per_s: float,
    tenants: int,
    window_s: float = 60.0,
    span_s: float = 86_400.0,
    seed: int = 0,
) -> ServiceDemand:
    """Demand of `tenants` that together ask `rate_per_s` on average, 0 s being midnight."""
    parts = round(SLOW_S / window_s) if window_s > 0 else 0
    if parts < 1 or abs(parts * window_s - SLOW_S) > 1e-6:
        raise InputError(
            f"services.{service}: window_s is {window_s:g}; 600 s must be a whole number of them, "
            f"so give 600, 300, 120, 60, 30 or the like."
        )
    for name, value in (("rate_per_s", rate_per_s), ("tenants", tenants), ("span_s", span_s)):
        if not value > 0:
            raise InputError(f"services.{service}: {name} is {value:g}; give more than 0.")
    share = profiles.heavy_tailed_shares(tenants, shape.busiest_tenth)
    rate = rate_per_s * share * _swing(service, shape, tenants, span_s, seed)
    cv = shape.cv_median * np.exp(
        shape.cv_sigma * stream(seed, "burstiness", service).standard_normal(rate.shape)
    )
    dice = stream(seed, "arrivals", service)
    asked = draws.split(dice, draws.whole(dice, rate * SLOW_S), cv, parts)
    tokens = {}
    for field, mean, sigma, spread in (
        ("input", shape.input_mean, shape.tenant_input_sigma, shape.input_cv),
        ("output", shape.output_mean, shape.tenant_output_sigma, shape.output_cv),
    ):
        dice = stream(seed, field, service)
        length = np.exp(sigma * dice.standard_normal(tenants))
        length *= mean / (length @ share)
        length = np.broadcast_to(length, asked.shape)
        tokens[field] = draws.tokens(dice, asked, length, (spread * length) ** 2)
    return ServiceDemand(
        service=service,
        tenants=tuple(f"{service}/{row}" for row in range(tenants)),
        window_s=window_s,
        requests=asked,
        input_tokens=tokens["input"],
        output_tokens=tokens["output"],
        notes=(
            f"{service}: generated, {rate_per_s:g} requests/s on average from {tenants} tenants, "
            f"with the published statistics of ServeGen {shape.like}.",
        ),
    )


def _swing(service: str, shape: Shape, tenants: int, span_s: float, seed: int) -> Floats:
    """Each tenant's rate relative to its mean, [slow window, tenant]: the day times a random walk.

    The walk is Ornstein-Uhlenbeck in the logarithm: stationary, mean 1 after the exponential.
    """
    windows = int(np.ceil(span_s / SLOW_S))
    dice = stream(seed, "swing", service)
    keep = np.exp(-SLOW_S / shape.rate_memory_s)
    step = dice.standard_normal((windows, tenants))
    step[1:] *= np.sqrt(1 - keep**2)
    for window in range(1, windows):
        step[window] += keep * step[window - 1]
    middle_s = np.arange(windows, dtype=np.float64) * SLOW_S + SLOW_S / 2
    day = profiles.at_hours(shape.day, middle_s)
    level: Floats = np.exp(shape.rate_sigma * step - shape.rate_sigma**2 / 2) * day[:, None]
    return level

"""Leases of outside customers. No public trace holds any: every figure here is an assumption."""

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import LeaseStream
from headgate.sim.dice import stream
from headgate.sim.workloads import profiles

SIZES = np.array([8, 16, 32, 64, 128])  # whole nodes
SHARES = np.array([0.40, 0.25, 0.20, 0.10, 0.05])
MEDIAN_S, LOG_SD = 3 * 86_400.0, 1.0
LONGEST_S = 30 * 86_400.0
AHEAD_S = 12 * 3600.0  # mean time from asking to starting, exponential
FAMILIES = ("storage", "big-data", "compute", "network")
FAMILY_ODDS = 0.4  # that a tenant uses each product family beside accelerators
BUSIEST_TENTH = 0.4
OFFICE = np.repeat([0.1, 0.1, 0.6, 2.2, 2.0, 2.0, 0.7, 0.3], 3)  # asked in working hours


def generate(
    *, gpus_offered: float, tenants: int = 24, span_s: float = 86_400.0, seed: int = 0
) -> LeaseStream:
    """Leases that would hold `gpus_offered` accelerators on average if all were granted.

    Those under way at the start are asked for at 0 with what is left of them. Every tenant uses
    some product families beside accelerators, from which its standing follows.
    """
    if not gpus_offered > 0 or not span_s > 0 or not tenants > 0:
        raise InputError(
            f"leases: gpus_offered is {gpus_offered:g}, span_s {span_s:g} and tenants {tenants}; "
            f"all must be more than 0."
        )
    dice = stream(seed, "leases")
    pool = profiles.pick(dice, SHARES, 100_000)
    pool_s = np.minimum(MEDIAN_S * np.exp(LOG_SD * dice.standard_normal(len(pool))), LONGEST_S)
    per_day = gpus_offered * 86_400.0 / float((SIZES[pool] * pool_s).mean())

    running = dice.poisson(per_day / 86_400.0 * pool_s.mean())
    seen = profiles.pick(dice, pool_s, running)
    left_s = np.maximum(pool_s[seen] * dice.random(running), 3600.0)

    submitted_s = profiles.times(dice, OFFICE, per_day, span_s)
    new = dice.integers(0, len(pool), len(submitted_s))
    start_s = submitted_s + dice.exponential(AHEAD_S, len(new))
    shares = profiles.heavy_tailed_shares(tenants, BUSIEST_TENTH)
    uses = dice.random((tenants, len(FAMILIES))) < FAMILY_ODDS
    return LeaseStream(
        submitted_s=np.r_[np.zeros(running), submitted_s],
        start_s=np.r_[np.zeros(running), start_s],
        duration_s=np.r_[left_s, np.maximum(pool_s[new], 3600.0)],
        gpus=SIZES[pool[np.r_[seen, new]]],
        tenant_row=profiles.pick(dice, shares, running + len(new)),
        tenants=tuple(f"lease/{row}" for row in range(tenants)),
        families=tuple(
            tuple(name for name, used in zip(FAMILIES, row, strict=True) if used) for row in uses
        ),
        notes=(
            f"leases: generated, {running} under way and {len(new)} asked for; sizes, durations "
            f"and standing are an assumption.",
        ),
    )

"""Training gangs shaped like Microsoft Philly's, generated from its published statistics.

Jeon et al., USENIX ATC 2019; figures computed on the 66,000 jobs submitted from 2017-09-24 to
2017-11-19 in the subset of Qiao et al., OSDI 2021 (CC-BY-4.0).
"""

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import Floats, Ints, JobStream
from headgate.sim.dice import stream
from headgate.sim.workloads import profiles

# Accelerators of a gang, its share of the jobs (all 82,247 of the subset; 64 and 128 stand for
# the few above 32), and mean and sd of the logarithm of its duration in seconds. Gangs of 2 are
# short sweeps for the most part; for 64 and more the durations of 32 are taken (assumption).
SIZES = np.array([1, 2, 4, 8, 16, 32, 64, 128])
SHARES = np.array([76_627, 1_818, 1_870, 1_643, 199, 60, 20, 10]) / 82_247
LOG_MEAN = np.array([6.74, 4.59, 9.13, 9.56, 8.81, 10.37, 10.37, 10.37])
LOG_SD = np.array([1.88, 3.52, 2.77, 2.86, 3.40, 1.56, 1.56, 1.56])
# A lognormal has no longest job; one in a hundred of the large gangs ran longer than 11 to 16
# days, so none is drawn longer.
LONGEST_S = 14 * 86_400.0
# Submissions by hour, from the median hour of each day (the mean is a few sweeps).
DAY = profiles.numbers(
    "0.94 0.87 0.94 1.12 1.43 1.37 1.18 1.06 1.00 0.81 0.75 0.69 "
    "0.69 0.75 0.75 1.25 1.06 0.87 0.94 1.00 1.06 1.18 1.31 1.00"
)
# Four of fourteen virtual clusters submit 92 % of the jobs.
TENANT_SHARES = profiles.numbers(
    "0.511 0.163 0.136 0.106 0.020 0.018 0.016 0.015 0.009 0.003 0.001 0.001 0.0005 0.0005"
)


def generate(
    *,
    gpus_offered: float,
    span_s: float = 86_400.0,
    shares: Floats = SHARES,
    seed: int = 0,
) -> JobStream:
    """Gangs that would hold `gpus_offered` accelerators on average if none ever waited.

    The story starts in full swing: jobs under way at the start are submitted at 0 with what is
    left of them. `shares` of the sizes 1, 2, 4, ... 128 may be changed to a larger mix.
    """
    if not gpus_offered > 0 or not span_s > 0:
        raise InputError(
            f"gangs: gpus_offered is {gpus_offered:g} and span_s {span_s:g}; both must be more "
            f"than 0."
        )
    dice = stream(seed, "gangs")
    shares = shares / shares.sum()
    seconds = mean_duration_s(LOG_MEAN, LOG_SD, LONGEST_S)
    per_day = gpus_offered * 86_400.0 / float(shares * SIZES @ seconds)
    submitted_s = profiles.times(dice, DAY, per_day, span_s)
    size = profiles.pick(dice, shares, len(submitted_s))
    duration_s = _durations(dice, size)

    # Seen at a moment, a job is there with odds of its duration, and is anywhere within it.
    pool = profiles.pick(dice, shares, 200_000)
    pool_s = _durations(dice, pool)
    running = dice.poisson(per_day / 86_400.0 * pool_s.mean())
    seen = profiles.pick(dice, pool_s, running)
    left_s = np.maximum(pool_s[seen] * dice.random(running), 1.0)

    tenant_row = profiles.pick(dice, TENANT_SHARES, running + len(size))
    return JobStream(
        submitted_s=np.r_[np.zeros(running), submitted_s],
        duration_s=np.r_[left_s, duration_s],
        gpus=SIZES[np.r_[pool[seen], size]],
        tenant_row=tenant_row,
        tenants=tuple(f"gangs/{row}" for row in range(len(TENANT_SHARES))),
        notes=(
            f"gangs: generated, {running} under way and {len(size)} submitted, offering "
            f"{gpus_offered:g} accelerators on average, with the published statistics of Philly.",
        ),
    )


def mean_duration_s(log_mean: Floats, log_sd: Floats, longest_s: float) -> Floats:
    """Mean of min(lognormal, longest_s), at 2,000 even quantiles."""
    quantile = profiles.normal_quantiles(2_000)
    mean: Floats = np.minimum(
        np.exp(log_mean[:, None] + log_sd[:, None] * quantile), longest_s
    ).mean(axis=1)
    return mean


def _durations(dice: np.random.Generator, size: Ints) -> Floats:
    drawn = np.exp(LOG_MEAN[size] + LOG_SD[size] * dice.standard_normal(len(size)))
    within: Floats = np.clip(drawn, 1.0, LONGEST_S)
    return within

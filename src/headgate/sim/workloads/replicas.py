"""Replicas of internal applications, generated from the statistics of a recommendation fleet.

Yang et al., GPU-Disaggregated Serving for DLRMs at Scale, NSDI 2025: the count of replicas does
not follow the hour of day; deployments replace them.
"""

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import ReplicaStream
from headgate.sim.dice import stream
from headgate.sim.workloads import profiles

BUSIEST_TENTH = 0.49  # of the replicas, of the 119 applications alive on day 5
REPLACED_PER_DAY = 0.044  # 137.5 replicas created a day among 3,092
DEPLOYMENTS = profiles.numbers(
    "0.43 0.78 0.46 0.42 0.32 0.43 0.28 0.43 0.52 0.58 1.64 2.26 "
    "0.89 0.92 2.02 1.94 1.49 1.95 1.97 1.42 0.76 0.93 0.52 0.64"
)


def generate(
    *, gpus: int, apps: int = 40, span_s: float = 86_400.0, seed: int = 0
) -> ReplicaStream:
    """`gpus` replicas of one accelerator each at any time, some replaced by deployments."""
    if not gpus > 0 or not apps > 0 or not span_s > 0:
        raise InputError(
            f"replicas: gpus is {gpus}, apps {apps} and span_s {span_s:g}; all must be more than 0."
        )
    dice = stream(seed, "replicas")
    app = np.sort(profiles.pick(dice, profiles.heavy_tailed_shares(apps, BUSIEST_TENTH), gpus))
    at_s = profiles.times(dice, DEPLOYMENTS, REPLACED_PER_DAY * gpus, span_s)
    slot = dice.integers(0, gpus, len(at_s))
    # Every slot is held from the start to its first deployment, from there to the next, and so on.
    slot = np.r_[np.arange(gpus), slot]
    created_s = np.r_[np.zeros(gpus), at_s]
    order = np.lexsort((created_s, slot))
    deleted_s = np.full(len(slot), np.inf)
    again = slot[order][1:] == slot[order][:-1]
    deleted_s[order[:-1][again]] = created_s[order[1:][again]]
    return ReplicaStream(
        created_s=created_s,
        deleted_s=deleted_s,
        gpus=np.ones(len(slot), dtype=np.int64),
        app_row=app[slot],
        apps=tuple(f"app-{row}" for row in range(apps)),
        notes=(
            f"replicas: generated, {gpus} at any time of {apps} applications and {len(at_s)} "
            f"deployments, with the published statistics of Alibaba's DLRM fleet.",
        ),
    )

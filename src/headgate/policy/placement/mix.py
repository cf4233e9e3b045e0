"""The mix of pods to expect, learned from the pods of a trace or from those seen so far."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.placement import WHOLE, Pods
from headgate.kernels.placement_mix import Mix

TYPICAL_SHARE = 0.95  # of all pods, as in the published experiment


@dataclass(frozen=True, slots=True)
class TypicalPods:
    """Kinds of pods, commonest first; memory is left out, as FGD leaves it out."""

    pods: Pods
    weight: NDArray[np.float64]  # share of the pods; sums to 1

    def __len__(self) -> int:
        return len(self.weight)


def typical_pods(pods: Pods, share: float = TYPICAL_SHARE) -> TypicalPods:
    """The commonest kinds of `pods` that together make up at least `share` of them.

    Kinds differ in CPU, GPUs, thousandths or accepted models. Of two kinds equally common the
    larger in (CPU, thousandths, GPUs, models) comes first.
    """
    columns = np.stack([pods.models, pods.gpus, pods.milli, pods.cpu])
    kinds, count = np.unique(columns, axis=1, return_counts=True)
    order = np.lexsort((*kinds, count))[::-1]
    covered = np.cumsum(count[order])
    kept = order[: int(np.searchsorted(covered, share * covered[-1])) + 1]
    models, gpus, milli, cpu = kinds[:, kept]
    weight = count[kept] / count[kept].sum()
    return TypicalPods(Pods(cpu, np.zeros_like(cpu), gpus, milli, models), weight)


def fold(typical: TypicalPods, models: int, slots: int) -> Mix:
    """`typical` as the tables of the kernel, for that many GPU models and GPUs on a node."""
    pods, weight = typical.pods, typical.weight
    cpu = np.unique(pods.cpu)
    sizes = np.unique(pods.milli[pods.gpus > 0])
    level = np.searchsorted(sizes, np.arange(WHOLE + 1), side="right")
    single = np.zeros((models, len(cpu) + 1, len(sizes) + 1))
    several = np.zeros((models, len(cpu) + 1, slots + 1))
    for row in np.flatnonzero(pods.gpus > 0):
        model = [m for m in range(models) if pods.models[row] >> m & 1]
        rank = int(np.searchsorted(cpu, pods.cpu[row])) + 1
        if pods.gpus[row] == 1:
            single[model, rank:, level[pods.milli[row]] :] += weight[row]
        else:
            several[model, rank:, pods.gpus[row] :] += weight[row]
    return Mix(cpu, level, single, several)

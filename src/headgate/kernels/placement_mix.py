"""How much of a node's free GPU a mix of pods could use: the measure behind FGD.

Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), call a free GPU a fragment, for one pod
of the mix, if the node cannot hold that pod or the GPU alone has too little room for it. Here the
complement is counted: what is *usable*, in expectation over the mix. Because a pod of the mix
asks for CPU and for room on a GPU, the sum over pods folds into two tables, so a node costs
O(its GPUs) and not O(pods x GPUs).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from headgate.kernels.placement import WHOLE, Floats, Free, Ints, Pod


class Mix(NamedTuple):
    """A mix of pods, folded. Weights sum to 1 over the mix, pods without GPUs included."""

    cpu: Ints  # [c] distinct CPU requests, ascending
    level: Ints  # [0..1000] thousandths free on a GPU -> column of `single`
    single: Floats  # [model, 0..c, level] weight of one-GPU pods with CPU rank < c
    several: Floats  # [model, 0..c, whole GPUs free] weight of pods of several GPUs


@njit(cache=True)
def cpu_rank(mix: Mix, cpu: int) -> int:
    """How many of the mix's distinct CPU requests `cpu` covers."""
    low, high = 0, len(mix.cpu)
    while low < high:
        middle = (low + high) // 2
        if mix.cpu[middle] <= cpu:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def sums(free: Free, node: int, mix: Mix, rank: int) -> tuple[float, int]:
    """For a node whose CPU has that rank: room usable by pods of one GPU, and whole GPUs free."""
    single = mix.single[free.model[node], rank]
    room_sum = 0.0
    whole = 0
    for slot in range(free.gpus[node]):
        room = free.gpu[node, slot]
        room_sum += room * single[mix.level[room]]
        whole += room == WHOLE
    return room_sum, whole


@njit(cache=True)
def usable(free: Free, node: int, mix: Mix, rank: int) -> float:
    """Thousandths of the node's free GPUs that the mix can use, were its CPU of that rank."""
    room_sum, whole = sums(free, node, mix, rank)
    several: float = mix.several[free.model[node], rank, whole]
    return room_sum + WHOLE * whole * several


@njit(cache=True)
def usable_after(
    free: Free, node: int, pod: Pod, slot: int, mix: Mix, rank: int, room_sum: float, whole: int
) -> float:
    """`usable` once the pod is placed (on `slot` if it shares), from the `sums` before it."""
    single = mix.single[free.model[node], rank]
    if pod.milli < WHOLE:
        room = free.gpu[node, slot]
        left = room - pod.milli
        room_sum += left * single[mix.level[left]] - room * single[mix.level[room]]
        whole -= room == WHOLE
    else:
        room_sum -= pod.gpus * WHOLE * single[mix.level[WHOLE]]
        whole -= pod.gpus
    several: float = mix.several[free.model[node], rank, whole]
    return room_sum + WHOLE * whole * several


@njit(cache=True)
def least_lost(free: Free, node: int, pod: Pod, mix: Mix) -> float:
    """Thousandths usable before less after the pod, on the GPU where that is least."""
    before = usable(free, node, mix, cpu_rank(mix, free.cpu[node]))
    rank = cpu_rank(mix, free.cpu[node] - pod.cpu)
    if pod.gpus == 0:
        return before - usable(free, node, mix, rank)
    room_sum, whole = sums(free, node, mix, rank)
    if pod.milli == WHOLE:
        return before - usable_after(free, node, pod, -1, mix, rank, room_sum, whole)
    most = -np.inf
    seen = -1
    for slot in range(free.gpus[node]):
        room = free.gpu[node, slot]
        if room >= pod.milli and room != seen:
            after = usable_after(free, node, pod, slot, mix, rank, room_sum, whole)
            most = max(most, after)
            seen = room
    return before - most

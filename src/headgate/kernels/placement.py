"""Where a pod fits on a node, which of the node's GPUs it takes, and what is left.

A GPU is shared in thousandths. A pod asks for CPU (thousandths of a core), memory (MiB) and
`gpus` GPUs with `milli` thousandths free on each; `models` is a bit set of the GPU models it
accepts (bit i: model i). `Free` is written in place by `take` and `give_back`, nothing else.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WHOLE = 1000  # thousandths of one GPU
SHARED = 0  # column of `Free.kinds` for pods that share a GPU; column k is pods of k whole GPUs


class Free(NamedTuple):
    """What every node has left, one row each. Ties between nodes go to the lower row."""

    cpu: Ints  # [node] thousandths of a core
    memory: Ints  # [node] MiB
    gpu: Ints  # [node, slot] thousandths; 0 in slots past the node's last GPU
    gpus: Ints  # [node] GPUs the node has, busy or not
    model: Ints  # [node] bit number of its GPU model
    kinds: Ints  # [node, 1 + slots] GPU pods there, by whole GPUs asked; 0: shared


class Pod(NamedTuple):
    """One request."""

    cpu: int
    memory: int
    gpus: int
    milli: int  # thousandths on each of its GPUs; less than WHOLE only where `gpus` is 1
    models: int  # bit set; no pod without GPUs is refused for its model


class Pods(NamedTuple):
    """Requests, one row each."""

    cpu: Ints
    memory: Ints
    gpus: Ints
    milli: Ints
    models: Ints


@njit(cache=True)
def pod_at(pods: Pods, row: int) -> Pod:
    """One row of `pods`."""
    return Pod(pods.cpu[row], pods.memory[row], pods.gpus[row], pods.milli[row], pods.models[row])


@njit(cache=True)
def fits(free: Free, node: int, pod: Pod) -> bool:
    """Whether the node can hold the pod now."""
    if free.cpu[node] < pod.cpu or free.memory[node] < pod.memory:
        return False
    if pod.gpus == 0:
        return True
    if (pod.models >> free.model[node]) & 1 == 0:
        return False
    wanted = pod.gpus
    for slot in range(free.gpus[node]):
        if free.gpu[node, slot] >= pod.milli:
            wanted -= 1
            if wanted == 0:
                return True
    return False


@njit(cache=True)
def tightest_gpu(free: Free, node: int, milli: int) -> int:
    """The slot with the least room that still holds `milli`; the lower slot of equals; -1: none."""
    best = -1
    for slot in range(free.gpus[node]):
        room = free.gpu[node, slot]
        if room >= milli and (best < 0 or room < free.gpu[node, best]):
            best = slot
    return best


@njit(cache=True)
def any_gpu(free: Free, node: int, milli: int, dice: float) -> int:
    """The slot that `dice`, uniform in [0, 1), picks of those that hold `milli`; -1: none."""
    able = 0
    for slot in range(free.gpus[node]):
        if free.gpu[node, slot] >= milli:
            able += 1
    skip = int(dice * able)
    for slot in range(free.gpus[node]):
        if free.gpu[node, slot] >= milli:
            if skip == 0:
                return slot
            skip -= 1
    return -1


@njit(cache=True)
def take(free: Free, node: int, pod: Pod, slot: int, slots: Ints) -> None:
    """Put the pod on the node: on `slot` if it shares a GPU, else on the lowest whole GPUs.

    `slots` [>= pod.gpus] receives the GPUs taken. The caller has asked `fits`.
    """
    free.cpu[node] -= pod.cpu
    free.memory[node] -= pod.memory
    if pod.gpus == 0:
        return
    if pod.milli < WHOLE:
        free.kinds[node, SHARED] += 1
        free.gpu[node, slot] -= pod.milli
        slots[0] = slot
        return
    free.kinds[node, pod.gpus] += 1
    taken = 0
    for at in range(free.gpus[node]):
        if taken < pod.gpus and free.gpu[node, at] == WHOLE:
            free.gpu[node, at] = 0
            slots[taken] = at
            taken += 1


@njit(cache=True)
def give_back(free: Free, node: int, pod: Pod, slots: Ints) -> None:
    """Undo `take`: the pod leaves the node's GPUs `slots[:pod.gpus]`."""
    free.cpu[node] += pod.cpu
    free.memory[node] += pod.memory
    if pod.gpus == 0:
        return
    free.kinds[node, SHARED if pod.milli < WHOLE else pod.gpus] -= 1
    for i in range(pod.gpus):
        free.gpu[node, slots[i]] += pod.milli

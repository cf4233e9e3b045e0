"""The six policies of the published experiment, from their definitions.

Weng et al., "Beware of Fragmentation" (USENIX ATC 2023). Each gives every node that fits a score
of 0 to 100, cut to a whole number as the published simulator does; the highest wins, and the
lower row of equals, so the caller shuffles the rows. A pod that shares takes the tightest GPU of
its node, except under Random (any that fits) and FGD (the one it scored).
"""

import math

import numpy as np
from numba import njit

from headgate.kernels.placement import (
    SHARED,
    WHOLE,
    Floats,
    Free,
    Ints,
    Pod,
    Pods,
    any_gpu,
    fits,
    pod_at,
    take,
    tightest_gpu,
)
from headgate.kernels.placement_mix import Mix, cpu_rank, least_lost, sums, usable, usable_after

RANDOM, DOT_PROD, GPU_CLUSTERING, GPU_PACKING, BEST_FIT, FGD = range(6)

# The largest node of the published experiment: what its scores are divided by.
MOST_CPU = 128_000
MOST_GPU = 8 * WHOLE


@njit(cache=True)
def gpu_left(free: Free, node: int) -> int:
    """Thousandths free on all GPUs of the node together."""
    left: int = 0
    for slot in range(free.gpus[node]):
        left += free.gpu[node, slot]
    return left


@njit(cache=True)
def dot_prod_score(free: Free, node: int, pod: Pod) -> int:
    """Prefer the node whose free CPU and GPU are least aligned with the request (Tetris)."""
    cpu = free.cpu[node] / MOST_CPU * (pod.cpu / MOST_CPU)
    gpu = gpu_left(free, node) / MOST_GPU * (pod.gpus * pod.milli / MOST_GPU)
    return int(100 * (1 - (cpu + gpu) / 2))


@njit(cache=True)
def clustering_score(free: Free, node: int, pod: Pod) -> int:
    """Prefer nodes that already run this kind of pod: alone, among others, idle, other kinds."""
    if pod.gpus == 0:
        return 0
    kind = SHARED if pod.milli < WHOLE else pod.gpus
    kinds = 0
    for k in range(free.kinds.shape[1]):
        kinds += free.kinds[node, k] > 0
    packed = 25 * (MOST_GPU - gpu_left(free, node)) // MOST_GPU
    if free.kinds[node, kind] > 0:
        return packed + (75 if kinds == 1 else 50)
    return packed + (25 if kinds == 0 else 0)


@njit(cache=True)
def packing_score(free: Free, node: int, pod: Pod) -> int:
    """Prefer GPUs in use, then idle GPUs of nodes in use, then idle nodes; the fewest of them."""
    if pod.gpus == 0:
        return 0
    whole = 0
    for slot in range(free.gpus[node]):
        if free.gpu[node, slot] == WHOLE:
            whole += 1
    if whole == free.gpus[node]:
        return max(100 // 3 - whole, whole)
    if pod.milli == WHOLE:
        return max(100 // 2 - pod.gpus, 100 // 3)
    room = free.gpu[node, tightest_gpu(free, node, pod.milli)]
    if room == WHOLE:
        return max(100 // 2 - 1, 100 // 3)
    return max(100 - int(room * 100 // WHOLE // 10), 100 // 2)


@njit(cache=True)
def best_fit_score(free: Free, node: int, pod: Pod) -> int:
    """Prefer the node with the least CPU and GPU left after the pod."""
    cpu = (free.cpu[node] - pod.cpu) / MOST_CPU
    gpu = (gpu_left(free, node) - pod.gpus * pod.milli) / MOST_GPU
    return int(100 * (1 - (cpu + gpu) / 2))


@njit(cache=True)
def fgd_score(grown: float) -> int:
    """0 to 100 from the thousandths by which a node's fragment for the mix grows."""
    return int(100 / (1 + math.exp(grown / WHOLE)))


@njit(cache=True)
def choose_fgd(free: Free, pod: Pod, mix: Mix) -> tuple[int, int]:
    """Prefer the GPU whose fragment for the mix grows least, or shrinks most."""
    taken = pod.gpus * pod.milli
    best, best_node = -1, -1
    least = np.inf  # only what grows less can score higher
    for node in range(len(free.cpu)):
        if fits(free, node, pod):
            grown = least_lost(free, node, pod, mix) - taken
            if grown < least:
                least = grown
                score = fgd_score(grown)
                if score > best:
                    best, best_node = score, node
    if best_node < 0 or pod.gpus == 0 or pod.milli == WHOLE:
        return best_node, -1
    return best_node, fgd_slot(free, best_node, pod, mix, best)


@njit(cache=True)
def fgd_slot(free: Free, node: int, pod: Pod, mix: Mix, score: int) -> int:
    """The lowest slot on which the pod has that score."""
    before = usable(free, node, mix, cpu_rank(mix, free.cpu[node]))
    rank = cpu_rank(mix, free.cpu[node] - pod.cpu)
    room_sum, whole = sums(free, node, mix, rank)
    for slot in range(free.gpus[node]):
        if free.gpu[node, slot] >= pod.milli:
            after = usable_after(free, node, pod, slot, mix, rank, room_sum, whole)
            if fgd_score(before - after - pod.milli) == score:
                return slot
    return -1


@njit(cache=True)
def choose(policy: int, free: Free, pod: Pod, mix: Mix, dice: Floats) -> tuple[int, int]:
    """The node and slot a published policy picks; node -1 where the pod fits nowhere.

    `dice`: two numbers uniform in [0, 1), used by Random alone.
    """
    if policy == RANDOM:
        return choose_any(free, pod, dice)
    if policy == FGD:
        return choose_fgd(free, pod, mix)
    best, best_node = -1, -1
    for node in range(len(free.cpu)):
        if not fits(free, node, pod):
            continue
        if policy == DOT_PROD:
            score = dot_prod_score(free, node, pod)
        elif policy == GPU_CLUSTERING:
            score = clustering_score(free, node, pod)
        elif policy == GPU_PACKING:
            score = packing_score(free, node, pod)
        else:
            score = best_fit_score(free, node, pod)
        if score > best:
            best, best_node = score, node
    if best_node < 0:
        return -1, -1
    return best_node, tightest_gpu(free, best_node, pod.milli)


@njit(cache=True)
def choose_any(free: Free, pod: Pod, dice: Floats) -> tuple[int, int]:
    """A node picked evenly of those that fit, and a GPU picked evenly of those that hold it."""
    able = 0
    for node in range(len(free.cpu)):
        able += fits(free, node, pod)
    skip = int(dice[0] * able)
    for node in range(len(free.cpu)):
        if fits(free, node, pod):
            if skip == 0:
                return node, any_gpu(free, node, pod.milli, dice[1])
            skip -= 1
    return -1, -1


@njit(cache=True)
def place_all(policy: int, free: Free, pods: Pods, mix: Mix, dice: Floats, placed: Ints) -> None:
    """Place the pods in order, for good; `placed` [pod] gets the node, or -1 where none fits."""
    slots = free.kinds[0].copy()
    for i in range(len(pods.cpu)):
        pod = pod_at(pods, i)
        node, slot = choose(policy, free, pod, mix, dice[i])
        placed[i] = node
        if node >= 0:
            take(free, node, pod, slot, slots)

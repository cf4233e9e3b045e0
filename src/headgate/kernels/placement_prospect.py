"""What the free GPUs of a node can still be expected to hold: the measure behind our own policy.

Three steps beyond counting what a mix could use as it stands (`placement_mix`):
1. A free GPU is offered many pods, not one: it stays empty only if none of the offers fits.
2. What fits may leave room behind, which is worth only what fits there in turn.
3. Pods on one node share its CPU: each GPU that fills draws on what the next one can count on.
The tables, made once for a mix, hold 1 and 2; `prospect` walks the node's GPUs for 3.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from headgate.kernels.placement import WHOLE, Floats, Free, Ints, Pod, fits

STEP_BITS = 10  # `Outlook.start` has an entry for every 2**STEP_BITS thousandths of a core


class Outlook(NamedTuple):
    """A mix of pods, as tables over what is free. Rank c: the c lowest CPU requests fit."""

    cpu: Ints  # [c] distinct CPU requests of the mix, ascending
    start: Ints  # [cpu >> STEP_BITS] rank of the lowest CPU of that step
    level: Ints  # [0..1000] thousandths free on a GPU -> level
    part: Floats  # [model, rank, level] thousandths expected to fill on a GPU in use
    whole: Floats  # [model, rank, whole GPUs on the node] the same on one idle GPU
    draw: Floats  # [model, rank, level] thousandths of a core drawn per thousandth of the room


@njit(cache=True)
def rank_of(outlook: Outlook, cpu: int) -> int:
    """How many distinct CPU requests of the mix `cpu` covers; more than the largest is the most."""
    if cpu < 0:
        return 0
    step = cpu >> STEP_BITS
    if step >= len(outlook.start):
        return len(outlook.cpu)
    rank = outlook.start[step]
    while rank < len(outlook.cpu) and outlook.cpu[rank] <= cpu:
        rank += 1
    return int(rank)


@njit(cache=True)
def prospect(outlook: Outlook, model: int, cpu: int, room: Ints, gpus: int) -> float:
    """Thousandths that `room[:gpus]`, free on each GPU, can be expected to hold, given the CPU.

    Idle GPUs count on the CPU first, then GPUs in use by slot.
    """
    idle = 0
    for slot in range(gpus):
        if room[slot] == WHOLE:
            idle += 1
    top = outlook.level[WHOLE]
    rank = rank_of(outlook, cpu)
    total = 0.0
    for _ in range(idle):
        total += outlook.whole[model, rank, idle]
        cpu -= int(WHOLE * outlook.draw[model, rank, top])
        rank = rank_of(outlook, cpu)
    for slot in range(gpus):
        if 0 < room[slot] < WHOLE:
            level = outlook.level[room[slot]]
            total += outlook.part[model, rank, level]
            cpu -= int(room[slot] * outlook.draw[model, rank, level])
            rank = rank_of(outlook, cpu)
    return total


@njit(cache=True)
def node_prospect(free: Free, node: int, outlook: Outlook) -> float:
    """`prospect` of a node as it is."""
    model = free.model[node]
    return prospect(outlook, model, free.cpu[node], free.gpu[node], free.gpus[node])


@njit(cache=True)
def tidy(lost: float) -> float:
    """Rounded, so that what is equal is equal however it was summed, and the row decides."""
    return float(np.rint(lost * 1e4) * 1e-4)


@njit(cache=True)
def prospect_lost(
    free: Free, node: int, pod: Pod, outlook: Outlook, now: float, room: Ints
) -> tuple[float, int]:
    """Prospect of the node (`now`) less that with the pod, and the slot of a pod that shares.

    The pod fits; of several slots the one that loses least, the lower of equals. `room`
    [>= GPUs of the node] is scratch.
    """
    model, gpus, cpu = free.model[node], free.gpus[node], free.cpu[node] - pod.cpu
    for slot in range(gpus):
        room[slot] = free.gpu[node, slot]
    if pod.gpus == 0 or pod.milli == WHOLE:
        wanted = pod.gpus
        for slot in range(gpus):
            if wanted > 0 and room[slot] == WHOLE:
                room[slot] = 0
                wanted -= 1
        return tidy(now - prospect(outlook, model, cpu, room, gpus)), -1
    least, best, seen = np.inf, -1, -1
    for slot in range(gpus):
        before = free.gpu[node, slot]
        if before >= pod.milli and before != seen:
            seen = before
            room[slot] = before - pod.milli
            lost = tidy(now - prospect(outlook, model, cpu, room, gpus))
            room[slot] = before
            if lost < least:
                least, best = lost, slot
    return least, best


@njit(cache=True)
def choose(free: Free, pod: Pod, outlook: Outlook) -> tuple[int, int]:
    """The node and slot where the least prospect is lost; the lower row of equals; node -1: none.

    Looks at every node, for callers that place seldom; `placement_board` keeps the costs at hand.
    """
    room = np.empty(free.gpu.shape[1], dtype=np.int64)
    least, best_node, best_slot = np.inf, -1, -1
    for node in range(len(free.cpu)):
        if fits(free, node, pod):
            now = node_prospect(free, node, outlook)
            lost, slot = prospect_lost(free, node, pod, outlook, now, room)
            if lost < least:
                least, best_node, best_slot = lost, node, slot
    return best_node, best_slot

"""Our placement policy: land where the fleet's prospects suffer least.

The mix of pods comes from a trace, or from the requests seen so far; nothing else is known of
the future. Why it is this way, and what was refused: docs/why/placement.md.
"""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.placement import WHOLE, Pods
from headgate.kernels.placement_board import Board
from headgate.kernels.placement_prospect import STEP_BITS, Outlook
from headgate.policy.placement.mix import TypicalPods

# How many pods a free GPU may be offered before it matters that it is free. From 8 to 30 the
# allocation on the published traces moves by less than 0.1 points.
OFFERS = 30

# No node has as much CPU (thousandths of a core): what asks for more is told apart no further.
MOST_CPU = 1 << 24

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def outlook(typical: TypicalPods, models: int, slots: int, offers: float = OFFERS) -> Outlook:
    """`typical` as the tables of the kernel, for that many GPU models and GPUs on a node."""
    pods = typical.pods._replace(cpu=np.minimum(typical.pods.cpu, MOST_CPU))
    typical = TypicalPods(pods, typical.weight)
    cpu = np.unique(pods.cpu)
    unit = gcd(WHOLE, *(int(milli) for milli in np.unique(pods.milli[pods.gpus > 0])))
    level = np.arange(WHOLE + 1) // unit
    shape = (models, len(cpu) + 1, WHOLE // unit + 1)
    fit, cores, milli = (np.zeros(shape) for _ in range(3))  # weighted sums over pods that fit
    several = np.zeros((*shape[:2], slots + 1))
    for cells, row in _cells(typical, models, cpu, unit):
        weight = typical.weight[row]
        cores[cells] += weight * pods.cpu[row]
        milli[cells] += weight * pods.gpus[row] * pods.milli[row]
        if pods.gpus[row] == 1:
            fit[cells] += weight
        else:
            several[cells[0], cells[1], pods.gpus[row] :] += weight
    part, idle = _expected(typical, models, cpu, unit, fit, offers)
    chance = fit[:, :, -1:] + several
    filled = idle[:, :, None] + WHOLE * several  # times its chance
    whole = _taken(chance, offers) * filled / np.maximum(chance, np.finfo(float).tiny)
    steps = np.arange((int(cpu[-1]) >> STEP_BITS) + 1) << STEP_BITS
    start = np.searchsorted(cpu, steps, side="right")
    return Outlook(cpu, start, level, part, whole, cores / np.maximum(milli, 1e-12))


def _cells(
    typical: TypicalPods, models: int, cpu: Ints, unit: int
) -> list[tuple[tuple[Ints, slice, slice], int]]:
    """For each kind with GPUs: the cells (model, rank, level) where it fits on one GPU, its row."""
    pods = typical.pods
    cells = []
    for row in np.flatnonzero(pods.gpus > 0):
        accepted = np.flatnonzero(pods.models[row] >> np.arange(models) & 1)[:, None]
        rank = slice(int(np.searchsorted(cpu, pods.cpu[row])) + 1, None)
        level = slice(int(pods.milli[row]) // unit, None)
        cells.append(((accepted[:, 0], rank, level), int(row)))
    return cells


def _taken(chance: Floats, offers: float) -> Floats:
    """The chance that at least one of the offers fits."""
    return 1.0 - (1.0 - np.minimum(chance, 1.0)) ** offers


def _expected(
    typical: TypicalPods, models: int, cpu: Ints, unit: int, fit: Floats, offers: float
) -> tuple[Floats, Floats]:
    """What a GPU with that room is expected to hold of pods of one GPU, [model, rank, level].

    If any offer fits, the first is one of those that fit, by weight; then what it leaves is
    expected in turn, with the same CPU. Also the sum, by weight, for an idle GPU [model, rank].
    """
    pods = typical.pods
    singles = [
        (cells, row, int(pods.milli[row]) // unit)
        for cells, row in _cells(typical, models, cpu, unit)
        if pods.gpus[row] == 1
    ]
    expected = np.zeros_like(fit)
    first = np.zeros(fit.shape[:2])
    for level in range(1, fit.shape[2]):
        first = np.zeros(fit.shape[:2])
        for (accepted, rank, _), row, size in singles:
            if size <= level:
                then = expected[accepted, rank, level - size]
                first[accepted, rank] += typical.weight[row] * (size * unit + then)
        chance = fit[:, :, level]
        expected[:, :, level] = (
            _taken(chance, offers) * first / np.maximum(chance, np.finfo(float).tiny)
        )
    return expected, first


def shapes_of(pods: Pods) -> tuple[Pods, Ints]:
    """The distinct (CPU, GPUs, thousandths) of `pods`, open to all memory and models; their rows.

    A pod that asks for a shape fits nowhere the shape does not.
    """
    columns = np.stack([pods.gpus, pods.milli, pods.cpu])
    distinct, shape = np.unique(columns, axis=1, return_inverse=True)
    gpus, milli, cpu = distinct
    anywhere = np.full_like(cpu, -1)  # every bit set
    return Pods(cpu, np.zeros_like(cpu), gpus, milli, anywhere), shape.reshape(-1)


def board(shapes: int, nodes: int, slots: int) -> Board:
    """A board to `fill`."""
    return Board(
        lost=np.full((shapes, nodes), np.inf),
        slot=np.full((shapes, nodes), -1, dtype=np.int8),
        room=np.empty(slots, dtype=np.int64),
    )

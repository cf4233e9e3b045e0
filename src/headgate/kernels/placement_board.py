"""Our policy's choices kept at hand: what every shape of pod would cost on every node.

A placement changes one node, so one column of the board; a choice is then one scan of a row.
Shapes differ in CPU, GPUs or thousandths; memory and accepted models are asked at the scan, so
that thousands of kinds of pods share a few dozen rows.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from headgate.kernels.placement import Floats, Free, Ints, Pod, Pods, fits, pod_at, take
from headgate.kernels.placement_prospect import Outlook, node_prospect, prospect_lost


class Board(NamedTuple):
    """Costs of every shape on every node; `refresh` keeps a node's column true."""

    lost: Floats  # [shape, node] prospect lost there; infinite where it does not fit
    slot: NDArray[np.int8]  # [shape, node] the GPU of a pod that shares, else -1
    room: Ints  # [slot] scratch


@njit(cache=True)
def refresh(board: Board, free: Free, shapes: Pods, outlook: Outlook, node: int) -> None:
    """Make the node's column true, after anything about the node has changed."""
    now = node_prospect(free, node, outlook)
    for shape in range(len(shapes.cpu)):
        board.lost[shape, node] = np.inf
        pod = pod_at(shapes, shape)
        if fits(free, node, pod):
            lost, slot = prospect_lost(free, node, pod, outlook, now, board.room)
            board.lost[shape, node] = lost
            board.slot[shape, node] = slot


@njit(cache=True)
def fill(board: Board, free: Free, shapes: Pods, outlook: Outlook) -> None:
    """Make every column true."""
    for node in range(len(free.cpu)):
        refresh(board, free, shapes, outlook, node)


@njit(cache=True)
def choose_from(board: Board, free: Free, shape: int, pod: Pod) -> tuple[int, int]:
    """The node and slot where the least prospect is lost, the lower row of equals; -1: none."""
    least, best = np.inf, -1
    for node in range(board.lost.shape[1]):
        if board.lost[shape, node] < least and fits(free, node, pod):
            least, best = board.lost[shape, node], node
    if best < 0:
        return -1, -1
    return best, int(board.slot[shape, best])


@njit(cache=True)
def place(
    board: Board, free: Free, shapes: Pods, outlook: Outlook, shape: int, pod: Pod, slots: Ints
) -> int:
    """Choose, take and refresh: one decision. `slots` receives the GPUs; -1 where none fits."""
    node, slot = choose_from(board, free, shape, pod)
    if node >= 0:
        take(free, node, pod, slot, slots)
        refresh(board, free, shapes, outlook, node)
    return node


@njit(cache=True)
def place_all(
    board: Board,
    free: Free,
    shapes: Pods,
    outlook: Outlook,
    shape_of: Ints,
    pods: Pods,
    placed: Ints,
) -> None:
    """Place the pods in order, for good; `placed` [pod] gets the node, or -1 where none fits."""
    slots = np.empty(free.kinds.shape[1], dtype=np.int64)
    for i in range(len(pods.cpu)):
        placed[i] = place(board, free, shapes, outlook, shape_of[i], pod_at(pods, i), slots)

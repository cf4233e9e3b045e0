"""The published packing experiment: pods arrive, stay for good, and are dropped where none fits."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.kernels import placement_board, placement_published
from headgate.kernels.placement import Pods
from headgate.policy.placement.mix import fold, typical_pods
from headgate.policy.placement.nodes import Nodes
from headgate.policy.placement.outlook import board, outlook, shapes_of
from headgate.policy.placement.published import PUBLISHED
from headgate.sim.dice import stream
from headgate.sim.traces.openb import arrivals

OURS = "Headgate"
POLICIES = (*PUBLISHED, OURS)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packing:
    """One run: where every pod of the stream went, and what that adds up to."""

    nodes: Nodes  # in the order that decides ties
    pods: Pods
    node_of: Ints  # [pod] row in `nodes`; -1: dropped
    wall_s: float  # learning the mix and placing every pod

    @property
    def allocated_percent(self) -> float:
        """GPU allocated at the end, in percent of the cluster."""
        held = np.where(self.node_of >= 0, self.pods.gpus * self.pods.milli, 0).sum()
        return 100.0 * float(held) / self.nodes.gpu_milli


def pack(nodes: Nodes, pods: Pods, policy: str, seed: int) -> Packing:
    """Run the experiment once: the seed decides the stream, the order of nodes, Random's picks.

    FGD and ours know the mix of the trace, as published, and not the order of the stream.
    """
    arriving = arrivals(nodes, pods, seed)
    shuffled = nodes.reorder(stream(seed, "placement", "ties").permutation(len(nodes)))
    dice = stream(seed, "placement", "random").random((len(arriving.cpu), 2))
    node_of = np.empty(len(arriving.cpu), dtype=np.int64)
    start = time.perf_counter()
    if policy == OURS:
        _place(shuffled, pods, arriving, node_of)
    else:
        free = shuffled.empty()
        mix = fold(typical_pods(pods), len(nodes.models), free.gpu.shape[1])
        placement_published.place_all(PUBLISHED[policy], free, arriving, mix, dice, node_of)
    return Packing(shuffled, arriving, node_of, time.perf_counter() - start)


def _place(nodes: Nodes, pods: Pods, arriving: Pods, node_of: Ints) -> None:
    free = nodes.empty()
    slots = free.gpu.shape[1]
    ahead = outlook(typical_pods(pods, share=1.0), len(nodes.models), slots)
    shapes, shape_of = shapes_of(arriving)
    costs = board(len(shapes.cpu), len(nodes), slots)
    placement_board.place_all(costs, free, arriving, shape_of, shapes, ahead, node_of)

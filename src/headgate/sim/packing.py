"""The published packing experiment: pods arrive, stay for good, and are dropped where none fits."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.placement import Pods
from headgate.kernels.placement_published import place_all
from headgate.policy.placement.mix import TypicalPods, fold
from headgate.policy.placement.nodes import Nodes
from headgate.policy.placement.published import POLICIES
from headgate.sim.dice import stream
from headgate.sim.traces.openb import arrivals


@dataclass(frozen=True, slots=True)
class Packing:
    """One run: where every pod of the stream went, and what that adds up to."""

    nodes: Nodes  # in the order that decides ties
    pods: Pods
    node_of: NDArray[np.int64]  # [pod] row in `nodes`; -1: dropped
    wall_s: float  # the decisions alone

    @property
    def allocated_percent(self) -> float:
        """GPU allocated at the end, in percent of the cluster."""
        held = np.where(self.node_of >= 0, self.pods.gpus * self.pods.milli, 0).sum()
        return 100.0 * float(held) / self.nodes.gpu_milli


def pack(nodes: Nodes, pods: Pods, typical: TypicalPods, policy: str, seed: int) -> Packing:
    """Run the experiment once: the seed decides the stream, the order of nodes, Random's picks."""
    arriving = arrivals(nodes, pods, seed)
    shuffled = nodes.reorder(stream(seed, "placement", "ties").permutation(len(nodes)))
    dice = stream(seed, "placement", "random").random((len(arriving.cpu), 2))
    free = shuffled.empty()
    mix = fold(typical, len(nodes.models), free.gpu.shape[1])
    node_of = np.empty(len(arriving.cpu), dtype=np.int64)
    start = time.perf_counter()
    place_all(POLICIES[policy], free, arriving, mix, dice, node_of)
    return Packing(shuffled, arriving, node_of, time.perf_counter() - start)

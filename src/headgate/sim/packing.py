"""The published packing experiment: pods arrive, stay for good, and are dropped where none fits."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.kernels import placement_board, placement_published
from headgate.kernels.placement import WHOLE, Pod, Pods
from headgate.policy.placement.mix import fold, typical_pods
from headgate.policy.placement.nodes import Nodes
from headgate.policy.placement.outlook import board, outlook, shapes_of
from headgate.policy.placement.published import PUBLISHED
from headgate.sim.dice import stream
from headgate.sim.traces.openb import arrivals

OURS = "Headgate"
POLICIES = (*PUBLISHED, OURS)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Packing:
    """One run: where every pod of the stream went, and what that adds up to."""

    nodes: Nodes  # in the order that decides ties
    pods: Pods
    node_of: Ints  # [pod] row in `nodes`; -1: dropped
    wall_s: float  # learning the mix and placing every pod, by the clock
    cpu_s: float  # the same on the CPU: on a shared machine the clock also counts others' turns

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
    start_s, start_cpu_s = time.perf_counter(), time.thread_time()
    if policy == OURS:
        _place(shuffled, pods, arriving, node_of)
    else:
        free = shuffled.empty()
        mix = fold(typical_pods(pods), len(nodes.models), free.gpu.shape[1])
        placement_published.place_all(PUBLISHED[policy], free, arriving, mix, dice, node_of)
    wall_s, cpu_s = time.perf_counter() - start_s, time.thread_time() - start_cpu_s
    return Packing(shuffled, arriving, node_of, wall_s, cpu_s)


def _place(nodes: Nodes, pods: Pods, arriving: Pods, node_of: Ints) -> None:
    free = nodes.empty()
    slots = free.gpu.shape[1]
    ahead = outlook(typical_pods(pods, share=1.0), len(nodes.models), slots)
    shapes, shape_of = shapes_of(arriving)
    costs = board(len(shapes.cpu), len(nodes), slots)
    placement_board.fill(costs, free, shapes, ahead)
    placement_board.place_all(costs, free, shapes, ahead, shape_of, arriving, node_of)


def decision_us(
    nodes: Nodes, pods: Pods, gpus: int, decisions: int, seed: int
) -> tuple[Floats, Floats]:
    """Microseconds, by the clock and on the CPU, of decisions on a fleet of that many GPUs.

    They are those in the middle of a run. On a machine that others share the clock also counts
    their turns, which the CPU time leaves out.

    The fleet repeats `nodes`. A decision is a call from Python that chooses a node for one pod,
    takes the GPUs and brings up to date what every shape of pod would cost there.
    """
    times = -(-gpus * WHOLE // nodes.gpu_milli)
    fleet = nodes.reorder(np.tile(np.arange(len(nodes)), times))
    arriving = arrivals(fleet, pods, seed)
    shapes, shape_of = shapes_of(arriving)
    free = fleet.empty()
    ahead = outlook(typical_pods(pods, share=1.0), len(nodes.models), free.gpu.shape[1])
    costs = board(len(shapes.cpu), len(fleet), free.gpu.shape[1])
    placement_board.fill(costs, free, shapes, ahead)
    middle = (len(arriving.cpu) - decisions) // 2
    before = Pods(*(column[:middle] for column in arriving))
    placed = np.empty(middle, dtype=np.int64)
    placement_board.place_all(costs, free, shapes, ahead, shape_of[:middle], before, placed)
    slots = np.empty(free.kinds.shape[1], dtype=np.int64)
    clock_s, cpu_s = np.empty(decisions), np.empty(decisions)
    for i in range(decisions):
        row = middle + i
        pod = Pod(*(int(column[row]) for column in arriving))
        shape = int(shape_of[row])
        start_s, start_cpu_s = time.perf_counter(), time.thread_time()
        placement_board.place(costs, free, shapes, ahead, shape, pod, slots)
        cpu_s[i] = time.thread_time() - start_cpu_s
        clock_s[i] = time.perf_counter() - start_s
    return clock_s * 1e6, cpu_s * 1e6

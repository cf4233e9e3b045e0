"""How much any policy could allocate of a stream of pods, were the whole stream known.

Three bounds, each a linear programme and tighter than the one before:

- `fluid`: pods and nodes may be cut; every node type has its CPU, memory and GPU, and every pod
  what it asks for. Pods may be refused.
- `whole`: a GPU is whole. Shares fill it in whole numbers, up to the fraction of a GPU used each
  way: paths in a graph from 0 to 1000 thousandths, one edge for each pod (an arc flow).
- `kept`: no pod is refused that fits. A pod of the kind that wastes most (`wasteful`) fits
  until pods that came before it take, on every node, the GPU, the CPU or the memory it needs;
  all of its kind that come before must be held, and what was taken to shut them out stays taken.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import highspy
import numpy as np
from numpy.typing import NDArray

from headgate.kernels.placement import WHOLE, Pods
from headgate.policy.placement.nodes import Nodes

Ints = NDArray[np.int64]

STEPS = 16  # the stream is cut into as many parts to bound when the wasteful kind is shut out


@dataclass(frozen=True, slots=True)
class Bounds:
    """In percent of the nodes' GPUs."""

    fluid: float
    whole: float
    kept: float


@dataclass(slots=True)
class Programme:
    """A linear programme, maximised, grown row by row."""

    gain: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    start: list[int] = field(default_factory=lambda: [0])
    column: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def variable(self, gain: float = 0.0, most: float = highspy.kHighsInf) -> int:
        """A new variable of 0 to `most`; its column."""
        self.gain.append(gain)
        self.most.append(most)
        return len(self.gain) - 1

    def row(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        """low <= the sum of weight times variable <= high."""
        self.column += [column for column, _ in terms]
        self.weight += [weight for _, weight in terms]
        self.start.append(len(self.column))
        self.low.append(low)
        self.high.append(high)

    def solve(self) -> float:
        """The greatest gain, or minus infinity where nothing meets the rows."""
        if not self.gain:
            return 0.0 if max(self.low, default=0.0) <= 0.0 else -np.inf
        problem = highspy.HighsLp()
        problem.num_col_, problem.num_row_ = len(self.gain), len(self.low)
        problem.sense_ = highspy.ObjSense.kMaximize
        problem.col_cost_ = np.array(self.gain)
        problem.col_lower_, problem.col_upper_ = np.zeros(len(self.gain)), np.array(self.most)
        problem.row_lower_, problem.row_upper_ = np.array(self.low), np.array(self.high)
        problem.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        problem.a_matrix_.start_ = np.array(self.start)
        problem.a_matrix_.index_ = np.array(self.column)
        problem.a_matrix_.value_ = np.array(self.weight, dtype=np.float64)
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.passModel(problem)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return -np.inf
        return float(solver.getInfo().objective_function_value)


@dataclass(frozen=True, slots=True)
class Types:
    """Nodes that are alike, one row each."""

    count: Ints
    cpu: Ints
    memory: Ints
    gpus: Ints
    model: Ints


def bounds(nodes: Nodes, arriving: Pods) -> Bounds:
    """What any policy could allocate of the stream `arriving`."""
    types = _types(nodes)
    kinds, kind_of = _kinds(arriving)
    count = np.bincount(kind_of, minlength=len(kinds.cpu))
    percent = 100.0 / nodes.gpu_milli
    fluid = _programme(types, kinds, count, whole=False)[0].solve()
    whole = _programme(types, kinds, count, whole=True)[0].solve()
    return Bounds(fluid * percent, whole * percent, _kept(types, kinds, kind_of, count) * percent)


def _types(nodes: Nodes) -> Types:
    columns = np.stack([nodes.cpu_milli, nodes.memory_mib, nodes.gpus, nodes.model])
    alike, count = np.unique(columns, axis=1, return_counts=True)
    return Types(count, *alike)


def _kinds(pods: Pods) -> tuple[Pods, Ints]:
    kinds, kind_of = np.unique(np.stack(pods), axis=1, return_inverse=True)
    return Pods(*kinds), kind_of.reshape(-1)


def _programme(
    types: Types, kinds: Pods, count: Ints, whole: bool
) -> tuple[Programme, dict[tuple[int, int], int]]:
    """The programme, and its variables: pods of kind k held on nodes of type t."""
    lp = Programme()
    asked = kinds.gpus * kinds.milli
    held = {
        (k, t): lp.variable(gain=float(asked[k]))
        for k in range(len(kinds.cpu))
        for t in range(len(types.count))
        if _may(types, t, kinds, k)
    }
    for k in range(len(kinds.cpu)):
        terms = [(column, 1.0) for (kind, _), column in held.items() if kind == k]
        lp.row(terms, 0.0, float(count[k]))
    shared = []
    for t, nodes in enumerate(types.count):
        here = [(k, column) for (k, at), column in held.items() if at == t]
        for size, of in ((kinds.cpu, types.cpu), (kinds.memory, types.memory)):
            lp.row([(c, float(size[k])) for k, c in here], 0.0, float(nodes * of[t]))
        gpu = [(c, float(asked[k])) for k, c in here]
        lp.row(gpu, 0.0, float(nodes * types.gpus[t] * WHOLE))
        if whole:
            shares = lp.variable()  # GPUs of these nodes that are shared
            shared.append(shares)
            alone = [(c, float(kinds.gpus[k])) for k, c in here if kinds.milli[k] == WHOLE]
            lp.row([*alone, (shares, 1.0)], 0.0, float(nodes * types.gpus[t]))
    if whole:
        _flow(lp, kinds, held, shared)
    return lp, held


def _may(types: Types, t: int, kinds: Pods, k: int) -> bool:
    """Whether an empty node of type t holds a pod of kind k."""
    accepted = kinds.gpus[k] == 0 or kinds.models[k] >> types.model[t] & 1
    room = kinds.gpus[k] <= types.gpus[t]
    return bool(
        accepted and room and kinds.cpu[k] <= types.cpu[t] and kinds.memory[k] <= types.memory[t]
    )


def _flow(lp: Programme, kinds: Pods, held: dict[tuple[int, int], int], shared: list[int]) -> None:
    """Shared GPUs are paths from 0 to 1000 thousandths: an edge for a pod, or for room unused."""
    sizes = np.unique(kinds.milli[(kinds.milli > 0) & (kinds.milli < WHOLE)])
    if not len(sizes):
        return
    unit = int(np.gcd.reduce([WHOLE, *sizes]))
    end = WHOLE // unit
    out: list[list[tuple[int, float]]] = [[] for _ in range(end + 1)]
    edges: dict[int, list[tuple[int, float]]] = {int(size): [] for size in sizes}
    for at in range(end):
        idle = lp.variable()
        out[at].append((idle, 1.0))
        out[at + 1].append((idle, -1.0))
        for size in edges:
            if at + size // unit <= end:
                edge = lp.variable()
                edges[size].append((edge, 1.0))
                out[at].append((edge, 1.0))
                out[at + size // unit].append((edge, -1.0))
    lp.row([*out[0], *((shares, -1.0) for shares in shared)], 0.0, 0.0)
    for at in range(1, end):
        lp.row(out[at], 0.0, 0.0)
    for size, used in edges.items():
        pods = [(column, -1.0) for (k, _), column in held.items() if kinds.milli[k] == size]
        lp.row([*used, *pods], 0.0, 0.0)


def wasteful(kinds: Pods, count: Ints) -> int:
    """The kind of share of over half a GPU that leaves most room beside it, all its pods together;
    -1 where there is none.
    """
    half = (kinds.gpus == 1) & (2 * kinds.milli > WHOLE) & (kinds.milli < WHOLE)
    room = np.where(half, (WHOLE - kinds.milli) * count, 0)
    return int(room.argmax()) if room.any() else -1


def _kept(types: Types, kinds: Pods, kind_of: Ints, count: Ints) -> float:
    """The greatest `whole` over every part of the stream in which the wasteful kind is shut out."""
    anywhere = [
        any(_may(types, t, kinds, k) for t in range(len(types.count)))
        for k in range(len(kinds.cpu))
    ]
    k = wasteful(kinds, count * anywhere)
    if k < 0:
        return _programme(types, kinds, count, whole=True)[0].solve()
    best = -np.inf
    cuts = np.linspace(0, len(kind_of), STEPS + 1).astype(np.int64)
    for first, last in pairwise(cuts):
        must = int((kind_of[:first] == k).sum())  # came before it can have been shut out
        before = np.bincount(kind_of[:last], minlength=len(count))
        lp, held = _programme(types, kinds, count, whole=True)
        own = [(column, 1.0) for (kind, _), column in held.items() if kind == k]
        lp.row(own, float(must), float(count[k]))
        if last < len(kind_of):
            _shut_out(lp, held, types, kinds, k, before)
        best = max(best, lp.solve())
    return best


def _shut_out(
    lp: Programme, held: dict[tuple[int, int], int], types: Types, kinds: Pods, k: int, before: Ints
) -> None:
    """No node holds kind k once the pods that came `before` are placed; they stay.

    Held is at least what shuts out, kind by kind and type by type: pods never leave. A node is
    shut when its GPUs have under `milli` free each, or too little CPU or memory is
    left: so the largest of the three shares that each of its pods takes sum to at least 1.
    """
    shutting = {}
    for (j, t), column in held.items():
        shutting[j, t] = lp.variable(most=float(before[j]))
        lp.row([(column, 1.0), (shutting[j, t], -1.0)], 0.0, highspy.kHighsInf)
    for j in range(len(kinds.cpu)):
        terms = [(column, 1.0) for (kind, _), column in shutting.items() if kind == j]
        lp.row(terms, 0.0, float(before[j]))
    for t, nodes in enumerate(types.count):
        if _may(types, t, kinds, k):
            terms = [
                (column, _shut_share(types, t, kinds, k, j))
                for (j, at), column in shutting.items()
                if at == t
            ]
            lp.row(terms, float(nodes), highspy.kHighsInf)


def _shut_share(types: Types, t: int, kinds: Pods, k: int, j: int) -> float:
    gpu = 0.0
    if kinds.gpus[j] > 0:
        each = min(1.0, kinds.milli[j] / (WHOLE - kinds.milli[k] + 1))
        gpu = kinds.gpus[j] * each / types.gpus[t]
    cpu = kinds.cpu[j] / (types.cpu[t] - kinds.cpu[k] + 1)
    memory = kinds.memory[j] / (types.memory[t] - kinds.memory[k] + 1)
    return float(min(1.0, max(gpu, cpu, memory)))

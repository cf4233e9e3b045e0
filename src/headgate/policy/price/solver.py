"""The programme as arrays for HiGHS, solved again from the last basis.

Duals of a degenerate optimum are not unique: at a kink one more unit is worth less than the last
one was. We report the worth of one MORE unit. Every capacity is raised by a tiny amount of its
own before solving (`NUDGE` units, times a fixed spread that differs from row to row), which steps
off the kink to its upper side; the optimum found is then a vertex whose duals are unique in all
but contrived cases, and they are the right-hand derivative at the true capacity.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from headgate.policy.price.programme import Answer, Floats, Ints, Programme

INFINITE = highspy.kHighsInf
PRIMAL = 4  # of HiGHS's simplex_strategy
NUDGE = 1e-5
GOLDEN = 0.6180339887498949
# What is fixed tier by tier leaves little room; where HiGHS loses its way in it, a little more.
SLACKS = (1e-6, 1e-4)


class Unsolved(ArithmeticError):  # noqa: N818 - a state of the programme, not a mistake
    """The programme has no answer: floors beyond capacity, or numbers out of range."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which columns and rows a programme has; the same for programmes that differ in numbers."""

    pairs: Ints  # [pair, 2] (use, pool) that go together
    ramps: Ints  # [ramp, 2] (family, pool) whose starts are counted
    wide: Ints  # uses with a width
    floors: Ints  # [floor, 2] (class, pool) with a floor in some bucket
    uses: int
    pools: int
    buckets: int

    @property
    def columns(self) -> int:
        return (len(self.pairs) + 2 * self.uses + len(self.ramps)) * self.buckets


def shape_of(p: Programme) -> Shape:
    u = p.uses
    pairs = np.argwhere(u.rate > 0)
    can = np.zeros((len(u.start_h), u.rate.shape[1]), np.bool_)
    np.logical_or.at(can, u.family[pairs[:, 0]], _one_hot(pairs[:, 1], u.rate.shape[1]))
    return Shape(
        pairs,
        np.argwhere(can & (u.start_h > 0)[:, None]),
        np.flatnonzero(np.isfinite(u.width).any(axis=1)),
        np.argwhere((p.floors > 0).any(axis=2)),
        len(u),
        u.rate.shape[1],
        len(p.hours),
    )


def _one_hot(rows: Ints, columns: int) -> Any:
    return np.arange(columns)[None, :] == rows[:, None]


class Matrix:
    """Entries gathered block by block, then sorted by column as HiGHS takes them."""

    def __init__(self) -> None:
        self.rows: list[Ints] = []
        self.columns: list[Ints] = []
        self.values: list[Floats] = []

    def put(self, rows: Any, columns: Any, values: Any) -> None:
        rows, columns, values = np.broadcast_arrays(rows, columns, values)
        self.rows.append(rows.ravel())
        self.columns.append(columns.ravel())
        self.values.append(values.ravel().astype(np.float64))

    def by_column(self, columns: int) -> tuple[Ints, Ints, Floats]:
        rows = np.concatenate(self.rows)
        column = np.concatenate(self.columns)
        values = np.concatenate(self.values)
        order = np.lexsort((rows, column))
        start = np.searchsorted(column[order], np.arange(columns + 1))
        return start, rows[order], values[order]


class Arrays:
    """Costs, bounds and rows of one programme; blocks of columns and rows are [thing, bucket]."""

    def __init__(self, p: Programme, shape: Shape) -> None:
        self.p, self.shape = p, shape
        n = shape.buckets
        sizes = (len(shape.pairs), shape.uses, shape.uses, len(shape.ramps))
        self.x, self.stock, self.expired, self.starts = _blocks(sizes, n)
        rows = (shape.pools, shape.uses, len(shape.wide), len(shape.floors), len(shape.ramps))
        self.capacity, self.balance, self.width, self.floor, self.ramp = _blocks(rows, n)
        self.rows = sum(rows) * n

    def cost(self) -> Floats:
        """To maximise: worth of output served, less what expires."""
        u, hours = self.p.uses, self.p.hours
        use, pool = self.shape.pairs.T
        cost = np.zeros(self.shape.columns)
        reserve = np.broadcast_to(self.p.reserve, self.shape.pools)[pool]
        cost[self.x] = (u.value[use] * u.rate[use, pool] - reserve)[:, None] * hours
        cost[self.expired] = -u.loss[:, None]
        cost[self.stock] = -u.wait[:, None] * hours
        return cost

    def column_bounds(self) -> tuple[Floats, Floats]:
        upper = np.full(self.shape.columns, INFINITE)
        upper[self.stock] = np.where(np.isinf(self.p.uses.may_wait), INFINITE, self.p.uses.may_wait)
        return np.zeros(self.shape.columns), upper

    def row_bounds(self) -> tuple[Floats, Floats]:
        p, u, s = self.p, self.p.uses, self.shape
        lower, upper = np.full(self.rows, -INFINITE), np.full(self.rows, INFINITE)
        upper[self.capacity] = p.capacity + nudges(p.capacity.shape)
        lower[self.balance] = upper[self.balance] = u.arrives
        width = u.width[s.wide]
        upper[self.width] = np.where(np.isinf(width), INFINITE, width)
        lower[self.floor] = p.floors[s.floors[:, 0], s.floors[:, 1]]
        upper[self.ramp] = 0.0
        if len(s.ramps):
            upper[self.ramp[:, 0]] = u.held[s.ramps[:, 0], s.ramps[:, 1]]
        return lower, upper

    def fixed(self) -> tuple[Any, ...]:
        """All that the matrix is made of."""
        p, u, s = self.p, self.p.uses, self.shape
        return (u.rate, p.hours, u.class_, u.family, u.start_h, s.wide, s.floors, p.spread)

    def matrix(self) -> tuple[Ints, Ints, Floats]:
        """Starts of columns, rows and values."""
        p, u, s, m = self.p, self.p.uses, self.shape, Matrix()
        use, pool = s.pairs.T
        m.put(self.capacity[pool], self.x, 1.0)
        m.put(self.balance[use], self.x, u.rate[use, pool][:, None] * p.hours)
        m.put(self.balance, self.stock, 1.0)
        m.put(self.balance[:, 1:], self.stock[:, :-1], -1.0)
        m.put(self.balance, self.expired, 1.0)
        for i, wide in enumerate(s.wide):
            m.put(self.width[i], self.x[use == wide], 1.0)
        for i, (class_, where) in enumerate(s.floors):
            m.put(self.floor[i], self.x[(u.class_[use] == class_) & (pool == where)], 1.0)
        for i, (family, where) in enumerate(s.ramps):
            mine = self.x[(u.family[use] == family) & (pool == where)]
            m.put(self.ramp[i], mine, 1.0)
            m.put(self.ramp[i, 1:], mine[:, :-1], -1.0)
            for back in range(min(p.spread, s.buckets)):
                m.put(self.ramp[i, back:], self.starts[i, : s.buckets - back], -1.0)
            m.put(self.capacity[where], self.starts[i], u.start_h[family] / p.hours)
        return m.by_column(s.columns)


def _blocks(things: tuple[int, ...], buckets: int) -> list[Ints]:
    """Consecutive numbers for blocks of [thing, bucket]."""
    ends = np.cumsum([0, *things]) * buckets
    return [np.arange(a, b).reshape(-1, buckets) for a, b in itertools.pairwise(ends)]


def nudges(shape: tuple[int, ...]) -> Floats:
    """A small amount for each capacity, no two alike."""
    count = np.arange(1, np.prod(shape) + 1)
    return np.asarray(NUDGE * (1.0 + (count * GOLDEN) % 1.0)).reshape(shape)


class Solver:
    """Solves programmes; one of the same shape as the last starts from its basis."""

    def __init__(self) -> None:
        self.highs: Any = None
        self.shape: Shape | None = None
        self.fixed: tuple[Any, ...] = ()

    def solve(self, p: Programme, mode: str = "value") -> Answer:
        """The optimum in `value` mode (one price for all) or `strict` (the first tier first).

        Raises Unsolved when floors cannot be met.
        """
        shape = shape_of(p)
        arrays = Arrays(p, shape)
        self._load(arrays)
        cost = arrays.cost()
        if mode != "strict":
            return self._answer(arrays, cost)
        for slack in SLACKS[:-1]:
            try:
                return self._lexicographic(arrays, cost, slack)
            except Unsolved:
                self._load(arrays)
        return self._lexicographic(arrays, cost, SLACKS[-1])

    def _load(self, a: Arrays) -> None:
        """Hand HiGHS the programme: numbers only where the shape is that of the last one."""
        fixed = a.fixed()
        same = len(self.fixed) == len(fixed) and all(map(np.array_equal, self.fixed, fixed))
        lower, upper = a.column_bounds()
        row_lower, row_upper = a.row_bounds()
        if same and self.highs is not None:
            columns = np.arange(a.shape.columns, dtype=np.int32)
            every = np.arange(a.rows, dtype=np.int32)
            self.highs.changeColsBounds(len(columns), columns, lower, upper)
            self.highs.changeRowsBounds(len(every), every, row_lower, row_upper)
            return
        start, rows, values = a.matrix()
        highs = highspy.Highs()  # type: ignore[no-untyped-call]
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("solver", "simplex")
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = a.shape.columns, a.rows
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.zeros(a.shape.columns)
        lp.col_lower_, lp.col_upper_ = lower, upper
        lp.row_lower_, lp.row_upper_ = row_lower, row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = start, rows, values
        highs.passModel(lp)
        self.highs, self.fixed = highs, fixed

    def _run(self, cost: Floats) -> int:
        every = np.arange(len(cost), dtype=np.int32)
        self.highs.changeColsCost(len(cost), every, cost)
        self.highs.run()
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            # The last basis may be a bad place to begin, above all in strict mode's steps.
            self.highs.clearSolver()
            self.highs.run()
        status = self.highs.getModelStatus()
        if status == highspy.HighsModelStatus.kModelEmpty:
            return 0  # nobody asks for anything: nothing to share out
        if status != highspy.HighsModelStatus.kOptimal:
            raise Unsolved(self.highs.modelStatusToString(status))
        return int(self.highs.getInfo().simplex_iteration_count)

    def _answer(self, a: Arrays, cost: Floats) -> Answer:
        iterations = self._run(cost)
        solution = self.highs.getSolution()
        columns, duals = np.array(solution.col_value), np.array(solution.row_dual)[: a.rows]
        s, hours = a.shape, a.p.hours
        served = np.zeros((s.uses, s.pools, s.buckets))
        served[s.pairs[:, 0], s.pairs[:, 1]] = columns[a.x]
        floor_price = np.zeros(a.p.floors.shape)
        floor_price[s.floors[:, 0], s.floors[:, 1]] = -duals[a.floor] / hours
        width_price = np.zeros((s.uses, s.buckets))
        width_price[s.wide] = duals[a.width] / hours
        return Answer(
            float(cost @ columns),
            served,
            columns[a.expired],
            columns[a.stock],
            duals[a.capacity] / hours,
            floor_price,
            duals[a.balance],
            width_price,
            iterations,
        )

    def _lexicographic(self, a: Arrays, cost: Floats, slack: float) -> Answer:
        """Tier by tier: what one can have, less a share of `slack`, is fixed before the next is
        asked.

        Prices are those of the last step: what one more unit is worth in all when every tier but
        the last keeps the worth it has.
        """
        # From tier to tier costs change and bounds stay: where the last step ended is feasible, and
        # the primal simplex goes on from there in a third of the dual's steps.
        self.highs.setOptionValue("simplex_strategy", PRIMAL)
        use = a.shape.pairs[:, 0]
        tiers = np.unique(a.p.uses.tier)
        fixed, begin = 0, None
        try:
            for tier in tiers[:-1]:
                mine = np.zeros_like(cost)
                for block, owner in ((a.x, use), (a.expired, np.arange(a.shape.uses))):
                    rows = block[a.p.uses.tier[owner] == tier]
                    mine[rows] = cost[rows]
                if not mine.any():
                    continue
                self._run(mine)
                begin = begin or self.highs.getBasis()
                best = self.highs.getInfo().objective_function_value
                at = np.flatnonzero(mine).astype(np.int32)
                # Worths are in money, rows are best near one.
                scale = float(np.abs(mine[at]).max())
                least = best - slack * max(1.0, abs(best))
                self.highs.addRow(least / scale, INFINITE, len(at), at, mine[at] / scale)
                fixed += 1
            return self._answer(a, cost)
        except Unsolved:
            self.highs = None  # whatever state it is in, the next programme starts afresh
            raise
        finally:
            if self.highs is not None and fixed:
                # The next programme has its own rows for what is fixed; it starts where the first
                # tier of this one ended.
                rows = np.arange(a.rows, a.rows + fixed, dtype=np.int32)
                self.highs.deleteRows(fixed, rows)
                self.highs.setBasis(begin)

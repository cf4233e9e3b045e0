"""One model served by replicas, request by request, carried from window to window.

How the pool simulator uses it (`fidelity = "requests"`)::

    service = SimulatedService(Settings(...), [model], replicas=8, kv_blocks=4096)
    for r in range(service.replicas):
        service.set_replica(r, DOWN, at_s=0.0)      # none is up until its StartReplica is done
    ...
    service.set_replica(r, UP, at_s)                # booted
    service.set_replica(r, DRAINING, at_s)          # takes nothing new; gone when idle(r)
    service.set_replica(r, DOWN, at_s)              # lost with what it held
    seen = service.window(workload, until_s)        # the requests of [now, until_s), played
    seen.count(W_GOOD_TOKENS), seen.quantile_s(TTFT, 0.99), seen.waiting, seen.outstanding

What is in flight at `until_s` stays in flight and goes on in the next window; what a window saw is
what ended in it. `play` offers a whole workload and lets everything finish. Times never go back:
each call's must not lie before the last one's. One replica may differ from another by its model
(`model_of`) and its memory (`kv_blocks` as an array).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.kernels.serving import layout as at
from headgate.kernels.serving.layout import DOWN, DRAINING, UP, Books, Fleet, Ints
from headgate.kernels.serving.leaving import cancel, lose
from headgate.kernels.serving.run import (
    Arrivals,
    Rule,
    run_by_load,
    run_by_prefix,
    run_by_rule,
    run_in_turn,
    run_until,
)
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel, stack
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.workload import Workload

__all__ = ["DOWN", "DRAINING", "ROUTINGS", "UP", "Settings", "SimulatedService"]

ROUTINGS = ("round-robin", "least-outstanding", "least-expected", "prefix", "rule")
BY_WORK = ("least-expected", "prefix", "rule")  # what looks at expected work
MOST_PREFIX_BYTES = 2 << 30
MOST_REPLICAS = 1 << 16
MOST_ROWS = 1 << at.ROW_BITS


NOBODY = Workload(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a service's replicas work and what its classes were promised.

    `objectives`: for each class (TTFT, TPOT) limits in seconds; a request within both is good.
    """

    scheduler: Scheduler = field(default_factory=Scheduler)
    routing: str = "round-robin"
    groups: tuple[str, ...] = ("all",)
    levels: int = 1
    objectives: tuple[tuple[float, float], ...] = ((float("inf"), float("inf")),)
    window_s: float = 60.0
    yields: bool = False  # preempt less urgent sequences to admit a more urgent request
    walk: bool = False  # skip no iteration: slow, to be held against
    rule: Rule | None = None  # for routing "rule": a numba cfunc of RULE_TYPE

    def __post_init__(self) -> None:
        if (self.routing == "rule") != (self.rule is not None):
            raise InputError('routing: "rule" and a compiled rule go together; give both.')
        if self.routing not in ROUTINGS:
            raise InputError(
                f"routing is {self.routing!r}, which is not known; choose one of "
                f"{', '.join(ROUTINGS)}."
            )


class SimulatedService:
    """Replicas of one model and the requests on them; single-threaded, no clock of its own."""

    def __init__(
        self,
        settings: Settings,
        models: list[StepModel],
        replicas: int,
        kv_blocks: int | NDArray[np.int64],
        model_of: NDArray[np.int64] | None = None,
        rows: int = 1 << 14,
    ) -> None:
        """`model_of[r]` is the row in `models` of replica r; all have the first if it is None."""
        if not 1 <= replicas <= MOST_REPLICAS:
            raise InputError(f"replicas is {replicas}, which must be from 1 to {MOST_REPLICAS}.")
        scheduler = settings.scheduler
        usable = np.broadcast_to(np.asarray(kv_blocks, np.int64), replicas)
        usable = np.array([scheduler.usable(int(blocks)) for blocks in usable])
        if usable.min() < 1:
            raise InputError(
                f"kv_blocks is {np.min(kv_blocks)}, which leaves a replica no memory; "
                "give the number of blocks that the engine reports."
            )
        self.settings = settings
        weigh = settings.routing in BY_WORK
        self.rules = scheduler.rules(settings.levels, settings.yields, settings.walk, weigh)
        self.tables = stack(models, scheduler.chunk, scheduler.batch_cap)
        self.fleet = _empty_fleet(self.rules, usable, model_of, rows)
        blocks = self.fleet.rep[:, at.BLOCKS]
        self.fleet.rep[:, at.RESERVE] = [scheduler.reserve(int(n)) for n in blocks]
        self.now_s = 0.0
        self._turn = 0
        self._offered = 0
        self._leaving: list[tuple[float, int]] = []  # callers who will give up, in order of time
        leaves = 1 << max(1, (replicas - 1).bit_length())
        self._soonest = np.full(2 * leaves, np.inf)
        self._lightest = np.full(2 * leaves, np.inf)
        self._touched = np.zeros((replicas, 0), np.int64)
        self._clocks = np.zeros(replicas, np.int64)
        memory = np.zeros(1024, np.int64)
        self._rule_columns = (np.zeros(replicas, np.int64), np.zeros(replicas), memory)

    @property
    def replicas(self) -> int:
        return len(self.fleet.rep)

    def play(self, workload: Workload, keep_requests: bool = False) -> Seen:
        """Offer a whole workload and let it finish."""
        return self.window(workload, np.inf, keep_requests)

    def window(self, workload: Workload, until_s: float, keep_requests: bool = False) -> Seen:
        """Play the requests that arrive before until_s, and everything in flight, up to then."""
        seen = self._open_books(workload, until_s, keep_requests)
        self._offer(workload, seen.books, until_s)
        run_until(self.fleet, self.rules, self.tables, seen.books, until_s)
        self._offered += len(workload)
        self.now_s = max(self.now_s, until_s if np.isfinite(until_s) else self.now_s)
        seen.close(self.fleet)
        return seen

    def set_replica(self, replica: int, state: int, at_s: float) -> Seen:
        """A replica comes up (UP), takes no more (DRAINING), or is lost with all it holds (DOWN).

        What was lost with it, or moved to another replica, is counted in what this returns.
        """
        seen = self._open_books(NOBODY, at_s, False)
        self._offer(NOBODY, seen.books, at_s)
        run_until(self.fleet, self.rules, self.tables, seen.books, at_s)
        self.now_s = max(self.now_s, at_s)
        self.fleet.rep[replica, at.STATE] = state
        if state == DOWN:
            lose(self.fleet, self.rules, self.tables, seen.books, replica, at_s)
        seen.close(self.fleet)
        return seen

    def idle(self, replica: int) -> bool:
        """Whether a replica holds no request: a draining one may go."""
        return bool(self.fleet.rep[replica, at.OUTSTANDING] == 0)

    def _open_books(self, workload: Workload, until_s: float, keep_requests: bool) -> Seen:
        """Books for the minutes from now on that a workload or a window spans."""
        last_s = float(workload.arrived_s[-1]) if len(workload) else self.now_s
        span_s = max(0.0, (until_s if np.isfinite(until_s) else last_s) - self.now_s)
        windows = int(span_s // self.settings.window_s) + 1
        kept = len(workload) if keep_requests else 0
        groups = len(self.settings.groups)
        books = Books(
            windows=np.zeros((windows, groups, at.WINDOW_COLUMNS), np.int64),
            histograms=np.zeros((groups, 3, at.BINS), np.int64),
            objectives=np.array(self.settings.objectives, np.float64),
            out_s=np.full((kept, 2), np.nan),
            out_i=np.full((kept, 2), -1, np.int32),
            first_id=self._offered,
            windows_per_s=1.0 / self.settings.window_s,
            start_s=self.now_s,
        )
        return Seen(self.settings, books)

    def _offer(self, workload: Workload, books: Books, until_s: float) -> None:
        """Play arrivals, and the callers who give up before until_s, in order of time."""
        coming = Arrivals(
            workload.arrived_s,
            workload.prefill,
            workload.decode,
            workload.group,
            workload.priority,
            workload.blocks,
            workload.block_starts,
            workload.block_tokens,
        )
        self._leaving = sorted(self._leaving + _leaving(workload, self._offered))
        done = 0
        while self._leaving and self._leaving[0][0] < until_s:
            at_s, request = self._leaving.pop(0)
            stop = int(np.searchsorted(workload.arrived_s, at_s, "right"))
            done = self._route_all(coming, done, max(done, stop), books)
            cancel(self.fleet, self.rules, self.tables, books, request, at_s)
        self._route_all(coming, done, len(workload), books)

    def _route_all(self, coming: Arrivals, start: int, stop: int, books: Books) -> int:
        while start < stop:
            start = self._route(coming, start, stop, books)
            if start < stop:
                self._enlarge()
        return stop

    def _route(self, coming: Arrivals, start: int, stop: int, books: Books) -> int:
        common = (self.fleet, self.rules, self.tables, books, coming, start, stop)
        routing = self.settings.routing
        if routing == "round-robin":
            done, self._turn = run_in_turn(*common, self._turn)
            return int(done)
        if routing == "prefix":
            touched, clocks, room = self._prefixes(coming)
            return int(run_by_prefix(*common, self._soonest, touched, clocks, room))
        if routing == "rule":
            assert self.settings.rule is not None
            rule = self.settings.rule
            return int(run_by_rule(*common, self._soonest, rule, *self._rule_columns))
        by_work = routing == "least-expected"
        return int(run_by_load(*common, self._soonest, self._lightest, by_work))

    def _prefixes(self, coming: Arrivals) -> tuple[Ints, Ints, int]:
        """The prompt blocks that replicas have touched; begun when first needed."""
        if coming.block_starts.size == 0:
            raise InputError(
                "routing is 'prefix', but the workload has no column hash_ids; give the hashes of "
                "its prompts' blocks or another routing."
            )
        hashes = int(coming.blocks.max()) + 1 if coming.blocks.size else 1
        if self._touched.shape[1] < hashes:
            if 8 * hashes * self.replicas > MOST_PREFIX_BYTES:
                raise InputError(
                    f"routing is 'prefix', but {hashes:,} prompt blocks on {self.replicas} "
                    "replicas need more than 2 GiB; give fewer replicas or a shorter workload."
                )
            touched = np.zeros((self.replicas, hashes), np.int64)
            touched[:, : self._touched.shape[1]] = self._touched
            self._touched = touched
        blocks = int(self.fleet.rep[:, at.BLOCKS].min())
        room = max(1, blocks * self.rules.block // coming.block_tokens)
        return self._touched, self._clocks, room

    def _enlarge(self) -> None:
        """Double the table of requests in flight."""
        rows = len(self.fleet.req)
        if 2 * rows > MOST_ROWS:
            raise InputError(
                f"more than {rows} requests are in flight at once: the replicas are overloaded "
                "many times over; add replicas or lower the rate."
            )
        free = np.zeros(2 * rows + 1, np.int64)
        height = int(self.fleet.free[-1])
        free[:rows] = np.arange(2 * rows - 1, rows - 1, -1)
        free[rows : rows + height] = self.fleet.free[:height]
        free[-1] = rows + height
        self.fleet = self.fleet._replace(
            req=np.concatenate([self.fleet.req, np.full_like(self.fleet.req, -1)]),
            reqf=np.concatenate([self.fleet.reqf, np.zeros_like(self.fleet.reqf)]),
            free=free,
        )


def _leaving(workload: Workload, first_id: int) -> list[tuple[float, int]]:
    """(when, request) of the callers that give up."""
    rows = np.flatnonzero(np.isfinite(workload.cancelled_s))
    return [(float(workload.cancelled_s[i]), first_id + int(i)) for i in rows]


def _empty_fleet(
    rules: at.Rules,
    kv_blocks: NDArray[np.int64],
    model_of: NDArray[np.int64] | None,
    rows: int,
) -> Fleet:
    """Replicas that are up and idle."""
    replicas = len(kv_blocks)
    width = at.heap_at(rules) + rules.cap
    rep = np.zeros((replicas, width), np.int64)
    rep[:, [at.PARTIAL, at.ENTERING]] = -1
    rep[:, at.PURE] = 1
    rep[:, at.BLOCKS] = kv_blocks
    rep[:, at.MODEL] = 0 if model_of is None else model_of
    lines = at.lines_at(rules)
    rep[:, lines : lines + 2 * rules.levels] = -1
    repf = np.zeros((replicas, 5))
    repf[:, at.ENDS] = np.inf
    free = np.concatenate([np.arange(rows - 1, -1, -1), [rows]]).astype(np.int64)
    bits = np.zeros(1)
    return Fleet(
        rep=rep,
        repf=repf,
        req=np.full((rows, 8), -1, np.int64),
        reqf=np.zeros((rows, 4)),
        free=free,
        scratch=np.zeros(rules.cap + 2, np.int64),
        bits=bits,
        bits_int=bits.view(np.int64),
    )

"""One model served by replicas, request by request, carried from window to window.

How the pool simulator uses it (`fidelity = "requests"`)::

    service = SimulatedService(Settings(...), models=[model], replicas=8, kv_blocks=4096)
    for each window:
        service.offer(workload)             # its requests, in order of arrival
        seen = service.advance(until_s)     # play up to the window's end; what happened in it
        service.set_replica(r, UP | DRAINING | DOWN)   # as wishes are carried out
    seen.good_tokens, seen.ttft_s(0.99), seen.waiting, ...

What is in flight at `until_s` stays in flight. `advance(inf)` lets everything finish.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.kernels.serving import layout as at
from headgate.kernels.serving.layout import DOWN, DRAINING, UP, Books, Fleet
from headgate.kernels.serving.run import Arrivals, run_by_load, run_in_turn, run_until
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel, stack
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.workload import Workload

__all__ = ["DOWN", "DRAINING", "ROUTINGS", "UP", "Settings", "SimulatedService"]

ROUTINGS = ("round-robin", "least-outstanding", "least-work", "prefix")
MOST_ROWS = 1 << at.ROW_BITS


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

    def __post_init__(self) -> None:
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
        if replicas < 1:
            raise InputError(f"replicas is {replicas}, which must be at least 1.")
        scheduler = settings.scheduler
        usable = np.broadcast_to(np.asarray(kv_blocks, np.int64), replicas)
        usable = np.array([scheduler.usable(int(blocks)) for blocks in usable])
        if usable.min() < 1:
            raise InputError(
                f"kv_blocks is {np.min(kv_blocks)}, which leaves a replica no memory; "
                "give the number of blocks that the engine reports."
            )
        self.settings = settings
        self.rules = scheduler.rules(settings.levels)
        self.tables = stack(models, scheduler.chunk, scheduler.batch_cap)
        self.fleet = _empty_fleet(self.rules, usable, model_of, rows)
        blocks = self.fleet.rep[:, at.BLOCKS]
        self.fleet.rep[:, at.RESERVE] = [scheduler.reserve(int(n)) for n in blocks]
        self.now_s = 0.0
        self._turn = 0
        self._offered = 0
        leaves = 1 << max(1, (replicas - 1).bit_length())
        self._soonest = np.full(2 * leaves, np.inf)
        self._lightest = np.full(2 * leaves, np.inf)

    @property
    def replicas(self) -> int:
        return len(self.fleet.rep)

    def play(self, workload: Workload, keep_requests: bool = False) -> Seen:
        """Offer a whole workload and let it finish."""
        seen = self.open_books(workload, keep_requests)
        self._offer(workload, seen.books)
        run_until(self.fleet, self.rules, self.tables, seen.books, np.inf)
        seen.close(self.fleet)
        return seen

    def open_books(self, workload: Workload, keep_requests: bool) -> Seen:
        """Books for the windows that a workload spans."""
        span_s = float(workload.arrived_s[-1] - self.now_s) if len(workload) else 0.0
        windows = int(span_s // self.settings.window_s) + 2
        kept = len(workload) if keep_requests else 0
        groups = len(self.settings.groups)
        books = Books(
            histograms=np.zeros((groups, 3, at.BINS), np.int64),
            windows=np.zeros((windows, groups, at.WINDOW_COLUMNS), np.int64),
            objectives=np.array(self.settings.objectives, np.float64),
            out_s=np.full((kept, 2), np.nan),
            out_i=np.full((kept, 2), -1, np.int32),
            first_id=self._offered,
            windows_per_s=1.0 / self.settings.window_s,
            start_s=self.now_s,
        )
        return Seen(self.settings, books)

    def _offer(self, workload: Workload, books: Books) -> None:
        coming = Arrivals(
            workload.arrived_s, workload.prefill, workload.decode, workload.group, workload.priority
        )
        done, n = 0, len(workload)
        while done < n:
            done = self._route(coming, done, n, books)
            if done < n:
                self._enlarge()
        self._offered += n

    def _route(self, coming: Arrivals, start: int, stop: int, books: Books) -> int:
        common = (self.fleet, self.rules, self.tables, books, coming, start, stop)
        if self.settings.routing == "round-robin":
            done, self._turn = run_in_turn(*common, self._turn)
            return int(done)
        by_work = self.settings.routing == "least-work"
        return int(run_by_load(*common, self._soonest, self._lightest, by_work))

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
            req=np.concatenate([self.fleet.req, np.zeros_like(self.fleet.req)]),
            reqf=np.concatenate([self.fleet.reqf, np.zeros_like(self.fleet.reqf)]),
            free=free,
        )


def _empty_fleet(
    rules: at.Rules,
    kv_blocks: NDArray[np.int64],
    model_of: NDArray[np.int64] | None,
    rows: int,
) -> Fleet:
    """Replicas that are up and idle."""
    replicas = len(kv_blocks)
    width = at.HISTOGRAM + rules.block + 2 * rules.levels + rules.cap
    rep = np.zeros((replicas, width), np.int64)
    rep[:, [at.PARTIAL, at.ENTERING]] = -1
    rep[:, at.PURE] = 1
    rep[:, at.BLOCKS] = kv_blocks
    rep[:, at.MODEL] = 0 if model_of is None else model_of
    lines = at.HISTOGRAM + rules.block
    rep[:, lines : lines + 2 * rules.levels] = -1
    repf = np.zeros((replicas, 4))
    repf[:, at.ENDS] = np.inf
    free = np.concatenate([np.arange(rows - 1, -1, -1), [rows]]).astype(np.int64)
    bits = np.zeros(1)
    return Fleet(
        rep=rep,
        repf=repf,
        req=np.zeros((rows, 8), np.int64),
        reqf=np.zeros((rows, 4)),
        free=free,
        scratch=np.zeros(rules.cap + 2, np.int64),
        bits=bits,
        bits_int=bits.view(np.int64),
    )

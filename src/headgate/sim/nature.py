"""What would happen: nature carries out wishes and says what became of them.

Boots take their time, gangs advance at the speed of their pool, a stop loses what was done since
the last checkpoint, nodes fail and come back, racks go live. Nature knows durations and failures;
the machine only ever learns facts.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import (
    Fact,
    NodeFailed,
    NodeJoined,
    StartWork,
    StopWork,
    WindowClosed,
    Wish,
    WorkFinished,
    WorkStarted,
    WorkStopped,
)
from headgate.core.fleet import Fleet
from headgate.core.tables import Floats
from headgate.kernels import layout as k
from headgate.sim.dice import stream
from headgate.sim.traffic import Traffic

# Of one instant's events, what ends happens before what begins; the window closes last.
ENDED, NODE, BEGAN, ARRIVED, WINDOW = range(5)

FINISH, STOP, START, UP, DOWN, DRAIN, CLOSE = range(7)


@dataclass(frozen=True, slots=True)
class Failures:
    """How nodes fail and return; times between failures are exponential."""

    node_mtbf_s: float = math.inf
    repair_s: float = 3600.0


@dataclass(slots=True)
class Truth:
    """What nature alone knows of submitted works, by `ref`; lists, since they are read singly."""

    left_s: list[float] = field(default_factory=list)  # reference seconds still to do
    fixed_term: list[bool] = field(default_factory=list)  # a lease's time runs alike everywhere
    checkpoint_s: list[float] = field(default_factory=list)
    done_gpu_s: list[float] = field(default_factory=list)  # useful reference GPU-seconds so far

    def add(self, run_s: float, checkpoint_s: float, *, fixed_term: bool) -> int:
        """Enter a work; its `ref`."""
        self.left_s.append(run_s)
        self.fixed_term.append(fixed_term)
        self.checkpoint_s.append(checkpoint_s)
        self.done_gpu_s.append(0.0)
        return len(self.left_s) - 1


@dataclass(slots=True)
class Run:
    """One stay of a work on its accelerators."""

    ref: int
    epoch: int = 0  # raised when what was scheduled for it no longer holds
    gpus: int = 0
    speed: float = 1.0
    since_s: float = math.nan  # when it began to run; NaN while it does not
    lost_gpu_s: float = 0.0


class Nature:
    """Facts come out of `next`, wishes go into `obey`."""

    def __init__(
        self,
        fleet: Fleet,
        arrivals: Iterator[Fact],
        truth: Truth,
        *,
        until_s: float,
        seed: int = 0,
        live_s: Floats | None = None,  # [node] when its rack goes live; all at 0 if absent
        gone_s: Floats | None = None,  # [node] when it is drained; never if absent or infinite
        failures: Failures | None = None,
        traffic: Traffic | None = None,
        window_s: float = 60.0,
        stop_s: float = 30.0,
    ) -> None:
        self.fleet = fleet
        self.truth = truth
        self.until_s = until_s
        self.failures = failures or Failures()
        self.traffic = traffic
        self.window_s = window_s
        self.stop_s = stop_s
        self.now_s = 0.0
        self.serial = 0
        self.heap: list[tuple[float, int, int, int, int, int]] = []
        self.runs: dict[int, Run] = {}
        self.arrivals = arrivals
        self.arrival = next(arrivals, None)
        self.dice = stream(seed, "node failures")
        self.drained: set[int] = set()
        self._open(live_s, gone_s)

    def _open(self, live_s: Floats | None, gone_s: Floats | None) -> None:
        """Bring the nodes up when their racks go live, take them away, let the first window run."""
        nodes = sum(pool.nodes for pool in self.fleet.pools)
        for node, at_s in enumerate([0.0] * nodes if live_s is None else live_s.tolist()):
            self._at(at_s, NODE, UP, node)
        for node, at_s in enumerate([] if gone_s is None else gone_s.tolist()):
            if at_s < math.inf:
                self._at(at_s, NODE, DRAIN, node)
        # Before anything is asked for, the services know what came in the window before.
        self._at(0.0, BEGAN, CLOSE, 0)

    def _at(self, at_s: float, order: int, what: int, row: int, epoch: int = 0) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (at_s, order, self.serial, what, row, epoch))

    def next(self, machine: Machine) -> Fact | None:
        """The next thing that happens, or None when the story is over."""
        heap = self.heap
        while True:
            arrival = self.arrival
            if arrival is not None and (
                not heap or (arrival.at_s, ARRIVED) < (heap[0][0], heap[0][1])
            ):
                self.arrival = next(self.arrivals, None)
                self.now_s = arrival.at_s
                return arrival if arrival.at_s <= self.until_s else None
            if not heap or heap[0][0] > self.until_s:
                return None
            self.now_s, _, _, what, row, epoch = heapq.heappop(heap)
            fact = self._happen(what, row, epoch, machine)
            if fact is not None:
                return fact

    def _happen(self, what: int, row: int, epoch: int, machine: Machine) -> Fact | None:
        """The fact of an event that was scheduled; None when it no longer holds."""
        if what <= START:
            run = self.runs.get(row)
            if run is None or run.epoch != epoch:
                return None
            if what == START:
                return self._started(row, run)
            if what == FINISH:
                return self._finished(row, run)
            return WorkStopped(self.now_s, row, run.lost_gpu_s)
        if what == CLOSE:
            self._at(self.now_s + self.window_s, WINDOW, CLOSE, 0)
            if self.traffic is None:
                return WindowClosed(self.now_s, self.window_s, ())
            if self.now_s == 0.0:
                return self.traffic.before(self.now_s)
            return self.traffic.close(self.now_s, machine)
        if row in self.drained:
            return None
        if what == UP:
            self._fail_later(row)
            return NodeJoined(self.now_s, row)
        if what == DRAIN:
            return self._drain(row, machine)
        self._lose_node(row, machine)
        return NodeFailed(self.now_s, row)

    def _drain(self, node: int, machine: Machine) -> Fact | None:
        """Take a node away for good; nothing when a failure has taken it just now."""
        self.drained.add(node)
        if machine.ground.tables.nodes[node]["state"] != k.UP:
            return None
        for row in self._holders(node, machine):
            self._interrupt(row, 0.0, saved=True)
        return NodeFailed(self.now_s, node)

    def obey(self, wish: Wish, machine: Machine) -> None:
        """Carry a wish out: what follows from it happens in its own time."""
        if isinstance(wish, StartWork):
            run = self.runs.get(wish.work)
            if run is None:
                run = self.runs[wish.work] = Run(wish.ref)
            shape = self.fleet.shapes[machine.ground.shape_of[wish.work]]
            run.epoch += 1
            run.gpus = shape.gpus[wish.pool]
            run.lost_gpu_s = 0.0
            fixed = wish.ref < 0 or self.truth.fixed_term[wish.ref]
            run.speed = 1.0 if fixed else shape.speed[wish.pool]
            # The story begins in full swing: what starts at 0 has been running.
            start_s = shape.start_s[wish.pool] if self.now_s > 0.0 else 0.0
            self._at(self.now_s + start_s, BEGAN, START, wish.work, run.epoch)
        elif isinstance(wish, StopWork):
            self._interrupt(wish.work, self.stop_s)

    def _started(self, row: int, run: Run) -> Fact:
        run.since_s = self.now_s
        if run.ref >= 0:
            end_s = self.now_s + self.truth.left_s[run.ref] / run.speed
            self._at(end_s, ENDED, FINISH, row, run.epoch)
        return WorkStarted(self.now_s, row)

    def _finished(self, row: int, run: Run) -> Fact:
        self.truth.done_gpu_s[run.ref] += self.truth.left_s[run.ref] * run.gpus
        self.truth.left_s[run.ref] = 0.0
        del self.runs[row]
        return WorkFinished(self.now_s, row)

    def _interrupt(self, row: int, after_s: float, *, saved: bool = False) -> None:
        """Stop a work's progress now; it gives its accelerators back `after_s` later. What was
        done since the last checkpoint is lost, but when it has just been `saved`."""
        run = self.runs[row]
        run.epoch += 1
        if run.ref >= 0 and not math.isnan(run.since_s):
            ran_s = self.now_s - run.since_s
            kept_s = ran_s if saved else self._kept_s(run, ran_s)
            run.lost_gpu_s = (ran_s - kept_s) * run.gpus
            self.truth.left_s[run.ref] -= kept_s * run.speed
            self.truth.done_gpu_s[run.ref] += kept_s * run.speed * run.gpus
        run.since_s = math.nan
        self._at(self.now_s + after_s, ENDED, STOP, row, run.epoch)

    def _kept_s(self, run: Run, ran_s: float) -> float:
        """Running time whose result outlives a stop: up to the last checkpoint."""
        checkpoint_s = self.truth.checkpoint_s[run.ref]
        if self.truth.fixed_term[run.ref] or checkpoint_s <= 0.0:
            return ran_s
        return math.floor(ran_s / checkpoint_s) * checkpoint_s

    def _fail_later(self, node: int) -> None:
        if math.isfinite(self.failures.node_mtbf_s):
            life_s = float(self.dice.exponential(self.failures.node_mtbf_s))
            self._at(self.now_s + life_s, NODE, DOWN, node)

    def _lose_node(self, node: int, machine: Machine) -> None:
        """Everybody on the node stops at once; the node returns when it is repaired."""
        for row in self._holders(node, machine):
            self._interrupt(row, 0.0)
        self._at(self.now_s + self.failures.repair_s, NODE, UP, node)

    def _holders(self, node: int, machine: Machine) -> list[int]:
        """Works that hold accelerators of the node."""
        nodes, gpus = machine.ground.tables.nodes, machine.ground.tables.gpus
        first, size = int(nodes[node]["first"]), int(nodes[node]["size"])
        owners = np.unique(gpus["owner"][first : first + size]).tolist()
        return [row for row in owners if row >= 0]

    def settle(self) -> None:
        """At the end of the story, count what runs as done so far: nothing stops it."""
        for run in self.runs.values():
            if run.ref >= 0 and not math.isnan(run.since_s):
                done_s = (self.until_s - run.since_s) * run.speed
                self.truth.left_s[run.ref] -= done_s
                self.truth.done_gpu_s[run.ref] += done_s * run.gpus
                run.since_s = math.nan

"""Are explanations true? What they say is done in the simulated world, and it is seen what comes.

At sampled moments of a run a waiting work is explained and the run is split: a child process (a
fork, so all of machine and nature goes on from the same instant) makes the stated change and
simulates on, arrivals and failures included, while the run itself never hears of it.
"""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from headgate.control.machine import Machine
from headgate.control.waits import Score, Waits
from headgate.control.whatif import (
    Change,
    admits,
    copy_of,
    rows_of_nodes,
    smallest_bid,
    smallest_nodes,
    with_bid,
    with_nodes,
)
from headgate.core.facts import Fact, WindowClosed, Wish
from headgate.kernels import layout as k
from headgate.sim.contest import Settings, stage
from headgate.sim.dice import stream
from headgate.sim.driver import run
from headgate.sim.nature import DOWN, UP, Nature
from headgate.sim.story import Story

# Explanations are sampled after so long: before, nothing has had to wait.
FROM_S = 3600.0
PROCESSES = 2
# A work is admitted when it has begun so long after its accelerators could be reclaimed.
GRACE_S = 120.0


@dataclass(slots=True)
class Verified:
    """How often the stated smallest change admitted the work, and how often the interval held."""

    cases: int = 0
    admitted: int = 0
    unexplained: int = 0  # no change of those tried would do
    by_kind: Counter[str] = field(default_factory=Counter)
    failed_by_kind: Counter[str] = field(default_factory=Counter)
    waits: Score = field(default_factory=Score)

    @property
    def share(self) -> float:
        return self.admitted / self.cases if self.cases else float("nan")


def verify(name: str, story: Story, settings: Settings, cases: int) -> Verified:
    """Run a policy, explain so many waiting works on the way, and try what was said of each."""
    machine, nature = stage(name, story, settings)
    waits = Waits(machine)
    sampler = _Sampler(machine, nature, settings.seed, cases)
    run(machine, nature, (waits, sampler))
    sampler.collect(0)
    sampler.found.waits = waits.score
    return sampler.found


class _Sampler:
    """A watcher that splits the run now and then."""

    def __init__(self, machine: Machine, nature: Nature, seed: int, cases: int) -> None:
        self.machine, self.nature = machine, nature
        self.dice = stream(seed, "explained works")
        self.cases = cases
        self.started = 0
        self.found = Verified()
        self.children: list[tuple[BaseProcess, Connection]] = []

    def __call__(self, fact: Fact, wishes: Sequence[Wish]) -> None:
        if type(fact) is not WindowClosed or fact.at_s < FROM_S:
            return
        # Cases fall evenly over what is left of the run, less what a child needs at its end.
        span_s = self.nature.until_s - FROM_S - 3600.0
        due = self.cases * min(1.0, (fact.at_s - FROM_S) / span_s)
        while self.started < due:
            row = self._waiting()
            if row is None:
                break
            self.started += 1
            self.collect(PROCESSES - 1)
            self._split(row, kind=("nodes", "bid")[self.started % 2])

    def _waiting(self) -> int | None:
        """Any work that a tenant submitted, that waits and that nothing is on its way for."""
        works = self.machine.ground.tables.works[: self.machine.ground.rows]
        waits = (works["state"] == k.WAITING) & (works["service"] < 0)
        waits &= (works["claiming"] == 0) | (works["rule"] != k.WAITS_FOR_RECLAIM)
        rows = np.flatnonzero(waits)
        return int(self.dice.choice(rows)) if len(rows) else None

    def _split(self, row: int, kind: str) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(
            target=_child, args=(theirs, self.machine, self.nature, row, kind), daemon=True
        )
        child.start()
        theirs.close()
        self.children.append((child, ours))

    def collect(self, left: int) -> None:
        """Take in results until no more children than `left` are at work."""
        while len(self.children) > left:
            child, pipe = self.children.pop(0)
            kind, admitted = pipe.recv()
            child.join()
            if kind == "":
                self.found.unexplained += 1
                continue
            self.found.cases += 1
            self.found.admitted += admitted
            self.found.by_kind[kind] += 1
            if not admitted:
                self.found.failed_by_kind[kind] += 1


def _child(pipe: Connection, machine: Machine, nature: Nature, row: int, kind: str) -> None:
    change = _stated(machine, row, kind)
    if change is None:
        pipe.send(("", False))
        return
    said = "nothing" if change.nothing else "nodes" if change.pool is not None else "bid"
    pipe.send((said, comes_true(machine, nature, row, change)))


def _stated(machine: Machine, row: int, kind: str) -> Change | None:
    """What the explanation would state; of nodes, those of one pool at random by the row."""
    if admits(copy_of(machine), row):
        return Change()
    bid = smallest_bid(machine, row) if kind == "bid" else None
    if bid is not None:
        return bid
    fits = np.flatnonzero(machine.ground.tables.shapes[machine.ground.shape_of[row], :, k.GPUS] > 0)
    return smallest_nodes(machine, row, int(fits[row % len(fits)]))


def comes_true(machine: Machine, nature: Nature, row: int, change: Change) -> bool:
    """Make the change and simulate on: does the work begin within the reclaim time?"""
    wishes: list[Wish] = []
    if change.pool is not None:
        changed, wishes = with_nodes(machine, change.pool, change.nodes)
        _move_nodes(machine, changed, nature)
    elif change.bid:
        changed = with_bid(machine, row, change.bid)
    else:
        changed = copy_of(machine)
    for wish in [*wishes, *changed.plan_now()]:
        nature.obey(wish, changed)
    starts = int(machine.ground.tables.works[row]["starts"])
    nature.until_s = machine.now_s + machine.fleet.reclaim_s + GRACE_S
    run(changed, nature, (), lambda: int(changed.ground.tables.works[row]["starts"]) > starts)
    return int(changed.ground.tables.works[row]["starts"]) > starts


def _move_nodes(machine: Machine, changed: Machine, nature: Nature) -> None:
    """Let what is scheduled for nodes mean the same nodes in the larger fleet."""
    rows = rows_of_nodes(machine.fleet, changed.ground.tables.pools["first_node"].tolist())
    nature.fleet = changed.fleet
    nature.heap = [
        (*event[:4], int(rows[event[4]]), event[5]) if event[3] in (UP, DOWN) else event
        for event in nature.heap
    ]

"""Small fleets, every policy over them, and a player who makes up legal facts as he goes.

The player asks `dice` for every choice, so that hypothesis may play a story and shrink it, and a
numpy generator may play thousands quickly. What he tells is legal whatever the machine wishes:
answers come in any order, late, or never.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import (
    BatchOrdered,
    Fact,
    NodeFailed,
    NodeJoined,
    ServiceWindow,
    TenantChanged,
    WindowClosed,
    Wish,
    WorkCancelled,
    WorkFinished,
    WorkStarted,
    WorkStopped,
    WorkSubmitted,
)
from headgate.core.fleet import Fleet, Pool, Service, Shape, Tenant
from headgate.kernels import layout as k
from headgate.policy.baselines import Fifo, Priority, Silos
from headgate.policy.headgate import Headgate, strict
from headgate.policy.order import ladder, lower_levels
from headgate.policy.rules import Policy, Rules

CLASSES = ("training", "maas", "internal", "external")
FAMILIES = ("storage", "big-data", "compute")


def shape(
    name: str,
    gpus: Sequence[int],
    speed: Sequence[float] | None = None,
    *,
    within_domain: bool = False,
) -> Shape:
    speeds = tuple(speed) if speed is not None else tuple(1.0 if g else 0.0 for g in gpus)
    return Shape(
        name=name,
        gpus=tuple(gpus),
        speed=speeds,
        start_s=(30.0,) * len(gpus),
        within_domain=within_domain,
    )


def small_fleet(*, guarantees: bool = True, services: bool = True) -> Fleet:
    """Two pools, 20 GPUs on nodes of 4 in three domains, 16 on nodes of 8; shapes for either."""
    return Fleet(
        pools=(
            Pool(name="old", generation="A", nodes=5, gpus_per_node=4, domain_nodes=2),
            Pool(name="new", generation="B", nodes=2, gpus_per_node=8),
        ),
        classes=CLASSES,
        tenants=(
            *(Tenant(name=f"t{c}", class_=c) for c in range(4)),
            Tenant(name="rich", families=("storage", "big-data"), class_=3),
            Tenant(name="labs", class_=0),
        ),
        shapes=(
            shape("one", [1, 1], [1.0, 2.0]),
            shape("two old", [2, 0]),
            shape("three", [3, 3], [1.0, 1.5]),
            shape("node", [4, 8], [1.0, 3.0]),
            shape("node and a bit", [6, 10]),
            shape("most of old", [16, 0]),
            shape("all new", [0, 16]),
            shape("domain", [8, 0], within_domain=True),
            shape("less than a domain", [5, 12], within_domain=True),
            shape("small replica", [1, 1], [100.0, 250.0]),
            shape("big replica", [0, 2], [0.0, 300.0]),
        ),
        services=(
            Service(name="chat", tenant=1, shape=9, bid=2.0, batch_bid=1.0, class_=1),
            Service(name="app", tenant=2, shape=10, bid=1.0, replicas_min=1, class_=2),
        )
        if services
        else (),
        guarantees=((8, 8), (5, 4), (2, 0), (0, 2)) if guarantees else (),
    )


@dataclass(frozen=True, slots=True)
class GuaranteesAlone:
    """A user's policy: no order between classes, guarantees by least loss, scaling as in fifo."""

    scaling: Any = field(default_factory=lambda: Fifo().scaling)
    name: str = "guarantees-alone"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(
            np.zeros((1, 1), np.int8), guarantees=True, least_loss=True, fills_replicas=True
        )

    rank = Fifo.rank
    plan = Fifo.plan


@dataclass(frozen=True, slots=True)
class CappedConverting(Headgate):
    """Ours with caps on top, as a user may write it."""

    name: str = "capped"

    def rules(self, fleet: Fleet) -> Rules:
        caps = np.array([[20, 16], [10, 10], [8, 8], [10, 8], [12, 8]], np.int64)
        return Rules(
            lower_levels(ladder(self.classes, self.preset)),
            caps=caps,
            guarantees=True,
            least_loss=True,
            reserve_after_s=600.0,
        )


def silos() -> Silos:
    caps = np.array([[8, 8], [5, 4], [4, 2], [2, 1], [1, 1]], np.int64)
    return Silos(caps, np.array([300.0, 600.0]))


POLICIES: dict[str, Callable[[], Policy]] = {
    "silos": silos,
    "fifo": Fifo,
    "priority": lambda: Priority(CLASSES),
    "priority together": lambda: Priority(CLASSES, "together"),
    "headgate": lambda: Headgate(CLASSES),
    "headgate strict": lambda: strict(CLASSES, "internal_first"),
    "headgate external first": lambda: Headgate(CLASSES, "external_first"),
    "guarantees alone": GuaranteesAlone,
    "capped": lambda: CappedConverting(CLASSES),
}


class Dice(Protocol):
    """Where a player's choices come from."""

    def one_of(self, choices: Sequence[Any]) -> Any: ...


class Thrown:
    """Dice of a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.default_rng(seed)

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.dice.integers(len(choices)))]


class Player:
    """Makes up one fact after another, tells the machine, and keeps both sides of the talk."""

    def __init__(self, machine: Machine, dice: Dice) -> None:
        self.machine = machine
        self.dice = dice
        self.now_s = 0.0
        self.facts: list[Fact] = []
        self.wishes: list[list[Wish]] = []
        self.submitted = 0

    def tell(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.wishes.append(self.machine.handle(fact))

    def open(self, nodes: int | None = None) -> None:
        """Nodes go live, as many as asked for."""
        count = len(self.machine.ground.tables.nodes) if nodes is None else nodes
        for node in range(count):
            self.tell(NodeJoined(self.now_s, node))

    def rows(self, *states: int) -> list[int]:
        works = self.machine.ground.tables.works[: self.machine.ground.rows]
        return np.flatnonzero(np.isin(works["state"], states)).tolist()

    def nodes(self, *states: int) -> list[int]:
        return np.flatnonzero(np.isin(self.machine.ground.tables.nodes["state"], states)).tolist()

    # Moves: each tells one fact, or nothing when there is nobody to tell it of.

    def wait(self) -> None:
        self.now_s += self.dice.one_of((0.0, 1.0, 7.0, 20.0, 60.0, 400.0, 2500.0))

    def submit(self) -> None:
        one_of, fleet = self.dice.one_of, self.machine.fleet
        self.submitted += 1
        kind = one_of(("gang", "lease"))
        self.tell(
            WorkSubmitted(
                self.now_s,
                f"work-{self.submitted}",
                kind,
                one_of(range(len(fleet.tenants))),
                one_of(range(9)),
                bid=one_of((0.0, 1.0, 3.0)),
                checkpoint_s=one_of((0.0, 600.0)),
                restart_s=one_of((0.0, 30.0)),
                priority=one_of((0, 0, 0, 1)),
                firm=kind == "lease" and one_of((False, False, True)),
                patience_s=one_of((None, None, 100.0, 1000.0)),
                ref=self.submitted,
            )
        )

    def _answer(self, fact: Callable[..., Fact], *states: int) -> None:
        rows = self.rows(*states)
        if rows:
            self.tell(fact(self.now_s, self.dice.one_of(rows)))

    def start(self) -> None:
        self._answer(WorkStarted, k.STARTING)

    def start_late(self) -> None:
        """A start that crossed a stop on the way."""
        self._answer(WorkStarted, k.STOPPING)

    def finish(self) -> None:
        rows = [row for row in self.rows(k.RUNNING, k.STOPPING) if not self._serves(row)]
        if rows:
            self.tell(WorkFinished(self.now_s, self.dice.one_of(rows)))

    def _serves(self, row: int) -> bool:
        return int(self.machine.ground.tables.works[row]["service"]) >= 0

    def stop(self) -> None:
        self._answer(WorkStopped, k.STOPPING)

    def lose(self) -> None:
        """A work stops though nobody asked, with work lost."""
        rows = self.rows(k.STARTING, k.RUNNING)
        if rows:
            row = self.dice.one_of(rows)
            work = self.machine.ground.tables.works[row]
            ran_s = self.now_s - float(work["since_s"]) if work["state"] == k.RUNNING else 0.0
            self.tell(WorkStopped(self.now_s, row, ran_s * int(work["gpus"]) / 2))

    def cancel(self) -> None:
        self._answer(WorkCancelled, k.WAITING, k.STARTING, k.RUNNING, k.STOPPING)

    def fail_node(self) -> None:
        """A node is lost; who held it says so sooner or later, by `lose` or `stop`."""
        nodes = self.nodes(k.UP)
        if nodes:
            self.tell(NodeFailed(self.now_s, self.dice.one_of(nodes)))

    def join_node(self) -> None:
        nodes = self.nodes(k.ABSENT, k.DOWN)
        if nodes:
            self.tell(NodeJoined(self.now_s, self.dice.one_of(nodes)))

    def order(self) -> None:
        services = range(len(self.machine.fleet.services))
        if services:
            self.submitted += 1
            self.tell(
                BatchOrdered(
                    self.now_s,
                    f"batch-{self.submitted}",
                    1,
                    self.dice.one_of(services),
                    self.dice.one_of((1e3, 1e5, 2e6)),
                    self.now_s + self.dice.one_of((60.0, 3000.0, 86_400.0)),
                )
            )

    def close_window(self) -> None:
        one_of = self.dice.one_of
        services = []
        for orders in self.machine.services.orders:
            came = one_of((0.0, 1000.0, 20_000.0, 60_000.0))
            filled = min(orders.total, one_of((0.0, 500.0, 50_000.0)))
            queued = one_of((0.0, 0.0, 5000.0))
            services.append(ServiceWindow(came, came, came, queued, 0.0, filled))
        self.tell(WindowClosed(self.now_s, 60.0, tuple(services)))

    def change_tenant(self) -> None:
        families = self.dice.one_of(((), FAMILIES[:1], FAMILIES))
        tenant = self.dice.one_of(range(len(self.machine.fleet.tenants)))
        self.tell(TenantChanged(self.now_s, tenant, families))

    MOVES = (
        "wait", "submit", "submit", "submit", "start", "start", "start", "start_late", "finish",
        "finish", "stop", "stop", "stop", "lose", "cancel", "fail_node", "join_node", "order",
        "close_window", "close_window", "change_tenant",
    )  # fmt: skip

    def play(self, moves: int) -> None:
        for _ in range(moves):
            getattr(self, self.dice.one_of(self.MOVES))()
            self.wait()

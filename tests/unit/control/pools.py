"""One small pool and a policy of given rules, for tests that tell a few facts and look."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.stories import shape

from headgate.control.machine import Machine
from headgate.core.facts import (
    Fact,
    NodeJoined,
    StartWork,
    StopWork,
    Wish,
    WorkStarted,
    WorkStopped,
    WorkSubmitted,
)
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.kernels import layout as k
from headgate.policy.order import lower_levels
from headgate.policy.rules import Asking, Rank, Rules, Targets, Traffic


@dataclass(frozen=True)
class Plain:
    """A policy with the given rules; each class is a level, in the order of the fleet."""

    given: Rules
    name: str = "plain"

    def rules(self, fleet: Fleet) -> Rules:
        return self.given

    def rank(self, asking: Asking) -> Rank:
        level = asking.class_ if self.given.levels > 1 else 0
        return Rank(level, asking.submitted_s - asking.standing * 1e6)

    def plan(self, traffic: Traffic) -> Targets:
        nothing = np.zeros(len(traffic.queued))
        return Targets(nothing, nothing)


def rules(levels: int = 3, **given: Any) -> Rules:
    return Rules(lower_levels(levels) if levels > 1 else np.zeros((1, 1), np.int8), **given)


class Small:
    """A pool of nodes of eight, classes a, b and c with a tenant each, gangs of any size."""

    def __init__(
        self,
        nodes: int,
        given: Rules,
        guarantees: tuple[int, ...] = (),
        up: int | None = None,
        domain_nodes: int | None = None,
    ) -> None:
        pool = Pool(name="pool", generation="any", nodes=nodes, domain_nodes=domain_nodes)
        bound = range(1, pool.domain_gpus + 1)
        self.gpus = 8 * nodes
        fleet = Fleet(
            pools=(pool,),
            classes=("a", "b", "c"),
            tenants=tuple(Tenant(name=name, class_=row) for row, name in enumerate("abc")),
            shapes=(
                *(shape(f"{gpus}", [gpus]) for gpus in range(1, 8 * nodes + 1)),
                *(shape(f"{gpus} bound", [gpus], within_domain=True) for gpus in bound),
            ),
            guarantees=tuple((gpus,) for gpus in guarantees),
        )
        self.machine = Machine(fleet, Plain(given), full_laws=True)
        self.now_s = 0.0
        self.wishes: list[Wish] = []
        for node in range(nodes if up is None else up):
            self.tell(NodeJoined(0.0, node))

    def tell(self, fact: Fact) -> list[Wish]:
        self.wishes = self.machine.handle(fact)
        return self.wishes

    def submit(self, class_: str, gpus: int, *, bound: bool = False, **told: Any) -> int:
        """Submit a gang, if told so bound to one domain; its row."""
        told = {"kind": "gang"} | told
        row = self.machine.ground.rows
        self.tell(WorkSubmitted(self.now_s, f"{row}", told.pop("kind"), "abc".index(class_),
                                gpus - 1 + bound * self.gpus, **told))  # fmt: skip
        return row

    def run(self, class_: str, gpus: int, **told: Any) -> int:
        """Submit a gang that starts and runs; its row."""
        row = self.submit(class_, gpus, **told)
        self.tell(WorkStarted(self.now_s, row))
        return row

    def stopped(self, row: int) -> list[Wish]:
        return self.tell(WorkStopped(self.now_s, row))

    def told_to_stop(self) -> list[int]:
        return [wish.work for wish in self.wishes if isinstance(wish, StopWork)]

    def told_to_start(self) -> list[int]:
        return [wish.work for wish in self.wishes if isinstance(wish, StartWork)]

    def state(self, row: int) -> int:
        return int(self.machine.ground.tables.works["state"][row])

    def held(self, class_: str) -> int:
        return int(self.machine.ground.tables.claims["abc".index(class_), 0, k.HELD])

    def rule(self, row: int) -> int:
        return int(self.machine.ground.tables.works["rule"][row])

    def nodes_of(self, row: int) -> list[int]:
        gpus = self.machine.ground.tables.gpus
        return sorted(set(gpus["node"][gpus["owner"] == row].tolist()))

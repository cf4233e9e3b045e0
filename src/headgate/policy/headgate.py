"""Our policy: guarantees are hard, everything else follows from prices.

See docs/why/prices.md. `value` mode has one price for all; in `strict` mode the order of classes
is kept and prices decide inside a class and between pools.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from headgate.core.fleet import Fleet
from headgate.core.tables import Ints
from headgate.policy.allocation import Outlook, plan_of, programme_of
from headgate.policy.baselines import RESERVE_AFTER_S
from headgate.policy.order import STANDING_S, Preset, rung
from headgate.policy.price.solver import Solver, Unsolved
from headgate.policy.rules import (
    BEYOND,
    MARGINAL,
    Asking,
    Market,
    Plan,
    Rank,
    Rules,
    Targets,
    Traffic,
)
from headgate.policy.scaling import Anticipating

Mode = Literal["value", "strict"]
# Levels: works before the rest of their class, replicas of online requests, works in the plan,
# the use that sets the price, and what is lent beyond the plan.
FIRST, ONLINE, INSIDE, AT_PRICE, LENT = range(5)


def comparative_advantage(fleet: Fleet) -> Ints:
    """[shape, pool] pools to try, those first where the shape is worth most against the others.

    A pool is good for a shape by the shape's speed per GPU there, over the mean speed per GPU of
    all shapes there (each relative to its own best): what runs everywhere equally well leaves the
    new generation to what needs it, and old generations stay full.
    """
    gpus = np.array([shape.gpus for shape in fleet.shapes], np.float64)
    speed = np.array([shape.speed for shape in fleet.shapes], np.float64)
    per_gpu = np.divide(speed, gpus, out=np.zeros_like(speed), where=gpus > 0)
    relative = per_gpu / per_gpu.max(axis=1, keepdims=True)
    runs = gpus > 0
    usual = relative.sum(axis=0) / np.maximum(runs.sum(axis=0), 1)
    advantage = np.where(runs, relative / np.maximum(usual, 1e-12), -np.inf)
    order = np.argsort(-advantage, axis=1, kind="stable").astype(np.int64)
    possible = np.take_along_axis(
        runs & (gpus <= [pool.gpus for pool in fleet.pools]), order, axis=1
    )
    return packed(np.where(possible, order, -1))


def packed(order: Ints) -> Ints:
    """The same rows with the -1 moved to the end."""
    keep = np.argsort(order < 0, axis=1, kind="stable")
    return np.take_along_axis(order, keep, axis=1)


@dataclass(frozen=True, slots=True)
class Headgate:
    """The plan's quotas are served first; what they leave idle is lent until it is needed."""

    classes: tuple[str, ...]
    preset: Preset = "internal_first"
    mode: Mode = "value"
    scaling: Anticipating = field(default_factory=Anticipating)
    outlook: Outlook = field(default_factory=Outlook)
    price_every_s: float = 240.0
    name: str = "headgate"

    def rules(self, fleet: Fleet) -> Rules:
        takes = np.zeros((LENT + 1, LENT + 1), np.int8)
        takes[:LENT, LENT] = 1
        takes[:INSIDE, AT_PRICE] = 1
        return Rules(
            takes,
            guarantees=True,
            least_loss=True,
            cheapest_pool=False,
            reserve_after_s=RESERVE_AFTER_S,
            fills_replicas=True,
            converts_replicas=True,
            preference=comparative_advantage(fleet),
            sheds=True,
        )

    def rank(self, asking: Asking) -> Rank:
        if asking.kind == "batch":
            return Rank(ONLINE if asking.urgent else _level(asking.place), asking.deadline_s)
        key = asking.submitted_s - asking.standing * STANDING_S
        if asking.place == BEYOND:
            return Rank(LENT, key)
        if asking.kind == "replica":
            return Rank(ONLINE, key)
        return Rank(FIRST if asking.priority else _level(asking.place), key)

    def plan(self, traffic: Traffic) -> Targets:
        online = self.scaling(traffic)
        if traffic.planned_per_s is not None:
            online = np.minimum(online, traffic.planned_per_s)
        return Targets(online, self.outlook.batch_per_s(traffic))

    def price(self, market: Market, solver: Solver) -> Plan:
        tier = np.array(
            [
                rung(self.classes, self.preset, int(c), int(first))
                for c, first in zip(market.class_, market.priority, strict=True)
            ],
            np.int64,
        )
        programme = programme_of(market, self.outlook, tier)
        try:
            answer = solver.solve(programme, self.mode)
        except Unsolved:
            # Floors and the starts they need may exceed what is up, after failures above all. The
            # round honours guarantees by itself; prices then do without their floors.
            programme = replace(programme, floors=np.zeros_like(programme.floors))
            try:
                answer = solver.solve(programme, self.mode)
            except Unsolved:
                # In strict mode numbers alone can fail; until the next plan one price is for all.
                answer = Solver().solve(programme)
        return plan_of(market, programme, answer)


def strict(classes: tuple[str, ...], preset: Preset) -> Headgate:
    """The same policy in strict mode: the order of classes before any price."""
    return Headgate(classes, preset, mode="strict", name="headgate-strict")


def _level(place: int) -> int:
    return AT_PRICE if place == MARGINAL else INSIDE if place < MARGINAL else LENT

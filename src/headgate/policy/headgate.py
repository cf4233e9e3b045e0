"""Our first policy: guarantees, lending, reclaim by least loss, deadline-aware filling.

Prices will take the place of the fixed order inside a class and of the horizon of filling; see
docs/why/policy.md.
"""

from dataclasses import dataclass, field

import numpy as np

from headgate.core.fleet import Fleet
from headgate.core.tables import Floats, Ints
from headgate.policy.baselines import RESERVE_AFTER_S
from headgate.policy.order import STANDING_S, Preset, ladder, lower_levels, rung
from headgate.policy.rules import Asking, Rank, Rules, Targets, Traffic
from headgate.policy.scaling import Anticipating


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
    """Guarantees are kept, everything idle is lent, and what must yield is what loses least."""

    classes: tuple[str, ...]
    preset: Preset = "internal_first"
    scaling: Anticipating = field(default_factory=Anticipating)
    fill_horizon_s: float = 2 * 3600.0  # batch asks for capacity to be done within this time
    urgent_margin: float = 1.25  # batch is urgent when its due rate needs this much of the fill
    name: str = "headgate"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(
            lower_levels(ladder(self.classes, self.preset)),
            guarantees=True,
            least_loss=True,
            cheapest_pool=True,
            reserve_after_s=RESERVE_AFTER_S,
            fills_replicas=True,
            converts_replicas=True,
            preference=comparative_advantage(fleet),
        )

    def rank(self, asking: Asking) -> Rank:
        if asking.kind == "batch" and not asking.urgent:
            return Rank(ladder(self.classes, self.preset) - 1, asking.deadline_s)
        level = rung(self.classes, self.preset, asking.class_, asking.priority)
        return Rank(level, asking.submitted_s - asking.standing * STANDING_S)

    def plan(self, traffic: Traffic) -> Targets:
        online = self.scaling(traffic)
        wanted = np.maximum(
            traffic.batch_tokens / self.fill_horizon_s, traffic.batch_due_per_s * self.urgent_margin
        )
        return Targets(online, wanted, self._urgent(traffic))

    def _urgent(self, traffic: Traffic) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Services whose batch would miss a deadline if it waited for a valley much longer."""
        horizon: Floats = traffic.batch_tokens / 7200.0
        return np.asarray(traffic.batch_due_per_s > np.maximum(horizon, 1e-9))

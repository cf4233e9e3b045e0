"""A policy of one's own: as `headgate`, but batch runs at night unless a deadline is near."""

from dataclasses import dataclass, replace

import numpy as np

from headgate.core.fleet import Fleet
from headgate.policy.headgate import Headgate
from headgate.policy.order import Preset
from headgate.policy.rules import Asking, Rank, Rules, Targets, Traffic

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class NightBatch:
    """Called with the names of the classes and the preset of their order, as every policy is."""

    classes: tuple[str, ...]
    preset: Preset
    night_h: tuple[float, float] = (0.0, 7.0)
    name: str = "night-batch"

    @property
    def usual(self) -> Headgate:
        return Headgate(self.classes, self.preset)

    def rules(self, fleet: Fleet) -> Rules:
        return self.usual.rules(fleet)

    def rank(self, asking: Asking) -> Rank:
        return self.usual.rank(asking)

    def plan(self, traffic: Traffic) -> Targets:
        targets = self.usual.plan(traffic)
        hour = traffic.now_s / HOUR_S % 24
        if self.night_h[0] <= hour < self.night_h[1]:
            return targets
        # By day only what must run now to hold its deadline.
        return replace(targets, batch=np.minimum(targets.batch, traffic.batch_due_per_s * 1.25))

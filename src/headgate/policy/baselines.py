"""The policies that others run today, as fair as we can make them; what ours is held against."""

from dataclasses import dataclass, field

import numpy as np

from headgate.core.fleet import Fleet
from headgate.core.tables import Floats, Ints
from headgate.policy.order import Preset, ladder, lower_levels, rung
from headgate.policy.rules import Asking, Rank, Rules, Targets, Traffic
from headgate.policy.scaling import Reactive

# Large gangs get nodes kept for them after this long, in every policy: without it a busy pool
# never has enough whole nodes free at once. Slurm's backfill does the same from the first moment.
RESERVE_AFTER_S = 1800.0


def plain_batch(traffic: Traffic) -> Floats:
    """Batch capacity that serves what is ordered within an hour, as a batch queue would ask."""
    return traffic.batch_tokens / 3600.0


@dataclass(frozen=True, slots=True)
class Silos:
    """Each class in a part of the fleet of its own, sized for its own peak; nothing is lent.

    Services keep what their own peak needs running all day: that is what silos are.
    """

    caps: Ints  # [class + 1, pool] GPUs; the last row for batch
    peaks: Floats  # [service] tokens/s at the peak
    name: str = "silos"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(np.zeros((1, 1), np.int8), caps=self.caps, reserve_after_s=RESERVE_AFTER_S)

    def rank(self, asking: Asking) -> Rank:
        return Rank(0, asking.submitted_s)

    def plan(self, traffic: Traffic) -> Targets:
        return Targets(self.peaks, plain_batch(traffic))


@dataclass(frozen=True, slots=True)
class Fifo:
    """One pool, first come first served with backfill; nothing is taken back."""

    scaling: Reactive = field(default_factory=Reactive)
    name: str = "fifo"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(np.zeros((1, 1), np.int8), reserve_after_s=RESERVE_AFTER_S)

    def rank(self, asking: Asking) -> Rank:
        return Rank(0, asking.submitted_s)

    def plan(self, traffic: Traffic) -> Targets:
        return Targets(self.scaling(traffic), plain_batch(traffic))


@dataclass(frozen=True, slots=True)
class Priority:
    """Strict order of classes; idle capacity is borrowed, and the newest borrower is preempted.

    This is what quota schedulers with preemption do; batch is the lowest level of all.
    """

    classes: tuple[str, ...]
    preset: Preset = "internal_first"
    scaling: Reactive = field(default_factory=Reactive)
    name: str = "priority"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(
            lower_levels(ladder(self.classes, self.preset)), reserve_after_s=RESERVE_AFTER_S
        )

    def rank(self, asking: Asking) -> Rank:
        if asking.kind == "batch":
            return Rank(ladder(self.classes, self.preset) - 1, asking.submitted_s)
        level = rung(self.classes, self.preset, asking.class_, asking.priority)
        return Rank(level, asking.submitted_s)

    def plan(self, traffic: Traffic) -> Targets:
        return Targets(self.scaling(traffic), plain_batch(traffic))

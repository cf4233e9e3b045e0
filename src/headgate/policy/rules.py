"""What a policy says: the protocol that baselines, our own and a user's policies follow.

A policy is columns and small answers, not a scheduler. The machine does the same round for every
policy; the policy says who comes first, who may hold how much, who yields to whom, and how much
each service should have ready.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headgate.core.fleet import Fleet
from headgate.core.tables import Floats, Ints


class Rank(NamedTuple):
    """Place in line: lower levels first, inside a level lower keys first."""

    level: int
    key: float


class Asking(NamedTuple):
    """A work as its rank sees it."""

    kind: str  # gang, lease, replica or batch
    class_: int  # row in Fleet.classes
    tenant: int
    standing: float  # product families beside GPUs, weighed; 0 for GPU-only
    submitted_s: float
    bid: float  # worth of one GPU-second
    deadline_s: float
    priority: int  # 1: before the rest of its class
    urgent: bool  # batch that misses its deadline unless it runs now


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the whole run."""

    may_reclaim: NDArray[np.int8]  # [level, level]: whether the first may take from the second
    caps: Ints | None = None  # [class + 1, pool] GPUs at most, the last row for filling work
    guarantees: bool = False  # honour the fleet's guarantees, lend what they leave idle
    least_loss: bool = False  # victims by what stopping them loses, not newest first
    cheapest_pool: bool = False  # search all pools for the cheapest victims, not the first
    reserve_after_s: float = -1.0  # keep nodes for a gang that waited so long; negative: never
    fills_replicas: bool = False  # batch uses what online replicas leave idle
    converts_replicas: bool = False  # a surplus replica goes on as a batch replica, and back
    preference: Ints | None = None  # [shape, pool] pools in the order to try, -1 after the last

    @property
    def levels(self) -> int:
        return len(self.may_reclaim)


@dataclass(slots=True)
class Traffic:
    """What the machine knows of the services' demand, in output-equivalent tokens."""

    now_s: float
    window_s: float
    arrived: Floats  # [window, service], the latest last; as many as `history`
    queued: Floats  # [service]
    batch_tokens: Floats  # [service], ordered and not yet served
    batch_due_per_s: Floats  # [service], least rate that still holds every deadline


@dataclass(frozen=True, slots=True)
class Targets:
    """Capacity each service should have, tokens/s of replicas that run or start."""

    online: Floats  # [service]
    batch: Floats  # [service]
    urgent: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


class Policy(Protocol):
    """The questions a policy answers. Pure: no clock, no dice, no state of its own."""

    @property
    def name(self) -> str: ...

    def rules(self, fleet: Fleet) -> Rules:
        """What holds for the whole run."""

    def rank(self, asking: Asking) -> Rank:
        """The work's place in line, asked when it is submitted and when its tenant changes."""

    def plan(self, traffic: Traffic) -> Targets:
        """How much capacity each service should have, asked after every window."""

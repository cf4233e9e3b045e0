"""What a policy says: the protocol that baselines, our own and a user's policies follow.

A policy is columns and small answers, not a scheduler. The machine does the same round for every
policy; the policy says who comes first, who may hold how much, who yields to whom, and how much
each service should have ready.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from headgate.core.fleet import Fleet
from headgate.core.tables import Floats, Ints
from headgate.policy.price.solver import Solver


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
    place: int = 0  # in the plan of prices: PLANNED, MARGINAL or BEYOND


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
    sheds: bool = False  # a request that cannot meet its objective is refused at once

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
    planned_per_s: Floats | None = None  # [service], online capacity in the plan; infinite: all
    # [quarter, service] tokens/s of every quarter of an hour so far, at most a fortnight of them
    quarters: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    ordered_per_s: Floats | None = None  # [service], batch tokens ordered, mean of the last day


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


# Where a work stands in the plan of prices: surely in it, as the use that sets the price, or
# beyond it, on what nobody in the plan wants.
PLANNED, MARGINAL, BEYOND = range(3)


@dataclass(frozen=True, slots=True)
class Market:
    """Everything that asks for capacity now, as prices see it.

    Uses are the online demand of every service, then the batch orders of every service, then
    works put together that are of one class, kind, bid and speed.
    """

    now_s: float
    up: Ints  # [pool] GPUs
    free: Ints  # [pool] of those, that nobody holds and nobody has reserved
    planned: tuple[tuple[float, int, int], ...]  # (seconds from now, pool, GPUs more or less)
    guarantees: Ints  # [class, pool] GPUs
    traffic: Traffic
    online_per_s: Floats  # [service] tokens/s of capacity that online requests should have
    due_s: tuple[Floats, ...]  # [service][order] seconds until each open batch order is due
    due_tokens: tuple[Floats, ...]  # [service][order] what is left of it
    per_gpu_s: Floats  # [service] tokens of a GPU-second at the best speed
    class_: Ints  # [use]
    priority: Ints  # [use]
    bid: Floats  # [use] worth of a GPU-second at the best speed
    speed: Floats  # [use, pool] output of a GPU-second, 1 in the best pool; 0: it cannot run
    wanted: Floats  # [use] GPUs that works hold or wait for; 0 for services
    held: Ints  # [use, pool] GPUs that run or start
    waiting: NDArray[np.bool_]  # [use] some of its works wait
    restart_s: Floats  # [use]
    at_risk_s: Floats  # [use] running time that a stop loses on average


@dataclass(frozen=True, slots=True)
class Plan:
    """What the allocation says: prices, and who should hold what until the next plan."""

    hours: Floats  # [bucket] lengths
    price: Floats  # [pool, bucket] worth of one more GPU for an hour
    quota: Floats  # [use, pool] GPUs in the first bucket
    partial: NDArray[np.bool_]  # [use] it gets less than it wants: its bid is at the price
    profit: Floats  # [use, pool] worth of an hour there above its price; the best pools have most
    open: NDArray[np.bool_]  # [use, pool] it may start there: its bid is not under the price
    lent: Floats  # [pool] GPUs that may still be lent beyond the plan
    floor_price: Floats  # [class, pool, bucket] worth lost for one more GPU guaranteed, an hour
    # [use] seconds until its bid is no longer under the price somewhere; infinite: not in the plan
    back_s: Floats


@runtime_checkable
class Pricing(Protocol):
    """A policy that answers with prices too."""

    price_every_s: float

    def price(self, market: Market, solver: Solver) -> Plan:
        """Who should hold what, and what one more GPU is worth."""

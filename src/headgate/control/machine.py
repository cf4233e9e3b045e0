"""The one machine that both worlds run: facts in, wishes out."""

import heapq
from collections.abc import Callable, Sized

import numpy as np

from headgate.control.ground import Ground
from headgate.control.pricing import Prices
from headgate.control.services import BATCH, ONLINE, Services
from headgate.core.errors import InputError, LawBroken
from headgate.core.facts import (
    BatchOrdered,
    Fact,
    NodeFailed,
    NodeJoined,
    TenantChanged,
    WindowClosed,
    Wish,
    WorkCancelled,
    WorkFinished,
    WorkStarted,
    WorkStopped,
    WorkSubmitted,
)
from headgate.core.fleet import Fleet
from headgate.core.laws import Laws
from headgate.core.tables import Ints
from headgate.kernels import layout as k
from headgate.policy.order import standing
from headgate.policy.rules import BEYOND, Asking, Policy, Pricing, Rank


class Machine:
    """Learns facts one at a time, decides, and checks the laws after each.

    It has no clock: time is what the last fact says. Same facts, same wishes, byte for byte.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        standing_weights: dict[str, float] | None = None,
        *,
        full_laws: bool = False,
    ) -> None:
        """With `full_laws` every law is checked after every fact, not the cheap ones alone."""
        self.full_laws = full_laws
        self.laws = Laws(fleet.reclaim_s)
        self.fleet = fleet
        self.policy = policy
        self.weights = standing_weights or {}
        self.ground = Ground(fleet, policy.rules(fleet))
        self.services = Services(self.ground, policy)
        self.prices: Prices | None = None
        if isinstance(policy, Pricing):
            self.prices = Prices(self.ground, self.services, policy, self._rank_of)
            self.services.prices = self.prices
        self.families = [tenant.families for tenant in fleet.tenants]
        self.standings = [standing(families, self.weights) for families in self.families]
        self.impatient: list[tuple[float, int]] = []  # (when patience ends, work)
        nodes = self.ground.tables.nodes
        works = None
        # What a fact may name, by field; None stands for the works, of which more come.
        self._rows: dict[type, tuple[tuple[str, Sized | None], ...]] = {
            NodeJoined: (("node", nodes),),
            NodeFailed: (("node", nodes),),
            WorkStarted: (("work", works),),
            WorkFinished: (("work", works),),
            WorkStopped: (("work", works),),
            WorkCancelled: (("work", works),),
            WorkSubmitted: (("tenant", fleet.tenants), ("shape", fleet.shapes)),
            BatchOrdered: (("tenant", fleet.tenants), ("service", fleet.services)),
            TenantChanged: (("tenant", fleet.tenants),),
        }
        self._learners: dict[type, Callable[..., None]] = {
            NodeJoined: lambda fact: self.ground.turn(k.NODE_UP, fact.node),
            NodeFailed: lambda fact: self.ground.turn(k.NODE_DOWN, fact.node),
            WorkSubmitted: self._submitted,
            WorkStarted: lambda fact: self.ground.turn(k.WORK_STARTED, fact.work),
            WorkFinished: self._finished,
            WorkStopped: self._stopped,
            WorkCancelled: lambda fact: self.ground.turn(
                k.WORK_CANCELLED, fact.work, k.OWNER_CANCELLED
            ),
            BatchOrdered: self._ordered,
            WindowClosed: self._window_closed,
            TenantChanged: self._tenant_changed,
        }

    @property
    def now_s(self) -> float:
        return self.ground.now_s

    def name(self, work: int) -> str:
        """The name a person knows the work by."""
        return self.ground.names[work]

    def handle(self, fact: Fact) -> list[Wish]:
        """Learn one fact and say what should be done about it.

        Raises LawBroken when a law does not hold afterwards; it is never caught.
        """
        ground = self.ground
        if fact.at_s < ground.now_s:
            raise LawBroken(
                f"time never runs back: fact {ground.fact + 1} is of {fact.at_s} s, "
                f"but {ground.now_s} s has passed."
            )
        self._refuse_unknown(fact)
        ground.now_s = fact.at_s
        ground.fact += 1
        ground.wishes = []
        self._learners[type(fact)](fact)
        if self.full_laws:
            self.check_laws(looked=type(fact) is WindowClosed)
        return ground.wishes

    def _refuse_unknown(self, fact: Fact) -> None:
        """Compiled code does not look whether a row is there, so the edge must."""
        for name, known in self._rows.get(type(fact), ()):
            row = getattr(fact, name)
            count = self.ground.rows if known is None else len(known)
            if not 0 <= row < count:
                raise InputError(
                    f"fact {self.ground.fact + 1}, {type(fact).__name__}, names {name} {row}, "
                    f"which is not known; known are those below {count}."
                )

    def check_laws(self, *, looked: bool) -> None:
        """Check every law; `looked` when the last fact was a window's close."""
        ground = self.ground
        self.laws.check(ground.tables, ground.rows, ground.now_s, looked=looked)

    def _submitted(self, fact: WorkSubmitted) -> None:
        class_ = self.fleet.tenants[fact.tenant].class_
        asking = Asking(
            fact.kind, class_, fact.tenant, self.standings[fact.tenant], fact.at_s, fact.bid,
            np.inf if fact.deadline_s is None else fact.deadline_s, fact.priority, False,
        )  # fmt: skip
        use = place = 0
        if self.prices is not None:
            use = self.prices.use(
                fact.kind, class_, fact.priority, fact.shape, fact.bid, fact.checkpoint_s,
                fact.restart_s,
            )  # fmt: skip
            place = self.prices.place(use)
            asking = asking._replace(place=place)
        row = self.ground.enlist(
            fact.name,
            fact.kind,
            class_,
            fact.tenant,
            fact.shape,
            self.policy.rank(asking),
            priority=fact.priority,
            firm=fact.firm,
            bid=fact.bid,
            deadline_s=asking.deadline_s,
            patience_s=np.inf if fact.patience_s is None else fact.patience_s,
            checkpoint_s=fact.checkpoint_s,
            restart_s=fact.restart_s,
            ref=fact.ref,
            use=use,
            place=place,
            fill=place == BEYOND,
        )
        if fact.patience_s is not None:
            heapq.heappush(self.impatient, (fact.at_s + fact.patience_s, row))

    def _finished(self, fact: WorkFinished) -> None:
        self.ground.turn(k.WORK_FINISHED, fact.work, k.TERM_OVER)

    def _stopped(self, fact: WorkStopped) -> None:
        self.ground.turn(k.WORK_STOPPED, fact.work, k.NODE_LOST, fact.lost_gpu_s)

    def _ordered(self, fact: BatchOrdered) -> None:
        self.services.order(fact.service, fact.name, fact.tenant, fact.tokens, fact.deadline_s)

    def _window_closed(self, fact: WindowClosed) -> None:
        if len(fact.services) != len(self.fleet.services):
            raise InputError(
                f"a window at {fact.at_s} s has {len(fact.services)} services, but the fleet has "
                f"{len(self.fleet.services)}; give one entry for each, in the fleet's order."
            )
        while self.impatient and self.impatient[0][0] <= fact.at_s:
            row = heapq.heappop(self.impatient)[1]
            work = self.ground.tables.works[row]
            if work["state"] == k.WAITING and work["starts"] == 0:
                back_s = None if self.prices is None else self.prices.back_s(int(work["use"]))
                self.ground.refuse(row, k.PATIENCE_OVER, back_s)
        if fact.services:
            columns = np.array(
                [(s.arrived, s.queued, s.batch_served) for s in fact.services], np.float64
            )
            self.services.learn(fact.window_s, columns[:, 0], columns[:, 1], columns[:, 2])
            self.services.plan()
        elif self.prices is not None and self.prices.due(fact.at_s):
            self.prices.renew(self.services.traffic(), np.zeros(0))
        self.ground.turn(k.TIME_PASSED, -1)

    def plan_now(self) -> list[Wish]:
        """Plan and decide as at the close of a window, though none has closed."""
        self.ground.wishes = []
        for table in (self.ground.tables.lanes, self.ground.tables.pools):
            table["searched_s"] = -np.inf  # what is new may open what was closed
        if self.prices is not None:
            self.prices.planned_s = -np.inf
        if self.fleet.services:
            self.services.plan()
        elif self.prices is not None:
            self.prices.renew(self.services.traffic(), np.zeros(0))
        self.ground.turn(k.TIME_PASSED, -1)
        return self.ground.wishes

    def _tenant_changed(self, fact: TenantChanged) -> None:
        """A new standing reorders what the tenant has waiting, and where the rest would wait."""
        tenant = fact.tenant
        self.families[tenant] = fact.families
        self.standings[tenant] = standing(fact.families, self.weights)
        works = self.ground.tables.works[: self.ground.rows]
        mine = (works["tenant"] == tenant) & (works["state"] < k.DONE) & (works["service"] < 0)
        for row in np.flatnonzero(mine).tolist():
            lent = int(works[row]["place"]) == BEYOND
            self.ground.move(row, self._rank_of(row), fill=lent, mode=0)
        self.ground.turn(k.TIME_PASSED, -1)

    def _rank_of(self, row: int) -> Rank:
        """A submitted work's place in line as things are now."""
        work = self.ground.tables.works[row]
        tenant = int(work["tenant"])
        asking = Asking(
            "lease" if work["kind"] == k.LEASE else "gang",
            int(work["class_"]),
            tenant,
            self.standings[tenant],
            float(work["submitted_s"]),
            float(work["bid"]),
            float(work["deadline_s"]),
            int(work["priority"]),
            False,
            int(work["place"]),
        )
        return self.policy.rank(asking)

    def ready(self, service: int) -> tuple[Ints, Ints]:
        """Running replicas of a service by pool: online and batch."""
        ready = self.ground.tables.ready[service]
        return ready[ONLINE], ready[BATCH]

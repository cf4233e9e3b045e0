"""The machine's side of prices: what the market is, and a plan put to work.

Every few minutes the policy is shown all uses side by side and answers with prices and quotas.
A work inside its use's quota stands where the policy ranks planned work; what a use holds beyond
it is lent, and the first to be taken back. Nothing here decides: it counts and carries out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.control.ground import Ground
from headgate.control.services import BATCH, ONLINE, Services
from headgate.core.tables import Floats, Ints
from headgate.kernels import layout as k
from headgate.kernels.muster import fill_held, fill_waiting
from headgate.policy.price.solver import Solver
from headgate.policy.rules import (
    BEYOND,
    MARGINAL,
    PLANNED,
    Market,
    Plan,
    Pricing,
    Rank,
    Traffic,
)

Key = tuple[object, ...]
# Share of a use's quota that may stand in line beyond what it lacks.
AHEAD = 0.02
ANY = np.iinfo(np.int64).max // 4


@dataclass(frozen=True, slots=True)
class Standing:
    """Works that wait, start or run, in the order of their rows, as columns."""

    rows: Ints
    use: Ints
    gpus: Ints  # 0: it waits
    pool: Ints
    shape: Ints
    place: Ints
    own: NDArray[np.bool_]  # submitted by a tenant, not a service's replica
    batch: NDArray[np.bool_]  # a replica in batch mode


class Prices:
    """The uses known, the last plan, and where each use stands in it."""

    def __init__(
        self, ground: Ground, services: Services, policy: Pricing, rank_of: Callable[[int], Rank]
    ) -> None:
        self.ground = ground
        self.rank_of = rank_of
        self.services = services
        self.policy = policy
        self.solver = Solver()
        self.plan: Plan | None = None
        self.planned_s = -np.inf
        self.planned_uses = 0
        fleet = ground.fleet
        self.shape_gpus = np.array([shape.gpus for shape in fleet.shapes], np.float64)
        self.shape_speed = np.array([shape.speed for shape in fleet.shapes], np.float64)
        self.asks = self.shape_gpus.max(axis=1, initial=0.0)  # [shape] GPUs where it takes most
        self.start_s = np.array([max(shape.start_s) for shape in fleet.shapes])
        self.keys: dict[Key, int] = {}
        self.known: dict[Key, int] = {}  # the same by what a work says of itself, found at once
        self.alive: Ints = np.zeros(0, np.int64)  # works that had not ended at the last plan
        self.seen = 0  # rows of the table by then
        self.bids: list[float] = []  # of uses, and what else a use is
        self.classes: list[int] = []
        self.priorities: list[int] = []
        self.speeds: list[Floats] = []
        self.restarts_s: list[float] = []
        self.risks_s: list[float] = []
        # [service][pool] tokens of a GPU-second
        self.per_gpu = [self._per_gpu(service.shape) for service in services.services]
        for mode in (ONLINE, BATCH):
            for service, speed in zip(services.services, self.per_gpu, strict=True):
                bid = service.batch_bid if mode == BATCH else service.bid
                self._add(
                    service.class_, 0, bid, speed / speed.max(), self.start_s[service.shape], 0.0
                )

    def _per_gpu(self, shape: int) -> Floats:
        gpus = self.shape_gpus[shape]
        fits = (gpus > 0) & (gpus <= [pool.gpus for pool in self.ground.fleet.pools])
        speed = np.divide(self.shape_speed[shape], gpus, out=np.zeros_like(gpus), where=fits)
        return np.asarray(speed)

    def _add(
        self, class_: int, priority: int, bid: float, speed: Floats, restart_s: float, risk_s: float
    ) -> int:
        self.classes.append(class_)
        self.priorities.append(priority)
        self.bids.append(bid)
        self.speeds.append(speed)
        self.restarts_s.append(restart_s)
        self.risks_s.append(risk_s)
        return len(self.bids) - 1

    def use(
        self, kind: str, class_: int, priority: int, shape: int, bid: float, checkpoint_s: float,
        restart_s: float,
    ) -> int:  # fmt: skip
        """The use that a work belongs to; made when the first of its kind comes."""
        said = (kind, class_, priority, shape, bid, checkpoint_s, restart_s)
        use = self.known.get(said)
        if use is None:
            use = self.known[said] = self._use(*said)
        return use

    def _use(
        self, kind: str, class_: int, priority: int, shape: int, bid: float, checkpoint_s: float,
        restart_s: float,
    ) -> int:  # fmt: skip
        gpus = self.shape_gpus[shape]
        fits = (gpus > 0) & (gpus <= [pool.gpus for pool in self.ground.fleet.pools])
        speed = np.where(fits, 1.0 if kind == "lease" else self.shape_speed[shape], 0.0)
        best = float(speed.max()) or 1.0
        # Bids within a few per cent are one: two digits of precision keep the programme small.
        near = float(f"{bid * best:.1e}")
        key = (kind, class_, priority, near, tuple(np.round(speed / best, 3).tolist()))
        found = self.keys.get(key)
        if found is None:
            found = self.keys[key] = self._add(
                class_, priority, near, speed / best, restart_s, checkpoint_s / 2
            )
        return found

    def place(self, use: int) -> int:
        """Where a new work of a use stands until the next plan."""
        if self.plan is None:
            return PLANNED
        if use < len(self.plan.partial):
            return MARGINAL if self.plan.partial[use] else PLANNED
        worth = self.bids[use] * self.speeds[use] * 3600.0
        can = self.speeds[use] > 0
        return PLANNED if bool((worth > self.plan.price[:, 0])[can].any()) else BEYOND

    def back_s(self, use: int) -> float | None:
        """Seconds until the price is expected to be at the use's bid; None when not within a day
        or before the first plan."""
        if self.plan is None or use >= len(self.plan.back_s) or np.isinf(self.plan.back_s[use]):
            return None
        passed_s = self.ground.now_s - self.planned_s
        return max(0.0, float(self.plan.back_s[use]) - passed_s)

    def due(self, now_s: float) -> bool:
        """Whether it is time for a plan: by the clock, or because a new kind of work came."""
        late = now_s - self.planned_s >= self.policy.price_every_s
        return late or len(self.bids) > self.planned_uses

    # What the market is.

    def _standing(self) -> Standing:
        """Those alive now. Works that have ended are most of the table after some days, so each is
        passed over once and then forgotten."""
        ground = self.ground
        works = ground.tables.works
        alive = np.concatenate([self.alive, np.arange(self.seen, ground.rows)])
        states = works["state"][alive]
        self.alive, self.seen = alive[states < k.DONE], ground.rows
        rows = alive[states < k.STOPPING]
        service, mode = works["service"][rows].astype(np.int64), works["mode"][rows]
        own = service < 0
        replica = service + len(self.services.services) * mode
        return Standing(
            rows,
            np.where(own, works["use"][rows], replica),
            works["gpus"][rows].astype(np.int64),
            works["pool"][rows].astype(np.int64),
            works["shape"][rows],
            works["place"][rows],
            own,
            ~own & (mode == BATCH),
        )

    def market(self, standing: Standing, traffic: Traffic, online_per_s: Floats) -> Market:
        """Everything that asks for capacity now."""
        tables, ground = self.ground.tables, self.ground
        uses, pools = len(self.bids), len(tables.pools)
        holds = standing.gpus > 0
        wants = np.where(holds, standing.gpus, self.asks[standing.shape])
        asked = wants[standing.own].astype(np.float64)
        wanted = np.bincount(standing.use[standing.own], asked, uses).astype(np.float64)
        where = standing.use[holds] * pools + standing.pool[holds]
        held = np.bincount(where, standing.gpus[holds], uses * pools).astype(np.int64)
        waiting = np.zeros(uses, np.bool_)
        waiting[standing.use[~holds]] = True
        due = [orders.due() for orders in self.services.orders]
        return Market(
            now_s=ground.now_s,
            up=tables.pools["up"].copy(),
            free=tables.pools["free"] - tables.pools["reserved_free"],
            planned=self._planned(),
            guarantees=tables.claims[:-1, :, k.GUARANTEE].copy(),
            traffic=traffic,
            online_per_s=online_per_s,
            due_s=tuple(at - ground.now_s for at, _ in due),
            due_tokens=tuple(tokens for _, tokens in due),
            per_gpu_s=np.array([each.max() for each in self.per_gpu]),
            class_=np.array(self.classes, np.int64),
            priority=np.array(self.priorities, np.int64),
            bid=np.array(self.bids),
            speed=np.array(self.speeds).reshape(uses, pools),
            wanted=wanted,
            held=held.reshape(uses, pools),
            waiting=waiting,
            restart_s=np.array(self.restarts_s),
            at_risk_s=np.array(self.risks_s),
        )

    def _planned(self) -> tuple[tuple[float, int, int], ...]:
        now_s, pools = self.ground.now_s, self.ground.fleet.pools
        coming = [change for change in self.ground.fleet.planned if change.at_s > now_s]
        return tuple(
            (change.at_s - now_s, change.pool, change.nodes * pools[change.pool].gpus_per_node)
            for change in coming
        )

    # A plan put to work.

    def renew(self, traffic: Traffic, online_per_s: Floats) -> None:
        """Ask for a plan and move every work to where it stands in it."""
        self.planned_s = self.ground.now_s
        self.planned_uses = len(self.bids)
        standing = self._standing()
        market = self.market(standing, traffic, online_per_s)
        self.plan = self.policy.price(market, self.solver)
        self._prefer(self.plan, standing)
        fill = self.ground.tables.claims[-1]
        fill[:, k.CAP] = ANY
        unfilled = self._sort(self.plan, standing)
        room = np.ceil(self.plan.lent + unfilled).astype(np.int64)
        fill[:, k.CAP] = fill[:, k.HELD] + fill[:, k.COMING] + room

    def _prefer(self, plan: Plan, standing: Standing) -> None:
        """Pools in the order of profit above their price, for every shape in use."""
        shapes = self.ground.tables.shapes
        ranked = np.argsort(-plan.profit, axis=1, kind="stable")
        for use, shape in self._shapes(standing):
            gpus = self.shape_gpus[shape]
            order = [
                p
                for p in ranked[use].tolist()
                if 0 < gpus[p] <= self.ground.fleet.pools[p].gpus and plan.open[use, p]
            ]
            shapes[shape, :, k.PREFERENCE] = -1
            shapes[shape, : len(order), k.PREFERENCE] = order

    def _shapes(self, standing: Standing) -> list[tuple[int, int]]:
        """(use, shape) of what is alive; a service's shape goes by its online use."""
        shapes = len(self.ground.fleet.shapes)
        pairs = np.unique((standing.use * shapes + standing.shape)[standing.own])
        own = [(v, service.shape) for v, service in enumerate(self.services.services)]
        return [*own, *(divmod(pair, shapes) for pair in pairs.tolist())]

    def _sort(self, plan: Plan, at: Standing) -> Floats:
        """Give every work its place: quotas are filled by those that stand in them already.

        Returns [pool] GPUs of the works' quotas that nobody fills.
        """
        works = self.ground.tables.works
        place = np.full(len(at.rows), BEYOND)
        inside = np.where(plan.partial, MARGINAL, PLANNED)[at.use]
        left = plan.quota.astype(np.float64)
        waits = at.gpus == 0
        # Those planned before stay so, then those that would lose most: the least churn.
        order = np.flatnonzero(~waits)
        order = order[np.lexsort((works["since_s"][at.rows[order]], at.place[order]))]
        fill_held(order, at.gpus, at.use, at.pool, inside, left, place)
        # A little more, so that what ends before the next plan is followed at once.
        room = np.clip(left, 0.0, None).sum(axis=1) + AHEAD * plan.quota.sum(axis=1)
        order = np.flatnonzero(waits & (at.own | at.batch))
        order = order[np.lexsort((at.rows[order], works["key"][at.rows[order]]))]
        fill_waiting(order, self.asks[at.shape], at.use, plan.partial, inside, room, place)
        place[waits & ~at.own & ~at.batch] = PLANNED
        for i in np.flatnonzero(place != at.place).tolist():
            self._move(int(at.rows[i]), int(place[i]))
        return self._unfilled(left, room - AHEAD * plan.quota.sum(axis=1))

    def _unfilled(self, left: Floats, over: Floats) -> Floats:
        """[pool] GPUs that works' uses lack by `left[use, pool]` while `over[use]` of them have
        nobody in line: gangs too large for what is left would wait for ever beside them."""
        works = slice(2 * len(self.services.services), None)
        lacking = np.clip(left[works], 0.0, None)
        share = np.clip(over[works], 0.0, None) / np.maximum(lacking.sum(axis=1), 1e-9)
        return np.asarray((lacking * np.minimum(share, 1.0)[:, None]).sum(axis=0))

    def lend(self, row: int) -> None:
        """Let a work that holds accelerators already count as lent from now on."""
        work = self.ground.tables.works[row]
        if work["pool"] >= 0 and work["claim"] != self.ground.tables.meta[k.FILL_CLAIM]:
            fill = self.ground.tables.claims[-1, work["pool"]]
            fill[k.CAP] = max(fill[k.CAP], fill[k.HELD] + fill[k.COMING] + work["gpus"])

    def _move(self, row: int, place: int) -> None:
        work = self.ground.tables.works[row]
        v, mode = int(work["service"]), int(work["mode"])
        if v >= 0:
            self.services.put(v, row, mode, place)
        else:
            work["place"] = place
            self.ground.move(row, self.rank_of(row), fill=place == BEYOND, mode=0)

    def planned_per_s(self) -> Floats:
        """[service] tokens/s that the plan's online quotas make; infinite where nothing is cut."""
        count = len(self.services.services)
        if self.plan is None:
            return np.full(count, np.inf)
        made = np.zeros(count)
        for v, per_gpu in enumerate(self.per_gpu):
            made[v] = float(self.plan.quota[v] @ per_gpu)
        return np.where(self.plan.partial[:count], made, np.inf)

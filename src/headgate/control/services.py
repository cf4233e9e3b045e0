"""Replicas: the machine asks for as many as the policy's targets need, and gives up the rest."""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from headgate.control.batches import Orders
from headgate.control.ground import Ground
from headgate.control.roster import Roster
from headgate.core.fleet import Service
from headgate.core.tables import Floats
from headgate.kernels import layout as k
from headgate.kernels.muster import muster
from headgate.policy.rules import BEYOND, Asking, Policy, Traffic

if TYPE_CHECKING:
    from headgate.control.pricing import Prices

ONLINE, BATCH = 0, 1
# Windows of traffic the machine remembers: two hours of minutes, what scaling looks back on.
HISTORY = 128
# Batch replicas of a service that wait at once: enough to fill what falls idle in a window.
WAITING_AT_MOST = 64
QUARTER_S, DAY_S = 900.0, 86_400.0
FORTNIGHT = 14 * 96
# Capacity this much above its target is left alone, as Kubernetes' horizontal autoscaler does by
# default: without it every ripple of demand stops a replica and starts another.
TOLERANCE = 0.1
# Share of a service's capacity that is started elsewhere at once when prices moved.
REPLACED_AT_ONCE = 0.05


class Services:
    """Every service's replicas, traffic and batch orders."""

    def __init__(self, ground: Ground, policy: Policy) -> None:
        self.ground = ground
        self.policy = policy
        self.services = ground.fleet.services
        count = len(self.services)
        self.orders = [Orders() for _ in range(count)]
        self.rosters = [(Roster(), Roster()) for _ in range(count)]  # online, batch
        self.speeds = [np.asarray(ground.fleet.shapes[s.shape].speed) for s in self.services]
        self.made = [0] * count
        self.urgent = np.zeros(count, np.bool_)
        self.arrived = np.zeros((0, count))
        self.queued = np.zeros(count)
        self.window_s = 60.0
        self.quarters = np.zeros((0, count))
        self.quarter_tokens = np.zeros(count)
        self.quarter_s = 0.0
        # What was ordered within a day, (time, service, tokens), and its sum by service.
        self.ordered: deque[tuple[float, int, float]] = deque()
        self.ordered_tokens = [0.0] * count
        self.prices: Prices | None = None

    def learn(self, window_s: float, arrived: Floats, queued: Floats, batch: Floats) -> None:
        """Take one window's traffic in."""
        self.arrived = np.concatenate([self.arrived[-HISTORY + 1 :], arrived[None, :]])
        self.queued = queued
        for orders, served in zip(self.orders, batch.tolist(), strict=True):
            orders.serve(served, self.ground.now_s)
        self.window_s = window_s
        self.quarter_tokens += arrived
        self.quarter_s += window_s
        if self.quarter_s >= QUARTER_S:
            mean = self.quarter_tokens / self.quarter_s
            self.quarters = np.concatenate([self.quarters[-FORTNIGHT + 1 :], mean[None, :]])
            self.quarter_tokens = np.zeros_like(mean)
            self.quarter_s = 0.0

    def order(self, v: int, name: str, tenant: int, tokens: float, deadline_s: float) -> None:
        """Take a batch order in."""
        self.orders[v].add(name, tenant, tokens, deadline_s)
        self.ordered.append((self.ground.now_s, v, tokens))
        self.ordered_tokens[v] += tokens

    def _ordered_per_s(self) -> Floats:
        """[service] batch tokens ordered a second, over the last day or as long as is known."""
        now_s = self.ground.now_s
        while self.ordered and self.ordered[0][0] < now_s - DAY_S:
            _, v, tokens = self.ordered.popleft()
            self.ordered_tokens[v] -= tokens
        total = np.maximum(self.ordered_tokens, 0.0)  # differences of sums leave rounding behind
        return np.asarray(total / max(min(now_s, DAY_S), QUARTER_S))

    def traffic(self) -> Traffic:
        """What is known of demand now."""
        now_s = self.ground.now_s
        return Traffic(
            now_s=now_s,
            window_s=self.window_s,
            arrived=self.arrived,
            queued=self.queued,
            batch_tokens=np.array([orders.total for orders in self.orders]),
            batch_due_per_s=np.array([orders.due_per_s(now_s) for orders in self.orders]),
            quarters=self.quarters,
        )

    def plan(self) -> None:
        """Ask the policy for targets and move towards them; first for prices, when it is time."""
        traffic = self.traffic()
        if self.prices is not None:
            if self.prices.due(self.ground.now_s):
                traffic.ordered_per_s = self._ordered_per_s()
                self.prices.renew(traffic, self.policy.plan(traffic).online)
            traffic.planned_per_s = self.prices.planned_per_s()
        targets = self.policy.plan(traffic)
        urgent = targets.urgent if len(targets.urgent) else np.zeros(len(self.services), np.bool_)
        for v in range(len(self.services)):
            self._set_urgency(v, bool(urgent[v]))
        for v in range(len(self.services)):
            self._meet(v, ONLINE, float(targets.online[v]))
        for v in range(len(self.services)):
            self._meet(v, BATCH, float(targets.batch[v]))

    def _muster(self, v: int, mode: int) -> tuple[float, float, int, int]:
        """Count one service's replicas in one mode, forgetting those that have ended.

        Tokens/s of all where they stand, or in the pool they would try first, and of those beyond
        the plan; how many are not stopping, and how many wait.
        """
        roster = self.rosters[v][mode]
        if not len(roster):
            return 0.0, 0.0, 0, 0
        roster.count, have, lent, staying, waiting = muster(
            self.ground.columns, roster.room, roster.count, self.speeds[v], self._first_pool(v),
            BEYOND, roster.states, roster.capacity,
        )  # fmt: skip
        return have, lent, staying, waiting

    def _first_pool(self, v: int) -> int:
        return int(self.ground.tables.shapes[self.services[v].shape, 0, k.PREFERENCE])

    def _meet(self, v: int, mode: int, target: float) -> None:
        """Move one service's capacity in one mode to its target."""
        have, lent, count, waiting = self._muster(v, mode)
        if mode == ONLINE and self.prices is not None:
            # What stands beyond the plan is replaced bit by bit before it is needed elsewhere.
            have -= min(lent, REPLACED_AT_ONCE * target)
        least = self.services[v].replicas_min if mode == ONLINE else 0
        if have < target or count < least:
            self._add(v, mode, target - have, least - count, waiting)
        elif have > target * (1.0 + TOLERANCE) and count > least:
            self._drop(v, mode, have - target, count - least)

    def _add(self, v: int, mode: int, lacking: float, least: int, waiting: int) -> None:
        if mode == ONLINE and self.ground.rules.converts_replicas:
            lacking, least = self._convert_back(v, lacking, least)
        each = self.speeds[v][self._first_pool(v)]
        wanted = max(least, int(np.ceil(lacking / each)) if lacking > 0 else 0)
        if mode == BATCH:
            wanted = min(wanted, WAITING_AT_MOST - waiting)
        for _ in range(wanted):
            self.rosters[v][mode].append(self._new(v, mode))

    def _new(self, v: int, mode: int) -> int:
        """Submit one replica on the service's own account."""
        service = self.services[v]
        shape = self.ground.fleet.shapes[service.shape]
        kind = "batch" if mode == BATCH else "replica"
        asking = self._asking(v, mode)
        self.made[v] += 1
        return self.ground.enlist(
            f"{service.name}/replica-{self.made[v]}",
            kind,
            service.class_,
            service.tenant,
            service.shape,
            self.policy.rank(asking),
            fill=mode == BATCH and not asking.urgent,
            service=v,
            mode=mode,
            place=asking.place,
            bid=asking.bid,
            restart_s=shape.start_s[self._first_pool(v)],
        )

    def _asking(self, v: int, mode: int, place: int | None = None) -> Asking:
        service: Service = self.services[v]
        batch = mode == BATCH
        return Asking(
            kind="batch" if batch else "replica",
            class_=service.class_,
            tenant=service.tenant,
            standing=0.0,
            submitted_s=self.ground.now_s,
            bid=service.batch_bid if batch else service.bid,
            deadline_s=self.orders[v].first_deadline_s() if batch else np.inf,
            priority=0,
            urgent=batch and bool(self.urgent[v]),
            # What fills is beyond the plan until the next one counts it in.
            place=(BEYOND if batch and self.prices is not None else 0) if place is None else place,
        )

    def put(self, v: int, row: int, mode: int, place: int) -> None:
        """Give a replica its place in the plan of prices."""
        self._move(v, row, mode, place)

    def _move(self, v: int, row: int, mode: int, place: int | None = None) -> bool:
        """Give a replica another mode or place; False when its new class's cap forbids it."""
        asking = self._asking(v, mode, place)
        fill = (mode == BATCH and not asking.urgent) or asking.place == BEYOND
        if fill and self.prices is not None:
            self.prices.lend(row)
        moved = self.ground.move(row, self.policy.rank(asking), fill=fill, mode=mode)
        if moved:
            self.ground.tables.works[row]["place"] = asking.place
        return moved

    def _convert_back(self, v: int, lacking: float, least: int) -> tuple[float, int]:
        """Turn running batch replicas into online ones: no boot, the weights are there."""
        online, batch = self.rosters[v]
        self._muster(v, BATCH)
        rows, states = batch.rows.tolist(), batch.states[: len(batch)].copy()
        moved: set[int] = set()
        # Running ones first, then those that start already.
        for state in (k.RUNNING, k.STARTING):
            for i in np.flatnonzero(states == state).tolist():
                if lacking <= 0 and least <= 0:
                    break
                if not self._move(v, rows[i], ONLINE):
                    continue
                online.append(rows[i])
                moved.add(rows[i])
                lacking -= float(batch.capacity[i])
                least -= 1
        if moved:
            batch.remove(moved)
        return lacking, least

    def _drop(self, v: int, mode: int, surplus: float, count: int) -> None:
        """Give up replicas beyond the target: waiting ones, then starting, then running."""
        roster = self.rosters[v][mode]
        rows, states = roster.rows.copy(), roster.states[: len(roster)].copy()
        each = roster.capacity[: len(roster)].copy()
        places = self.ground.tables.works["place"][rows]
        goes_on = mode == ONLINE and self.ground.rules.converts_replicas
        goes_on &= self.orders[v].total > 0.0
        moved: set[int] = set()
        for state in (k.WAITING, k.STARTING, k.RUNNING):
            # The newest first, those beyond the plan before those in it.
            found = np.flatnonzero((states == state) & (each <= surplus))[::-1]
            for i in found[np.argsort(-places[found], kind="stable")].tolist():
                if count <= 0:
                    break
                if each[i] > surplus:
                    continue
                surplus -= float(each[i])
                count -= 1
                row = int(rows[i])
                if goes_on and state != k.WAITING and self._move(v, row, BATCH):
                    self.rosters[v][BATCH].append(row)
                    moved.add(row)
                else:
                    self.ground.turn(k.STOP_WANTED, row, k.SURPLUS)
        if moved:
            roster.remove(moved)

    def _set_urgency(self, v: int, urgent: bool) -> None:
        """Lift batch to its class's level while a deadline is at stake, and back."""
        if urgent == bool(self.urgent[v]):
            return
        self.urgent[v] = urgent
        for row in self.rosters[v][BATCH].rows.tolist():
            if not self.ground.ended(row):
                self._move(v, row, BATCH)

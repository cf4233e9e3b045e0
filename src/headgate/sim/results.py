"""What a run amounts to: the figures of the table, the report and the JSON file."""

from typing import Any

import numpy as np

from headgate.control.machine import Machine
from headgate.core.rules import NAMES
from headgate.core.tables import Floats
from headgate.kernels import layout as k
from headgate.ledger.pool import SPENT, Ledger, close
from headgate.sim.nature import Truth
from headgate.sim.record import SERVED_COLUMNS, Recorder
from headgate.sim.story import MILLION, Story

HOUR_S = 3600.0
BINS = 96 * 7  # points of a plotted series at most


class Figures:
    """Everything computed from one run's record; each method is one part of the result."""

    def __init__(
        self, story: Story, machine: Machine, truth: Truth, record: Recorder, until_s: float
    ) -> None:
        self.story = story
        self.machine = machine
        self.truth = truth
        self.record = record
        self.until_s = until_s
        self.window_s = story.scenario.window_s
        self.n = record.count
        self.works = machine.ground.tables.works[: machine.ground.rows]
        self.served: dict[str, Floats] = {
            name: record.served[: self.n, :, i] for i, name in enumerate(SERVED_COLUMNS)
        }
        self.speeds = np.array(
            [story.fleet.shapes[s.shape].speed for s in story.fleet.services]
        ).reshape(len(story.fleet.services), len(story.fleet.pools))
        self.gpus = np.array(
            [story.fleet.shapes[s.shape].gpus for s in story.fleet.services]
        ).reshape(self.speeds.shape)
        self.ledger = self._ledger()
        self.busy = self._busy()

    def all(self) -> dict[str, Any]:
        """The result of one policy, ready for JSON."""
        online = self.served["in_objective"].sum()
        arrived = self.served["arrived"].sum()
        value = self.value()
        lost, ran = self._lost()
        return {
            "value": sum(value.values()),
            "value_usd": value,
            "busy_share": self.busy_share(),
            "busy_share_by_pool": self.busy_share_by_pool(),
            "busy_share_by_hour": self.busy_share_by_hour(),
            "allocated_share": self.allocated_share(),
            "goodput_tokens": float(online + self._batch()["tokens_in_time"]),
            "online_goodput_tokens": float(online),
            "batch_tokens": float(self.served["batch_served"].sum()),
            "attainment": float(online / arrived) if arrived else 1.0,
            "valley_harvest": self.valley_harvest(),
            "lost_work_share": lost / ran if ran else 0.0,
            "guarantee_broken_s": self.record.guarantees.broken_s,
            "price_usd_per_gpu_h": self._by_pool(self.record.price),
            "ledger_residual": self.ledger.residual,
            "batch": self._batch(),
            "classes": self.classes(),
            "services": self.services(),
            "ledger_gpu_hours": self.ledger_gpu_hours(),
            "series": self.series(),
        }

    # Money.

    def value(self) -> dict[str, float]:
        """US dollars by source; their sum is the value."""
        services = self.story.scenario.services
        good = self.served["in_objective"].sum(axis=0)
        done: dict[str, float] = {
            "foundation": 0.0,
            "gangs": 0.0,
            "applications": 0.0,
            "leases": 0.0,
        }
        for ref, seconds in enumerate(self.truth.done_gpu_s):
            done[self.story.group[ref]] += seconds * self.story.worth_usd_per_gpu_s[ref]
        batch = missed = 0.0
        for part, in_time, late in zip(services, *self._batch_tokens(), strict=True):
            batch += in_time / MILLION * part.batch_usd_per_million
            missed += late / MILLION * part.batch_miss_usd_per_million
        online = sum(
            float(tokens) / MILLION * part.usd_per_million
            for tokens, part in zip(good, services, strict=True)
        )
        return {"online": online, "batch": batch, "missed deadlines": -missed, **done}

    def _batch_tokens(self) -> tuple[list[float], list[float]]:
        """Tokens by service of orders done in time, and of orders whose deadline passed."""
        in_time, late = [], []
        for orders in self.machine.services.orders:
            deadline = np.array(orders.deadlines_s)
            done = np.array(orders.done_s)
            tokens = np.array(orders.tokens)
            good = (done <= deadline) & np.isfinite(done)
            in_time.append(float(tokens[good].sum()))
            late.append(float(tokens[~good & (deadline <= self.until_s)].sum()))
        return in_time, late

    def _batch(self) -> dict[str, float]:
        total = due = good = 0
        for orders in self.machine.services.orders:
            deadline, done = np.array(orders.deadlines_s), np.array(orders.done_s)
            total += len(deadline)
            past = (deadline <= self.until_s) | (done <= self.until_s)
            due += int(past.sum())
            good += int((past & (done <= deadline)).sum())
        in_time, late = self._batch_tokens()
        return {
            "orders": total,
            "due": due,
            "in_time": good,
            "deadlines_met": good / due if due else 1.0,
            "tokens_in_time": sum(in_time),
            "tokens_late": sum(late),
        }

    # Use.

    def _busy(self) -> Floats:
        """[window, pool] GPUs at useful work.

        Gangs and leases that run; replicas by the share of their capacity that served tokens.
        """
        r, n = self.record, self.n
        fixed = r.tally[:n, :, [k.GANG, k.LEASE], k.RUNNING].sum(axis=(1, 2)).astype(np.float64)
        return np.asarray(fixed + self._replicas_busy().sum(axis=1))

    def _replicas_busy(self) -> Floats:
        """[window, mode, pool] GPUs' worth of tokens served: online requests, then batch."""
        n = self.n
        ready = self.record.ready[:n]
        if not len(self.story.fleet.services):
            return np.zeros((n, 2, len(self.story.fleet.pools)))
        capacity = (ready * self.speeds[None, :, None, :]).sum(axis=3) * self.window_s
        held = ready * self.gpus[None, :, None, :]
        busy = np.zeros((n, 2, held.shape[3]))
        online = _ratio(self.served["served"], capacity[:, :, 0])
        batch = self.served["batch_served"]
        inside = np.clip(batch - capacity[:, :, 1], 0.0, None)  # in what online replicas leave
        busy[:, 0] = (held[:, :, 0] * np.minimum(online, 1.0)[:, :, None]).sum(axis=1)
        busy[:, 1] = (
            held[:, :, 1] * np.minimum(_ratio(batch - inside, capacity[:, :, 1]), 1.0)[:, :, None]
        ).sum(axis=1) + (
            held[:, :, 0]
            * np.clip(_ratio(inside, capacity[:, :, 0]), 0.0, 1.0 - np.minimum(online, 1.0))[
                :, :, None
            ]
        ).sum(axis=1)
        return busy

    def _lost(self) -> tuple[float, float]:
        """GPU-seconds of gangs and leases whose result was lost, and all they ran."""
        spent = self.ledger.tenants
        owners = np.unique(self.works["tenant"][self.works["service"] < 0])
        lost = float(spent[owners, SPENT.index("lost")].sum())
        return lost, lost + float(spent[owners, SPENT.index("running")].sum())

    def busy_share(self) -> float:
        """Share of the live fleet's GPU-seconds at useful work; lost work is not useful."""
        up = self.record.up[: self.n].sum() * self.window_s
        return float((self.busy.sum() * self.window_s - self._lost()[0]) / up) if up else 0.0

    def busy_share_by_pool(self) -> dict[str, float]:
        up = self.record.up[: self.n].sum(axis=0)
        share = _ratio(self.busy.sum(axis=0), up)
        return {pool.name: float(x) for pool, x in zip(self.story.fleet.pools, share, strict=True)}

    def busy_share_by_hour(self) -> list[float]:
        hour = ((self.record.at_s[: self.n] - self.window_s) // HOUR_S % 24).astype(np.int64)
        busy = np.bincount(hour, self.busy.sum(axis=1), 24)
        up = np.bincount(hour, self.record.up[: self.n].sum(axis=1), 24)
        return [float(x) for x in _ratio(busy, up)]

    def allocated_share(self) -> float:
        up = float(self.record.up[: self.n].sum())
        return 1.0 - float(self.record.free[: self.n].sum()) / up if up else 0.0

    def valley_harvest(self) -> float:
        """Share of what online demand leaves idle that is put to use by anything else."""
        up = float(self.record.up[: self.n].sum())
        online = float(self._replicas_busy()[:, 0].sum())
        lost = self._lost()[0] / self.window_s
        valley = up - online
        return (float(self.busy.sum()) - online - lost) / valley if valley > 0 else 0.0

    # People.

    def classes(self) -> dict[str, Any]:
        """By class: GPU-hours, waits of gangs and leases, evictions, refusals by reason."""
        works, fleet = self.works, self.story.fleet
        spent = self.ledger.tenants.sum(axis=1)
        of_class = np.array([tenant.class_ for tenant in fleet.tenants])
        result = {}
        for row, name in enumerate(fleet.classes):
            mine = works[(works["class_"] == row) & (works["service"] < 0)]
            waiting = mine["state"] == k.WAITING
            waited_s = mine["waited_s"] + np.where(waiting, self.until_s - mine["since_s"], 0.0)
            refused = mine[mine["state"] == k.REFUSED]
            reasons = np.unique(refused["rule"], return_counts=True)
            result[name] = {
                "gpu_hours": float(spent[of_class == row].sum() / HOUR_S),
                "submitted": len(mine),
                "finished": int(np.count_nonzero(mine["state"] == k.DONE)),
                "waiting": int(np.count_nonzero(waiting)),
                "wait_mean_s": float(waited_s.mean()) if len(mine) else 0.0,
                "wait_p90_s": float(np.quantile(waited_s, 0.9)) if len(mine) else 0.0,
                "wait_longest_s": float(waited_s.max()) if len(mine) else 0.0,
                "evictions": int(works["evictions"][works["class_"] == row].sum()),
                "refused": {
                    NAMES[int(rule)]: int(count) for rule, count in zip(*reasons, strict=True)
                },
                "guarantee_broken_s": float(self.record.guarantees.by_class[row]),
                "guarantee_usd_per_gpu_h": self._by_pool(self.record.guarantee_price[row]),
            }
        return result

    def _by_pool(self, price: Floats) -> dict[str, float]:
        """The mean of a price over the windows under a plan; empty where none was made."""
        planned = self.record.planned
        if not planned:
            return {}
        means = (price / planned).tolist()
        return {pool.name: mean for pool, mean in zip(self.story.fleet.pools, means, strict=True)}

    def services(self) -> dict[str, Any]:
        """By service: tokens and objective attainment."""
        result = {}
        for v, service in enumerate(self.story.fleet.services):
            arrived = float(self.served["arrived"][:, v].sum())
            good = float(self.served["in_objective"][:, v].sum())
            result[service.name] = {
                "arrived_tokens": arrived,
                "goodput_tokens": good,
                "attainment": good / arrived if arrived else 1.0,
                "refused_tokens": float(self.served["refused"][:, v].sum()),
                "batch_tokens": float(self.served["batch_served"][:, v].sum()),
            }
        return result

    # The ledger.

    def _ledger(self) -> Ledger:
        fleet = self.story.fleet
        size = np.repeat([p.gpus_per_node for p in fleet.pools], [p.nodes for p in fleet.pools])
        pool = np.repeat(np.arange(len(fleet.pools)), [p.nodes for p in fleet.pools])
        live_s = np.clip(self.until_s - self.story.live_s, 0.0, None)
        return close(
            self.machine.ground.tables,
            self.machine.ground.rows,
            len(fleet.tenants),
            np.bincount(pool, size * live_s, len(fleet.pools)).astype(np.float64),
            self.until_s,
        )

    def ledger_gpu_hours(self) -> dict[str, Any]:
        """The ledger in GPU-hours: by class what was spent how, and idle time by cause."""
        ledger, fleet = self.ledger, self.story.fleet
        of_class = np.array([tenant.class_ for tenant in fleet.tenants])
        by_class = {
            name: {
                what: float(ledger.tenants[of_class == row, i].sum() / HOUR_S)
                for i, what in enumerate(SPENT)
            }
            for row, name in enumerate(fleet.classes)
        }
        idle = {
            "free": float(ledger.free.sum() / HOUR_S),
            "kept for a gang": float(ledger.reserved.sum() / HOUR_S),
            "down": float(ledger.down.sum() / HOUR_S),
        }
        return {"classes": by_class, "idle": idle, "fleet": float(ledger.fleet.sum() / HOUR_S)}

    # Plots.

    def series(self) -> dict[str, Any]:
        """Means over bins of time for the plots: GPUs by use, capacity, and GPUs waited for."""
        n = self.n
        if n == 0:
            return {"at_h": [], "capacity": [], "use": {}, "waiting_gpus": {}}
        step = int(np.ceil(n / BINS)) if n > BINS else 1

        def binned(column: Floats) -> list[float]:
            return [round(float(x), 2) for x in _means(column, step)]

        tally = self.record.tally[:n].astype(np.float64).sum(axis=4)
        running = tally[:, :, :, k.RUNNING]
        replicas = self._replicas_busy().sum(axis=2)
        classes = {name: row for row, name in enumerate(self.story.fleet.classes)}
        held_replicas = running[:, :, [k.REPLICA, k.BATCH]].sum(axis=(1, 2))
        use = {
            "training": running[:, classes["training"], k.GANG],
            "online tokens": replicas[:, 0],
            "batch tokens": replicas[:, 1],
            "internal applications": running[:, classes["internal"], k.LEASE],
            "external leases": running[:, classes["external"], k.LEASE],
            "replicas with nothing to do": np.clip(held_replicas - replicas.sum(axis=1), 0, None),
            "starting or stopping": tally[:, :, :, [k.STARTING, k.STOPPING]].sum(axis=(1, 2, 3)),
            "free": self.record.free[:n].sum(axis=1).astype(np.float64),
        }
        return {
            "at_h": binned((self.record.at_s[:n] - self.window_s / 2) / HOUR_S),
            "capacity": binned(self.record.up[:n].sum(axis=1).astype(np.float64)),
            "use": {name: binned(column) for name, column in use.items()},
            "waiting_gpus": {
                name: binned(self.record.waiting_gpus[:n, row].astype(np.float64))
                for name, row in classes.items()
            },
        }


def _ratio(part: Any, whole: Any) -> Floats:
    """part / whole, and 0 where there is nothing to divide by."""
    share = np.zeros(np.shape(part))
    np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
    return share


def _means(column: Floats, step: int) -> Floats:
    """Means of `step` values each; the last of what is left."""
    edges = np.arange(0, len(column), step)
    counts = np.diff(np.append(edges, len(column)))
    return np.asarray(np.add.reduceat(column, edges) / counts)

"""What a run leaves behind, window by window; everything reported is computed from it."""

import numpy as np
from numpy.typing import NDArray

from headgate.control.machine import Machine
from headgate.control.services import BATCH, ONLINE
from headgate.core.facts import Fact, WindowClosed, Wish
from headgate.core.tables import Floats, Ints, Table, Tables
from headgate.kernels import layout as k
from headgate.kernels.muster import owed
from headgate.sim.traffic import Traffic

# Works of one lane that are looked at as asks for a guarantee; behind them stand equals.
OWED_AT_MOST = 64
SERVED_COLUMNS = ("arrived", "served", "in_objective", "queued", "refused", "batch_served")


class Recorder:
    """A watcher of the driver that notes the machine's tables after every window."""

    def __init__(self, machine: Machine, traffic: Traffic | None, windows: int) -> None:
        self.machine = machine
        self.traffic = traffic
        tables, fleet = machine.ground.tables, machine.fleet
        classes, pools = len(fleet.classes), len(fleet.pools)
        self.count = 0
        self.at_s = np.zeros(windows)
        # GPUs by class, kind, state and pool, as they stand when the window closes.
        self.tally = np.zeros((windows, *tables.tally.shape), np.int32)
        self.up = np.zeros((windows, pools), np.int32)
        self.free = np.zeros((windows, pools), np.int32)
        self.ready = np.zeros((windows, *tables.ready.shape), np.int32)
        self.served = np.zeros((windows, len(fleet.services), len(SERVED_COLUMNS)))
        self.waiting = np.zeros((windows, classes), np.int32)  # works
        self.waiting_gpus = np.zeros((windows, classes), np.int32)
        self.guarantees = Guarantees(machine)
        # Sums over the windows that stood under a plan, US dollars a GPU-hour.
        self.planned = 0
        self.price = np.zeros(pools)
        self.guarantee_price = np.zeros((classes, pools))
        self.refusals: dict[str, int] = {}

    def __call__(self, fact: Fact, wishes: list[Wish]) -> None:
        if not isinstance(fact, WindowClosed) or fact.at_s == 0.0:
            return
        row, tables = self.count, self.machine.ground.tables
        self.at_s[row] = fact.at_s
        self.tally[row] = tables.tally
        self.up[row], self.free[row] = tables.pools["up"], tables.pools["free"]
        # The replicas that served the window, not those the round has just changed to.
        self.ready[row] = tables.ready if self.traffic is None else self.traffic.ready
        for v, s in enumerate(fact.services):
            self.served[row, v] = (
                s.arrived, s.served, s.in_objective, s.queued, s.refused, s.batch_served,
            )  # fmt: skip
        self._note_waiting(row)
        self._note_prices()
        self.guarantees.note(fact.at_s, fact.window_s)
        self.count += 1

    def _note_prices(self) -> None:
        prices = self.machine.prices
        if prices is None or prices.plan is None:
            return
        self.planned += 1
        self.price += prices.plan.price[:, 0]
        self.guarantee_price += prices.plan.floor_price[:, :, 0]

    def _note_waiting(self, row: int) -> None:
        tables = self.machine.ground.tables
        lanes = tables.lanes[: tables.meta[k.N_LANES]]
        smallest = np.where(tables.shapes[:, :, k.GPUS] > 0, tables.shapes[:, :, k.GPUS], 1 << 30)
        classes = self.waiting.shape[1]
        online = ~_fills(tables, lanes)  # filling work waits for nothing that is its own
        gpus = smallest.min(axis=1)[lanes["shape"]] * lanes["count"] * online
        self.waiting[row] = np.bincount(lanes["class_"], lanes["count"] * online, classes)
        self.waiting_gpus[row] = np.bincount(lanes["class_"], gpus, classes)
        for claimant in tables.claimants():
            work = tables.works[claimant]
            if work["mode"] == ONLINE:
                self.waiting[row, work["class_"]] += 1
                self.waiting_gpus[row, work["class_"]] += smallest[work["shape"]].min()


def _fills(tables: Tables, lanes: Table) -> NDArray[np.bool_]:
    """[lane] whether batch waits there; a lane without a head has nobody to ask."""
    modes = tables.works["mode"][np.maximum(lanes["head"], 0)]
    return np.asarray((modes == BATCH) | (lanes["head"] < 0))


class Guarantees:
    """Seconds for which a class waited for what it is guaranteed beyond its reclaim time."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        fleet = machine.fleet
        self.promised: Ints = np.array(
            fleet.guarantees or [[0] * len(fleet.pools)] * len(fleet.classes), np.int64
        )
        self.asked_since: dict[tuple[int, int], float] = {}  # (work, pool)
        self.broken_s = 0.0
        self.by_class: Floats = np.zeros(len(fleet.classes))
        # Whatever is promised is asked for by the accelerator at most.
        most = int(self.promised.sum())
        self._rows, self._pools = np.zeros(most, np.int64), np.zeros(most, np.int64)

    def note(self, at_s: float, window_s: float) -> None:
        """Count a window for every ask that is older than the reclaim time."""
        asked = self._asked()
        self.asked_since = {ask: self.asked_since.get(ask, at_s) for ask in asked}
        works = self.machine.ground.tables.works
        broken = {
            (int(works[row]["class_"]), pool)
            for (row, pool), since_s in self.asked_since.items()
            if at_s - since_s > self.machine.fleet.reclaim_s
        }
        self.broken_s += window_s * len(broken)
        for class_, _ in broken:
            self.by_class[class_] += window_s

    def _asked(self) -> list[tuple[int, int]]:
        """(work, pool) of the waiting works that fit, in order, into what their class is
        guaranteed in the pool and does not hold."""
        ground = self.machine.ground
        tables = ground.tables
        held = self._held()
        spare = np.where(self.promised > 0, self.promised - held, 0)
        spare = np.minimum(spare, tables.pools["up"] - held)
        if not (spare > 0).any():
            return []
        count = owed(ground.columns, spare, OWED_AT_MOST, self._rows, self._pools)
        return list(zip(self._rows[:count].tolist(), self._pools[:count].tolist(), strict=True))

    def _held(self) -> Ints:
        """[class, pool] what classes hold, lent or their own; batch counts against nobody."""
        tables, services = self.machine.ground.tables, self.machine.services
        held = tables.tally[:, [k.GANG, k.LEASE], k.STARTING : k.DONE].sum(axis=(1, 2))
        for service, rosters in zip(services.services, services.rosters, strict=True):
            rows = rosters[ONLINE].rows
            pools = np.maximum(tables.works["pool"][rows], 0)
            held[service.class_] += np.bincount(
                pools, tables.works["gpus"][rows], held.shape[1]
            ).astype(np.int64)
        return np.asarray(held)

"""What a run leaves behind, window by window; everything reported is computed from it."""

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import Fact, WindowClosed, Wish
from headgate.core.tables import Floats, Ints
from headgate.kernels import layout as k
from headgate.sim.traffic import Traffic

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
        self.guarantees.note(fact.at_s, fact.window_s)
        self.count += 1

    def _note_waiting(self, row: int) -> None:
        tables = self.machine.ground.tables
        lanes = tables.lanes[: tables.meta[k.N_LANES]]
        smallest = np.where(tables.shapes[:, :, k.GPUS] > 0, tables.shapes[:, :, k.GPUS], 1 << 30)
        classes = self.waiting.shape[1]
        online = lanes["claim"] < classes  # filling work waits for nothing that is its own
        gpus = smallest.min(axis=1)[lanes["shape"]] * lanes["count"] * online
        self.waiting[row] = np.bincount(lanes["class_"], lanes["count"] * online, classes)
        self.waiting_gpus[row] = np.bincount(lanes["class_"], gpus, classes)


class Guarantees:
    """Seconds for which a class waited for what it is guaranteed beyond its reclaim time."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        fleet = machine.fleet
        self.promised: Ints = np.array(
            fleet.guarantees or [[0] * len(fleet.pools)] * len(fleet.classes), np.int64
        )
        self.asked_since: dict[tuple[int, int], float] = {}
        self.broken_s = 0.0
        self.by_class: Floats = np.zeros(len(fleet.classes))

    def note(self, at_s: float, window_s: float) -> None:
        """Count a window for every class and pool whose ask is older than its reclaim time."""
        asked = self._asked()
        for place in list(self.asked_since):
            if place not in asked:
                del self.asked_since[place]
        for place in asked:
            since_s = self.asked_since.setdefault(place, at_s)
            if at_s - since_s > self.machine.fleet.reclaim_s:
                self.broken_s += window_s
                self.by_class[place[0]] += window_s

    def _asked(self) -> set[tuple[int, int]]:
        """(class, pool) with waiting work that fits into what the class is guaranteed there."""
        tables = self.machine.ground.tables
        held = tables.claims[:-1, :, k.HELD]
        spare = np.where(self.promised > 0, self.promised - held, 0)
        spare = np.minimum(spare, tables.pools["up"] - held)
        asked = set()
        for lane in tables.lanes[: tables.meta[k.N_LANES]]:
            if lane["count"] == 0 or lane["claim"] >= len(held):
                continue
            wanted = tables.shapes[lane["shape"], :, k.GPUS]
            owed = (wanted > 0) & (wanted <= spare[lane["class_"]])
            for p in np.flatnonzero(owed).tolist():
                asked.add((int(lane["class_"]), p))
        return asked

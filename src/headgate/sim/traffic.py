"""Windows of request traffic: demand against what the machine's replicas can serve."""

from dataclasses import dataclass

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import ServiceWindow, WindowClosed
from headgate.core.tables import Floats, Ints
from headgate.kernels.fluid import fluid_windows


@dataclass(frozen=True, slots=True)
class Objectives:
    """What each service promises, by service."""

    wait_s: Floats  # a request is in its objective when it waits no longer than this
    patience_s: Floats  # it is refused when it would wait longer than this


class Traffic:
    """Demand of every service by window, in output-equivalent tokens, served as a fluid."""

    def __init__(self, window_s: float, arrived: Floats, objectives: Objectives) -> None:
        self.window_s = window_s
        self.arrived = arrived  # [window, service]
        self.objectives = objectives
        self.window = 0
        services = arrived.shape[1]
        self.queued = np.zeros(services)
        self.out = np.zeros((services, 4))
        self.speeds: Floats | None = None
        # [service, mode, pool] replicas that served the last window
        self.ready: Ints = np.zeros((0, 2, 0), np.int64)

    def before(self, at_s: float) -> WindowClosed:
        """The window before the story: as busy as its first, and served in full."""
        first = self.arrived[0].tolist()
        return WindowClosed(
            at_s,
            self.window_s,
            tuple(ServiceWindow(tokens, tokens, tokens, 0.0, 0.0, 0.0) for tokens in first),
        )

    def close(self, at_s: float, machine: Machine) -> WindowClosed:
        """Serve one window with the replicas that run at its end."""
        if self.speeds is None:
            shapes = machine.fleet.shapes
            self.speeds = np.array([shapes[s.shape].speed for s in machine.fleet.services])
        ready = self.ready = machine.ground.tables.ready.copy()
        online = (ready[:, 0] * self.speeds).sum(axis=1)
        batch = (ready[:, 1] * self.speeds).sum(axis=1) * self.window_s
        arrived = self.arrived[min(self.window, len(self.arrived) - 1)]
        self.window += 1
        self._serve(arrived, online, at_s, machine)
        if machine.ground.rules.fills_replicas:
            batch = batch + np.maximum(0.0, online * self.window_s - self.out[:, 0])
        ordered = np.array([orders.total for orders in machine.services.orders])
        batch = np.minimum(batch, ordered)
        self.queued = self.out[:, 2].copy()
        columns = zip(arrived.tolist(), self.out.tolist(), batch.tolist(), strict=True)
        return WindowClosed(
            at_s,
            self.window_s,
            tuple(
                ServiceWindow(came, served, good, left, refused, filled)
                for came, (served, good, left, refused), filled in columns
            ),
        )

    def _serve(self, arrived: Floats, online: Floats, at_s: float, machine: Machine) -> None:
        """Fill `out`, [service, (served, in objective, queued, refused)], for one window."""
        patience_s = self.objectives.patience_s
        if machine.ground.rules.sheds:
            patience_s = np.minimum(patience_s, self.objectives.wait_s)
        fluid_windows(
            arrived, self.queued, online, self.window_s,
            self.objectives.wait_s, patience_s, self.out,
        )  # fmt: skip

"""The fleet's ledger: every GPU-second is some tenant's, or idle with a cause."""

from dataclasses import dataclass

import numpy as np

from headgate.core.tables import Floats, Tables

# Where a held GPU-second may have gone; the columns of `Ledger.tenants`.
STARTING, RUNNING, LOST, STOPPING = range(4)
SPENT = ("starting", "running", "lost", "stopping")


@dataclass(frozen=True, slots=True)
class Ledger:
    """GPU-seconds since the start. Tenants and idle time add up to the fleet's, to rounding."""

    tenants: Floats  # [tenant, SPENT]
    free: Floats  # [pool], nobody wanted or could use it
    reserved: Floats  # [pool], kept empty for a gang
    down: Floats  # [pool], on failed nodes, once their holders have let go
    fleet: Floats  # [pool], all of it

    @property
    def residual(self) -> float:
        """What does not add up, as a share of the fleet's GPU-seconds; rounding only."""
        total = float(self.fleet.sum())
        parts = float(self.tenants.sum() + self.free.sum() + self.reserved.sum() + self.down.sum())
        return abs(total - parts) / total if total else 0.0


def close(tables: Tables, rows: int, tenants: int, fleet_gpu_s: Floats, now_s: float) -> Ledger:
    """The ledger at `now_s`.

    `fleet_gpu_s` comes from outside (when nodes went live), so that the sum is a check and not a
    definition. Works that hold accelerators now are counted up to now; the tables do not change.
    """
    works, pools = tables.works[:rows], tables.pools
    held_s = (now_s - works["since_s"]) * works["gpus"]
    spent = np.zeros((tenants, len(SPENT)))
    for column, (field, state) in enumerate(
        (("starting_gpu_s", 1), ("running_gpu_s", 2), (None, 0), ("stopping_gpu_s", 3))
    ):
        if field is not None:
            seconds = works[field] + np.where(works["state"] == state, held_s, 0.0)
            spent[:, column] = np.bincount(works["tenant"], seconds, tenants)
    lost = np.bincount(works["tenant"], works["lost_gpu_s"], tenants)
    spent[:, LOST] = lost
    spent[:, RUNNING] -= lost
    lapse_s = now_s - pools["at_s"]
    idle_down = pools["up"] + pools["down"] - pools["free"] - pools["held"]
    return Ledger(
        tenants=spent,
        free=pools["free_gpu_s"] + (pools["free"] - pools["reserved_free"]) * lapse_s,
        reserved=pools["reserved_gpu_s"] + pools["reserved_free"] * lapse_s,
        down=pools["down_gpu_s"] + idle_down * lapse_s,
        fleet=fleet_gpu_s,
    )


def share(ledger: Ledger, tenant: int, users: Floats) -> Floats:
    """A service's GPU-seconds, divided among its users by tokens; [user, SPENT].

    `users` holds tokens; when nobody used the service the owner keeps them all.
    """
    total = float(users.sum())
    if total <= 0.0:
        return np.zeros((len(users), len(SPENT)))
    return np.asarray(users[:, None] / total * ledger.tenants[tenant][None, :])

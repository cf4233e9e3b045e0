"""A plan put to work: what of a quota nobody fills is lent to those beyond it."""

import numpy as np
from tests.stories import shape

from headgate.control.machine import Machine
from headgate.core.facts import NodeJoined, WindowClosed, WorkFinished, WorkStarted, WorkSubmitted
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.kernels import layout as k
from headgate.policy.headgate import Headgate


def test_a_gang_too_large_for_what_its_use_has_left_does_not_wait_beside_idle_nodes() -> None:
    fleet = Fleet(
        pools=(Pool(name="pool", generation="any", nodes=4),),
        classes=("training", "external"),
        tenants=(Tenant(name="t", class_=0), Tenant(name="e", class_=1)),
        shapes=(shape("8", [8]), shape("24", [24])),
    )
    machine = Machine(fleet, Headgate(fleet.classes), full_laws=True)
    for node in range(4):
        machine.handle(NodeJoined(0.0, node))

    def submit(at_s: float, name: str, tenant: int, size: int, bid: float) -> int:
        machine.handle(
            WorkSubmitted(at_s, name, "gang", tenant, size, bid=bid, checkpoint_s=3600.0)
        )
        return machine.ground.rows - 1

    dear = [submit(0.0, f"dear {i}", 1, 0, 2.0) for i in range(2)]
    for row in dear:
        machine.handle(WorkStarted(0.0, row))
    large = submit(1.0, "large", 0, 1, 1.0)
    machine.handle(WindowClosed(240.0, 60.0, ()))
    works = machine.ground.tables.works
    assert works["state"][large] == k.WAITING
    machine.handle(WorkFinished(241.0, dear[0]))
    machine.handle(WindowClosed(540.0, 60.0, ()))
    assert works["state"][large] in (k.STARTING, k.RUNNING)
    assert int(np.asarray(machine.ground.tables.pools["free"])[0]) == 0

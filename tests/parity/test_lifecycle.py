"""The lifecycle's table and the compiled round, in every cell."""

import pytest
from tests.stories import shape

from headgate.control.machine import Machine
from headgate.core.errors import LawBroken
from headgate.core.facts import (
    NodeFailed,
    NodeJoined,
    WorkCancelled,
    WorkFinished,
    WorkStarted,
    WorkStopped,
    WorkSubmitted,
)
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.core.lifecycle import AFTER, ENDED
from headgate.core.rules import STATES
from headgate.kernels import layout as k
from headgate.policy.baselines import Fifo

CODES = {
    "started": k.WORK_STARTED,
    "finished": k.WORK_FINISHED,
    "stopped": k.WORK_STOPPED,
    "cancelled": k.WORK_CANCELLED,
    "refused": k.WORK_REFUSED,
}


def work_in(state: int, *, leaving: bool = False) -> Machine:
    """A machine whose work 0 is in the state, on a node that is lost, so that none starts anew."""
    machine = Machine(
        Fleet(
            pools=(Pool(name="pool", generation="any", nodes=1),),
            classes=("training",),
            tenants=(Tenant(name="tenant", class_=0),),
            shapes=(shape("four", [4]),),
        ),
        Fifo(),
        full_laws=True,
    )
    if state not in (k.WAITING, k.REFUSED):
        machine.handle(NodeJoined(0.0, 0))
    machine.handle(WorkSubmitted(0.0, "work", "gang", 0, 0))
    if state in (k.RUNNING, k.DONE):
        machine.handle(WorkStarted(1.0, 0))
    if state == k.DONE:
        machine.handle(WorkFinished(2.0, 0))
    if state in (k.STOPPING, k.CANCELLED):
        machine.handle(WorkCancelled(2.0, 0))
        machine.ground.tables.works["leaving"][0] = leaving or state == k.CANCELLED
    if state == k.CANCELLED:
        machine.handle(WorkStopped(3.0, 0))
    if state == k.REFUSED:
        machine.ground.refuse(0, k.PATIENCE_OVER)
    if state not in (k.WAITING, k.REFUSED):
        machine.handle(NodeFailed(4.0, 0))
    assert machine.ground.tables.works["state"][0] == state
    return machine


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
@pytest.mark.parametrize("state", range(7), ids=STATES)
def test_the_round_moves_works_as_the_table_says(state: int, code: int) -> None:
    machine = work_in(state)
    after = AFTER.get((state, code))
    if after is None:
        with pytest.raises(LawBroken, match="lifecycle"):
            machine.ground.turn(code, 0, k.OWNER_CANCELLED)
        return
    machine.ground.turn(code, 0, k.OWNER_CANCELLED)
    assert machine.ground.tables.works["state"][0] == after
    machine.check_laws(looked=False)


@pytest.mark.parametrize("state", [k.STARTING, k.RUNNING])
def test_a_work_that_was_cancelled_while_it_held_ends_when_it_stops(state: int) -> None:
    machine = work_in(state)
    machine.handle(WorkCancelled(5.0, 0))
    machine.handle(WorkStopped(6.0, 0))
    assert machine.ground.tables.works["state"][0] == k.CANCELLED


def test_nothing_leads_out_of_an_ended_state() -> None:
    assert not [cell for cell in AFTER if cell[0] in ENDED]


def test_a_node_fails_only_when_it_is_up_and_joins_only_when_it_is_not() -> None:
    machine = work_in(k.RUNNING)
    with pytest.raises(LawBroken, match="node 0"):
        machine.handle(NodeFailed(5.0, 0))
    machine = work_in(k.WAITING)
    machine.handle(NodeJoined(5.0, 0))
    with pytest.raises(LawBroken, match="node 0"):
        machine.handle(NodeJoined(6.0, 0))

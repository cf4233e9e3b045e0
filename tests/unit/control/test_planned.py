"""Racks to come and nodes to go: the plan knows them, nature carries them out."""

import msgspec
import numpy as np
import pytest
from tests.unit.control.test_explain import fleet_of, state, submit

from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.facts import (
    Fact,
    NodeFailed,
    NodeJoined,
    WindowClosed,
    WorkStarted,
    WorkSubmitted,
)
from headgate.core.fleet import PlannedChange
from headgate.kernels import layout as k
from headgate.policy.headgate import Headgate
from headgate.sim.driver import run
from headgate.sim.nature import Failures, Nature, Truth
from headgate.sim.scenario import Drain, OrderPart, PoolPart, Rack, Scenario, WorthPart
from headgate.sim.story import _gone_s, _live_s, _planned


def prices(*planned: PlannedChange) -> list[float]:
    """[bucket] of a node of eight that works of sixteen want, with changes to come."""
    fleet = msgspec.structs.replace(fleet_of(4), planned=planned)
    machine = Machine(fleet, Headgate(fleet.classes))
    for node in range(2):
        machine.handle(NodeJoined(0.0, node))
    for bid in (4.0, 1.0):
        submit(machine, 0.0, 2, 16, bid=bid / 3600)
    machine.handle(WindowClosed(60.0, 60.0, ()))
    assert machine.prices is not None
    assert machine.prices.plan is not None
    return machine.prices.plan.price[0].tolist()


def test_a_rack_on_its_way_lowers_the_price_from_its_hour_on() -> None:
    plain = prices()
    coming = prices(PlannedChange(at_s=60.0 + 4 * 3600.0, pool=0, nodes=2))
    assert plain == pytest.approx([1.0] * len(plain), rel=0.05)
    # Buckets end after 0.25, 0.5, 1, 2, 4, 8, 12, 18 and 24 hours.
    assert coming[:5] == pytest.approx(plain[:5])
    assert max(coming[5:]) < 0.1


def test_nodes_that_will_drain_raise_the_price_from_their_hour_on() -> None:
    draining = prices(PlannedChange(at_s=60.0 + 4 * 3600.0, pool=0, nodes=-1))
    assert draining[:5] == pytest.approx([1.0] * 5, rel=0.05)
    assert draining[5:] == pytest.approx([4.0] * 4, rel=0.05)


def test_who_runs_on_a_draining_node_loses_nothing_and_the_node_stays_away() -> None:
    fleet = fleet_of(2)
    machine = Machine(fleet, Headgate(fleet.classes), full_laws=True)
    truth = Truth()
    ref = truth.add(5000.0, 600.0, fixed_term=False)
    facts = [WorkSubmitted(0.0, "gang", "gang", 0, 7, bid=1.0, checkpoint_s=600.0, ref=ref)]
    told: list[Fact] = []
    nature = Nature(
        fleet, iter(facts), truth, until_s=20_000.0, gone_s=np.array([1000.0, np.inf]),
        failures=Failures(node_mtbf_s=3000.0, repair_s=100.0), seed=4,
    )  # fmt: skip
    run(machine, nature, (lambda fact, wishes: told.append(fact),))
    gone = [fact.at_s for fact in told if isinstance(fact, NodeFailed) and fact.node == 0]
    back = [fact.at_s for fact in told if isinstance(fact, NodeJoined) and fact.node == 0]
    assert gone[-1] == 1000.0
    assert max(back) < 1000.0
    assert any(isinstance(fact, NodeFailed) and fact.node == 1 for fact in told), "others fail"
    assert state(machine, 0) == k.DONE


def test_a_gang_on_a_drained_node_goes_on_elsewhere_from_where_it_was() -> None:
    fleet = fleet_of(2)
    machine = Machine(fleet, Headgate(fleet.classes), full_laws=True)
    truth = Truth()
    ref = truth.add(5000.0, 600.0, fixed_term=False)
    facts = [WorkSubmitted(0.0, "gang", "gang", 0, 7, bid=1.0, checkpoint_s=600.0, ref=ref)]
    started: list[float] = []
    nature = Nature(fleet, iter(facts), truth, until_s=20_000.0, gone_s=np.array([1000.0, np.inf]))
    run(
        machine, nature,
        (lambda fact, _: started.append(fact.at_s) if isinstance(fact, WorkStarted) else None,),
    )  # fmt: skip
    works = machine.ground.tables.works
    assert started == [0.0, 1030.0]
    assert works[0]["lost_gpu_s"] == 0.0
    assert works[0]["running_gpu_s"] == pytest.approx(8 * 5000.0)


def test_a_scenario_says_when_racks_come_and_nodes_go() -> None:
    pool = PoolPart(
        name="p", generation="any", nodes=3,
        racks=(Rack(at_h=2, nodes=1),), drains=(Drain(at_h=1, nodes=2),),
    )  # fmt: skip
    scenario = msgspec.structs.replace(_scenario(), pools=(pool,))
    assert _live_s(scenario).tolist() == [0.0, 0.0, 0.0, 7200.0]
    assert _gone_s(scenario).tolist() == [3600.0, 3600.0, np.inf, np.inf]
    assert [(c.at_s, c.pool, c.nodes) for c in _planned(scenario)] == [(3600, 0, -2), (7200, 0, 1)]


def test_more_drained_than_there_is_is_refused_in_one_sentence() -> None:
    pool = PoolPart(name="p", generation="any", nodes=3, drains=(Drain(at_h=1, nodes=4),))
    with pytest.raises(InputError, match="takes 4 nodes away, but pool p has 3"):
        msgspec.structs.replace(_scenario(), pools=(pool,)).__post_init__()


def _scenario() -> Scenario:
    worth = WorthPart(
        foundation_usd_per_gpu_h=1, gang_usd_per_gpu_h=1, lease_usd_per_gpu_h={},
        application_usd_per_gpu_h=1, source="assumption",
    )  # fmt: skip
    return Scenario(
        name="s", about="A pool.", days=1, stop_s=30, stop_source="assumption",
        pools=(PoolPart(name="p", generation="any", nodes=3),), order=OrderPart(), worth=worth,
    )  # fmt: skip

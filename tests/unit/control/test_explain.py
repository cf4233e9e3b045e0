"""Decision records: the rule, what binds, the smallest change, and a time."""

import numpy as np
import pytest
from tests.stories import CLASSES, POLICIES, Player, Thrown, shape, small_fleet
from tests.unit.control.pools import Small, rules

from headgate.control.explain import explain, find
from headgate.control.machine import Machine
from headgate.control.waits import AT_LEAST, Waits, kaplan_meier
from headgate.control.whatif import (
    Change,
    admits,
    changes,
    copy_of,
    smallest_bid,
    smallest_nodes,
    with_bid,
    with_nodes,
)
from headgate.core.errors import InputError
from headgate.core.facts import (
    NodeJoined,
    RefuseWork,
    TenantChanged,
    WindowClosed,
    WorkFinished,
    WorkStarted,
    WorkSubmitted,
)
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.kernels import layout as k
from headgate.policy.baselines import Priority
from headgate.policy.headgate import Headgate, strict


def fleet_of(nodes: int) -> Fleet:
    """One pool; two external tenants that are alike, one internal, one of training."""
    return Fleet(
        pools=(Pool(name="pool", generation="any", nodes=nodes),),
        classes=CLASSES,
        tenants=(
            Tenant(name="labs", class_=0),
            Tenant(name="tools", class_=2),
            Tenant(name="early", class_=3),
            Tenant(name="late", class_=3),
        ),
        shapes=tuple(shape(f"{gpus}", [gpus]) for gpus in range(1, 8 * nodes + 1)),
    )


def opened(policy, nodes: int = 1) -> Machine:
    machine = Machine(fleet_of(nodes), policy, full_laws=True)
    for node in range(nodes):
        machine.handle(NodeJoined(0.0, node))
    return machine


def submit(machine: Machine, at_s: float, tenant: int, gpus: int, **told) -> int:
    name = f"work-{machine.ground.rows}"
    machine.handle(WorkSubmitted(at_s, name, told.pop("kind", "lease"), tenant, gpus - 1, **told))
    return machine.ground.rows - 1


def state(machine: Machine, row: int) -> int:
    return int(machine.ground.tables.works[row]["state"])


@pytest.mark.parametrize("policy", [Headgate(CLASSES), strict(CLASSES, "together")])
def test_equal_tenants_swap_when_one_takes_up_a_family_and_the_record_says_so(policy) -> None:
    machine = opened(policy)
    holder = submit(machine, 0.0, 0, 8, bid=9.0, firm=True)
    machine.handle(WorkStarted(1.0, holder))
    early, late = (submit(machine, 2.0 + t, t, 8, bid=1.0) for t in (2, 3))
    assert explain(machine, late).rule == "behind-in-line"
    assert explain(machine, early).rule != "standing"
    machine.handle(TenantChanged(10.0, 3, ("storage",)))
    told = explain(machine, early)
    assert told.rule == "standing"
    assert "product families" in told.meaning
    assert explain(machine, late).rule not in ("standing", "behind-in-line")
    machine.handle(WorkFinished(20.0, holder))
    machine.handle(WindowClosed(60.0, 60.0, ()))
    assert (state(machine, late), state(machine, early)) == (k.STARTING, k.WAITING)


@pytest.mark.parametrize(("preset", "first"), [("internal_first", 1), ("external_first", 2)])
def test_strict_keeps_the_preset_between_internal_and_external(preset, first) -> None:
    machine = opened(strict(CLASSES, preset))
    # The one that the preset puts last is there already and bids more.
    last = submit(machine, 1.0, 3 - first, 8, bid=5.0)
    machine.handle(WorkStarted(2.0, last))
    wanted = submit(machine, 3.0, first, 8, bid=1.0)
    machine.handle(WindowClosed(300.0, 60.0, ()))
    assert state(machine, last) == k.STOPPING
    assert explain(machine, wanted).rule == "waits-for-reclaim"


def test_a_change_that_is_stated_admits_and_one_step_less_does_not() -> None:
    machine = opened(Headgate(CLASSES), nodes=3)
    for row in [submit(machine, 0.0, 0, 8, bid=4.0, kind="gang") for _ in range(3)]:
        machine.handle(WorkStarted(1.0, row))
    wanted = submit(machine, 2.0, 1, 16, bid=1.0)
    machine.handle(WindowClosed(300.0, 60.0, ()))
    assert state(machine, wanted) == k.WAITING
    nodes, bid = smallest_nodes(machine, wanted, 0), smallest_bid(machine, wanted)
    assert nodes == Change(pool=0, nodes=2)
    assert not admits(with_nodes(machine, 0, 1)[0], wanted)
    assert bid is not None
    assert 4.0 <= bid.bid <= 4.2
    assert admits(with_bid(machine, wanted, bid.bid), wanted)
    assert not admits(with_bid(machine, wanted, bid.bid / 1.05), wanted)
    told = explain(machine, wanted)
    assert told.binding == "the price: it bids no more than that in any pool"
    assert told.change == (
        f"it is admitted with 2 more nodes in pool, or with a bid of {bid.bid * 3600:.3g} "
        f"an accelerator-hour at best speed instead of 3.6e+03."
    )
    (view,) = told.pools
    assert view.bid_per_h == pytest.approx(3600.0)
    assert view.price_per_h is not None
    assert view.price_per_h == pytest.approx(3600.0, rel=5e-3)
    assert state(machine, wanted) == k.WAITING, "nothing was changed by asking"


def test_what_will_be_admitted_anyway_needs_no_change() -> None:
    machine = opened(Headgate(CLASSES), nodes=2)
    holder = submit(machine, 0.0, 3, 16, bid=1.0)
    machine.handle(WorkStarted(1.0, holder))
    machine.handle(WindowClosed(60.0, 60.0, ()))
    wanted = submit(machine, 61.0, 0, 16, bid=5.0, kind="gang")
    assert explain(machine, wanted).rule != "waits-for-reclaim"
    assert changes(machine, wanted, (0,)) == (Change(),)
    assert explain(machine, wanted).change == "nothing: the next plan admits it."
    machine.handle(WindowClosed(400.0, 60.0, ()))
    assert explain(machine, wanted).change == (
        "nothing: it starts when those who must stop have answered."
    )


def test_a_cap_that_binds_is_named_with_how_much_higher_it_must_be() -> None:
    caps = np.array([[8], [8], [8], [8]])
    pool = Small(3, rules(1, caps=caps))
    pool.run("a", 8)
    wanted = pool.submit("a", 8)
    told = explain(pool.machine, wanted)
    assert told.binding == "a cap of its class"
    assert told.change == "a cap of its class in pool that is 8 higher, and room there."


@pytest.mark.parametrize("policy", ["headgate", "priority", "capped", "guarantees alone"])
def test_a_copy_with_more_nodes_is_whole_and_the_first_knows_nothing_of_it(policy) -> None:
    machine = Machine(small_fleet(), POLICIES[policy](), full_laws=True)
    player = Player(machine, Thrown(11))
    player.open()
    player.play(120)
    player.close_window()  # whose patience is over is refused then
    before = machine.ground.tables.works.copy()
    for pool in range(2):
        grown, _ = with_nodes(machine, pool, 3)
        grown.full_laws = True
        grown.plan_now()
        grown.check_laws(looked=True)
        up = grown.ground.tables.pools["up"] - machine.ground.tables.pools["up"]
        assert up.tolist() == [12 * (pool == 0), 24 * (pool == 1)]
    copy_of(machine).plan_now()
    assert np.array_equal(before, machine.ground.tables.works)


def test_who_is_refused_is_told_when_the_price_should_be_at_his_bid() -> None:
    machine = opened(Headgate(CLASSES))
    holder = submit(machine, 0.0, 0, 8, bid=4.0)
    machine.handle(WorkStarted(1.0, holder))
    submit(machine, 2.0, 1, 8, bid=1.0, patience_s=500.0)
    submit(machine, 2.0, 2, 8, bid=4.0, patience_s=500.0)
    machine.handle(WindowClosed(300.0, 60.0, ()))
    wishes = machine.handle(WindowClosed(540.0, 60.0, ()))
    assert [type(wish) for wish in wishes] == [RefuseWork, RefuseWork]
    # One pool, one demand all day: a bid under the price stays under it, one at it is not.
    assert [wish.back_s for wish in wishes] == [None, 0.0]


def test_a_work_nobody_knows_is_told_with_names_like_it() -> None:
    machine = opened(Priority(CLASSES))
    submit(machine, 0.0, 0, 8)
    with pytest.raises(InputError, match="known are for example work-0"):
        find(machine, "work-00")


def test_an_interval_holds_nine_of_ten_waits() -> None:
    """A queue of one node whose service times are random: what is said of waits comes true."""
    dice = np.random.default_rng(5)
    machine = Machine(fleet_of(1), Priority(CLASSES))
    waits = Waits(machine)
    machine.handle(NodeJoined(0.0, 0))
    at_s, free_s, running = 0.0, 0.0, None
    next_s = 0.0
    while waits.score.judged < 800:
        at_s += 60.0
        while next_s <= at_s:
            submit(machine, at_s, 2, 8)
            next_s += float(dice.exponential(700.0))
        if running is not None and at_s >= free_s:
            machine.handle(WorkFinished(at_s, running))
            running = None
        starting = np.flatnonzero(machine.ground.tables.works["state"] == k.STARTING)
        if running is None and len(starting):
            running = int(starting[0])
            machine.handle(WorkStarted(at_s, running))
            free_s = at_s + float(dice.exponential(600.0))
        fact = WindowClosed(at_s, 60.0, ())
        waits(fact, machine.handle(fact))
    assert 0.87 <= waits.score.coverage <= 0.93
    assert waits.score.below > 0
    assert waits.score.above > 0


def test_too_few_like_it_give_no_interval() -> None:
    machine = opened(Priority(CLASSES))
    waits = Waits(machine)
    submit(machine, 0.0, 2, 8)
    wanted = submit(machine, 1.0, 2, 8)
    fact = WindowClosed(60.0, 60.0, ())
    waits(fact, machine.handle(fact))
    assert AT_LEAST > 2
    assert waits.estimate(wanted) is None


def test_those_who_still_wait_count_with_the_time_they_have_waited() -> None:
    begun, nobody = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(0)
    assert kaplan_meier(begun, nobody, (0.25, 0.5, 1.0)) == (1.0, 2.0, float("inf"))
    assert kaplan_meier(begun, nobody, (0.0, 0.75)) == (0.0, 3.0)
    # Four more that have waited longer than any: half of all have begun by 4.
    assert kaplan_meier(begun, np.full(4, 9.0), (0.25, 0.5, 0.6)) == (2.0, 4.0, float("inf"))
    # By hand, with one that waited 2.5: 1/5, then 1/4 of 4/5, then 1/2 of 3/5.
    assert kaplan_meier(np.array([1.0, 2.0, 3.0]), np.array([2.5, 9.0]), (0.69,)) == (3.0,)

"""Gangs bound to a topology domain, in the running simulator: they land within the stated wait."""

from dataclasses import replace

import numpy as np
import pytest
from tests.stories import shape
from tests.unit.control.pools import Plain, rules

from headgate.control.machine import Machine
from headgate.core.facts import StartWork, WindowClosed, WorkSubmitted
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.policy.rules import Rules
from headgate.sim.driver import run
from headgate.sim.nature import Nature, Truth

KEPT_AFTER_S = 1800.0  # a work that waited so long may have nodes kept for it
LONGEST_S = 3600.0 + 30.0  # of what else runs, with its start
WINDOW_S = 60.0
SPAN_S = 43_200.0
SUBMITTED_S = 7200.0
BOUND = 3  # gangs of a whole domain, all submitted at once


def wait_of_bound_gangs(seed: int, given: Rules) -> list[float]:
    """Small gangs keep twelve nodes busy; seconds that each bound gang, first in line, waits."""
    fleet = Fleet(
        pools=(Pool(name="pool", generation="any", nodes=12, domain_nodes=4),),
        classes=("a", "b", "c"),
        tenants=(Tenant(name="t", class_=0), Tenant(name="first", class_=0, families=("f",))),
        shapes=(*(shape(f"{gpus}", [gpus]) for gpus in (1, 2, 4, 8, 12)),
                shape("domain", [32], within_domain=True)),
    )  # fmt: skip
    dice = np.random.default_rng(seed)
    truth, facts, at_s = Truth(), [], 0.0
    while at_s < SPAN_S:
        ref = truth.add(float(dice.uniform(600.0, LONGEST_S - 30.0)), 0.0, fixed_term=False)
        facts.append(WorkSubmitted(at_s, f"small-{ref}", "gang", 0, int(dice.integers(5)), ref=ref))
        at_s += float(dice.exponential(90.0))
    for i in range(BOUND):
        ref = truth.add(LONGEST_S - 30.0, 0.0, fixed_term=False)
        facts.append(WorkSubmitted(SUBMITTED_S, f"bound-{i}", "gang", 1, 5, ref=ref))
    facts.sort(key=lambda fact: fact.at_s)
    machine = Machine(fleet, Plain(given), {"f": 1.0})
    nature = Nature(fleet, iter(facts), truth, until_s=SPAN_S, window_s=WINDOW_S)
    waits: list[float] = []

    def watch(fact, wishes) -> None:
        if isinstance(fact, WindowClosed):
            machine.check_laws(looked=True)
        for wish in wishes:
            if isinstance(wish, StartWork) and machine.name(wish.work).startswith("bound"):
                waits.append(fact.at_s - SUBMITTED_S)

    run(machine, nature, (watch,))
    assert machine.ground.tables.pools["free_gpu_s"][0] < 0.2 * 96 * 86_400, "the pool is busy"
    return waits


@pytest.mark.parametrize("seed", range(3))
def test_a_bound_gang_lands_within_the_stated_wait(seed: int) -> None:
    waits = wait_of_bound_gangs(seed, rules(1, reserve_after_s=KEPT_AFTER_S))
    assert len(waits) == BOUND
    for count, wait_s in enumerate(sorted(waits), start=1):
        # Those before it in line, and one that may have had nodes kept already.
        assert wait_s <= KEPT_AFTER_S + WINDOW_S + (count + 1) * LONGEST_S


def test_without_kept_nodes_the_same_gangs_starve() -> None:
    given = replace(rules(1), reserve_after_s=-1.0)
    assert wait_of_bound_gangs(0, given) == []

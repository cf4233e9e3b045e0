"""A second driver, fed from a queue by another thread as the live one is: the same wishes."""

import functools
import queue
import threading

import msgspec
import numpy as np
import pytest
from tests.stories import POLICIES, Thrown, small_fleet

from headgate.control.machine import Machine
from headgate.core.facts import Fact, Wish, WorkSubmitted
from headgate.sim.driver import run
from headgate.sim.nature import Failures, Nature, Truth
from headgate.sim.traffic import Objectives, Traffic

HOUR_S = 3600.0


@functools.cache
def simulated(policy: str, run_number: int = 0) -> list[tuple[Fact, list[Wish]]]:
    """Six hours of gangs, leases, traffic and node failures, with every fact and its wishes."""
    fleet, dice, truth, facts = small_fleet(), Thrown(5), Truth(), []
    for n in range(70):
        ref = truth.add(dice.one_of((60.0, 900.0, 7200.0)), 600.0, fixed_term=n % 3 == 0)
        facts.append(
            WorkSubmitted(
                300.0 * n, f"work-{n}", "lease" if n % 3 == 0 else "gang", dice.one_of(range(6)),
                dice.one_of(range(7)), bid=1.0, checkpoint_s=600.0, ref=ref,
            )
        )  # fmt: skip
    arrived = np.abs(np.sin(np.arange(360) / 100))[:, None] * np.array([[40_000.0, 15_000.0]])
    traffic = Traffic(60.0, arrived, Objectives(np.array([2.0, 2.0]), np.array([30.0, 30.0])))
    machine = Machine(fleet, POLICIES[policy]())
    nature = Nature(
        fleet, iter(facts), truth, until_s=6 * HOUR_S, seed=3, traffic=traffic,
        failures=Failures(20 * HOUR_S, HOUR_S),
    )  # fmt: skip
    told: list[tuple[Fact, list[Wish]]] = []
    run(machine, nature, (lambda fact, wishes: told.append((fact, wishes)),))
    return told


def driven_by_queue(machine: Machine, facts: list[Fact]) -> list[list[Wish]]:
    """What a live driver does: take facts as they come in, hand wishes on."""
    inbox: queue.Queue[Fact | None] = queue.Queue(maxsize=16)
    outbox: queue.Queue[list[Wish]] = queue.Queue()

    def world() -> None:
        for fact in facts:
            inbox.put(fact)
        inbox.put(None)

    thread = threading.Thread(target=world)
    thread.start()
    while (fact := inbox.get(timeout=30)) is not None:
        outbox.put(machine.handle(fact))
    thread.join(timeout=30)
    return [outbox.get_nowait() for _ in facts]


@pytest.mark.parametrize("policy", ["silos", "fifo", "priority", "headgate"])
def test_facts_from_a_queue_lead_to_the_wishes_of_the_simulation(policy: str) -> None:
    told = simulated(policy)
    facts = [fact for fact, _ in told]
    wishes = driven_by_queue(Machine(small_fleet(), POLICIES[policy]()), facts)
    assert sum(map(len, wishes)) > 20
    assert msgspec.json.encode(wishes) == msgspec.json.encode([w for _, w in told])


def test_facts_survive_the_log_and_lead_to_the_same_wishes() -> None:
    """Facts written as JSON and read back are the same facts."""
    told = simulated("headgate")
    coded = [msgspec.json.encode(fact) for fact, _ in told]
    facts = [msgspec.json.decode(line, type=Fact) for line in coded]
    machine = Machine(small_fleet(), POLICIES["headgate"]())
    assert [machine.handle(fact) for fact in facts] == [wishes for _, wishes in told]


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = simulated("priority"), simulated("priority", run_number=1)
    assert msgspec.json.encode(first) == msgspec.json.encode(second)

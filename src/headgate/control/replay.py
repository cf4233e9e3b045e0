"""Feed a fact log back through the machine and compare what it wishes with what it wished."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headgate.control.factlog import Entry
from headgate.control.machine import Machine
from headgate.core.facts import Fact, Wish

Watcher = Callable[[Fact, list[Wish]], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first fact whose wishes came out otherwise."""

    number: int
    fact: Fact
    logged: list[Wish]
    made: list[Wish]


@dataclass(frozen=True, slots=True)
class Replay:
    facts: int
    wishes: int
    until_s: float
    difference: Difference | None  # None: the log and the machine agree


def replay(
    machine: Machine,
    entries: Iterable[Entry],
    until_s: float | None = None,
    watcher: Watcher | None = None,
) -> Replay:
    """Play the log until its end, `until_s`, or the first difference; a watcher is told all."""
    facts = wishes = 0
    for entry in entries:
        if until_s is not None and entry.fact.at_s > until_s:
            break
        made = machine.handle(entry.fact)
        if made != entry.wishes:
            difference = Difference(facts, entry.fact, entry.wishes, made)
            return Replay(facts, wishes, machine.now_s, difference)
        if watcher is not None:
            watcher(entry.fact, made)
        facts += 1
        wishes += len(made)
    return Replay(facts, wishes, machine.now_s, None)

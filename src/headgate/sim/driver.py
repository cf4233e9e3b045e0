"""The simulation driver: facts come from nature, wishes go back to it.

The live driver differs only in where facts come from and where wishes go; everything between is
one program.
"""

from collections.abc import Callable

from headgate.control.machine import Machine
from headgate.core.facts import Fact, Wish
from headgate.sim.nature import Nature

Watcher = Callable[[Fact, list[Wish]], None]


def run(
    machine: Machine,
    nature: Nature,
    watchers: tuple[Watcher, ...] = (),
    stopped: Callable[[], bool] | None = None,
) -> int:
    """Play the story to its end, or until `stopped` says so; the number of facts."""
    count = 0
    while (fact := nature.next(machine)) is not None:
        wishes = machine.handle(fact)
        for wish in wishes:
            nature.obey(wish, machine)
        for watch in watchers:
            watch(fact, wishes)
        count += 1
        if stopped is not None and stopped():
            break
    return count

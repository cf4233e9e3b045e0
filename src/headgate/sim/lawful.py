"""Every law, checked now and then while a story is played."""

from headgate.control.machine import Machine
from headgate.core.facts import Fact, WindowClosed, Wish


class Lawful:
    """A watcher of the driver: checks every law when a window closes, once in `every_s`.

    While somebody is owed what he could have, every window is looked at until the debt is settled.
    A check costs about 1 ms, and 0.1 ms more for every thousand works that ever were.
    """

    def __init__(self, machine: Machine, every_s: float = 3600.0) -> None:
        self.machine = machine
        self.every_s = every_s
        self.next_s = 0.0
        self.checks = 0

    def __call__(self, fact: Fact, wishes: list[Wish]) -> None:
        if type(fact) is not WindowClosed:
            return
        if fact.at_s >= self.next_s or self.machine.laws.anybody_owed:
            self.next_s = fact.at_s + self.every_s
            self.checks += 1
            self.machine.check_laws(looked=True)

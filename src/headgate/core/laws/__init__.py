"""The laws: each is one function and one sentence, over the machine's tables as they stand.

The compiled round checks after every fact what costs nothing; these recompute every sum from the
works and accelerators themselves. Tests run them after every fact, simulations now and then. A law
returns nothing when it holds, else who breaks it; a debt returns the works that are owed now, which
breaks a law only when it lasts.
"""

from headgate.core.errors import LawBroken
from headgate.core.laws.books import (
    a_gang_bound_to_a_domain_lies_in_one,
    a_gang_is_whole,
    classes_add_up,
    gpu_seconds_add_up,
    lanes_hold_exactly_the_waiting,
    no_accelerator_is_held_twice,
    no_class_holds_more_than_it_may,
    nothing_vanishes,
    pools_add_up,
)
from headgate.core.laws.order import (
    a_guarantee_asked_for_is_met,
    no_lower_level_holds_what_a_higher_could_use,
    nobody_overtakes_in_a_lane,
    nodes_are_kept_for_claimants,
    patience_is_kept,
    who_fits_does_not_wait,
)
from headgate.core.laws.view import Debt, Law, View
from headgate.core.tables import Tables

ALWAYS: tuple[Law, ...] = (
    no_accelerator_is_held_twice,
    a_gang_is_whole,
    a_gang_bound_to_a_domain_lies_in_one,
    nothing_vanishes,
    lanes_hold_exactly_the_waiting,
    nobody_overtakes_in_a_lane,
    pools_add_up,
    classes_add_up,
    no_class_holds_more_than_it_may,
    nodes_are_kept_for_claimants,
    gpu_seconds_add_up,
    who_fits_does_not_wait,
)
DEBTS: tuple[Debt, ...] = (
    no_lower_level_holds_what_a_higher_could_use,
    a_guarantee_asked_for_is_met,
)


class Laws:
    """Checks every law, and remembers since when somebody is owed what he could have."""

    def __init__(self, reclaim_s: float) -> None:
        self.reclaim_s = reclaim_s
        self.owed_since_s: dict[tuple[str, int], float] = {}  # by law and work

    def check(self, tables: Tables, rows: int, now_s: float, *, looked: bool = False) -> None:
        """Raise LawBroken at the first law that does not hold.

        `rows` works are known. `looked` says that the round has just looked at every lane, as it
        does when a window closes; only then do the laws of who yields to whom bind.
        """
        view = View(tables, rows, now_s)
        for law in (*ALWAYS, patience_is_kept) if looked else ALWAYS:
            if who := law(view):
                self._broken(str(law.__doc__), view, who)
        if looked:
            self._note_debts(view)

    @property
    def anybody_owed(self) -> bool:
        """Whether the next window must be looked at too, to see debts settled in time."""
        return bool(self.owed_since_s)

    def _note_debts(self, view: View) -> None:
        owed = {(debt.__name__, row): debt for debt in DEBTS for row in debt(view).tolist()}
        for place in [place for place in self.owed_since_s if place not in owed]:
            del self.owed_since_s[place]
        for place, debt in owed.items():
            since_s = self.owed_since_s.setdefault(place, view.now_s)
            if view.now_s - since_s > self.reclaim_s:
                who = f"work {place[1]}, owed since {since_s} s"
                self._broken(str(debt.__doc__), view, who)

    def _broken(self, sentence: str, view: View, who: str) -> None:
        raise LawBroken(f"{sentence} Broken at {view.now_s} s: {who}; keep the log and replay it.")

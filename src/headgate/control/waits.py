"""How long a waiting work will go on waiting: what became of those like it, with an interval.

A waiting work is noted when it begins to wait and each time it has waited twice as long; when it
starts, the time it took from then is known. The interval for a work is taken from the latest notes
of works like it: same kind, class, place in the plan, position in line and age as far as there are
enough, else with less detail. Works that have
not started yet count with the time they have waited since (Kaplan and Meier 1958), so that a jam
shows before it is over.

How wide the interval must be is learned (adaptive conformal inference, Gibbs and Candes 2021): an
estimate that came out too short or too long moves the level by a little, so that in the long run
nine of ten are inside, whatever the works and the hours are like.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import Fact, WindowClosed, Wish
from headgate.core.tables import Ints
from headgate.kernels import layout as k

EVERY_S = 300.0
NOTED_AT_ONCE = 64
REMEMBERED = 192  # notes of works alike
AT_LEAST = 24  # of which so many must have begun, or an estimate would be a guess
MISSED_EITHER_SIDE = 0.05
LEARNED_FROM_ONE = 0.02
AGES_S = (300.0, 1200.0, 4800.0, 19_200.0, 76_800.0)

Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds from now until the work starts: nine of ten lie between `low` and `high`."""

    low_s: float
    middle_s: float
    high_s: float  # infinite: no upper end can be given
    alike: int  # works it is taken from
    missed_below: float  # levels used
    missed_above: float


@dataclass(slots=True, eq=False)
class Note:
    """A work that waited at some time, and what was said of it then."""

    row: int
    at_s: float
    starts: int
    key: Key
    estimate: Estimate | None
    waited_s: float = np.nan  # when known
    judged: bool = False  # the estimate has been found too short


@dataclass(slots=True)
class Level:
    """Shares of estimates that may miss, below and above, as learned."""

    below: float = MISSED_EITHER_SIDE
    above: float = MISSED_EITHER_SIDE

    def learn(self, rate: float, below: bool, above: bool) -> None:
        self.below += rate * (MISSED_EITHER_SIDE - below)
        self.above += rate * (MISSED_EITHER_SIDE - above)


@dataclass(slots=True)
class Score:
    """How often what was said came true."""

    inside: int = 0
    below: int = 0  # began before the interval
    above: int = 0

    @property
    def judged(self) -> int:
        return self.inside + self.below + self.above

    @property
    def coverage(self) -> float:
        return self.inside / self.judged if self.judged else float("nan")


@dataclass(slots=True, eq=False)
class Waits:
    """A watcher of the machine; ask `estimate` at any time."""

    machine: Machine
    rate: float = LEARNED_FROM_ONE
    next_s: float = 0.0
    open: list[Note] = field(default_factory=list)
    alike: dict[Key, deque[Note]] = field(default_factory=dict)
    levels: dict[Key, Level] = field(default_factory=dict)
    score: Score = field(default_factory=Score)
    noted: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # [row] age when last noted

    def __call__(self, fact: Fact, wishes: Sequence[Wish]) -> None:
        if type(fact) is WindowClosed and fact.at_s >= self.next_s:
            self.next_s = fact.at_s + EVERY_S
            self._resolve(fact.at_s)
            self._note(fact.at_s)

    def estimate(self, row: int) -> Estimate | None:
        """What is known of how long the work will wait; None when too few like it have begun."""
        rows, positions = self._waiting()
        found = np.flatnonzero(rows == row)
        return self._estimate(self._keys(row, int(positions[found[0]]))) if len(found) else None

    def _estimate(self, keys: tuple[Key, ...]) -> Estimate | None:
        now_s, level = self.machine.now_s, self.levels.get(keys[-1], Level())
        for key in keys:
            notes = self.alike.get(key, ())
            begun = [note.waited_s for note in notes if not np.isnan(note.waited_s)]
            if len(begun) < AT_LEAST:
                continue
            still = [now_s - note.at_s for note in notes if np.isnan(note.waited_s)]
            shares = (level.below, 0.5, 1.0 - level.above)
            low_s, middle_s, high_s = kaplan_meier(np.array(begun), np.array(still), shares)
            return Estimate(low_s, middle_s, high_s, len(notes), level.below, level.above)
        return None

    def _keys(self, row: int, position: int) -> tuple[Key, ...]:
        """What a work is like, the most detail first."""
        work = self.machine.ground.tables.works[row]
        kind, class_, place = int(work["kind"]), int(work["class_"]), int(work["place"])
        age, line = self._age(row), position.bit_length()
        return (
            (kind, class_, place, age, line),
            (kind, class_, place, age),
            (kind, class_, age),
            (kind, class_),
        )

    def _age(self, row: int) -> int:
        waited_s = self.machine.now_s - float(self.machine.ground.tables.works[row]["since_s"])
        return sum(waited_s >= age_s for age_s in AGES_S)

    def _waiting(self) -> tuple[Ints, Ints]:
        """Works that tenants submitted and that wait, and how many of their kind and class would
        be served before each."""
        works = self.machine.ground.tables.works[: self.machine.ground.rows]
        rows = np.flatnonzero((works["state"] == k.WAITING) & (works["service"] < 0))
        mine = works[["key", "level", "class_", "kind"]][rows]
        order = np.lexsort((rows, mine["key"], mine["level"], mine["class_"], mine["kind"]))
        group = mine["class_"].astype(np.int64) * 8 + mine["kind"]
        _, first, of = np.unique(group[order], return_index=True, return_inverse=True)
        positions = np.empty(len(rows), np.int64)
        positions[order] = np.arange(len(rows)) - first[of]
        return rows, positions

    def _note(self, at_s: float) -> None:
        """Note works that begin to wait or have waited twice as long as when last noted."""
        works = self.machine.ground.tables.works
        rows, positions = self._waiting()
        if len(self.noted) < len(works):
            self.noted = np.append(self.noted, np.zeros(len(works) - len(self.noted), np.int64))
        waited = np.maximum((at_s - works["since_s"][rows]) / EVERY_S, 1.0)
        ages = 1 + np.floor(np.log2(waited)).astype(np.int64)
        due = np.flatnonzero(self.noted[rows] != ages)[:NOTED_AT_ONCE]
        self.noted[rows[due]] = ages[due]
        for row, position in zip(rows[due].tolist(), positions[due].tolist(), strict=True):
            keys = self._keys(row, position)
            note = Note(row, at_s, int(works[row]["starts"]), keys[-1], self._estimate(keys))
            self.open.append(note)
            for key in keys:
                self.alike.setdefault(key, deque(maxlen=REMEMBERED)).append(note)

    def _resolve(self, at_s: float) -> None:
        """See which of those noted have begun since."""
        works = self.machine.ground.tables.works
        still: list[Note] = []
        for note in self.open:
            work = works[note.row]
            if work["starts"] > note.starts:
                # It may have begun, ended and begun again; then the last one is taken.
                note.waited_s = max(0.0, float(work["held_from_s"]) - note.at_s)
                self._judge(note)
            elif work["state"] < k.DONE:
                said = note.estimate
                if said is not None and not note.judged and at_s - note.at_s > said.high_s:
                    note.judged = True
                    self.score.above += 1
                    self._level(note).learn(self.rate, below=False, above=True)
                still.append(note)
        self.open = still

    def _judge(self, note: Note) -> None:
        said = note.estimate
        if said is None or note.judged:
            return
        below, above = note.waited_s < said.low_s, note.waited_s > said.high_s
        self.score.below += below
        self.score.above += above
        self.score.inside += not below and not above
        self._level(note).learn(self.rate, below, above)

    def _level(self, note: Note) -> Level:
        return self.levels.setdefault(note.key, Level())


def kaplan_meier(
    begun_s: np.ndarray, still_s: np.ndarray, shares: tuple[float, ...]
) -> tuple[float, ...]:
    """Times by which given shares have begun, when some have waited `still_s` without beginning.

    A share at or below 0 gives 0; one that is not reached gives infinity.
    """
    times, counts = np.unique(begun_s, return_counts=True)
    at_risk = (begun_s >= times[:, None]).sum(axis=1) + (still_s >= times[:, None]).sum(axis=1)
    done = 1.0 - np.cumprod(1.0 - counts / at_risk)
    found = []
    for share in shares:
        reached = np.flatnonzero(done >= share - 1e-12)
        over = share >= 1.0 - 1e-12
        found.append(
            0.0 if share <= 0.0 else float(times[reached[0]]) if len(reached) and not over
            else float("inf")
        )  # fmt: skip
    return tuple(found)

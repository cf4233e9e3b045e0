"""The replicas of one service in one mode, in the order they were asked for."""

from collections.abc import Iterable

import numpy as np

from headgate.core.tables import Floats, Ints

ROOM_AT_FIRST = 64


class Roster:
    """Rows of works, as an array that kernels read and close the gaps of."""

    def __init__(self, rows: Iterable[int] = ()) -> None:
        self._rows = np.fromiter(rows, np.int64)
        self.count = len(self._rows)
        # What the last muster saw of each, by position.
        self.states: Ints = np.zeros(self.count, np.int64)
        self.capacity: Floats = np.zeros(self.count)

    def __len__(self) -> int:
        return self.count

    @property
    def rows(self) -> Ints:
        """[replica] works; a view that the next change may leave behind."""
        return self._rows[: self.count]

    @property
    def room(self) -> Ints:
        """The array behind it, which the muster closes the gaps of."""
        return self._rows

    def append(self, row: int) -> None:
        if self.count == len(self._rows):
            self._grow()
        self._rows[self.count] = row
        self.count += 1

    def remove(self, rows: set[int]) -> None:
        """Take works off the roster; the rest keeps its order."""
        kept = [row for row in self.rows.tolist() if row not in rows]
        self.count = len(kept)
        self._rows[: self.count] = kept

    def _grow(self) -> None:
        size = max(ROOM_AT_FIRST, 2 * self.count)
        grown = np.zeros(size, np.int64)
        grown[: self.count] = self.rows
        self._rows = grown
        self.states, self.capacity = np.zeros(size, np.int64), np.zeros(size)

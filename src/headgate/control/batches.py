"""Batch orders of one service: what is left of each, served earliest deadline first."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from headgate.core.tables import Floats

OPEN = np.dtype([("due_s", np.float64), ("left", np.float64), ("number", np.int64)])
ROOM_AT_FIRST = 64
# Fewer tokens than this are rounding: the order is done.
DONE_BELOW = 1e-6


class Orders:
    """Orders are served earliest deadline first; what a window served comes in as a fact.

    The open ones stand in one array in order of deadline, so that asking for the rate they need
    costs one pass however long the backlog is.
    """

    def __init__(self) -> None:
        # By number, in the order they came in.
        self.names: list[str] = []
        self.tenants: list[int] = []
        self.deadlines_s: list[float] = []
        self.tokens: list[float] = []
        self.done_s: list[float] = []  # infinite while not done
        self.total = 0.0  # tokens left in all
        self._table = np.zeros(ROOM_AT_FIRST, OPEN)
        self._first = self._end = 0

    @property
    def open(self) -> np.ndarray[Any, np.dtype[np.void]]:
        """The open orders, those due first first."""
        return self._table[self._first : self._end]

    def add(self, name: str, tenant: int, tokens: float, deadline_s: float) -> None:
        number = len(self.names)
        self.names.append(name)
        self.tenants.append(tenant)
        self.tokens.append(tokens)
        self.deadlines_s.append(deadline_s)
        self.done_s.append(float("inf"))
        self.total += tokens
        self._make_room()
        at = self._first + int(np.searchsorted(self.open["due_s"], deadline_s, side="right"))
        self._table[at + 1 : self._end + 1] = self._table[at : self._end]
        self._table[at] = (deadline_s, tokens, number)
        self._end += 1

    def _make_room(self) -> None:
        """Have a free row at the end: what is done makes way, or the table doubles."""
        if self._end < len(self._table):
            return
        count = self._end - self._first
        table = np.zeros(max(ROOM_AT_FIRST, 2 * count), OPEN)
        table[:count] = self.open
        self._table, self._first, self._end = table, 0, count

    def serve(self, tokens: float, now_s: float) -> None:
        """Take served tokens off the orders that are due first."""
        while self._first < self._end and tokens > 0.0:
            order = self._table[self._first]
            part = min(tokens, float(order["left"]))
            order["left"] -= part
            self.total -= part
            tokens -= part
            if order["left"] <= DONE_BELOW:
                self.done_s[int(order["number"])] = now_s
                self._first += 1
        if self._first == self._end:
            self.total = 0.0

    def due_per_s(self, now_s: float) -> float:
        """The least rate that still holds every deadline that can be held.

        The largest, over deadlines, of all that is due by then over the time left; an order that
        is late already counts as due in a minute, so that it is not forgotten.
        """
        if self._first == self._end:
            return 0.0
        time_left_s = np.maximum(self.open["due_s"] - now_s, 60.0)
        return float((self.open["left"].cumsum() / time_left_s).max())

    def due(self) -> tuple[Floats, Floats]:
        """(deadlines, tokens left) of the open orders, those due first first."""
        return self.open["due_s"].copy(), self.open["left"].copy()

    def first_deadline_s(self) -> float:
        if self._first == self._end:
            return float("inf")
        return float(self._table[self._first]["due_s"])

    def state(self) -> dict[str, Any]:
        """All of it in types that JSON has; an order that is not done has no time."""
        return {
            "names": self.names,
            "tenants": self.tenants,
            "deadlines_s": self.deadlines_s,
            "tokens": self.tokens,
            "done_s": [None if np.isinf(at_s) else at_s for at_s in self.done_s],
            "total": self.total,
            "open": self.open.tolist(),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Orders":
        """The orders of such a state."""
        orders = cls()
        for name in ("names", "tenants", "deadlines_s", "tokens"):
            setattr(orders, name, list(state[name]))
        orders.total = state["total"]
        orders.done_s = [np.inf if at_s is None else at_s for at_s in state["done_s"]]
        orders._table = np.array([tuple(order) for order in state["open"]], OPEN)
        orders._end = len(orders._table)
        return orders

"""Batch orders of one service: what is left of each, served earliest deadline first."""

import heapq
from dataclasses import dataclass, field

import numpy as np

from headgate.core.tables import Floats

Order = tuple[float, int]  # deadline, number


@dataclass(slots=True)
class Orders:
    """Orders are served earliest deadline first; what a window served comes in as a fact."""

    left: dict[int, float] = field(default_factory=dict)  # tokens, by number
    names: list[str] = field(default_factory=list)
    tenants: list[int] = field(default_factory=list)
    deadlines_s: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)  # infinite while not done
    queue: list[Order] = field(default_factory=list)
    total: float = 0.0  # tokens left in all

    def add(self, name: str, tenant: int, tokens: float, deadline_s: float) -> None:
        number = len(self.names)
        self.names.append(name)
        self.tenants.append(tenant)
        self.tokens.append(tokens)
        self.deadlines_s.append(deadline_s)
        self.done_s.append(float("inf"))
        self.left[number] = tokens
        self.total += tokens
        heapq.heappush(self.queue, (deadline_s, number))

    def serve(self, tokens: float, now_s: float) -> None:
        """Take served tokens off the orders that are due first."""
        while self.queue and tokens > 0.0:
            number = self.queue[0][1]
            part = min(tokens, self.left[number])
            self.left[number] -= part
            self.total -= part
            tokens -= part
            if self.left[number] <= 1e-6:
                heapq.heappop(self.queue)
                del self.left[number]
                self.done_s[number] = now_s
        if not self.queue:
            self.total = 0.0

    def due_per_s(self, now_s: float) -> float:
        """The least rate that still holds every deadline that can be held.

        The largest, over deadlines, of all that is due by then over the time left; an order that
        is late already counts as due in a minute, so that it is not forgotten.
        """
        due = rate = 0.0
        for deadline_s, number in sorted(self.queue):
            due += self.left[number]
            rate = max(rate, due / max(deadline_s - now_s, 60.0))
        return rate

    def due(self) -> tuple[Floats, Floats]:
        """(deadlines, tokens left) of the open orders, those due first first."""
        open_ = sorted(self.queue)
        return (
            np.array([deadline_s for deadline_s, _ in open_]),
            np.array([self.left[number] for _, number in open_]),
        )

    def first_deadline_s(self) -> float:
        return self.queue[0][0] if self.queue else float("inf")

"""How many lines of batches may be under way, and whose is next."""

import asyncio
import heapq
import math
from collections import deque

Waiting = list[tuple[float, int, "asyncio.Future[None]"]]  # a heap: deadline, arrival, who waits


class Slots:
    """Room for so many lines.

    Lines of a batch that is in danger of missing its deadline go before all others, the earliest
    deadline first, whoever pays for them. Otherwise tenants take turns, and of one tenant's lines
    the earliest deadline goes first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._arrivals = 0
        self._urgent: Waiting = []
        self._waiting: dict[str, Waiting] = {}
        self._turns: deque[str] = deque()  # tenants that wait

    @property
    def wanted(self) -> bool:
        """Whether anything is under way or waits to be."""
        return bool(self.taken or self._turns or self._urgent)

    async def take(
        self, urgent: bool = False, tenant: str = "", deadline_s: float = math.inf
    ) -> None:
        """Wait for a slot. Who is cancelled meanwhile holds none."""
        if self.taken < self.limit and not self._turns and not self._urgent:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heap = self._urgent if urgent else self._of(tenant)
        heapq.heappush(heap, (deadline_s, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        self.taken -= 1
        self.serve()

    def serve(self) -> None:
        """Hand out what is free."""
        while (self._urgent or self._turns) and self.taken < self.limit:
            turn = self._next()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def _of(self, tenant: str) -> Waiting:
        if tenant not in self._waiting:
            self._waiting[tenant] = []
            self._turns.append(tenant)
        return self._waiting[tenant]

    def _next(self) -> "asyncio.Future[None]":
        if self._urgent:
            return heapq.heappop(self._urgent)[2]
        tenant = self._turns.popleft()
        heap = self._waiting[tenant]
        turn = heapq.heappop(heap)[2]
        if heap:
            self._turns.append(tenant)
        else:
            del self._waiting[tenant]
        return turn

"""One clock for all timeouts: a wheel that looks at each watched thing only when it may be due."""

import asyncio
import math
import time
from typing import Final, Protocol

TICK_S: Final = 0.05
SLOTS: Final = (
    64  # looked at every 3.2 s at the latest, so a deadline that moves closer is met by then
)
NEVER: Final = math.inf

# The clock of all timeouts and spans. What is imported, a compiled module looks up at each use.
monotonic: Final = time.monotonic
wall: Final = time.time


class Watched(Protocol):
    """Something with a deadline. Pushing the deadline back costs an assignment and no more."""

    deadline_s: float  # on the loop's clock
    watched_tick: int  # kept by the wheel; 0 while it is on no slot

    def expire(self) -> None: ...


class Wheel:
    """Deadlines to within one tick. A thing sits on at most one live slot."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._start_s = loop.time()
        self._tick = 1
        self._slots: list[list[Watched]] = [[] for _ in range(SLOTS)]
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._turn)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, entry: Watched) -> None:
        """See that `entry` is looked at when its deadline comes, or sooner."""
        if entry.deadline_s == NEVER:
            return
        tick = int((entry.deadline_s - self._start_s) / TICK_S) + 1
        tick = min(max(tick, self._tick + 1), self._tick + SLOTS - 1)
        if 0 < entry.watched_tick <= tick:
            return
        entry.watched_tick = tick
        self._slots[tick % SLOTS].append(entry)

    def _turn(self) -> None:
        now_s = self._loop.time()
        until = int((now_s - self._start_s) / TICK_S)
        while self._tick < until:
            self._tick += 1
            self._look(self._tick, now_s)
        self._timer = self._loop.call_later(TICK_S, self._turn)

    def _look(self, tick: int, now_s: float) -> None:
        slot = tick % SLOTS
        entries, self._slots[slot] = self._slots[slot], []
        for entry in entries:
            if entry.watched_tick != tick:
                continue  # it was moved to an earlier slot meanwhile
            entry.watched_tick = 0
            if entry.deadline_s <= now_s:
                entry.expire()
            else:
                self.watch(entry)

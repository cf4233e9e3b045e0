"""Writes of one turn of the event loop, made together.

A write wakes whoever reads at the other end, and where that one sleeps on another core, waking it
costs the kernel more than all else about a small message. Of several writes in a row the first
alone wakes. Too many at once, though, would let the other side wait for its work.
"""

import asyncio
from typing import Final

AT_ONCE: Final = 16


class Outbox:
    """What all connections of a door write, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: list[tuple[asyncio.Transport, bytes]] = []
        self._due = False  # the loop will flush at the end of this turn

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write before the loop waits again."""
        self._posted.append((transport, data))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn_over)
        elif len(self._posted) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write now: a transport is about to be closed."""
        posted, self._posted = self._posted, []
        for transport, data in posted:
            try:
                transport.write(data)
            except RuntimeError:  # uvloop's word for a transport that was closed meanwhile
                continue

    def _turn_over(self) -> None:
        self._due = False
        self.flush()

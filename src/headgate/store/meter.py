"""The door's meter: collects a millisecond's entries on the event loop and hands them over."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from headgate.ledger.ports import Bundle, Meter
from headgate.ledger.usage import Item, Opened, Progress
from headgate.store.spool import Durable, Note, Packed, Writer

GATHER_S = 0.001
# A thread's waking costs more than an entry: under load there are fewer, larger groups. A killed
# process loses what it had not handed over, and a busy loop's turn, of 5 ms or so, comes on top.
GATHER_BUSY_S = 0.002
BUSY = 20  # records in a group


class SpoolMeter(Meter):
    """Usage to a writer's files. All methods are called on one event loop."""

    def __init__(self, folder: Path, name: str, *, strict: bool) -> None:
        self.strict = strict
        self.name = name
        self._writer = Writer(folder, name, self._committed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh: dict[str, Callable[[], Opened]] = {}  # open, and not handed over yet
        self._notes: list[Note] = []
        self._filled: list[Bundle] = []
        self._count = 0
        self._durable: list[Durable] = []
        self._waiting = False
        self._busy = False

    @property
    def full(self) -> bool:
        """True while the disk takes no more: let nobody new in."""
        return self._writer.full

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    async def stop(self) -> None:
        """Returns when all that came is durable."""
        assert self._loop is not None
        self._hand_over()
        await self._loop.run_in_executor(None, self._writer.stop)

    def open(self, request: str, entry: Callable[[], Opened]) -> None:
        self._fresh[request] = entry
        if not self._waiting:
            self._wait()

    def progress(self, request: str, output_tokens: int) -> None:
        self._notes.append(Progress(request, output_tokens))
        if not self._waiting:
            self._wait()

    def record(
        self, request: str, bundle: Bundle, item: Item, durable: Durable | None = None
    ) -> None:
        # What began and ended within one group needs no note that it began.
        self._fresh.pop(request, None)
        items = bundle.items
        if not items:
            self._filled.append(bundle)
        items.append(item)
        self._count += 1
        if durable is not None:
            self._durable.append(durable)
        if not self._waiting:
            self._wait()

    def _wait(self) -> None:
        assert self._loop is not None
        self._waiting = True
        self._loop.call_later(GATHER_BUSY_S if self._busy else GATHER_S, self._hand_over)

    def _hand_over(self) -> None:
        self._waiting = False
        self._busy = self._count > BUSY and not self.strict
        if self._fresh or self._notes or self._filled:
            notes: list[Note] = [entry() for entry in self._fresh.values()]
            notes += self._notes
            packed: Packed = []
            for bundle in self._filled:
                packed.append((bundle, bundle.items))
                bundle.items = []
            self._writer.write(notes, packed, self._durable)
            self._fresh, self._notes, self._filled, self._durable = {}, [], [], []
            self._count = 0

    def _committed(self, durable: list[Durable]) -> None:
        """Called by the writer, on a thread of its own."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed under us
            self._loop.call_soon_threadsafe(_call_each, durable)


def _call_each(durable: list[Durable]) -> None:
    for call in durable:
        call()

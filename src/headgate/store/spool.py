"""Usage on its way to the store: a writer's files, appended to in groups off the event loop.

A writer owns the files of a folder that are named after it: a lock it holds while it lives, and
numbered segments of JSON lines. Whoever ships the files to the store (`shipping.py`) may delete
a segment once all in it is in the store: each segment begins with the requests that are still
open, so that no older one is needed to close them, and says each heading before its first items.

Two threads stand behind a writer. One writes, a millisecond or so after an entry came, so that a
killed process loses next to nothing; the other waits for the disk (fdatasync), so that writing
never waits for it.

The disk may fill up. A segment's blocks are allocated before its first line, and the next
segment's before they are needed; when that cannot be done, `full` asks the door to let nobody
new in, and what is left of the present segment has room for the requests in flight.
"""

import contextlib
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from headgate.ledger.ports import Bundle
from headgate.ledger.usage import Entry, Item, Items, Opened, Progress, Titled
from headgate.store.underway import UnderWay

SEGMENT_BYTES = 8 << 20  # about 120,000 records
LINE_ITEMS = 200  # in one line, so that a torn one is no great loss
RETRY_S = 0.1
SYNC_EVERY_S = 0.01  # while nobody waits for the disk
Durable = Callable[[], None]
Note = Opened | Progress
Packed = list[tuple[Bundle, list[Item]]]
Group = tuple[list[Note], Packed, list[Durable]]


class Writer:
    """Groups of entries to files, in order; tells when they are durable."""

    def __init__(
        self,
        folder: Path,
        name: str,
        committed: Callable[[list[Durable]], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.full = False
        self._folder = folder
        self._name = name
        self._committed = committed
        self._segment_bytes = segment_bytes
        self._encoder = msgspec.json.Encoder()
        self._groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._open = UnderWay()
        self._told: set[int] = set()  # headings that the present segment has said
        self._lock = -1
        self._segment = 0
        self._size = 0
        self._dirty = threading.Condition()  # guards what follows
        self._file = -1
        self._is_dirty = False
        self._is_idle = False  # the disk is waited for by nobody, since nothing was written
        self._stopped = False
        self._durable: list[Durable] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take the name and the disk's room. Raises OSError when the folder cannot be used."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._folder, self._name)
        self._allocate_next()
        self._begin_segment()
        for run in (self._write_groups, self._sync_writes):
            thread = threading.Thread(target=run, name=f"usage{run.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def write(self, notes: list[Note], packed: Packed, durable: list[Durable]) -> None:
        """Never blocks; `durable` are passed to `committed` when all is on disk."""
        self._groups.put((notes, packed, durable))

    def stop(self) -> None:
        """Returns when everything written is durable; the name is let go."""
        self._groups.put(None)
        for thread in self._threads:
            thread.join()
        os.ftruncate(self._file, self._size)
        os.close(self._file)
        self._next.unlink(missing_ok=True)
        os.close(self._lock)

    @property
    def _next(self) -> Path:
        return self._folder / f"{self._name}.next"

    def _write_groups(self) -> None:
        while True:
            try:
                group = self._groups.get(timeout=RETRY_S if self.full else None)
            except queue.Empty:
                self._allocate_next()
                continue
            if group is None:
                break
            self._write_group(*group)
        with self._dirty:
            self._stopped = True
            self._dirty.notify()

    def _write_group(self, notes: list[Note], packed: Packed, durable: list[Durable]) -> None:
        data = self._lines(notes, packed)
        if self._size + len(data) > self._segment_bytes and not self.full:
            try:
                self._begin_segment()
            except OSError:
                self.full = True  # this segment grows on until another can be set aside
            else:
                data = self._lines(notes, packed)  # it has said no heading yet
        self._write(data)
        self._told.update([bundle.number for bundle, _ in packed])
        # What the next segment must begin with: the requests that are open.
        for note in notes:
            self._open.note(note)
        for bundle, items in packed:
            self._open.end(bundle.heading.prefix, items)
        with self._dirty:
            self._durable += durable
            self._is_dirty = True
            if durable or self._is_idle:
                self._dirty.notify()

    def _lines(self, notes: list[Note], packed: Packed) -> bytes:
        lines: list[Entry] = [*notes]
        for bundle, items in packed:
            if bundle.number not in self._told:
                lines.append(Titled(bundle.number, bundle.heading))
            for first in range(0, len(items), LINE_ITEMS):
                lines.append(Items(bundle.number, items[first : first + LINE_ITEMS]))
        return self._encoder.encode_lines(lines)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                written = os.pwrite(self._file, rest, self._size)
            except OSError:
                # Past the allocated room of a full disk, or a broken one: wait, drop nothing.
                self.full = True
                time.sleep(RETRY_S)
                continue
            self._size += written
            rest = rest[written:]

    def _sync_writes(self) -> None:
        while True:
            with self._dirty:
                self._is_idle = True
                self._dirty.wait_for(lambda: self._is_dirty or self._stopped)
                self._is_idle = False
                if not self._durable:
                    self._dirty.wait_for(self._is_hurried, SYNC_EVERY_S)
                if not self._is_dirty:
                    return
                durable, self._durable = self._durable, []
                self._is_dirty = False
                # A copy, because the other thread may close it for the next segment.
                file = os.dup(self._file)
            self._until_done(partial(os.fdatasync, file))
            os.close(file)
            if durable:
                self._committed(durable)

    def _is_hurried(self) -> bool:
        return bool(self._durable) or self._stopped

    def _allocate_next(self) -> None:
        """Set the next segment's blocks aside; says through `full` whether that could be done."""
        file = os.open(self._next, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(file, 0, self._segment_bytes)
        except OSError:
            os.ftruncate(file, 0)
            self.full = True
        else:
            self.full = False
        finally:
            os.close(file)

    def _begin_segment(self) -> None:
        """Go on in the file set aside. Raises OSError while nothing has changed."""
        path = self._folder / f"{self._name}-{self._segment + 1:08d}.jsonl"
        file = os.open(self._next, os.O_WRONLY)
        try:
            self._next.rename(path)
        except OSError:
            os.close(file)
            raise
        # Whoever ships may delete the old file now: nothing more may be written to it.
        self._segment += 1
        before, size = self._file, self._size
        if before != -1:
            # All in it is on disk before a word of the new one can be said to be.
            self._until_done(partial(_finish, before, size))
        self._until_done(partial(sync_names, self._folder))
        self._size = 0
        self._told.clear()
        with self._dirty:
            self._file = file
        if before != -1:
            os.close(before)
        carried: list[Note] = []
        for opened, tokens in self._open:
            carried.append(opened)
            if tokens:
                carried.append(Progress(opened.request, tokens))
        self._write(self._encoder.encode_lines(carried))
        self._allocate_next()

    def _until_done(self, call: Callable[[], None]) -> None:
        """Do what the disk must do, however often it takes."""
        while True:
            try:
                call()
                return
            except OSError:
                self.full = True
                time.sleep(RETRY_S)


def _finish(file: int, size: int) -> None:
    """Cut a file to its length; all in it is durable."""
    os.ftruncate(file, size)
    os.fdatasync(file)


def sync_names(folder: Path) -> None:
    with contextlib.closing(_Descriptor(folder, os.O_RDONLY)) as descriptor:
        os.fsync(descriptor.number)


class _Descriptor:
    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags)

    def close(self) -> None:
        os.close(self.number)


def take_lock(folder: Path, name: str) -> int:
    """Claim a name in the folder: the file descriptor that holds it.

    The lock appears in the folder already locked, so that it never looks like a dead writer's.
    """
    fresh = folder / f"{name}.lock.new"
    lock = os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(folder / f"{name}.lock")
    return lock

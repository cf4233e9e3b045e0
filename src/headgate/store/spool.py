"""Usage on its way to the store: a writer's files, appended to in groups off the event loop.

A writer owns the files of a folder that are named after it: a lock it holds while it lives, and
numbered segments of JSON lines. Whoever ships the files to the store (`shipping.py`) may delete
a segment once all in it is in the store: each segment begins with the requests that are still
open, so that no older one is needed to close them.

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
from pathlib import Path

import msgspec

from headgate.ledger.usage import Entry, Opened, Progress, UsageRecord

SEGMENT_BYTES = 8 << 20  # about 40,000 records
RETRY_S = 0.1
SYNC_EVERY_S = 0.01  # while nobody waits for the disk
Durable = Callable[[], None]
Group = tuple[list[Entry], list[Durable]]


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
        self._open: dict[str, list[Opened | Progress]] = {}
        self._lock = -1
        self._segment = 0
        self._size = 0
        self._dirty = threading.Condition()  # guards what follows
        self._file = -1
        self._is_dirty = False
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

    def write(self, entries: list[Entry], durable: list[Durable]) -> None:
        """Never blocks; `durable` are passed to `committed` when the entries are on disk."""
        self._groups.put((entries, durable))

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

    def _write_group(self, entries: list[Entry], durable: list[Durable]) -> None:
        data = self._encoder.encode_lines(entries)
        if self._size + len(data) > self._segment_bytes and not self.full:
            try:
                self._begin_segment()
            except OSError:
                self.full = True  # this segment grows on until another can be set aside
        self._write(data)
        held = self._open
        for entry in entries:
            if type(entry) is UsageRecord:
                if held:
                    held.pop(entry.request, None)
            elif type(entry) is Opened:
                held[entry.request] = [entry]
            elif type(entry) is Progress and entry.request in held:
                held[entry.request][1:] = [entry]
        with self._dirty:
            self._durable += durable
            self._is_dirty = True
            self._dirty.notify()

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
                self._dirty.wait_for(lambda: self._is_dirty or self._stopped)
                if not self._durable:
                    self._dirty.wait_for(self._is_hurried, SYNC_EVERY_S)
                if not self._is_dirty:
                    return
                durable, self._durable = self._durable, []
                self._is_dirty = False
                # A copy, because the other thread may close it for the next segment.
                file = os.dup(self._file)
            while True:
                try:
                    os.fdatasync(file)
                    break
                except OSError:
                    self.full = True
                    time.sleep(RETRY_S)
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
        self._segment += 1
        path = self._folder / f"{self._name}-{self._segment:08d}.jsonl"
        self._next.rename(path)
        with contextlib.closing(_Descriptor(self._folder, os.O_RDONLY)) as folder:
            os.fsync(folder.number)
        file = os.open(path, os.O_WRONLY)
        before, size = self._file, self._size
        self._size = 0
        with self._dirty:
            self._file = file
        if before != -1:
            _finish(before, size)
        self._write(
            self._encoder.encode_lines([one for held in self._open.values() for one in held])
        )
        self._allocate_next()


def _finish(file: int, size: int) -> None:
    """Close a file at its length, durable whatever the disk says at first."""
    while True:
        try:
            os.ftruncate(file, size)
            os.fdatasync(file)
            break
        except OSError:
            time.sleep(RETRY_S)
    os.close(file)


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

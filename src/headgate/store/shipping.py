"""Ships usage from writers' files to the store: nothing lost, nothing counted twice.

A record has its request's id and the store takes each id once, so files may be read again from
the start after any crash. A file is deleted after the store has committed all of it. What a dead
writer left open is closed with a record of its own.
"""

import fcntl
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from headgate.ledger.usage import Entry, Opened, Progress, UsageRecord, abandoned
from headgate.store.database import StoreAway, give_way
from headgate.store.usage import Usage

LOG = logging.getLogger(__name__)
# Half a millisecond's work, then others may have the processor: Linux lets even a nice thread
# finish its slice of 3 ms, and requests would wait for that.
CHUNK_BYTES = 1 << 16
RECORDS_PER_COMMIT = 500  # SQLite's write lock, which leases wait for, is held for each
NICE = 5  # requests come first
REST_S = 0.2  # between looks at the folder
AWAY_S = 1.0  # before a store that is away is asked again
Price = Callable[[Opened, int], int]

_SEGMENT = re.compile(r"(.+)-(\d{8})\.jsonl")


class _Written:
    """What has been read of one writer's files."""

    def __init__(self) -> None:
        self.offsets: dict[Path, int] = {}
        self.open: dict[str, Opened] = {}
        self.tokens: dict[str, int] = {}

    def learn(self, entry: Entry) -> UsageRecord | None:
        if type(entry) is UsageRecord:
            if self.open:
                self.open.pop(entry.request, None)
            if self.tokens:
                self.tokens.pop(entry.request, None)
            return entry
        if type(entry) is Opened:
            self.open[entry.request] = entry
        elif type(entry) is Progress:
            self.tokens[entry.request] = entry.output_tokens
        return None


class Shipper:
    """Reads the files of all writers of a folder. One shipper works on a folder at a time."""

    def __init__(self, folder: Path, usage: Usage, price: Price | None = None) -> None:
        self.bad_lines = 0
        self._folder = folder
        self._usage = usage
        self._price = price or _free
        self._decoder = msgspec.json.Decoder(Entry)
        self._writers: dict[str, _Written] = defaultdict(_Written)

    def ship(self) -> int:
        """Ship what there is; the number of records that were new to the store.

        Raises StoreAway; what was not shipped stays in the files.
        """
        new = 0
        with _only_shipper(self._folder) as alone:
            if alone:
                for name, segments in sorted(self._segments().items()):
                    with _dead(self._folder, name) as dead:
                        # Dead or not is known before the files are read: a dead writer's are
                        # then read to their end.
                        new += self._ship_writer(name, segments, dead)
        return new

    def has_live_writers(self) -> bool:
        """Whether any process still writes to the folder."""
        for path in self._folder.glob("*.lock"):
            with _dead(self._folder, path.name.removesuffix(".lock")) as dead:
                if not dead:
                    return True
        return False

    def _segments(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {
            path.name.removesuffix(".lock"): [] for path in self._folder.glob("*.lock")
        }
        for path in sorted(self._folder.glob("*.jsonl")):
            if match := _SEGMENT.fullmatch(path.name):
                found.setdefault(match[1], []).append(path)
        return found

    def _ship_writer(self, name: str, segments: list[Path], dead: bool) -> int:
        written = self._writers[name]
        new = 0
        for path in segments:
            for records in self._read(written, path):
                new += self._usage.add(records, name)
            # A writer that has begun the next segment is done with this one.
            if path != segments[-1]:
                path.unlink()
                written.offsets.pop(path, None)
        if dead:
            new += self._close(name, written)
            for path in [*segments[-1:], *self._folder.glob(f"{name}.*")]:
                path.unlink(missing_ok=True)
            del self._writers[name]
        return new

    def _close(self, name: str, written: _Written) -> int:
        """Give a record to each request that a dead writer left open."""
        records = [
            abandoned(opened, tokens, self._price(opened, tokens))
            for opened in written.open.values()
            for tokens in [written.tokens.get(opened.request, 0)]
        ]
        return self._usage.add(records, name) if records else 0

    def _read(self, written: _Written, path: Path) -> Iterator[list[UsageRecord]]:
        """Records not yet read; what was yielded counts as read when the next is asked for."""
        offset = written.offsets.get(path, 0)
        records: list[UsageRecord] = []
        with path.open("rb") as file:
            while True:
                file.seek(offset)
                chunk = file.read(CHUNK_BYTES)
                end = _end_of_lines(chunk)
                if end == 0:
                    if len(chunk) < CHUNK_BYTES or b"\0" in chunk:  # its end is not written yet
                        break
                    end = len(chunk)  # one line as long as this is no line of ours
                for entry in self._entries(path, chunk[:end]):
                    if (record := written.learn(entry)) is not None:
                        records.append(record)
                offset += end
                if len(records) >= RECORDS_PER_COMMIT:
                    yield records
                    records = []
                    written.offsets[path] = offset
                give_way()
        if records:
            yield records
        written.offsets[path] = offset

    def _entries(self, path: Path, lines: bytes) -> list[Entry]:
        try:
            return self._decoder.decode_lines(lines)
        except msgspec.MsgspecError:
            entries = []
            for line in lines.splitlines():
                try:
                    entries.append(self._decoder.decode(line))
                except msgspec.MsgspecError:
                    self._set_aside(path, line)
            return entries

    def _set_aside(self, path: Path, line: bytes) -> None:
        """Keep a line that cannot be read, for a person to look at; the rest goes on."""
        self.bad_lines += 1
        with (path.parent / "unreadable").open("ab") as file:
            file.write(path.name.encode() + b": " + line + b"\n")


class ShippingThread:
    """Ships again and again until stopped; waits while the store is away."""

    def __init__(self, shipper: Shipper) -> None:
        self.away: StoreAway | None = None
        self._shipper = shipper
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage shipping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ship what there is by now, if the store can be asked, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):  # on Linux a thread may be nicer than its process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            last = self._stop.is_set()
            try:
                self._shipper.ship()
                self.away = None
            except StoreAway as away:
                self.away = away
            except Exception:
                # What was not shipped stays in the files, for a version that can.
                LOG.exception("usage cannot be shipped")
            if last:
                return
            self._stop.wait(AWAY_S if self.away else REST_S)


def _end_of_lines(chunk: bytes) -> int:
    """Where the last whole line ends; blocks set aside and not yet written are zeros."""
    zeros = chunk.find(b"\0")
    return chunk.rfind(b"\n", 0, zeros if zeros != -1 else len(chunk)) + 1


def _free(opened: Opened, output_tokens: int) -> int:
    return 0


@contextmanager
def _only_shipper(folder: Path) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "shipping", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        yield _locked(lock)
    finally:
        os.close(lock)


@contextmanager
def _dead(folder: Path, name: str) -> Iterator[bool]:
    """Whether the writer is gone; while this is asked nobody takes its name."""
    lock = -1
    with suppress(FileNotFoundError):
        lock = os.open(folder / f"{name}.lock", os.O_WRONLY)
    try:
        yield lock == -1 or _locked(lock)
    finally:
        if lock != -1:
            os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Ships usage from writers' files to the store: nothing lost, nothing counted twice.

The store knows how far each writer's files are in it, and moves that position on in the same
transaction as it adds what lies before it. So files may be read again from anywhere after any
crash: what lies before the position is learned from, what lies behind it is added. A file is
deleted after the store has committed all of it. What a dead writer left open is closed with a
record of its own, and the store notes that it has ended before its files go.
"""

import fcntl
import glob
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path

import msgspec

from headgate.ledger.usage import (
    Entry,
    Filed,
    Heading,
    Item,
    Items,
    Opened,
    Titled,
    UsageRecord,
    abandoned,
    parted,
)
from headgate.store.blocks import Blocks
from headgate.store.database import StoreAway, give_way
from headgate.store.spool import sync_names
from headgate.store.underway import UnderWay
from headgate.store.usage import Position, Step, Usage

LOG = logging.getLogger(__name__)
# A quarter of a millisecond's work, then others may have the processor: Linux lets even a nice
# thread finish its slice of 3 ms, and requests would wait for that.
CHUNK_BYTES = 1 << 15
# SQLite's write lock, which leases wait for, is held while a commit's blocks are added: three
# milliseconds for one, eight for so many.
RECORDS_PER_COMMIT = 2_000
HEADINGS_PER_COMMIT = 300
WRITTEN_OUT = 250  # records of a heading, at once
NICE = 5  # requests come first
REST_S = 0.2  # between looks at the folder
AWAY_S = 1.0  # before a store that is away is asked again
Price = Callable[[Opened, int], int]

_ORDER = attrgetter("order")
_SEGMENT = re.compile(r"(.+)-(\d{8})\.jsonl")


class _Gathered:
    """Records read and not in the store yet."""

    def __init__(self) -> None:
        self.count = 0
        self.orders: Filed = {}  # lines of batches, which the store must be asked about
        self.older: list[UsageRecord] = []  # from before there were positions
        self._blocks = Blocks()
        self._waiting: dict[Heading, list[Item]] = {}  # to be written out

    @property
    def is_enough(self) -> bool:
        return self.count >= RECORDS_PER_COMMIT or len(self._waiting) >= HEADINGS_PER_COMMIT

    def add(self, heading: Heading, items: list[Item]) -> None:
        self.count += len(items)
        if heading.outcome == "done" and any(map(_ORDER, items)):
            self.orders.setdefault(heading, []).extend(items)
            return
        waiting = self._waiting.setdefault(heading, [])
        waiting += items
        if len(waiting) >= WRITTEN_OUT:  # while they are in the processor's cache
            self._blocks.add(heading, waiting)
            self._waiting[heading] = []

    def add_older(self, record: UsageRecord) -> None:
        self.count += 1
        self.older.append(record)

    def blocks(self) -> Blocks:
        """All but `orders` and `older`."""
        for heading, waiting in self._waiting.items():
            if waiting:
                self._blocks.add(heading, waiting)
        self._waiting.clear()
        return self._blocks


class _Reading:
    """What is known of one writer's files up to where they have been read."""

    def __init__(self, stored: Position) -> None:
        self.stored = stored
        self.place = stored
        self.open = UnderWay()
        self.headings: dict[int, Heading] = {}

    def begin(self, segment: int) -> None:
        """Read a segment from its start. What is open goes on; headings are said again."""
        self.place = Position(segment, 0)
        self.headings.clear()

    def learn(self, entries: list[Entry], gathered: _Gathered | None) -> list[Entry]:
        """Take entries in, records into `gathered`; those that say nothing to us."""
        unknown: list[Entry] = []
        items: dict[int, list[Item]] = {}
        for entry in entries:
            if isinstance(entry, Items):
                heading = self.headings.get(entry.number)
                if heading is None:
                    unknown.append(entry)
                    continue
                self.open.end(heading.prefix, entry.items)
                if entry.number in items:
                    items[entry.number] += entry.items
                else:
                    items[entry.number] = entry.items
            elif isinstance(entry, Titled):
                self.headings[entry.number] = entry.heading
            elif isinstance(entry, UsageRecord):
                older, item = parted(entry)
                self.open.end(older.prefix, [item])
                if gathered is not None:
                    gathered.add_older(entry)
            else:
                self.open.note(entry)
        if gathered is not None:
            for number, those in items.items():
                gathered.add(self.headings[number], those)
        return unknown


class Shipper:
    """Reads the files of all writers of a folder. One shipper works on a folder at a time."""

    def __init__(self, folder: Path, usage: Usage, price: Price | None = None) -> None:
        self.bad_lines = 0
        self._folder = folder
        self._usage = usage
        self._price = price or _free
        self._decoder = msgspec.json.Decoder(Entry)
        self._encoder = msgspec.json.Encoder()
        self._readings: dict[str, _Reading] = {}

    def ship(self) -> int:
        """Ship what there is; the number of records that were new to the store.

        Raises StoreAway; what was not shipped stays in the files. Any other failure is of one
        writer's files: those of the others are shipped before it is raised.
        """
        new = 0
        failures: list[Exception] = []
        with _only_shipper(self._folder) as alone:
            if alone:
                for name in self._names():
                    with _dead(self._folder, name) as dead:
                        try:
                            # Dead or not is known before the files are looked at: a dead
                            # writer's are then all there, and read to their end.
                            new += self._ship_writer(name, dead)
                        except BaseException as failure:
                            # Whether the store took what it was given, it will say itself.
                            self._readings.pop(name, None)
                            if isinstance(failure, StoreAway) or not isinstance(failure, Exception):
                                raise
                            failures.append(failure)
        if failures:
            raise failures[0]
        return new

    def has_live_writers(self) -> bool:
        """Whether any process still writes to the folder."""
        for path in self._folder.glob("*.lock"):
            with _dead(self._folder, path.name.removesuffix(".lock")) as dead:
                if not dead:
                    return True
        return False

    def _names(self) -> list[str]:
        names = {path.name.removesuffix(".lock") for path in self._folder.glob("*.lock")}
        for path in self._folder.glob("*.jsonl"):
            if match := _SEGMENT.fullmatch(path.name):
                names.add(match[1])
        return sorted(names)

    def _segments(self, name: str) -> list[tuple[int, Path]]:
        """A writer's files with their numbers, in order."""
        found = []
        for path in self._folder.glob(f"{glob.escape(name)}-*.jsonl"):
            match = _SEGMENT.fullmatch(path.name)
            if match and match[1] == name:
                found.append((int(match[2]), path))
        return sorted(found)

    def _ship_writer(self, name: str, dead: bool) -> int:
        segments = self._segments(name)
        reading = self._readings.get(name)
        if reading is None:
            reading = self._readings[name] = self._recalled(name, segments)
        new = 0
        if not reading.stored.ended:
            for number, path in segments:
                if number > reading.place.segment:
                    reading.begin(number)
                if number == reading.place.segment:
                    new += self._ship_segment(name, reading, path)
                # A writer that has begun the next segment is done with this one.
                if path != segments[-1][1]:
                    path.unlink()
        if dead:
            if not reading.stored.ended:
                new += self._close(name, reading)
            self._bury(name)
        return new

    def _recalled(self, name: str, segments: list[tuple[int, Path]]) -> _Reading:
        """What whoever shipped from these files before had learned up to the store's position."""
        reading = _Reading(self._usage.position(name))
        stored = reading.stored
        for number, path in segments:
            if number == stored.segment and not stored.ended:
                for lines in _lines(path, 0, stored.bytes):
                    self._learn(reading, path, lines, None)
                    give_way()
        return reading

    def _ship_segment(self, name: str, reading: _Reading, path: Path) -> int:
        new = 0
        gathered = _Gathered()
        for lines in _lines(path, reading.place.bytes):
            self._learn(reading, path, lines, gathered)
            reading.place = reading.place.behind(len(lines))
            if gathered.is_enough:
                new += self._add(name, reading, reading.place, gathered)
                gathered = _Gathered()
            give_way()
        if gathered.count:
            new += self._add(name, reading, reading.place, gathered)
        return new

    def _add(self, name: str, reading: _Reading, end: Position, gathered: _Gathered) -> int:
        step = Step(name, reading.stored, end)
        added = self._usage.ship(step, gathered.blocks(), gathered.orders, gathered.older)
        reading.stored = end
        return added

    def _close(self, name: str, reading: _Reading) -> int:
        """Give a record to each request that a dead writer left open."""
        gathered = _Gathered()
        for opened, tokens in reading.open:
            # As those from before there were positions, they are held against what is there: a
            # machine that lost its power may have shipped a record and lost it from its file.
            gathered.add_older(abandoned(opened, tokens, self._price(opened, tokens)))
        return self._add(name, reading, reading.place.ending(), gathered)

    def _bury(self, name: str) -> None:
        """Delete the files of a writer that has ended, and what the store knows of it.

        In this order, and the lock last: whatever is left of it after a crash, the next to look
        finds the lock and goes on here.
        """
        for _, path in self._segments(name):
            path.unlink()
        (self._folder / f"{name}.next").unlink(missing_ok=True)
        sync_names(self._folder)
        self._usage.forget(name)
        (self._folder / f"{name}.lock").unlink(missing_ok=True)
        del self._readings[name]

    def _learn(
        self, reading: _Reading, path: Path, lines: bytes, gathered: _Gathered | None
    ) -> None:
        aside = gathered is not None
        unknown = reading.learn(self._entries(path, lines, aside=aside), gathered)
        if aside:
            for entry in unknown:
                self._set_aside(path, self._encoder.encode(entry))

    def _entries(self, path: Path, lines: bytes, *, aside: bool) -> list[Entry]:
        try:
            return self._decoder.decode_lines(lines)
        except msgspec.MsgspecError:
            entries = []
            for line in lines.splitlines():
                try:
                    entries.append(self._decoder.decode(line))
                except msgspec.MsgspecError:
                    if aside:
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


def _lines(path: Path, start: int, end: int = -1) -> Iterator[bytes]:
    """Whole lines of a file, some 32 KB at a time; what is still being written is left."""
    with path.open("rb") as file:
        while True:
            file.seek(start)
            chunk = file.read(CHUNK_BYTES if end == -1 else min(CHUNK_BYTES, end - start))
            size = _end_of_lines(chunk)
            if size == 0:
                if len(chunk) < CHUNK_BYTES or b"\0" in chunk:  # its end is not written yet
                    return
                size = len(chunk)  # one line as long as this is no line of ours
            yield chunk[:size]
            start += size


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

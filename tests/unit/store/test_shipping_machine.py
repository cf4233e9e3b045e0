"""Writers write and die, the shipper is killed between any two of its steps, the store goes away:
whatever happens, each request has one record in the store at the end, and all sums say so."""

import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.scribe import Scribe

from headgate.ledger.usage import Opened, Progress, UsageRecord
from headgate.store import shipping
from headgate.store.database import StoreAway
from headgate.store.open import open_database
from headgate.store.shipping import Shipper
from headgate.store.sqlite import SqliteTransaction
from headgate.store.usage import Usage

DAY_S = 86_400
START_S = 20_000 * DAY_S + 86_399  # one second before midnight


class Killed(BaseException):
    """kill -9, as far as whoever is killed can tell."""


class Fate:
    """Ends whoever takes so many more steps."""

    def __init__(self) -> None:
        self.steps = -1
        self.blow: type[BaseException] = Killed

    def tick(self) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise self.blow("now")

    def over(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that may be cut off before it, or after it has been done."""

        def fated(*arguments: Any, **named: Any) -> Any:
            self.tick()
            result = call(*arguments, **named)
            self.tick()
            return result

        return fated


class Shipping(RuleBasedStateMachine):
    """Write, roll over, die, ship and be killed; then look at what is in the store."""

    @initialize(segment_bytes=st.sampled_from([600, 2_000, 20_000]), enough=st.integers(1, 40))
    def begin(self, segment_bytes: int, enough: int) -> None:
        self.root = tempfile.TemporaryDirectory(dir=_memory())
        self.folder = Path(self.root.name) / "usage"
        self.database = open_database(f"sqlite:///{self.root.name}/db")
        self.usage = Usage(self.database)
        self.fate = Fate()
        self.patches = [
            mock.patch.object(shipping, "RECORDS_PER_COMMIT", enough),
            mock.patch.object(shipping, "CHUNK_BYTES", 512),
            mock.patch.object(shipping, "sync_names", self.fate.over(shipping.sync_names)),
            mock.patch.object(shipping, "give_way", self.fate.tick),
            mock.patch.object(Path, "unlink", self.fate.over(Path.unlink)),
            *(
                mock.patch.object(self.usage, name, self.fate.over(getattr(self.usage, name)))
                for name in ("ship", "position", "forget")
            ),
            *(
                mock.patch.object(
                    SqliteTransaction, name, self.fate.over(getattr(SqliteTransaction, name))
                )
                for name in ("insert", "execute")
            ),
        ]
        for patch in self.patches:
            patch.start()
        self.segment_bytes = segment_bytes
        self.born = 0
        self.count = 0
        self.expected: dict[str, tuple[str, int, int]] = {}  # outcome, output tokens, price
        self.tokens: dict[str, int] = {}  # of what is open, those last noted
        self.writers: list[tuple[Scribe, list[str]]] = []
        self.shipper = Shipper(self.folder, self.usage, lambda opened, tokens: 7 * tokens)
        self.new_writer()

    def new_writer(self) -> None:
        self.born += 1
        writer = Scribe(self.folder, f"door-{self.born}", lambda durable: durable[0]())
        writer._segment_bytes = self.segment_bytes
        writer.start()
        self.writers.append((writer, []))

    def say(self, writer: Scribe, entries: list[Opened | Progress | UsageRecord]) -> None:
        """Write a group and wait until it is on disk."""
        receiving, sending = os.pipe()
        writer.say(entries, [lambda: os.close(sending)])
        os.read(receiving, 1)
        os.close(receiving)

    def record(self, request: str, tokens: int) -> UsageRecord:
        self.expected[request] = ("done", tokens, tokens)
        number = int(request[-10:], 16)
        return UsageRecord(
            request,
            f"tenant-{number % 2}",
            "key",
            "small" if number % 7 else "large",
            "default",
            "maas",
            engine=f"engine{number % 3}",
            output_tokens=tokens,
            price_nano=tokens,
            started_s=START_S + number % 2,
        )

    @rule(which=st.integers(0, 1), opens=st.integers(0, 3), records=st.integers(0, 30))
    def write(self, which: int, opens: int, records: int) -> None:
        writer, under_way = self.writers[which % len(self.writers)]
        entries: list[Opened | Progress | UsageRecord] = []
        for _ in range(opens):
            request = self.next_request(writer)
            entries.append(Opened(request, "tenant-0", "key", "small", "default", "maas"))
            under_way.append(request)
            self.expected[request], self.tokens[request] = ("gateway_lost", 0, 0), 0
        for _ in range(records):
            entries.append(self.record(self.next_request(writer), 1 + self.count))
        if entries:
            self.say(writer, entries)

    def next_request(self, writer: Scribe) -> str:
        self.count += 1
        return f"req_{writer._name}-{self.count:010x}"

    @rule(which=st.integers(0, 1), row=st.integers(0, 50), end=st.booleans())
    def go_on(self, which: int, row: int, end: bool) -> None:
        """Of a request that is open, note how far it is, or record its end."""
        writer, under_way = self.writers[which % len(self.writers)]
        if under_way:
            request = under_way[row % len(under_way)]
            if end:
                under_way.remove(request)
                self.say(writer, [self.record(request, 1 + self.count)])
            else:
                self.tokens[request] += 3
                tokens = self.tokens[request]
                self.expected[request] = ("gateway_lost", tokens, 7 * tokens)
                self.say(writer, [Progress(request, tokens)])

    @rule(which=st.integers(0, 1), torn=st.integers(0, 60))
    def kill_writer(self, which: int, torn: int) -> None:
        """Its last line may be torn: that one was never said to be durable."""
        writer, _ = self.writers.pop(which % len(self.writers))
        path, size = writer._folder / f"{writer._name}-{writer._segment:08d}.jsonl", writer._size
        bury(writer)
        with path.open("r+b") as file:
            file.seek(size)
            file.write(b'["items",0,[["00000000ff",0,0,5,5,0,0,0,0,""]]]\n'[:torn][:-1])
        self.new_writer()

    @rule(steps=st.integers(1, 60), away=st.booleans())
    def ship_and_be_cut_off(self, steps: int, away: bool) -> None:
        self.fate.steps, self.fate.blow = steps, StoreAway if away else Killed
        try:
            self.shipper.ship()
        except StoreAway:
            pass
        except Killed:
            self.shipper = Shipper(self.folder, self.usage, lambda opened, tokens: 7 * tokens)
        self.fate.steps = -1

    @rule()
    def ship(self) -> None:
        self.shipper.ship()

    def teardown(self) -> None:
        if not hasattr(self, "writers"):
            return
        for writer, _ in self.writers:
            bury(writer)
        try:
            self.shipper.ship()
            Shipper(self.folder, self.usage).ship()
            self.check()
        finally:
            for patch in reversed(self.patches):
                patch.stop()
            self.database.close()
            self.root.cleanup()

    def check(self) -> None:
        with sqlite3.connect(f"{self.root.name}/db") as store:
            rows = store.execute(
                "SELECT request, outcome, output_tokens, price_nano FROM usage"
            ).fetchall()
            writers = store.execute("SELECT * FROM usage_writers").fetchall()
        store.close()
        assert len(rows) == len(self.expected)
        assert {request: tuple(rest) for request, *rest in rows} == self.expected
        assert self.usage.open_days() == (len(rows), [])
        assert writers == []
        assert {path.name for path in self.folder.iterdir()} <= {"shipping", "unreadable"}


def bury(writer: Scribe) -> None:
    """End a writer's threads as they stand and let its lock go, as its process's end would."""
    writer._groups.put(None)
    for thread in writer._threads:
        thread.join()
    os.close(writer._file)
    os.close(writer._lock)


def _memory() -> str | None:
    """Where fdatasync costs nothing, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


Shipping.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestShipping = Shipping.TestCase


def test_the_machine_above_would_see_a_record_added_twice() -> None:
    """A check must be able to fail: without the positions, it does."""
    machine = Shipping()
    machine.begin(segment_bytes=20_000, enough=10)
    machine.write(0, 0, 30)
    with mock.patch("headgate.store.usage._move"):
        for steps in (30, 40, 50):
            machine.ship_and_be_cut_off(steps, away=False)
        with pytest.raises(AssertionError):
            machine.teardown()

"""Usage between the door and the store: durable in groups, shipped once, whatever happens."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.scribe import Scribe, record_to

from headgate.ledger.usage import Opened, Progress, UsageRecord
from headgate.store.database import StoreAway
from headgate.store.meter import SpoolMeter
from headgate.store.open import open_database
from headgate.store.shipping import Shipper
from headgate.store.spool import Durable
from headgate.store.usage import Usage


def opened(request: str) -> Opened:
    return Opened(request, "acme", "key_1", "small", "default", "maas", input_tokens=10)


def record(request: str, **values: object) -> UsageRecord:
    return UsageRecord(request, "acme", "key_1", "small", "default", "maas", **values)  # type: ignore[arg-type]


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Usage]:
    database = open_database(f"sqlite:///{tmp_path}/headgate.db")
    yield Usage(database)
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "usage"


class Commits:
    def __init__(self) -> None:
        self.calls = 0
        self._changed = threading.Condition()

    def __call__(self, durable: list[Durable]) -> None:
        with self._changed:
            self.calls += len(durable)
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls >= count, timeout=10)


def nothing() -> None:
    return


def requests(usage: Usage) -> list[str]:
    return sorted(one.request for one in usage.records("acme", limit=1_000_000))


def test_what_was_written_arrives_once_and_the_files_go(folder: Path, usage: Usage) -> None:
    writer = Scribe(folder, "w1", Commits())
    writer.start()
    for i in range(100):
        writer.say([opened(f"req_{i:03}"), record(f"req_{i:03}")], [])
    writer.stop()
    shipper = Shipper(folder, usage)
    assert shipper.ship() == 100
    assert shipper.ship() == 0
    assert requests(usage) == [f"req_{i:03}" for i in range(100)]
    assert [path.name for path in folder.iterdir()] == ["shipping"]


def test_a_live_writer_is_read_as_it_writes_and_keeps_its_files(folder: Path, usage: Usage) -> None:
    commits = Commits()
    writer = Scribe(folder, "w1", commits)
    writer.start()
    shipper = Shipper(folder, usage)
    for i in range(3):
        writer.say([record(f"req_{i}")], [nothing])
        commits.wait_for(i + 1)
        assert shipper.ship() == 1
    assert (folder / "w1.lock").exists()
    writer.stop()
    shipper.ship()
    assert requests(usage) == ["req_0", "req_1", "req_2"]


def test_segments_follow_each_other_and_carry_what_is_open(folder: Path, usage: Usage) -> None:
    commits = Commits()
    writer = Scribe(folder, "w1", commits, segment_bytes=700)
    writer.start()
    shipper = Shipper(folder, usage)
    writer.say([opened("req_long"), Progress("req_long", 7)], [nothing])
    for i in range(100):
        writer.say([record(f"req_{i}")], [nothing])
    commits.wait_for(101)
    assert len(list(folder.glob("*.jsonl"))) > 5
    shipper.ship()
    assert len(list(folder.glob("*.jsonl"))) == 1
    # The gateway dies: a shipper that never saw the first segment closes what it had open.
    os.close(writer._lock)
    assert Shipper(folder, usage, lambda opened, tokens: 100 * tokens).ship() == 1
    lost = usage.record("req_long")
    assert lost is not None
    assert (lost.outcome, lost.input_tokens, lost.output_tokens) == ("gateway_lost", 10, 7)
    assert lost.price_nano == 700
    writer._lock = os.open(os.devnull, os.O_RDONLY)
    writer._next.touch()
    writer.stop()


def test_a_disk_that_fails_as_a_segment_begins_ends_no_writing(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EIO, "input/output error") for _ in range(3)]
    fsync = os.fsync

    def sick(file: int) -> None:
        if failures:
            raise failures.pop()
        fsync(file)

    writer = Scribe(folder, "w1", Commits(), segment_bytes=4_096)
    writer.start()
    monkeypatch.setattr("headgate.store.spool.RETRY_S", 0.01)
    monkeypatch.setattr(os, "fsync", sick)
    for i in range(200):
        writer.say([record(f"req_{i}")], [])
        time.sleep(0.001)
        while writer.full:  # as the door does, which refuses meanwhile
            time.sleep(0.005)
    writer.stop()
    assert not failures
    Shipper(folder, usage).ship()
    assert requests(usage) == sorted(f"req_{i}" for i in range(200))


def test_a_record_that_came_after_its_opening_closes_it(folder: Path, usage: Usage) -> None:
    writer = Scribe(folder, "w1", Commits(), segment_bytes=4_096)
    writer.start()
    for i in range(100):
        writer.say([opened(f"req_{i}")], [])
        if i >= 10:
            writer.say([record(f"req_{i - 10}")], [])
    writer.stop()
    Shipper(folder, usage).ship()
    outcomes = [one.outcome for one in usage.records("acme")]
    assert (outcomes.count("done"), outcomes.count("gateway_lost")) == (90, 10)


def test_a_torn_last_line_and_an_unreadable_one_stop_nothing(folder: Path, usage: Usage) -> None:
    writer = Scribe(folder, "w1", Commits())
    writer.start()
    writer.say([record("req_1")], [])
    writer.stop()
    [segment] = folder.glob("*.jsonl")
    lines = segment.read_bytes()
    torn = lines.replace(b"req_1", b"req_2")[:-20]
    segment.write_bytes(lines + b'{"entry":"usage"}\n' + lines.replace(b"req_1", b"req_3") + torn)
    shipper = Shipper(folder, usage)
    shipper.ship()
    assert requests(usage) == ["req_1", "req_3"]
    assert shipper.bad_lines == 1
    assert b'{"entry":"usage"}' in (folder / "unreadable").read_bytes()


def test_a_line_met_while_it_is_written_is_read_when_it_is_whole(
    folder: Path, usage: Usage
) -> None:
    commits = Commits()
    writer = Scribe(folder, "w1", commits)
    writer.start()
    writer.say([record("req_1")], [nothing])
    commits.wait_for(1)
    [segment] = folder.glob("*.jsonl")  # as long as it may become, and empty behind the line
    line = segment.read_bytes().partition(b"\0")[0]
    more = line.replace(b"req_1", b"req_2") + line.replace(b"req_1", b"req_3")
    shipper = Shipper(folder, usage)
    for upto, there in ((30, 1), (len(line) + 30, 2), (len(more), 3)):
        with segment.open("r+b") as file:
            file.seek(len(line))
            file.write(more[:upto])
        shipper.ship()
        assert requests(usage) == ["req_1", "req_2", "req_3"][:there]
    assert shipper.bad_lines == 0
    writer.stop()


def test_while_the_store_is_away_records_wait_and_then_arrive_once(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Scribe(folder, "w1", Commits(), segment_bytes=40_000)
    writer.start()
    for i in range(5_000):
        writer.say([opened(f"req_{i}"), record(f"req_{i}")], [])
    writer.stop()
    ship, dice = usage.ship, random.Random(3)

    def unsteady(*arguments: Any) -> int:
        if dice.random() < 0.4:
            raise StoreAway("stopped")
        added = ship(*arguments)
        if dice.random() < 0.4:
            raise StoreAway("committed, but the answer was lost")
        return added

    monkeypatch.setattr(usage, "ship", unsteady)
    shipper = Shipper(folder, usage)
    for attempt in range(2_000):
        if attempt % 50 == 0:
            shipper = Shipper(folder, usage)  # the shipper's process died too
        try:
            shipper.ship()
            break
        except StoreAway:
            pass
    assert len(requests(usage)) == 5_000
    assert usage.sums(["tenant"])[("acme",)].requests == 5_000


def test_a_writer_whose_files_cannot_be_shipped_keeps_no_other_from_its_bill(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits()
    for number, name in enumerate(("w1", "w2"), 1):
        writer = Scribe(folder, name, commits)
        writer.start()
        writer.say([record(f"req_{number}")], [nothing])
        writer.stop()
    ship = usage.ship

    def not_of_w1(step: Any, *rest: Any) -> int:
        if step.writer == "w1":
            raise OverflowError("a number that the store cannot hold")
        return ship(step, *rest)

    shipper = Shipper(folder, usage)
    with monkeypatch.context() as patch:
        patch.setattr(usage, "ship", not_of_w1)
        with pytest.raises(OverflowError):
            shipper.ship()
        assert requests(usage) == ["req_2"]
    shipper.ship()
    assert requests(usage) == ["req_1", "req_2"]


def test_two_shippers_never_work_on_one_folder_at_once(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Scribe(folder, "w1", Commits())
    writer.start()
    writer.say([record("req_1")], [])
    writer.stop()
    second = Shipper(folder, usage)
    seen: list[int] = []

    ship = usage.ship

    def nested(*arguments: Any) -> int:
        seen.append(second.ship())
        return ship(*arguments)

    monkeypatch.setattr(usage, "ship", nested)
    Shipper(folder, usage).ship()
    assert set(seen) == {0}
    assert requests(usage) == ["req_1"]


def test_a_full_disk_is_told_before_room_for_those_in_flight_is_used_up(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits()
    writer = Scribe(folder, "w1", commits, segment_bytes=100_000)
    writer.start()
    assert not writer.full

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        patch.setattr("headgate.store.spool.RETRY_S", 0.01)
        count = 0
        while not writer.full:  # the second segment was allocated in time, the third is not
            writer.say([record(f"req_{count:04}")], [nothing])
            count += 1
            commits.wait_for(count)
        for _ in range(100):
            writer.say([record(f"req_{count:04}")], [nothing])
            count += 1
        commits.wait_for(count)  # those in flight are durable all the same
    for _ in range(1_000):
        if not writer.full:
            break
        time.sleep(0.01)
    assert not writer.full  # room came back
    writer.stop()
    Shipper(folder, usage).ship()
    assert len(requests(usage)) == count


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.slow
def test_a_disk_that_is_really_full_loses_no_record(folder: Path, usage: Usage) -> None:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        commits = Commits()
        writer = Scribe(folder, "w1", commits, segment_bytes=200_000)
        writer.start()
        filler = folder / "filler"
        filler.write_bytes(b"x" * 500_000)
        count = 0
        while not writer.full:
            writer.say([record(f"req_{count:04}")], [nothing])
            count += 1
            commits.wait_for(count)
        for _ in range(100):
            writer.say([record(f"req_{count:04}")], [nothing])
            count += 1
        commits.wait_for(count)
        filler.unlink()
        writer.say([record(f"req_{count:04}")], [])
        writer.stop()
        Shipper(folder, usage).ship()
        assert len(requests(usage)) == count + 1
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run(meter: SpoolMeter, story: Callable[[], None]) -> None:
    async def tell() -> None:
        meter.start()
        story()
        await asyncio.sleep(0.05)
        await meter.stop()

    asyncio.run(tell())


def test_the_meter_calls_back_on_the_loop_once_for_each_record(folder: Path, usage: Usage) -> None:
    meter = SpoolMeter(folder, "w1", strict=True)
    called: list[tuple[int, str]] = []

    def story() -> None:
        for i in range(50):
            meter.open(f"req_{i}", partial(opened, f"req_{i}"))
            record_to(
                meter,
                record(f"req_{i}"),
                lambda i=i: called.append((i, threading.current_thread().name)),
            )

    run(meter, story)
    assert called == [(i, "MainThread") for i in range(50)]
    Shipper(folder, usage).ship()
    assert len(requests(usage)) == 50


def test_a_request_that_ends_within_a_millisecond_leaves_no_note_that_it_began(
    folder: Path,
) -> None:
    meter = SpoolMeter(folder, "w1", strict=False)

    def story() -> None:
        meter.open("req_1", partial(opened, "req_1"))
        record_to(meter, record("req_1"))

    run(meter, story)
    [segment] = folder.glob("*.jsonl")
    assert b"req_1" in segment.read_bytes()
    assert b"opened" not in segment.read_bytes()


WRITES_UNTIL_KILLED = """
import sys, threading
from pathlib import Path
from headgate.ledger.usage import UsageRecord
from tests.scribe import Scribe

count = 0
def committed(durable):
    for number in durable:
        print(number, flush=True)

writer = Scribe(Path(sys.argv[1]), "w1", committed, segment_bytes=20_000)
writer.start()
while True:
    record = UsageRecord(f"req_{count:07}", "acme", "key_1", "small", "default", "maas")
    writer.say([record], [count])
    count += 1
    if count % 100 == 0:
        threading.Event().wait(0.001)
"""


def test_kill_9_keeps_every_record_that_was_said_to_be_durable(folder: Path, usage: Usage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES_UNTIL_KILLED, str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    shipper = Shipper(folder, usage)
    told = 0
    for line in process.stdout:
        told = int(line)
        if told == 1_000:
            shipper.ship()  # ships under way, too
        if told >= 5_000:
            break
    process.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in process.stdout.read().split(b"\n")[:-1])])
    process.wait()
    process.stdout.close()
    shipper.ship()
    kept = requests(usage)
    assert len(kept) > told
    assert kept == [f"req_{i:07}" for i in range(len(kept))]


def test_items_whose_heading_cannot_be_read_are_kept_for_a_person(
    folder: Path, usage: Usage
) -> None:
    writer = Scribe(folder, "w1", Commits())
    writer.start()
    writer.say([record("req_1")])
    writer.say([record("req_2", engine="other")])
    writer.stop()
    [segment] = folder.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[0] = b'["heading",0,["","ac\n'
    segment.write_bytes(b"".join(lines))
    shipper = Shipper(folder, usage)
    shipper.ship()
    assert requests(usage) == ["req_2"]
    assert shipper.bad_lines == 2
    kept = (folder / "unreadable").read_bytes()
    assert lines[0].strip() in kept
    assert b'"req_1"' in kept


def test_what_an_earlier_version_had_written_is_shipped_once(folder: Path, usage: Usage) -> None:
    """It wrote whole records, and shipped them by their ids: some are in the store already."""
    folder.mkdir()
    lines = [opened("req_0"), *(record(f"req_{i}", price_nano=5) for i in range(1, 40))]
    lines += [opened("req_1"), opened("req_40"), Progress("req_40", 3)]
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    (folder / "old-00000007.jsonl").write_bytes(data)
    usage.add([record(f"req_{i}", price_nano=5) for i in range(1, 20)])
    Shipper(folder, usage, lambda opened, tokens: 7 * tokens).ship()
    assert requests(usage) == sorted(f"req_{i}" for i in range(41))
    assert usage.sums(["outcome"])[("done",)].price_nano == 39 * 5
    assert usage.sums(["outcome"])[("gateway_lost",)].price_nano == 21
    assert usage.open_days() == (41, [])


def test_a_record_that_a_machine_lost_from_its_file_after_it_was_shipped_is_not_made_again(
    folder: Path, usage: Usage
) -> None:
    """What was read had not reached the disk when the power went."""
    commits = Commits()
    writer = Scribe(folder, "w1", commits)
    writer.start()
    writer.say([opened("req_1"), opened("req_2")], [nothing])
    commits.wait_for(1)
    [segment] = folder.glob("*.jsonl")
    kept = segment.read_bytes().partition(b"\0")[0]
    writer.say([record("req_1", price_nano=5)], [nothing])
    commits.wait_for(2)
    Shipper(folder, usage).ship()
    writer.stop()
    segment.write_bytes(kept)
    Shipper(folder, usage).ship()
    assert requests(usage) == ["req_1", "req_2"]
    assert usage.sums(["outcome"])[("done",)].price_nano == 5
    assert usage.open_days() == (2, [])


def test_a_segment_that_cannot_be_begun_leaves_nothing_for_the_shipper_to_find(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later segment says that the one before it is complete, and that one is deleted."""
    commits = Commits()
    writer = Scribe(folder, "w1", commits, segment_bytes=700)
    writer.start()
    shipper = Shipper(folder, usage)

    def sick(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", sick)
        for i in range(30):
            writer.say([record(f"req_{i}")], [nothing])
            commits.wait_for(i + 1)
            shipper.ship()
        assert writer.full
        assert len(list(folder.glob("*.jsonl"))) == 1
    writer.say([record("req_30")], [nothing])
    writer.stop()
    shipper.ship()
    assert requests(usage) == sorted(f"req_{i}" for i in range(31))


def test_nothing_of_a_new_segment_is_durable_before_the_old_one_is(
    folder: Path, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits()
    writer = Scribe(folder, "w1", commits, segment_bytes=700)
    synced: list[int] = []
    fdatasync = os.fdatasync

    def watched(file: int) -> None:
        time.sleep(0.002)
        fdatasync(file)
        synced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fdatasync", watched)
    writer.start()
    for i in range(60):
        writer.say([record(f"req_{i}")], [nothing])
    commits.wait_for(60)
    segments = sorted(folder.glob("*.jsonl"))
    assert len(segments) > 4
    firsts = [synced.index(path.stat().st_ino) for path in segments]
    assert firsts == sorted(firsts)
    for path, after in zip(segments, firsts[1:], strict=False):
        lasts = [row for row, inode in enumerate(synced) if inode == path.stat().st_ino]
        assert lasts[0] < after
    writer.stop()

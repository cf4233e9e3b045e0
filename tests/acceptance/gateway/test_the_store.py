"""PostgreSQL stopped and started, and a disk that fills up: requests go on, records all arrive."""

import asyncio
import ctypes
import os

import pytest
from tests.acceptance.gateway.clients import ask, ask_all
from tests.acceptance.gateway.running import Door, Emulated, chat, eventually, post, running
from tests.postgres import cluster

pytestmark = pytest.mark.engine


@pytest.fixture
def engine(tmp_path):
    engine = Emulated(tmp_path, ("--base-ms", "2")).start()
    yield engine
    engine.stop()


def test_postgresql_may_go_away_and_come_back_under_load(tmp_path, engine):
    tenants = """
        [[tenants]]
        name = "acme"
        limits = {"*" = {requests_per_min = 100000, tokens_per_min = 100000000}}
    """
    with cluster() as postgres:
        door = Door(
            tmp_path / "door", {"emulated": engine.url}, store=postgres.new_url(), tenants=tenants
        )

        async def stop_and_start():
            bodies = [chat(3 + row % 10, stream=row % 2 > 0) for row in range(600)]
            load = asyncio.create_task(ask_all(door, bodies, at_once=8, pause_s=0.02))
            while engine.counts()["vllm:request_success_total"] < 60:
                await asyncio.sleep(0.01)
            postgres.stop("immediate")
            while engine.counts()["vllm:request_success_total"] < 350:
                await asyncio.sleep(0.02)
            postgres.start()
            return await load

        with running(door):
            try:
                seen = asyncio.run(stop_and_start())
            except BaseException:
                postgres.start()
                raise
            records = {record.request: record for record in door.settled(600, within_s=30)}
    assert all(one.finished for one in seen), {one.error for one in seen}
    assert all(records[one.request].output_tokens == one.tokens for one in seen)
    generated = sum(record.output_tokens for record in records.values())
    assert generated == engine.counts()["vllm:generation_tokens_total"]


def test_a_door_opens_for_known_keys_while_postgresql_is_away(tmp_path, engine):
    with cluster() as postgres:
        door = Door(tmp_path / "door", {"emulated": engine.url}, store=postgres.new_url())
        with running(door):
            assert post(f"{door.url}/v1/chat/completions", chat(), door.key)[0] == 200
            door.settled(1)
        postgres.stop("immediate")
        with running(door):
            address = f"{door.url}/v1/chat/completions"
            eventually(lambda: post(address, chat(2), door.key)[0] == 200, 10)
            assert post(address, chat(2), "hg-nobody-knows-this-one")[0] in (401, 503)
            postgres.start()
            eventually(lambda: len(door.records()) >= 2, 20)
            records = door.records()
    assert {record.outcome for record in records} <= {"done"}


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 24 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ctypes.CDLL(None, use_errno=True).mount
    if mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=24m") != 0:
        pytest.skip(f"a small disk cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    ctypes.CDLL(None).umount2(str(folder).encode(), 2)


def fill(disk):
    """Leave no room on it; returns what to delete for there to be some again."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return disk / "filler"


def test_a_full_disk_lets_nobody_new_in_and_loses_nothing(tmp_path, small_disk, engine):
    door = Door(small_disk / "door", {"emulated": engine.url})
    door.store = f"sqlite:///{tmp_path}/elsewhere.db"
    with running(door):
        key = door.key
        fill(small_disk)
        # There is room set aside for the records of those who are in, and for many more.
        seen = asyncio.run(ask_all(door, [chat(5, stream=True)] * 200, at_once=10))
        assert all(one.finished for one in seen)
        door.stop()
        filler = fill(small_disk)
        # Whoever starts on a full disk has nothing set aside.
        door.start()
        full = asyncio.run(ask(door, chat(5), key=key))
        assert (full.status, full.error) == (503, "usage_disk_full")
        filler.unlink()
        again = []

        def let_in():
            again.append(asyncio.run(ask(door, chat(5), key=key)))
            return again[-1].finished

        eventually(let_in, 10)
        eventually(lambda: len(door.records()) >= 201, 20)
        eventually(door.at_rest, 10)
        records = {record.request: record for record in door.records()}
    for one in [*seen, again[-1]]:
        assert records[one.request].output_tokens == one.tokens == 5
    generated = sum(record.output_tokens for record in records.values())
    assert generated == engine.counts()["vllm:generation_tokens_total"]

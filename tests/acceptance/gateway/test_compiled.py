"""The door compiled by `headgate compile`: the answers and the bill of its source."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.gateway.clients import ask_all
from tests.acceptance.gateway.running import Door, Emulated, chat, eventually, headgate, running

from headgate.gateway.bench.doors import family

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder with the compiled modules in it."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    pytest.importorskip("mypyc")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        done = headgate("compile", cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = done.communicate(timeout=900)[0]
    assert done.returncode == 0, said
    return folder


def is_compiled(door):
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in family(door.process.pid)]
    return any("__mypyc" in text for text in maps)


@pytest.mark.parametrize("plain", ["", "1"])
def test_it_answers_and_bills_as_the_source_does(cache, tmp_path, plain):
    engine = Emulated(tmp_path, ("--base-ms", "1")).start()
    bodies = [chat(2 + row % 9, stream=row % 2 > 0) for row in range(200)]
    try:
        door = Door(tmp_path / "door", {"emulated": engine.url})
        with running(door, XDG_CACHE_HOME=str(cache), HEADGATE_PLAIN=plain):
            assert is_compiled(door) == (not plain)
            seen = asyncio.run(ask_all(door, bodies, at_once=16))
            records = {record.request: record for record in door.settled(len(bodies))}
            eventually(door.at_rest, 10)
    finally:
        engine.stop()
    assert all(one.finished for one in seen)
    for one in seen:
        assert records[one.request].output_tokens == one.tokens == one.body["max_tokens"]


def test_it_loses_nothing_when_it_is_killed(cache, tmp_path):
    engine = Emulated(tmp_path, ("--base-ms", "2")).start()
    try:
        door = Door(tmp_path / "door", {"emulated": engine.url}, state="strict = true\n")
        with running(door, XDG_CACHE_HOME=str(cache)):
            bodies = [chat(3 + row % 25, stream=row % 3 > 0) for row in range(300)]
            seen = asyncio.run(_killed_on_the_way(door, engine, bodies))
            door.start(XDG_CACHE_HOME=str(cache))
            eventually(door.at_rest, 20)
            done = [one.request for one in seen if one.finished]
            eventually(lambda: set(done) <= {r.request for r in door.records()}, 20)
            records = door.records()
    finally:
        engine.stop()
    assert len({record.request for record in records}) == len(records)


async def _killed_on_the_way(door, engine, bodies):
    load = asyncio.create_task(ask_all(door, bodies, at_once=16, pause_s=0.001))
    while engine.counts()["vllm:request_success_total"] < 100:
        await asyncio.sleep(0.01)
    door.kill()
    return await load

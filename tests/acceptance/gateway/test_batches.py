"""Files and batches through the official SDK, on the running system, killed under way."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.acceptance.gateway.running import Door, eventually, price_nano, running
from tests.acceptance.gateway.scripted import PROMPT_TOKENS, ScriptedEngine

pytestmark = pytest.mark.slow

TOKENS = 3  # of each answer


@pytest.fixture
def door(engine: ScriptedEngine, tmp_path: Path) -> Iterator[Door]:
    """A door of this test's own: it is killed."""
    engine.asked.clear()
    engine.script.clear()
    tenants = '[[tenants]]\nname = "acme"\n[[tenants]]\nname = "bolt"\n'
    door = Door(tmp_path / "door", {"scripted": engine.url}, tenants=tenants)
    door.folder.mkdir()
    with running(door):
        yield door


def client_of(door: Door, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key=key or door.key, max_retries=5)


def batch_of(client: openai.OpenAI, count: int) -> openai.types.Batch:
    lines = [
        {
            "custom_id": f"line-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "tiny",
                "messages": [{"role": "user", "content": str(i)}],
                "max_tokens": TOKENS,
            },
        }
        for i in range(count)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", text), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def until_over(client: openai.OpenAI, batch_id: str, within_s: float = 60.0) -> openai.types.Batch:
    found: list[openai.types.Batch] = []

    def over() -> bool:
        found[:] = [client.batches.retrieve(batch_id)]
        return found[0].status in ("completed", "failed", "expired", "cancelled")

    eventually(over, within_s, lambda: str(found))
    return found[0]


def answers(client: openai.OpenAI, file_id: str | None) -> dict[str, dict]:
    """The lines of a file by custom id, each once."""
    assert file_id is not None
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def billed(door: Door) -> dict[str, list[int]]:
    """The prices of each line's records that were done."""
    with contextlib.closing(sqlite3.connect(door.folder / "headgate.db")) as store:
        prices: dict[str, list[int]] = {}
        for order, price in store.execute(
            "SELECT work_order, price_nano FROM usage WHERE work_order <> '' AND outcome = 'done'"
        ):
            prices.setdefault(order, []).append(price)
    return prices


def headgate(door: Door, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("headgate")), *arguments]
    return subprocess.run(
        [*command, "--store", door.store_url], capture_output=True, text=True, timeout=60
    )


def test_a_batch_is_answered_and_billed_at_half_price(door: Door) -> None:
    client = client_of(door)
    batch = until_over(client, batch_of(client, 50).id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 50
    output = answers(client, batch.output_file_id)
    assert set(output) == {f"line-{i}" for i in range(50)}
    body = output["line-3"]["response"]["body"]
    assert body["service_tier"] == "batch"
    assert body["usage"]["completion_tokens"] == TOKENS
    eventually(lambda: len(billed(door)) == 50, 10.0)
    half = price_nano(PROMPT_TOKENS, TOKENS) // 2
    assert sorted(billed(door).values()) == [[half]] * 50
    usage = headgate(door, "usage", "--by", "tenant,model,day", "--json")
    assert usage.returncode == 0, usage.stderr
    [row] = json.loads(usage.stdout)
    assert (row["tenant"], row["requests"], row["output"]) == ("acme", 50, 50 * TOKENS)
    assert row["price"] == f"{50 * half / 1e9:.9f}"


def test_another_tenants_batches_and_files_are_not_there(door: Door) -> None:
    acme, bolt = client_of(door), client_of(door, door.key_for("bolt"))
    batch = until_over(acme, batch_of(acme, 1).id)
    for ask in (
        lambda: bolt.batches.retrieve(batch.id),
        lambda: bolt.batches.cancel(batch.id),
        lambda: bolt.files.content(batch.output_file_id or ""),
        lambda: bolt.files.delete(batch.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert list(bolt.batches.list()) == []
    assert list(bolt.files.list()) == []


def test_cancelling_keeps_what_is_answered_and_stops_the_engine(
    door: Door, engine: ScriptedEngine
) -> None:
    client = client_of(door)
    engine.script["gap_s"] = 0.02
    batch = batch_of(client, 1_000)
    eventually(lambda: sum(one.finished for one in engine.requests) >= 20, 20.0)
    assert client.batches.cancel(batch.id).status == "cancelling"
    over = until_over(client, batch.id)
    assert over.status == "cancelled"
    output = answers(client, over.output_file_id)
    assert 20 <= len(output) < 1_000
    assert len(answers(client, over.error_file_id)) == 1_000 - len(output)
    eventually(door.at_rest, 10.0)
    asked = len(engine.requests)
    time.sleep(0.3)
    assert len(engine.requests) == asked
    assert all(one.finished or one.left_s is not None for one in engine.requests)


def kill_admin(door: Door) -> bool:
    """kill -9 of the process that runs batches, alone, once it is at work."""
    assert door.process is not None
    children = Path(f"/proc/{door.process.pid}/task/{door.process.pid}/children").read_text()
    for child in map(int, children.split()):
        names = {os.readlink(f) for f in Path(f"/proc/{child}/fd").iterdir() if f.exists()}
        if any("-output" in name for name in names):  # it has a journal open
            os.kill(child, signal.SIGKILL)
            return True
    return False


@pytest.mark.parametrize("whole", [True, False])
def test_kill_9_under_way_neither_loses_nor_repeats_a_line_and_bills_each_once(
    door: Door, engine: ScriptedEngine, whole: bool
) -> None:
    client = client_of(door)
    engine.script["gap_s"] = 0.01
    batch = batch_of(client, 400)
    for share in (50, 150, 250):
        eventually(lambda share=share: sum(one.finished for one in engine.requests) >= share, 30.0)
        if whole:
            door.kill()
            door.start()
        else:
            kill_admin(door)
            time.sleep(0.5)
    over = until_over(client_of(door), batch.id)
    assert over.status == "completed"
    assert over.request_counts is not None
    assert (over.request_counts.completed, over.request_counts.failed) == (400, 0)
    assert len(answers(client_of(door), over.output_file_id)) == 400
    eventually(lambda: len(billed(door)) == 400, 20.0)
    time.sleep(0.5)
    half = price_nano(PROMPT_TOKENS, TOKENS) // 2
    prices = billed(door)
    assert len(prices) == 400
    assert all(sorted(paid)[-1] == half and sum(paid) == half for paid in prices.values())
    assert headgate(door, "usage").returncode == 0

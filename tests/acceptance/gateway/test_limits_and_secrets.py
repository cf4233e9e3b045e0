"""What parallel calls may use, what a tenant may see, and what is written down nowhere."""

import asyncio
import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.acceptance.gateway.clients import ask_all
from tests.acceptance.gateway.running import Door, chat, eventually, headgate, post, running
from tests.acceptance.gateway.scripted import scripted_engine

pytestmark = pytest.mark.engine

LIMIT_TOKENS = 3_000
SECRET = "the-prompt-that-nobody-may-write-down"
TENANTS = f"""
[[tenants]]
name = "acme"
[[tenants]]
name = "fast"
limits = {{"*" = {{tokens_per_min = {LIMIT_TOKENS}}}}}
[[tenants]]
name = "poor"
budgets = [{{period = "total", money = 0.005}}]
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes on the door's port: what they share, they share through the store."""
    folder = tmp_path_factory.mktemp("limits")
    with scripted_engine() as engine:
        door = Door(folder, {"scripted": engine.url}, tenants=TENANTS, workers=2)
        with running(door):
            yield engine, door


def test_a_thousand_calls_at_once_pass_no_more_tokens_than_the_limit(pair):
    _, door = pair
    bodies = [chat(60, stream=row % 2 > 0) for row in range(1000)]
    seen = asyncio.run(ask_all(door, bodies, at_once=200, key=door.key_for("fast")))
    served = [one for one in seen if one.finished]
    assert {one.error for one in seen if not one.finished} == {"limit_tokens"}
    estimate = len(json.dumps(chat(60))) // 4 + 60
    # A minute's tokens, those that flow in while we ask, and one request's estimate.
    assert len(served) * estimate <= LIMIT_TOKENS * 1.5 + estimate
    assert len(served) * estimate >= LIMIT_TOKENS * 0.5


def test_a_budget_is_spent_and_then_refused_whatever_the_number_of_calls(pair):
    _, door = pair
    key = door.key_for("poor")
    bodies = [chat(100) for _ in range(200)]  # each costs 0.000307
    seen = asyncio.run(ask_all(door, bodies, at_once=50, key=key))
    served = [one for one in seen if one.finished]
    assert {one.error for one in seen if not one.finished} == {"insufficient_quota"}
    eventually(
        lambda: len([r for r in door.records() if r.tenant == "poor"]) == 200,
        20,
    )
    spent = sum(r.price_nano for r in door.records() if r.tenant == "poor")
    assert len(served) >= 4
    assert spent <= 5_000_000


def test_a_revoked_key_is_refused_at_once(pair):
    _, door = pair
    address = f"{door.url}/v1/chat/completions"
    key = door.key_for("acme")
    assert post(address, chat(1), key)[0] == 200
    door.revoke(key)
    eventually(lambda: post(address, chat(1), key)[0] == 401, 5)
    assert post(address, chat(1), door.key)[0] == 200


def test_usage_closes_on_the_command_line(pair):
    _, door = pair
    post(f"{door.url}/v1/chat/completions", chat(1), door.key)
    eventually(door.at_rest, 10)

    def closes():
        command = headgate(
            "usage",
            "--by",
            "tenant,model,day",
            cwd=door.folder,
            env=os.environ | {"HEADGATE_STORE": door.store_url},
            stdout=subprocess.PIPE,
        )
        said, _ = command.communicate(timeout=60)
        return command.returncode == 0 and b"Closes: " in said

    assert closes()


def test_the_admin_pages_open_to_an_admin_key_alone_and_on_the_loopback(pair):
    _, door = pair
    address = f"http://127.0.0.1:{door.admin_port}/admin/tenants"

    def status(url, key):
        asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    assert status(address, door.key_for("acme", admin=True)) == 200
    assert status(address, door.key) in (401, 403)
    assert status(address, "hg-nobody") == 401
    # The door itself does not lead there, whoever asks.
    assert status(f"{door.url}/admin/tenants", door.key_for("acme", admin=True)) == 404
    assert status(f"{door.url}/internal/room", door.key) in (401, 404)
    assert listeners(door.admin_port) == {"0100007F"}


def listeners(port):
    """The addresses (little-endian hexadecimal) that are listened on at a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1][-4:], 16) == port}


def test_no_header_of_a_client_makes_it_the_doors_own_process(pair):
    _, door = pair
    body = json.dumps(chat(1)).encode()
    for secret in ("", "x", "0" * 48):
        asked = urllib.request.Request(
            f"{door.url}/v1/chat/completions",
            body,
            {
                "authorization": f"Bearer {door.key}",
                "x-headgate-internal": secret,
                "x-headgate-tenant": "fast",
                "x-headgate-order": "batch_1/1",
            },
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=10)
        refused.value.close()
        assert refused.value.code == 401


def test_neither_prompts_nor_keys_nor_answers_are_written_down(tmp_path):
    with scripted_engine() as engine:
        door = Door(tmp_path, {"scripted": engine.url})
        with running(door):
            key = door.key_for("acme")
            address = f"{door.url}/v1/chat/completions"
            prompt = {"messages": [{"role": "user", "content": SECRET}]}
            for more in ({}, {"stream": True}, {"script": {"status": 400}}, {"model": "huge"}):
                post(address, chat(2) | prompt | more, key)
            post(address, chat(2) | prompt, key + "x")
            post(address, {"model": "tiny", "messages": SECRET}, key)
            eventually(lambda: len(door.records()) >= 3, 10)
            with urllib.request.urlopen(f"{door.url}/metrics", timeout=5) as page:
                pages = [page.read()]
        pages += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
        # Files of batches hold prompts: they lie where nobody else may look.
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    for page in pages:
        assert SECRET.encode() not in page
        assert key.encode() not in page
        assert b"w0 w1" not in page

"""Does it keep its word: order under overload, fair shares, limits, faults, batches."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from headgate.core.errors import InputError
from headgate.gateway.bench import doors, load
from headgate.gateway.bench.asking import Askers, Told, message
from headgate.gateway.bench.doors import MODEL, Running
from headgate.gateway.bench.speed import DOOR_CORE, LOAD_CORE, Plan
from headgate.gateway.emulate import Profile

TENANTS = 50
TTFT_S = 1.0
BOSS_TOKENS = 64 + 60  # a request's mean output and its prompt
# For order and shares: a step of 256 sequences takes 8 ms.
QUICK_ENGINE = ("--base-ms", "4", "--token-us", "15", "--kv-token-ns", "0", "--sequences", "256")
# For batches: the default profile, a dense 8B model on one A100.
REAL_ENGINE = ("--sequences", "64")
INTERACTIVE_PROMPT_TOKENS = 1_000


@dataclass
class Key:
    id: str
    tenant: str
    key: str

    def toml(self) -> str:
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        return f'[[keys]]\nid = "{self.id}"\ntenant = "{self.tenant}"\nsha256 = "{digest}"\n'


@dataclass
class Site:
    """A door in front of emulated engines, with the keys of its tenants."""

    door: Running
    engines: list[Running]
    keys: dict[str, str]
    folder: Path
    engine_commands: list[list[str]]

    def restart_engine(self, number: int) -> Callable[[], None]:
        """Kill an engine and start it again on its port; the returned call stops the new one."""
        engine = self.engines[number]
        os.killpg(engine.process.pid, signal.SIGKILL)
        engine.process.wait()
        manager = doors.running(
            engine.name, self.engine_commands[number], engine.port, LOAD_CORE, self.folder
        )
        self.engines[number] = manager.__enter__()

        def stop() -> None:
            manager.__exit__(None, None, None)

        return stop


@contextlib.contextmanager
def site(
    folder: Path,
    tenants: dict[str, str],
    classes: str,
    engines: int = 1,
    extra: str = "",
    workers: int = 1,
    engine_options: tuple[str, ...] = QUICK_ENGINE,
    engine_terms: str = "in_flight_max = 256",
) -> Iterator[Site]:
    """`tenants` maps a tenant's name to the rest of its TOML table."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {name: f"sk-{name}-secret" for name in tenants}
    with contextlib.ExitStack() as stack:
        made, commands, text = [], [], classes
        for number in range(engines):
            port = doors.free_port()
            program = "from headgate.cli import main; main()"
            command = [sys.executable, "-c", program, "engine", "emulate", "--port", str(port)]
            command += ["--model", MODEL, *engine_options]
            name = f"engine{number}"
            made.append(stack.enter_context(doors.running(name, command, port, LOAD_CORE, folder)))
            commands.append(command)
            text += (
                f'[[engines]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\nkind = "vllm"\n'
                f"priorities = true\n{engine_terms}\n"
            )
        names = ", ".join(f'"engine{n}"' for n in range(engines))
        text += (
            f'[[models]]\nname = "{MODEL}"\nengines = [{names}]\n'
            "price = { input = 0.15, cached = 0.075, output = 0.6 }\n"
        )
        for name, terms in tenants.items():
            text += f'[[tenants]]\nname = "{name}"\n{terms}\n'
        text += "".join(Key(f"key_{name}", name, key).toml() for name, key in keys.items())
        port = doors.free_port()
        text = (
            f"[server]\nport = {port}\nworkers = {workers}\n"
            f'[state]\nfolder = "{folder}/state"\nurl = "sqlite:///{folder}/state/headgate.db"\n'
            f"[admin]\nport = {doors.free_port()}\n{text}{extra}"
        )
        (folder / "headgate.toml").write_text(text)
        program = "from headgate.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", str(folder / "headgate.toml")]
        core = DOOR_CORE if workers == 1 else -1
        door = stack.enter_context(doors.running("headgate", command, port, core, folder))
        yield Site(door, made, keys, folder, commands)


def run(trial: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return uvloop.run(trial())


CLASSES = f"""
[[classes]]
name = "high"
ttft_ms = {TTFT_S * 1000}
patience_s = 30.0
[[classes]]
name = "low"
patience_s = 600.0
"""


def overload(plan: Plan) -> dict[str, float]:
    """The higher class alone, then with as much again and more of the lower class behind it."""
    seconds = max(10.0, plan.seconds * 30)
    tenants = {"boss": 'class = "high"'}
    tenants |= {f"t{n}": 'class = "low"' for n in range(TENANTS)}
    with site(plan.folder / "overload", tenants, CLASSES) as place:
        _, shares = run(lambda: _overload(place, 5.0, 0.0, low=True))
        capacity = sum(shares.values()) / 5.0
        rate = 0.4 * capacity / BOSS_TOKENS
        alone, _ = run(lambda: _overload(place, seconds, rate, low=False))
        crowded, shares = run(lambda: _overload(place, seconds, rate, low=True))
    mean = sum(shares.values()) / len(shares)
    return {
        "goodput_kept": crowded / alone,
        "fair_share_max_error": max(abs(s / mean - 1.0) for s in shares.values()),
        "goodput_alone_tokens": alone,
        "low_tokens_per_tenant": mean,
        "capacity_tokens_per_s": capacity,
    }


async def _overload(
    place: Site, seconds: float, rate_per_s: float, low: bool
) -> tuple[float, dict[str, float]]:
    """Tokens of the higher class delivered within its objective; the tenants' tokens below it."""
    askers = Askers(place.door.port)
    dice = random.Random(7)
    told: list[Told] = []
    shares = dict.fromkeys((name for name in place.keys if name != "boss"), 0.0)
    counting = False
    tasks: set[asyncio.Task[None]] = set()

    async def boss(output: int) -> None:
        prompt = "who goes first " * 16
        asked = message(place.door.port, place.keys["boss"], prompt, output, stream=True)
        told.append(await askers.ask(asked))

    async def tenant(name: str, number: int) -> None:
        # Unlike one another: some ask for much at once, some for little and often.
        own = random.Random(number)
        while True:
            output = own.choice((32, 48, 64)) + 16 * (number % 3)
            prompt = "and who goes next " * (4 + number % 5)
            asked = message(place.door.port, place.keys[name], prompt, output, stream=False)
            answer = await askers.ask(asked)
            if counting and answer.complete:
                shares[name] += answer.output_tokens + len(prompt) // 4

    if low:
        for number, name in enumerate(shares):
            for _ in range(8 + number % 4):
                tasks.add(asyncio.create_task(tenant(name, number)))
        await asyncio.sleep(3.0)
    counting = True
    began_s = time.perf_counter()
    bosses = []
    due_s = began_s
    while due_s < began_s + seconds:
        due_s += dice.expovariate(rate_per_s) if rate_per_s else seconds
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        if rate_per_s:
            bosses.append(asyncio.create_task(boss(dice.choice((32, 64, 96)))))
    counting = False
    await asyncio.gather(*bosses)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    askers.close()
    good = sum(t.output_tokens for t in told if t.complete and t.first_s <= TTFT_S)
    return float(good), shares


def limits(plan: Plan) -> float:
    """A thousand calls at once against a limit of tokens: by how many requests it is passed."""
    output, prompt = 20, "how much may pass " * 10
    limit = 6000
    tenants = {
        "t": f'class = "low"\nlimits = {{ "*" = {{ tokens_per_min = {limit}, burst_s = 60.0 }} }}'
    }
    with site(plan.folder / "limits", tenants, CLASSES, workers=2) as place:

        async def trial() -> list[Told]:
            askers = Askers(place.door.port)
            asked = message(place.door.port, place.keys["t"], prompt, output, stream=False)
            answers = await asyncio.gather(*(askers.ask(asked) for _ in range(1000)))
            askers.close()
            return answers

        answers = run(trial)
        asked = message(place.door.port, place.keys["t"], prompt, output, stream=False)
        estimate = (len(asked) - asked.index(b"\r\n\r\n") - 4) // 4 + output
    through = sum(1 for answer in answers if answer.status == 200)
    used = through * (len(prompt) // 4 + output)
    return max(0.0, (used - limit) / estimate)


def faults(plan: Plan) -> dict[str, float]:
    """Clients that leave and engines that are killed: is every request on the bill once?"""
    requests = plan.requests // 2
    with site(
        plan.folder / "faults",
        {f"t{n}": 'class = "low"' for n in range(4)},
        CLASSES,
        engines=3,
        engine_options=("--base-ms", "1", "--token-us", "5", "--kv-token-ns", "0"),
        engine_terms="in_flight_max = 128",
    ) as place:
        told = run(lambda: _faults(place, requests))
    return _audit(place.folder / "state" / "headgate.db", told)


async def _faults(place: Site, requests: int) -> list[Told]:
    askers = Askers(place.door.port)
    dice = random.Random(11)
    told: list[Told] = []
    stops: list[Callable[[], None]] = []
    left = requests

    async def client(number: int) -> None:
        nonlocal left
        key = place.keys[f"t{number % 4}"]
        own = random.Random(number)
        while left > 0:
            left -= 1
            output = own.randrange(1, 12)
            streams = own.random() < 0.5
            asked = message(place.door.port, key, "what is lost " * 5, output, streams)
            leaves = own.random() < 0.2
            if leaves and streams:
                told.append(await askers.ask(asked, leave_after=own.randrange(0, output)))
            elif leaves:
                told.append(await askers.ask(asked, leave_s=own.uniform(0.0002, 0.01)))
            else:
                told.append(await askers.ask(asked))

    async def killer() -> None:
        while True:
            await asyncio.sleep(5.0)
            number = dice.randrange(len(place.engines))
            stops.append(await asyncio.to_thread(place.restart_engine, number))

    killing = asyncio.create_task(killer())
    try:
        await asyncio.gather(*(client(n) for n in range(96)))
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        askers.close()
        for stop in stops[:-3]:
            stop()
    await asyncio.sleep(1.0)
    return told


def _audit(database: Path, told: list[Told]) -> dict[str, float]:
    """Hold the records against what the clients saw."""
    with contextlib.closing(sqlite3.connect(database)) as store:
        rows = store.execute(
            "SELECT request, outcome, input_tokens, cached_tokens, output_tokens, price_nano "
            "FROM usage"
        ).fetchall()
    records = {row[0]: row for row in rows}
    named = [t for t in told if t.request]
    # Who left before the answer began has no name to look for; it has a record all the same. An
    # answer that never came to one who stayed is a connection closed as it was used again, which
    # clients try again.
    unanswered = sum(1 for t in told if not t.request and not t.left)
    unnamed = len(told) - len(named) - unanswered
    lost = sum(1 for t in named if t.request not in records)
    strangers = len(records) - (len(named) - lost)
    mispriced = 0
    for _, _, fed, cached, made, price in rows:
        nano = (fed - cached) * 150_000_000 + cached * 75_000_000 + made * 600_000_000
        mispriced += price != (nano + 500_000) // 1_000_000
    short = 0
    for t in named:
        row = records.get(t.request)
        if row is not None and t.complete and t.status == 200 and row[4] != t.output_tokens:
            short += 1
    return {
        "requests": len(told),
        "lost": lost + max(0, unnamed - strangers),
        "doubled": len(rows) - len(records) + max(0, strangers - unnamed - unanswered),
        "unanswered": unanswered,
        "mispriced": mispriced + short,
        "left": sum(t.left for t in told),
    }


def batch(plan: Plan) -> dict[str, float]:
    """A batch beside interactive traffic: what of the idle engine it uses, what it costs others."""
    seconds = max(20.0, plan.seconds * 20)
    tenants = {"boss": 'class = "high"', "night": 'class = "low"'}
    with site(
        plan.folder / "batch",
        tenants,
        CLASSES,
        engine_options=REAL_ENGINE,
        engine_terms="in_flight_max = 64",
    ) as place:
        quiet = run(lambda: _interactive(place, seconds, 1))
        name = _start_batch(place, lines=20_000)
        time.sleep(2.0)
        capacity = _rate_of(place, 6.0)
        busy_before, busy_from_s = engine_tokens(place), time.perf_counter()
        busy = run(lambda: _interactive(place, seconds, 2))
        spent = engine_tokens(place) - busy_before
        took_s = time.perf_counter() - busy_from_s
        interactive = sum(t.output_tokens for t in busy)
        _cancel_batch(place, name)
    # What the engine's time was worth that interactive prompts and tokens did not take.
    taken_s = Profile().per_token_s * (interactive + len(busy) * INTERACTIVE_PROMPT_TOKENS)
    idle = capacity * (took_s - taken_s)
    return {
        "idle_used_share": (spent - interactive) / idle,
        "interactive_ttft_p99_ratio": load.percentile([t.first_s for t in busy], 0.99)
        / load.percentile([t.first_s for t in quiet], 0.99),
        "capacity_tokens_per_s": capacity,
    }


async def _interactive(place: Site, seconds: float, turn: int) -> list[Told]:
    askers = Askers(place.door.port)
    dice = random.Random(3)
    tasks = []
    due_s = time.perf_counter()
    until_s = due_s + seconds
    while due_s < until_s:
        due_s += dice.expovariate(6.0)
        # No two begin alike: each prompt of a thousand tokens has to be read.
        prompt = f"{turn} {dice.random()} " + "quick now " * (4 * INTERACTIVE_PROMPT_TOKENS // 10)
        asked = message(place.door.port, place.keys["boss"], prompt, 40, stream=True)
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        tasks.append(asyncio.create_task(askers.ask(asked)))
    told = await asyncio.gather(*tasks)
    askers.close()
    return list(told)


def _rate_of(place: Site, seconds: float) -> float:
    before, from_s = engine_tokens(place), time.perf_counter()
    time.sleep(seconds)
    return (engine_tokens(place) - before) / (time.perf_counter() - from_s)


def engine_tokens(place: Site) -> float:
    """Tokens the engines say they have made."""
    total = 0.0
    for engine in place.engines:
        page = _http(engine.port, "GET", "/metrics", b"", {})
        for line in page.decode().splitlines():
            if line.startswith("vllm:generation_tokens_total"):
                total += float(line.rpartition(" ")[2])
    return total


def _start_batch(place: Site, lines: int) -> str:
    rows = b"".join(
        json.dumps(
            {
                "custom_id": f"line-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": MODEL,
                    "messages": [{"role": "user", "content": "take your time " * 10}],
                    "max_tokens": 60,
                },
            }
        ).encode()
        + b"\n"
        for n in range(lines)
    )
    edge = "headgate-bench"
    form = (
        f'--{edge}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="lines.jsonl"\r\n'
        f"content-type: application/jsonl\r\n\r\n"
    ).encode()
    form += rows + f"\r\n--{edge}--\r\n".encode()
    key = {"authorization": f"Bearer {place.keys['night']}"}
    kind = {"content-type": f"multipart/form-data; boundary={edge}"}
    file = json.loads(_http(place.door.port, "POST", "/v1/files", form, key | kind))
    fields = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    body = json.dumps(fields).encode()
    kind = {"content-type": "application/json"}
    made = json.loads(_http(place.door.port, "POST", "/v1/batches", body, key | kind))
    return str(made["id"])


def _cancel_batch(place: Site, name: str) -> None:
    key = {"authorization": f"Bearer {place.keys['night']}"}
    _http(place.door.port, "POST", f"/v1/batches/{name}/cancel", b"", key)


def _http(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise InputError(f"{method} {path} was answered {answer.status}: {data[:300]!r}.")
        return data
    finally:
        connection.close()

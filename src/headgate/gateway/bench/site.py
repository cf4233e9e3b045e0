"""A door in front of emulated engines, with the tenants and keys that a trial wants."""

import contextlib
import hashlib
import http.client
import json
import os
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
from headgate.gateway.bench import doors
from headgate.gateway.bench.doors import MODEL, Running
from headgate.gateway.bench.speed import DOOR_CORE, LOAD_CORE

# A step of 256 sequences takes 8 ms.
QUICK_ENGINE = ("--base-ms", "4", "--token-us", "15", "--kv-token-ns", "0", "--sequences", "256")
TTFT_S = 1.0
CLASSES = f"""
[[classes]]
name = "high"
ttft_ms = {TTFT_S * 1000}
patience_s = 30.0
[[classes]]
name = "low"
patience_s = 600.0
"""
RESTARTED_S = 60.0


@dataclass
class Site:
    """What runs, and the keys of its tenants."""

    door: Running
    engines: list[Running]
    keys: dict[str, str]
    folder: Path
    door_command: list[str]
    engine_commands: list[list[str]]
    core: int
    programs: contextlib.ExitStack  # what ends them all

    @property
    def database(self) -> Path:
        return self.folder / "state" / "headgate.db"

    def restart_engine(self, number: int) -> None:
        """Kill an engine and start it again on its port."""
        _kill(self.engines[number])
        command = self.engine_commands[number]
        self.engines[number] = self._start(self.engines[number], command, LOAD_CORE)

    def kill_door(self) -> float:
        """SIGKILL to all processes of the door; when that was, by `time.monotonic`."""
        killed_s = time.monotonic()
        _kill(self.door)
        return killed_s

    def restart_door(self) -> None:
        """Start a killed door again on its port, with its state."""
        self.door = self._start(self.door, self.door_command, self.core)

    def _start(self, before: Running, command: list[str], core: int) -> Running:
        return self.programs.enter_context(
            doors.running(before.name, command, before.port, core, self.folder)
        )

    def counters(self, *names: str) -> float:
        """Of the engines together, vLLM's counters of these names."""
        total = 0.0
        for engine in self.engines:
            for line in http_call(engine.port, "GET", "/metrics").decode().splitlines():
                if line.startswith(tuple(f"vllm:{name}{{" for name in names)):
                    total += float(line.rpartition(" ")[2])
        return total

    def aborts(self) -> list[tuple[str, float]]:
        """What the engines saw cancelled of late: whose request, and when."""
        return [
            (name, at_s)
            for engine in self.engines
            for name, at_s in json.loads(http_call(engine.port, "GET", "/aborts"))
        ]

    def records(self) -> list[tuple[Any, ...]]:
        """The bill: request, outcome, tokens in, cached and out, price."""
        with contextlib.closing(sqlite3.connect(self.database)) as store:
            return store.execute(
                "SELECT request, outcome, input_tokens, cached_tokens, output_tokens, price_nano "
                "FROM usage"
            ).fetchall()


@contextlib.contextmanager
def site(
    folder: Path,
    tenants: dict[str, str],
    classes: str = CLASSES,
    engines: int = 1,
    extra: str = "",
    workers: int = 1,
    engine_options: tuple[str, ...] = QUICK_ENGINE,
    engine_terms: str = "in_flight_max = 256",
    strict: bool = False,
) -> Iterator[Site]:
    """`tenants` maps a tenant's name to the rest of its TOML table."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {name: f"sk-{name}-secret" for name in tenants}
    program = [sys.executable, "-c", "from headgate.cli import main; main()"]
    with contextlib.ExitStack() as stack:
        made, commands, text = [], [], classes
        for number in range(engines):
            port = doors.free_port()
            command = [*program, "engine", "emulate", "--port", str(port), "--model", MODEL]
            command += engine_options
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
        text += "".join(_key_table(name, key) for name, key in keys.items())
        port = doors.free_port()
        text = (
            f"[server]\nport = {port}\nworkers = {workers}\n"
            f'[state]\nfolder = "{folder}/state"\nurl = "sqlite:///{folder}/state/headgate.db"\n'
            f"strict = {'true' if strict else 'false'}\n"
            f"[admin]\nport = {doors.free_port()}\n{text}{extra}"
        )
        (folder / "headgate.toml").write_text(text)
        command = [*program, "serve", str(folder / "headgate.toml")]
        core = DOOR_CORE if workers == 1 else -1
        door = stack.enter_context(doors.running("headgate", command, port, core, folder))
        yield Site(door, made, keys, folder, command, commands, core, stack)


def _key_table(tenant: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f'[[keys]]\nid = "key_{tenant}"\ntenant = "{tenant}"\nsha256 = "{digest}"\n'


def _kill(program: Running) -> None:
    os.killpg(program.process.pid, signal.SIGKILL)
    program.process.wait()


def run(trial: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return uvloop.run(trial())


def http_call(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """One request to an engine or a door, outside what is measured."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise InputError(f"{method} {path} was answered {answer.status}: {data[:300]!r}.")
        return data
    finally:
        connection.close()

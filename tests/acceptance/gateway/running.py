"""`headgate serve` as its users run it: a process, a config file, a state folder."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.vllm_cpu.server import free_port, stop_group

from headgate.store.open import connect
from headgate.store.tenants import Tenants

PRICE_INPUT, PRICE_OUTPUT = 1.0, 3.0  # currency units per million tokens
COLUMNS = """request, tenant, model, tier, class, endpoint, engine, outcome, status, attempts,
    input_tokens, cached_tokens, output_tokens, counted, price_nano, work_order, first_byte_s"""


@dataclass(frozen=True)
class Record:
    """One row of the table `usage`."""

    request: str
    tenant: str
    model: str
    tier: str
    class_: str
    endpoint: str
    engine: str
    outcome: str
    status: int
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    counted: str
    price_nano: int
    order: str  # batch and line of batch work
    first_byte_s: float


def headgate(*arguments: object, cwd: Path, **more: Any) -> subprocess.Popen[bytes]:
    """The command, in a session of its own so that all it starts can be ended together."""
    command = [str(Path(sys.executable).with_name("headgate")), *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, start_new_session=True, **more)


@dataclass
class Door:
    """A gateway in front of engines. `more` is appended to the config."""

    folder: Path
    engines: dict[str, str]  # name to url
    kind: str = "openai"
    model: str = "tiny"
    workers: int = 1
    store: str = ""
    server: str = ""  # further lines of the config's [server]
    state: str = ""  # ... and of its [state]
    engine: str = ""  # ... and of each [[engines]]
    tenants: str = '[[tenants]]\nname = "acme"\n'
    more: str = ""
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{self.folder}/headgate.db"

    @property
    def key(self) -> str:
        """The key that the door made for its first tenant."""
        return (self.folder / "state" / "default-key").read_text().strip()

    def revoke(self, key: str) -> None:
        database = connect(self.store_url)
        try:
            known = Tenants(database).keys()
            (one,) = (each for each in known if key.startswith(each.hint))
            Tenants(database).revoke_key(one.id)
        finally:
            database.close()

    def key_for(self, tenant: str, admin: bool = False) -> str:
        """A new key."""
        database = connect(self.store_url)
        try:
            key, _ = Tenants(database).add_key(tenant, label="test", admin=admin)
        finally:
            database.close()
        return key

    def config(self) -> str:
        names = ", ".join(f'"{name}"' for name in self.engines)
        return "\n".join(
            [
                f"[server]\nport = {self.port}\nworkers = {self.workers}\n{self.server}",
                f'[state]\nurl = "{self.store_url}"\nfolder = "{self.folder}/state"\n{self.state}',
                *(
                    f'[[engines]]\nname = "{name}"\nurl = "{url}"\nkind = "{self.kind}"\n'
                    f"{self.engine}"
                    for name, url in self.engines.items()
                ),
                f'[[models]]\nname = "{self.model}"\nengines = [{names}]\n'
                f"price = {{input = {PRICE_INPUT}, output = {PRICE_OUTPUT}}}",
                f"[admin]\nport = {self.admin_port}",
                self.tenants,
                self.more,
            ]
        )

    def write_config(self) -> Path:
        path = self.folder / "headgate.toml"
        path.write_text(self.config())
        return path

    def start(self, **environment: str) -> "Door":
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log", "ab") as log:
            self.process = headgate(
                "serve",
                self.write_config(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )
        eventually(self.answers, 20.0, lambda: f"the door did not open:\n{self.log()[-3000:]}")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the door closed at once:\n{self.log()[-3000:]}")
        try:
            socket.create_connection(("127.0.0.1", self.admin_port), 2).close()
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=2):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """As an operator does it: asked to go, it finishes what runs and ships its usage."""
        if self.process is not None:
            stop_group(self.process.pid, self.process)
            self.process = None

    def kill(self) -> None:
        """kill -9 of every process of it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def kill_a_worker(self) -> None:
        """kill -9 of one process that serves."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)

    def reload(self) -> None:
        """Rewrite the config from this object's fields and have it read again."""
        assert self.process is not None
        self.write_config()
        os.kill(self.process.pid, signal.SIGHUP)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Every sample by name, labels dropped and summed."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            return samples(answer.read().decode())

    def memory_bytes(self) -> int:
        """Resident memory of all its processes."""
        assert self.process is not None
        pids = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if os.getpgid(int(stat.parent.name)) == self.process.pid
        ]
        statm = [Path(f"/proc/{pid}/statm").read_text().split() for pid in pids]
        return sum(int(fields[1]) for fields in statm) * resource.getpagesize()

    def at_rest(self) -> bool:
        """Nothing in flight at any engine, nobody waiting."""
        now = self.metrics()
        return now["headgate_engine_in_flight"] == 0 and now["headgate_waiting"] == 0

    def records(self) -> list[Record]:
        """What is in the store at this moment."""
        if self.store.startswith("postgres"):
            import psycopg

            with psycopg.connect(self.store) as store:
                return [Record(*row) for row in store.execute(f"SELECT {COLUMNS} FROM usage")]
        with contextlib.closing(
            sqlite3.connect(self.store_url.removeprefix("sqlite:///"))
        ) as database:
            return [Record(*row) for row in database.execute(f"SELECT {COLUMNS} FROM usage")]

    def records_of_order(self, batch: str) -> list[Record]:
        return [record for record in self.records() if record.order.startswith(batch)]

    def settled(self, requests: int, within_s: float = 20.0) -> list[Record]:
        """The records once there are that many: one for each request, at rest, no more to come."""
        eventually(
            lambda: len(self.records()) >= requests and self.at_rest(),
            within_s,
            lambda: f"{len(self.records())} records of {requests}; {self.metrics()}",
        )
        time.sleep(0.5)  # two rounds of the shipper: what would be doubled has been by now
        records = self.records()
        assert len({record.request for record in records}) == len(records) == requests
        return records


def samples(page: str) -> dict[str, float]:
    """A Prometheus page as name -> sum over its labels."""
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(\w[\w:]*)(?:\{.*\})? (\S+)$", page, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def eventually(
    holds: Callable[[], bool], within_s: float, why: Callable[[], str] | str = ""
) -> None:
    """Wait until it holds; AssertionError with the reason if it does not in time."""
    give_up = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > give_up:
            raise AssertionError(why() if callable(why) else why or f"not within {within_s} s")
        time.sleep(0.02)


def price_nano(input_tokens: int, output_tokens: int) -> int:
    """What the default tier costs in these tests."""
    return round(input_tokens * PRICE_INPUT * 1000) + round(output_tokens * PRICE_OUTPUT * 1000)


def post(
    url: str, body: dict[str, Any], key: str, timeout_s: float = 30.0
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of one JSON request; never raises for a status."""
    request = urllib.request.Request(
        url,
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {key}"},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as refused:
        answer = refused
    with answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, headers, answer.read()


def chat(tokens: int = 3, stream: bool = False, **more: Any) -> dict[str, Any]:
    """The body of a small chat request."""
    messages = [{"role": "user", "content": "Who goes first?"}]
    return {"model": "tiny", "messages": messages, "max_tokens": tokens, "stream": stream, **more}


@contextlib.contextmanager
def running(door: Door, **environment: str) -> Iterator[Door]:
    try:
        yield door.start(**environment)
    finally:
        door.stop()


@dataclass
class Emulated:
    """`headgate engine emulate` as a process, and what it has counted."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Emulated":
        with open(self.folder / f"engine-{self.port}.log", "ab") as log:
            self.process = headgate(
                *("engine", "emulate", "--port", self.port, "--model", "tiny", *self.options),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        eventually(self.answers, 20.0, "the emulated engine did not come up")
        return self

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def counts(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            return samples(answer.read().decode())

    def stop(self) -> None:
        if self.process is not None:
            stop_group(self.process.pid, self.process)
            self.process = None

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

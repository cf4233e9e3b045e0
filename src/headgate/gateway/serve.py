"""The processes of `headgate serve`: a supervisor that forks workers on one port, and watches.

The supervisor opens nothing and serves nothing; it binds the port so that nobody else takes it,
starts the others, passes signals on and starts again what has died.
"""

import contextlib
import gc
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from headgate.core.errors import InputError
from headgate.gateway import config as settings
from headgate.ledger.accounts import Tenant

DOOR_OPENS_S = 1.0  # at most this long is waited for the first worker
RESTART_PAUSE_S = 0.5  # between deaths of one child, so that a broken one does not spin


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    config: settings.Config
    path: Path | None  # of the config; None for the built-in default
    port: int
    ready: tuple[int, int]  # a pipe: workers write to it when they listen


def run(path: Path | None, port: int | None, workers: int | None) -> None:
    """Serve until told to stop. Blocks; raises InputError for what a person can put right."""
    emulator: socket.socket | None = None
    if path is None:
        emulator = _listening("127.0.0.1", 0)
        config = default_config(emulator.getsockname()[1])
    else:
        config = settings.read_config(path)
    if config.traces.endpoint:
        import headgate.gateway.traces  # noqa: F401 - says so if OpenTelemetry is missing
    server = config.server
    server = msgspec.structs.replace(
        server, port=server.port if port is None else port, workers=workers or server.workers
    )
    held = _claim(server.host, server.port)
    server = msgspec.structs.replace(server, port=held.getsockname()[1])
    admin = config.admin
    if admin.enabled and admin.port == 0:
        admin = msgspec.structs.replace(admin, port=_free_port(admin.host))
    config = msgspec.structs.replace(config, server=server, admin=admin)
    os.environ["HEADGATE_INTERNAL"] = secrets.token_hex(24)
    plan = Plan(config, path, server.port, os.pipe())
    # Batches lie here with their prompts: nobody else's to read.
    Path(config.state.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    key = prepare(config)
    _Family(plan, emulator, held, key).live()


def default_config(engine_port: int) -> settings.Config:
    """One emulated engine, one tenant: enough for a first curl."""
    return settings.Config(
        engines=(
            settings.Engine(
                "emulated", f"http://127.0.0.1:{engine_port}", kind="vllm", priorities=True
            ),
        ),
        models=(
            settings.Model("emulated-8b", ("emulated",), price=settings.Price(0.1, 0.05, 0.4)),
        ),
        state=settings.State(url="sqlite:///headgate-state/headgate.db", folder="headgate-state"),
        admin=settings.Admin(port=0),
        tenants=(Tenant("default", class_="default"),),
    )


def prepare(config: settings.Config) -> str | None:
    """Bring the store up to date before any worker starts; the first tenant's key, if new."""
    from headgate.store.database import StoreAway
    from headgate.store.open import open_database
    from headgate.store.tenants import Tenants, first_key

    try:
        database = open_database(config.state.url)
        try:
            tenants = Tenants(database)
            tenants.seed(config.tenants, config.keys)
            if config.tenants and not config.keys:
                return first_key(tenants, config.tenants[0].name, Path(config.state.folder))
        finally:
            database.close()
    except StoreAway as error:
        print(f"headgate: the store is away ({error}); known keys are served", flush=True)
    return None


class _Family:
    """The children, and what happens to them."""

    def __init__(
        self, plan: Plan, emulator: socket.socket | None, held: socket.socket, key: str | None
    ) -> None:
        self.plan = plan
        self.held = held
        self.key = key
        self.stopping = False
        self.children: dict[int, tuple[str, Callable[[], None]]] = {}
        self.starts: list[tuple[str, Callable[[], None]]] = []
        if emulator is not None:
            self.starts.append(("engine", partial(_emulate, emulator)))
        for number in range(plan.config.server.workers):
            self.starts.append((f"worker {number}", partial(_work, plan, number)))
        if plan.config.admin.enabled:
            self.starts.append(("admin", partial(_administer, plan)))

    def live(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        gc.freeze()
        for name, start in self.starts:
            if name == "admin":  # the door opens before the rest takes processor time
                select.select([self.plan.ready[0]], [], [], DOOR_OPENS_S)
            self._fork(name, start)
        self._greet()
        died_s: dict[str, float] = {}
        while self.children:
            try:
                pid, status = os.wait()
            except InterruptedError:
                continue
            child = self.children.pop(pid, None)
            if child is not None and not self.stopping:
                name, start = child
                self._say(f"{name} ended with status {status}; it is started again")
                wait_s = RESTART_PAUSE_S - (time.monotonic() - died_s.get(name, 0.0))
                if wait_s > 0.0:
                    time.sleep(wait_s)
                died_s[name] = time.monotonic()
                self._fork(name, start)
        signal.setitimer(signal.ITIMER_REAL, 0.0)  # it would end us once Python's handlers are gone

    def _fork(self, name: str, start: Callable[[], None]) -> None:
        pid = os.fork()
        if pid:
            self.children[pid] = (name, start)
            return
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _die_with_parent()
            start()
            status = 0
        except InputError as error:
            print(f"headgate: {error}", file=sys.stderr, flush=True)
            status = 2
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def _stop(self, signum: int, frame: object) -> None:
        self.stopping = True
        for pid, (name, _) in list(self.children.items()):
            # The engine outlives the workers, so that what runs can finish.
            if name != "engine":
                _kill(pid, signal.SIGTERM)
        if not any(name.startswith("worker") for name, _ in self.children.values()):
            for pid in list(self.children):
                _kill(pid, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        signal.signal(signal.SIGALRM, self._last)

    def _last(self, signum: int, frame: object) -> None:
        if not any(name.startswith("worker") for name, _ in self.children.values()):
            for pid in list(self.children):
                _kill(pid, signal.SIGTERM)

    def _reload(self, signum: int, frame: object) -> None:
        for pid, (name, _) in list(self.children.items()):
            if name != "engine":
                _kill(pid, signal.SIGHUP)

    def _greet(self) -> None:
        config = self.plan.config
        url = f"http://{config.server.host}:{self.plan.port}"
        model = config.models[0].name
        self._say(f"listening on {url}, {config.server.workers} worker(s)")
        if self.key is not None:
            print(
                f"\n  curl {url}/v1/chat/completions -H 'Authorization: Bearer {self.key}' \\\n"
                f'    -d \'{{"model": "{model}", "messages": '
                f'[{{"role": "user", "content": "Hello"}}]}}\'\n',
                flush=True,
            )

    def _say(self, text: str) -> None:
        print(f"headgate: {text}", flush=True)


def _work(plan: Plan, number: int) -> None:
    from headgate.gateway.worker import work

    work(plan.config, plan.path, number, plan.ready[1])


def _administer(plan: Plan) -> None:
    from headgate.gateway.worker import administer

    administer(plan.config, plan.path)


def _emulate(listening: socket.socket) -> None:
    from headgate.gateway.emulate import Profile, run_on

    run_on(listening, Profile(), "emulated-8b")


def _claim(host: str, port: int) -> socket.socket:
    """Hold the port for the workers, who share it; InputError if another process has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        port = probe.getsockname()[1]
    except OSError as error:
        raise InputError(
            f"server.port {port} on {host} cannot be taken ({error.strerror}); "
            f"name a free one with --port, or 0 for any."
        ) from None
    finally:
        probe.close()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _listening(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(4096)
    return sock


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _die_with_parent() -> None:
    """Ask Linux to end this child when the supervisor is gone, even after kill -9."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)

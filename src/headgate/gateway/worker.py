"""One gateway process from its start to its end."""

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from headgate.core.errors import InputError
from headgate.gateway import config as settings
from headgate.gateway.door import Door
from headgate.gateway.front import Front
from headgate.store.database import StoreAway
from headgate.store.state import State, open_state

BACKLOG = 4096
MTIME_LOOK_S = 1.0
# The thread that writes usage gets its turn within this time, however busy the loop is: what it
# has not written yet is what a killed process loses.
TURN_S = 0.001


def work(config: settings.Config, path: Path | None, number: int, ready: int) -> None:
    """Serve until SIGTERM; SIGHUP or a changed file reloads the config.

    A byte is written to the descriptor `ready` when clients may come.
    """
    sys.setswitchinterval(TURN_S)
    uvloop.run(_serve(config, path, number, ready))


async def _serve(config: settings.Config, path: Path | None, number: int, ready: int) -> None:
    loop = asyncio.get_running_loop()
    door: Door | None = None
    state = open_state(
        config.state.url,
        folder=Path(config.state.folder),
        strict=config.state.strict,
        process=number,
        ship=number == 0 and not config.admin.enabled,  # the admin process does it otherwise
        price=lambda opened, tokens: door.price_of(opened, tokens) if door is not None else 0,
    )
    door = Door(config, state.accounts, state.limits, state.meter)
    if config.traces.endpoint:
        from headgate.gateway.traces import Traces

        door.traces = Traces(config.traces)
    await state.start()
    door.start()
    listening = listen(config.server.host, config.server.port)

    def front() -> asyncio.Protocol:
        return cast("asyncio.Protocol", Front(door))

    servers: list[asyncio.AbstractServer] = [
        await loop.create_server(front, sock=listening, backlog=BACKLOG)
    ]
    if config.server.workers > 1:
        names = [sibling(config.server.port, n) for n in range(config.server.workers)]
        own = socket.socket(socket.AF_UNIX)
        own.bind(names[number])
        servers.append(await loop.create_unix_server(front, sock=own))
        door.siblings = [name for name in names if name != names[number]]
    os.write(ready, b".")
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if path is not None:
        watch = _Reload(door, state, path)
        loop.add_signal_handler(signal.SIGHUP, watch.reload)
        door.spawn(watch.follow())
    # What is alive now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    await stopped.wait()
    for server in servers:
        server.close()
    await door.stop(config.server.drain_s)
    if door.traces is not None:
        await asyncio.to_thread(door.traces.stop)
    await state.stop()


def sibling(port: int, number: int) -> str:
    """The socket, in no folder, by which processes on one port read each other's metrics."""
    return f"\0headgate-{port}-{number}"


class _Reload:
    """Takes a changed config without dropping a connection; a bad one is logged and ignored."""

    def __init__(self, door: Door, state: State, path: Path) -> None:
        self.door = door
        self.state = state
        self.path = path
        self.stamp = _stamp(path)

    def reload(self) -> None:
        self.door.spawn(self._reload())

    async def follow(self) -> None:
        """Look at the file's time of change now and then."""
        while True:
            await asyncio.sleep(MTIME_LOOK_S)
            stamp = _stamp(self.path)
            if stamp != self.stamp and stamp is not None:
                self.stamp = stamp
                await self._reload()

    async def _reload(self) -> None:
        self.stamp = _stamp(self.path)
        held = self.door.config
        try:
            config = settings.read_config(self.path)
            # The listening socket and the state folder stay as they are until a restart.
            server = msgspec.structs.replace(
                config.server,
                host=held.server.host,
                port=held.server.port,
                workers=held.server.workers,
            )
            self.door.adopt(msgspec.structs.replace(config, server=server, state=held.state))
        except InputError as error:
            self.door.log("config_refused", error=str(error))
            return
        try:
            await self.state.seed(config.tenants, config.keys)
        except StoreAway as error:
            self.door.log("tenants_not_stored", error=str(error))
        self.door.log("config_adopted", file=str(self.path))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def listen(host: str, port: int) -> socket.socket:
    """A socket on the port that all workers share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind((host, port))
    sock.listen(BACKLOG)
    return sock


def administer(config: settings.Config, path: Path | None) -> None:
    """The process for admin, files and batches."""
    from headgate.gateway.admin import run

    run(config, path)

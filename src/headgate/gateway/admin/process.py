"""The admin process: its pages, the batch runner, and the shipping of everybody's usage."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from headgate.core.errors import InputError
from headgate.gateway.admin import accounts as account_pages
from headgate.gateway.admin import batches as batch_pages
from headgate.gateway.admin import files as file_pages
from headgate.gateway.admin.answers import refused
from headgate.gateway.admin.desk import Desk, Terms, in_thread, open_desk
from headgate.gateway.admin.front import Front
from headgate.gateway.admin.runner import Runner
from headgate.gateway.config import Config, read_config, tariff
from headgate.gateway.errors import Problem
from headgate.ledger.prices import price_nano
from headgate.ledger.usage import Opened
from headgate.store.accounts import StoreAccounts
from headgate.store.database import StoreAway
from headgate.store.open import connect
from headgate.store.shipping import Shipper, ShippingThread
from headgate.store.state import Migrating
from headgate.store.tenants import Tenants
from headgate.store.usage import Usage

LOG = logging.getLogger(__name__)
LOOK_S = 1.0  # between looks at the config file
CLEAN_S = 60.0  # between looks for expired files
LAST_USAGE_S = 60.0  # how long the end waits for the workers' last records


def run(config: Config, path: Path | None = None) -> None:
    """Serve until SIGTERM. Blocks. A changed file at `path` is taken up as the workers do."""
    uvloop.run(_serve(config, path))


async def _serve(config: Config, path: Path | None) -> None:
    folder = Path(config.state.folder)
    terms = terms_of(config)
    database = Migrating(connect(config.state.url))
    tenants = Tenants(database)
    known = StoreAccounts(tenants, folder)
    secret = os.environ.get("HEADGATE_INTERNAL", "")
    desk = open_desk(
        database,
        known,
        models=frozenset(model.name for model in config.models),
        terms=terms,
        folder=Path(terms.folder) if terms.folder else folder / "files",
        secret=secret,
    )
    tempfile.tempdir = str(desk.folder / "incoming")  # where uploads are spooled
    present = _Present(config, path, desk)
    shipper = Shipper(folder / "usage", Usage(database), present.price)
    shipping = ShippingThread(shipper)
    await known.start()
    shipping.start()
    host = "127.0.0.1" if config.server.host in ("", "0.0.0.0", "::") else config.server.host
    front = Front(host, config.server.port, {"x-headgate-internal": secret})
    runner = Runner(desk, front, _name_of(folder), config.server.workers)
    tasks = [asyncio.create_task(work) for work in (runner.run(), _clean(desk), present.follow())]
    try:
        await _listen(application(desk), config.admin.host, config.admin.port)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        front.close()
        await known.stop()
        await _until_workers_ended(shipper)
        await in_thread(shipping.stop)
        database.close()


def terms_of(config: Config) -> Terms:
    try:
        return msgspec.convert(config.batch, Terms)
    except msgspec.ValidationError as error:
        raise InputError(f"batch: {error}.") from None


def application(desk: Desk) -> Starlette:
    """The pages as an ASGI application."""
    app = Starlette(
        routes=[*file_pages.ROUTES, *batch_pages.ROUTES, *account_pages.ROUTES],
        exception_handlers={Exception: refused},
    )
    for kind in (Problem, InputError, StoreAway, HTTPException):
        app.add_exception_handler(kind, refused)
    app.state.desk = desk
    return app


class _Server(uvicorn.Server):
    """Ends when told to by this process alone; signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _listen(app: Starlette, host: str, port: int) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end)
    await server.serve()


async def _clean(desk: Desk) -> None:
    """Delete files whose time is over."""
    while True:
        with contextlib.suppress(StoreAway):
            for file in await in_thread(desk.files.expired):
                await in_thread(partial(file_pages.drop, desk, file))
        await asyncio.sleep(CLEAN_S)


async def _until_workers_ended(shipper: Shipper) -> None:
    """Workers finish what runs, and their last records are to be shipped, too."""
    until_s = asyncio.get_running_loop().time() + LAST_USAGE_S
    while shipper.has_live_writers() and asyncio.get_running_loop().time() < until_s:
        await asyncio.sleep(0.1)


class _Present:
    """What the config file says at present; a bad one is logged and ignored."""

    def __init__(self, config: Config, path: Path | None, desk: Desk) -> None:
        self._path = path
        self._desk = desk
        self._stamp = _stamp(path)
        self._adopt(config)

    def price(self, opened: Opened, output_tokens: int) -> int:
        """What a request costs that a crash left without a record."""
        model = self._models.get(opened.model)
        if model is None:
            return 0
        terms = tariff(self._config, model, opened.tier)
        return price_nano(terms, opened.input_tokens, 0, output_tokens)

    async def follow(self) -> None:
        """Take the file up again whenever it has changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            stamp = await in_thread(lambda: _stamp(self._path))
            if stamp not in (None, self._stamp) and self._path is not None:
                self._stamp = stamp
                try:
                    self._adopt(read_config(self._path))
                except InputError as error:
                    LOG.error("config refused: %s", error)

    def _adopt(self, config: Config) -> None:
        self._desk.terms = terms_of(config)
        self._desk.models = frozenset(model.name for model in config.models)
        self._models = {model.name: model for model in config.models}
        self._config = config


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino)


def _name_of(folder: Path) -> str:
    """The runner's name: the same after a restart, so that it takes its batches up at once."""
    return f"{socket.gethostname()}:{folder.resolve()}"

"""One gateway process: what all its connections share, and how a request finds its way in."""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Coroutine
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from headgate.gateway import adoption, heads, metrics
from headgate.gateway import config as settings
from headgate.gateway.admission import INFERENCE, INTERNAL, Admission
from headgate.gateway.dispatch import Dispatcher
from headgate.gateway.engines import Engine
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import Exchange
from headgate.gateway.front import LARGE_BODY, Front, Head
from headgate.gateway.known import Known
from headgate.gateway.lanes import Lane
from headgate.gateway.outbox import Outbox
from headgate.gateway.pages import RELAYED, Pages
from headgate.gateway.wheel import Wheel, monotonic
from headgate.ledger.accounts import Tenant
from headgate.ledger.ports import Accounts, Limits, Meter
from headgate.ledger.prices import FREE, Tariff, price_nano
from headgate.ledger.usage import Opened

if TYPE_CHECKING:
    from headgate.gateway.traces import Traces

FILE_BODY_MAX: Final = 210 * 1024 * 1024
LOW_DIGITS: Final = [f"{number:03x}" for number in range(4096)]
# Headers that make a request another than the next one with the same head.
EXTRAORDINARY: Final = (INTERNAL, b"expect", b"upgrade", b"transfer-encoding", b"traceparent")
NOT_CACHED: Final = "cache-control: no-cache\r\n"


class Door:
    """The state of one process. `adopt` takes a config, at the start and at each reload."""

    def __init__(
        self, config: settings.Config, accounts: Accounts, limits: Limits, meter: Meter
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(self.loop)
        self.outbox = Outbox(self.loop)
        self.accounts = accounts
        self.limits = limits
        self.meter = meter
        self.metrics = metrics.Metrics()
        self.dispatcher = Dispatcher(self)
        self.admission = Admission(self)
        self.pages = Pages(self)
        self.fronts: set[Front] = set()
        self.heads: Known[Head] = Known()
        self.lanes: dict[tuple[str, str, bytes, str | None, bool], Lane] = {}
        self.siblings: list[str] = []  # sockets of the other processes on the port
        self.draining = False
        self.secret = os.environ.get("HEADGATE_INTERNAL", "").encode()
        self.admin: Engine | None = None
        self.traces: Traces | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._prefix = f"req_{secrets.token_hex(6)}"
        self._count = 0
        self._high = ""  # of the last name, all but what LOW_DIGITS has
        self._date = ""
        self._date_due_s = 0.0
        self.adopt(config)

    def adopt(self, config: settings.Config) -> None:
        """Take a config. Engines that stay keep their connections, requests their place."""
        config = adoption.own_share(config)
        self.config = config
        self.server = config.server
        self.idle_timeout_s = config.server.idle_timeout_s
        self.body_max = int(config.server.body_max_mb * 1024 * 1024)
        self.header_max = int(config.server.header_max_kb * 1024)
        self.class_rank = {c.name: rank for rank, c in enumerate(config.classes)}
        self.classes = {c.name: c for c in config.classes}
        self.tenants: dict[str, Tenant] = {t.name: t for t in config.tenants}
        self.lanes.clear()
        self.heads.forget()
        dispatcher = self.dispatcher
        dispatcher.shares = adoption.shares(config)
        dispatcher.batch_level = len(dispatcher.shares) - 1
        adoption.adopt_engines(self)
        waiting = adoption.adopt_models(self)
        if config.admin.enabled:
            terms = settings.Engine("admin", f"http://{config.admin.host}:{config.admin.port}")
            if self.admin is None or self.admin.port != config.admin.port:
                self.admin = Engine(terms, None, self.loop)
        for exchange in waiting:
            adoption.place_again(self, exchange)

    def lane_again(self, exchange: Exchange) -> bool:
        """Give a request its lane under the present config; False if it has none."""
        return adoption.lane_again(self, exchange)

    def pace_objective_s(self, engine: Engine) -> float | None:
        """The time between tokens that an engine must keep, if any."""
        if engine.terms.tpot_ms is not None:
            return engine.terms.tpot_ms / 1000.0
        given = [c.tpot_ms for c in self.config.classes if c.tpot_ms is not None]
        return min(given) / 1000.0 if given else None

    def tariff_of(self, model: str, tier: str) -> Tariff:
        run = self.dispatcher.models.get(model)
        return FREE if run is None else settings.tariff(self.config, run.terms, tier)

    def price_of(self, opened: Opened, output_tokens: int) -> int:
        """Price of a request that a dead gateway left open."""
        tariff = self.tariff_of(opened.model, opened.tier)
        return price_nano(tariff, opened.input_tokens, 0, output_tokens)

    # From connections.

    def preview(self, exchange: Exchange, size: int) -> None:
        """Look at a request's head before a body of more than a few kilobytes is read."""
        if exchange.path.startswith(RELAYED):
            exchange.body_max = max(self.body_max + 1, FILE_BODY_MAX)
        if size > exchange.body_max:
            raise Problem(413, None, f"The request's body is over {exchange.body_max} bytes.")
        if size > LARGE_BODY:
            self.vouch(exchange)

    def vouch(self, exchange: Exchange) -> None:
        """Nobody without a valid key may send much: 401 before the body is read."""
        exchange.vouched = True
        if INTERNAL in exchange.headers:
            self.admission.internal(exchange)
        elif self.accounts.lookup(self.admission.key(exchange)) is None:
            raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")

    def upload(self, exchange: Exchange) -> bool:
        """Pass a file on while it is still coming in; False if it must be read wholly first."""
        if self.admin is None or not exchange.path.startswith(RELAYED):
            return False
        account = self.accounts.lookup(self.admission.key(exchange))
        if account is None:
            return False
        exchange.started()
        exchange.uploading = exchange.passed_on = True
        self.pages.relay(exchange, account)
        return True

    def begin(self, exchange: Exchange) -> None:
        """A request has been read wholly."""
        exchange.started()
        parts = exchange.parts
        exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
        exchange.parts = parts = []
        try:
            if exchange.path in INFERENCE:
                if exchange.method != b"POST":
                    raise Problem(405, None, "This address takes POST.")
                self.admission.admit(exchange)
            else:
                self.pages.open(exchange)
        except Problem as problem:
            exchange.refuse(problem)

    def begin_known(self, exchange: Exchange, head: Head) -> None:
        """A request has been read wholly, and its head is known."""
        exchange.started()
        account = head.account
        try:
            if account is None or head.changes != self.accounts.changes:
                self.admission.admit(exchange, head)
            else:
                self.admission.ask(exchange, account, head.lanes)
        except Problem as problem:
            exchange.refuse(problem)

    def is_ordinary(self, path: bytes, headers: dict[bytes, bytes]) -> bool:
        """Whether a head says all there is to know of a request but its body."""
        if path not in INFERENCE or b"authorization" not in headers:
            return False
        return not any(name in headers for name in EXTRAORDINARY)

    def next_id(self) -> str:
        """A name for a request: ours, and a number in ten hexadecimal digits."""
        low = self._count % len(LOW_DIGITS)
        if low == 0:
            self._high = f"{self._prefix}{self._count // len(LOW_DIGITS):07x}"
        self._count += 1
        return self._high + LOW_DIGITS[low]

    # Answers.

    def head(
        self,
        status: int,
        body: bytes,
        exchange: Exchange | None = None,
        retry_after_s: float | None = None,
        close: bool = False,
        content_type: str = "application/json",
    ) -> bytes:
        return heads.whole(
            status, len(body), exchange, self.date(monotonic()), content_type, retry_after_s, close
        )

    def stream_head(self, exchange: Exchange) -> bytes:
        return heads.streamed(
            200, exchange, self.date(monotonic()), "text/event-stream; charset=utf-8", NOT_CACHED
        )

    def relay_head(self, exchange: Exchange) -> bytes:
        kind = exchange.content_type.decode("latin-1")
        return heads.streamed(exchange.status, exchange, self.date(monotonic()), kind)

    def date(self, now_s: float) -> str:
        """The date header, made once a second."""
        if now_s >= self._date_due_s:
            self._date = f"date: {formatdate(usegmt=True)}\r\n"
            self._date_due_s = now_s + 0.5
        return self._date

    # Running.

    def start(self) -> None:
        self.wheel.start()
        self.spawn(self.dispatcher.look_after())
        self.spawn(self.dispatcher.probe())

    async def stop(self, drain_s: float) -> None:
        """Let running requests finish for so long, then cut them off; all are billed."""
        self.draining = True
        for front in list(self.fronts):
            front.drain()
        until_s = self.loop.time() + drain_s
        while self.fronts and self.loop.time() < until_s:
            await asyncio.sleep(0.02)
        self.outbox.flush()
        for front in list(self.fronts):
            if front.transport is not None:
                front.transport.abort()
        await asyncio.sleep(0)
        self.wheel.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for engine in (*self.dispatcher.engines.values(), self.admin):
            if engine is not None:
                for link in list(engine.links):
                    link.drop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the requests; a failure is logged, never lost."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log("task_failed", error=repr(task.exception()))

    def log(self, event: str, **fields: Any) -> None:
        """One line of JSON on stderr. Never a prompt, never a key."""
        line = {"at": round(time.time(), 3), "event": event, **fields}
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)

"""One gateway process: what all its connections share, and how a request finds its way in."""

import asyncio
import contextlib
import hmac
import json
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Coroutine
from email.utils import formatdate
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from headgate.gateway import config as settings
from headgate.gateway import heads, metrics, openapi
from headgate.gateway.asks import BYTES_PER_TOKEN, output_max, read_ask
from headgate.gateway.bodies import Ask
from headgate.gateway.dispatch import Dispatcher, ModelRun
from headgate.gateway.engines import Engine
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import OVER, Exchange
from headgate.gateway.front import LARGE_BODY, Front, Head
from headgate.gateway.known import Known
from headgate.gateway.lanes import Lane
from headgate.gateway.ports import Accounts, Limits, Meter
from headgate.gateway.wheel import Wheel
from headgate.ledger.accounts import Account, Tenant
from headgate.ledger.prices import FREE, Tariff, price_nano
from headgate.ledger.reservation import Reservation
from headgate.ledger.usage import Opened
from headgate.policy import fairness

if TYPE_CHECKING:
    from headgate.gateway.traces import Traces

INFERENCE = frozenset(
    (
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/responses",
    )
)
RELAYED = (b"/v1/files", b"/v1/batches", b"/v1/uploads")
FILE_BODY_MAX = 210 * 1024 * 1024
LANES_MAX = 20_000
LEASE_WITHIN_S = 10.0  # a slice of a limit comes within milliseconds, or the store is away
INTERNAL = b"x-headgate-internal"
PROMETHEUS = "text/plain; version=0.0.4"
OWN = b"own"
LOW_DIGITS = [f"{number:03x}" for number in range(4096)]
# Headers that make a request another than the next one with the same head.
EXTRAORDINARY = (INTERNAL, b"expect", b"upgrade", b"transfer-encoding", b"traceparent")
NOT_CACHED = "cache-control: no-cache\r\n"


class Door:
    """The state of one process. `adopt` takes a config, at the start and at each reload."""

    def __init__(
        self, config: settings.Config, accounts: Accounts, limits: Limits, meter: Meter
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(self.loop)
        self.accounts = accounts
        self.limits = limits
        self.meter = meter
        self.metrics = metrics.Metrics()
        self.dispatcher = Dispatcher(self)
        self.fronts: set[Front] = set()
        self.heads: Known[Head] = Known()
        self.lanes: dict[tuple[str, str, bytes, str | None, bool], Lane] = {}
        self._batch_accounts: dict[tuple[str, str], tuple[Tenant, Account]] = {}
        self.siblings: list[str] = []  # sockets of the other processes on the port
        self.draining = False
        self.secret = os.environ.get("HEADGATE_INTERNAL", "").encode()
        self.admin: Engine | None = None
        self.traces: Traces | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._prefix = f"req_{secrets.token_hex(6)}"
        self._count = 0
        self._high = ""  # of the last name, all but what LOW_DIGITS has
        self._description = b""  # made when it is first asked for
        self._date = ""
        self._date_due_s = 0.0
        self.adopt(config)

    # Configuration.

    def adopt(self, config: settings.Config) -> None:
        """Take a config. Engines that stay keep their connections, requests their place."""
        config = _own_share(config)
        self.config = config
        self.server = config.server
        self.body_max = int(config.server.body_max_mb * 1024 * 1024)
        self.header_max = int(config.server.header_max_kb * 1024)
        self.class_rank = {c.name: rank for rank, c in enumerate(config.classes)}
        self.classes = {c.name: c for c in config.classes}
        self.tenants: dict[str, Tenant] = {t.name: t for t in config.tenants}
        self.lanes.clear()
        self.heads.forget()
        dispatcher = self.dispatcher
        dispatcher.shares = self._shares()
        dispatcher.batch_level = len(dispatcher.shares) - 1
        self._adopt_engines()
        waiting = self._adopt_models()
        if config.admin.enabled:
            terms = settings.Engine("admin", f"http://{config.admin.host}:{config.admin.port}")
            if self.admin is None or self.admin.port != config.admin.port:
                self.admin = Engine(terms, None, self.loop)
        for exchange in waiting:
            self._place_again(exchange)

    def _adopt_engines(self) -> None:
        held = self.dispatcher.engines
        kept: dict[str, Engine] = {}
        for terms in self.config.engines:
            key = settings.engine_key(terms)
            engine = held.pop(terms.name, None)
            if engine is not None and engine.terms.url == terms.url:
                engine.accept(terms, key)
            else:
                if engine is not None:
                    held[terms.name] = engine
                engine = Engine(terms, key, self.loop)
                if self.pace_objective_s(engine) is not None:
                    engine.start_slowly()
            if self.pace_objective_s(engine) is None:
                engine.cap = float(terms.in_flight_max)
            engine.set_cap(engine.cap, self.dispatcher.shares)
            engine.models = []
            kept[terms.name] = engine
        for engine in held.values():
            engine.draining = True
            engine.close()
        self.dispatcher.engines = kept

    def _adopt_models(self) -> list[Exchange]:
        """Replace the models; returns what waited for the old ones."""
        dispatcher = self.dispatcher
        waiting: list[Exchange] = []
        for model in dispatcher.models.values():
            for level, ring in enumerate(model.queue.rings):
                while len(ring):
                    waiting.append(model.queue.pop(level))
        old, dispatcher.models = dispatcher.models, {}
        created_s = int(time.time())
        for terms in self.config.models:
            engines = [dispatcher.engines[name] for name in terms.engines]
            model = ModelRun(terms, engines, len(dispatcher.shares))
            model.created_s = created_s
            before = old.get(terms.name)
            if before is not None:
                model.service_s, model.created_s = before.service_s, before.created_s
            for engine in engines:
                engine.models.append(model)
            dispatcher.models[terms.name] = model
        return waiting

    def _shares(self) -> list[float]:
        """Of an engine's cap, how much each level may fill."""
        config = self.config
        shares = [1.0] * (len(config.classes) * len(fairness.TIERS_IN_CLASS) + 2)
        for rank, class_ in enumerate(config.classes):
            own = class_.engine_share
            if own is None:
                own = 1.0 if rank == 0 else 0.95
            for tier in settings.ORDINARY_TIERS:
                level = fairness.level(rank, len(config.classes), tier)
                share = config.terms(tier).engine_share
                shares[level] = share if tier in ("flex", "batch") else share * own
        return shares

    def _place_again(self, exchange: Exchange) -> None:
        """Give a waiting request its place under a new config."""
        ask = exchange.ask
        assert ask is not None
        try:
            lane = self._lane(exchange.lane.account, ask, exchange.path, bool(exchange.order))
        except Problem as problem:
            exchange.refuse(problem)
            return
        exchange.lane = lane
        self.dispatcher.offer(exchange)

    def pace_objective_s(self, engine: Engine) -> float | None:
        """The time between tokens that an engine must keep, if any."""
        if engine.terms.tpot_ms is not None:
            return engine.terms.tpot_ms / 1000.0
        given = [c.tpot_ms for c in self.config.classes if c.tpot_ms is not None]
        return min(given) / 1000.0 if given else None

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
            self._internal(exchange)
        elif self.accounts.lookup(self._key(exchange)) is None:
            raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")

    def upload(self, exchange: Exchange) -> bool:
        """Pass a file on while it is still coming in; False if it must be read wholly first."""
        if self.admin is None or not exchange.path.startswith(RELAYED):
            return False
        account = self.accounts.lookup(self._key(exchange))
        if account is None:
            return False
        exchange.started()
        exchange.uploading = exchange.passed_on = True
        self._relay(exchange, account)
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
                self._with_account(exchange)
            else:
                self._page(exchange)
        except Problem as problem:
            exchange.refuse(problem)

    def begin_known(self, exchange: Exchange, head: Head) -> None:
        """A request has been read wholly, and its head is known."""
        exchange.started()
        account = head.account
        try:
            if account is None or head.changes != self.accounts.changes:
                self._with_account(exchange, head)
            else:
                self._ask(exchange, account, head.lanes)
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

    # Who asks.

    def _key(self, exchange: Exchange) -> str:
        """The key that was presented; 401 if none was."""
        given = exchange.headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer" and key:
            return key.strip().decode("latin-1")
        raise Problem(
            401,
            "missing_api_key",
            "No API key was given; send it as `Authorization: Bearer KEY`.",
        )

    def _with_account(self, exchange: Exchange, head: Head | None = None) -> None:
        """Find the account; on to `_enter`, perhaps later."""
        if INTERNAL in exchange.headers:
            self._enter(exchange, self._internal(exchange))
            return
        key = self._key(exchange)
        account = self.accounts.lookup(key)
        if account is None:
            self.spawn(self._find(exchange, key))
            return
        if head is not None:
            head.account, head.changes = account, self.accounts.changes
            head.lanes = {}
        self._enter(exchange, account)

    async def _find(self, exchange: Exchange, key: str) -> None:
        try:
            account = await self.accounts.find(key)
        except Exception as error:
            self.log("accounts_away", error=type(error).__name__)
            exchange.refuse(
                Problem(503, "accounts_away", "Keys cannot be looked up now.", retry_after_s=2.0)
            )
            return
        if exchange.front is None:
            return
        try:
            if account is None:
                self.metrics.unknown_keys += 1
                raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")
            self._enter(exchange, account)
        except Problem as problem:
            exchange.refuse(problem)

    def _internal(self, exchange: Exchange) -> Account:
        """The account that a batch line runs for; our own batch process says so."""
        headers = exchange.headers
        if not self.secret or not hmac.compare_digest(headers.get(INTERNAL, b""), self.secret):
            raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")
        tenant = headers.get(b"x-headgate-tenant", b"").decode("latin-1")
        key = headers.get(b"x-headgate-key", b"").decode("latin-1")
        exchange.order = headers.get(b"x-headgate-order", b"").decode("latin-1")
        known = self.accounts.tenant(tenant) or self.tenants.get(tenant)
        if known is None:
            known = Tenant(tenant, class_=self.config.classes[-1].name)
        held = self._batch_accounts.get((tenant, key))
        if held is None or held[0] is not known:
            # A batch does not use up its tenant's requests and tokens a minute; budgets hold.
            unlimited = msgspec.structs.replace(known, limits={})
            held = self._batch_accounts[tenant, key] = (known, Account(key, unlimited))
        return held[1]

    def _enter(self, exchange: Exchange, account: Account) -> None:
        if exchange.path not in INFERENCE:
            self._page_for(exchange, account)
        else:
            self._ask(exchange, account, None)

    def _ask(self, exchange: Exchange, account: Account, known: dict[str, Lane] | None) -> None:
        """Read what is asked for; on to the tenant's limits. `known` lanes need no other look."""
        if self.meter.full:
            raise Problem(503, "usage_disk_full", "Usage cannot be recorded now.", retry_after_s=5)
        exchange.account = account
        ask = exchange.ask = read_ask(exchange.body)
        if ask.service_tier is not None:
            known = None
        lane = known.get(ask.model) if known is not None else None
        if lane is None:
            batch = bool(exchange.order)
            lane = self.lanes.get((account.key, ask.model, exchange.path, ask.service_tier, batch))
            if lane is None or lane.account is not account:
                lane = self._lane(account, ask, exchange.path, batch)
            if known is not None:
                known[ask.model] = lane
        exchange.lane = lane
        exchange.est_input = len(exchange.body) // BYTES_PER_TOKEN
        most = output_max(ask)
        if exchange.path == b"/v1/embeddings":
            most = 0
        exchange.est_output = lane.model.terms.output_tokens_guess if most is None else most
        # A request that nothing was fetched for has only just begun.
        now_s = exchange.began_s if known is not None else monotonic()
        if self._try_reserve(exchange, now_s):
            self.dispatcher.offer(exchange)
        else:
            self.spawn(self._lease(exchange))

    def _try_reserve(self, exchange: Exchange, now_s: float) -> bool:
        """Take the request off its tenant's limits; False if they have to be asked for more."""
        lane = exchange.lane
        fed, made = exchange.est_input, exchange.est_output
        account = lane.account
        price = price_nano(lane.tariff, fed, 0, made) if account.tenant.budgets else 0
        held = self.limits.reserve(account, lane.model.name, fed + made, now_s, made, price)
        if held is None:
            return False
        if not isinstance(held, Reservation):
            raise Problem(429, held.code, held.message, retry_after_s=held.retry_after_s)
        exchange.reservation = held
        if held.reserved and lane.reserved is not None:
            exchange.lane = lane.reserved
        return True

    async def _lease(self, exchange: Exchange) -> None:
        lane = exchange.lane
        try:
            until_s = monotonic() + LEASE_WITHIN_S
            while exchange.front is not None:
                await self.limits.lease(lane.account, lane.model.name)
                if self._try_reserve(exchange, monotonic()):
                    break
                if monotonic() > until_s:
                    said = "The limits cannot be asked now."
                    raise Problem(503, "limits_away", said, retry_after_s=1.0)
        except Problem as problem:
            exchange.refuse(problem)
            return
        if exchange.front is None:
            if exchange.reservation is not None:
                self.limits.settle(exchange.reservation, 0, 0, self.loop.time())
                exchange.reservation = None
            exchange.state = OVER
        else:
            self.dispatcher.offer(exchange)

    # Lanes.

    def _lane(self, account: Account, ask: Ask, path: bytes, batch: bool) -> Lane:
        """Work out a lane and keep it; Problem if the account may not go this way."""
        model = self.dispatcher.models.get(ask.model)
        tenant = account.tenant
        if model is None or (tenant.models and ask.model not in tenant.models):
            raise Problem(
                404,
                "model_not_found",
                f"The model `{ask.model}` does not exist or you do not have access to it.",
                "model",
            )
        tier = "batch" if batch else self._tier(tenant, ask.service_tier)
        if tenant.class_ not in self.class_rank:
            raise Problem(
                403, "unknown_class", f"The tenant's class {tenant.class_!r} is not in the config."
            )
        lane = self._new_lane(account, model, path, tier)
        if tier == "default":
            lane.reserved = self._new_lane(account, model, path, "reserved")
        if len(self.lanes) >= LANES_MAX:
            self.lanes.clear()
        self.lanes[account.key, ask.model, path, ask.service_tier, batch] = lane
        return lane

    def _tier(self, tenant: Tenant, asked: str | None) -> str:
        tier = tenant.default_tier if asked in (None, "auto") else asked
        if tier not in ("default", "flex", "priority"):
            raise Problem(
                400,
                "invalid_value",
                f"service_tier is {asked!r}; it may be auto, default, flex or priority.",
                "service_tier",
            )
        if tier not in tenant.tiers:
            raise Problem(
                400,
                "tier_not_offered",
                f"service_tier {tier!r} is not offered to this tenant; "
                f"it has {', '.join(tenant.tiers)}.",
                "service_tier",
            )
        return tier

    def _new_lane(self, account: Account, model: ModelRun, path: bytes, tier: str) -> Lane:
        class_ = self.classes[account.tenant.class_]
        terms = self.config.terms(tier)
        return Lane(
            account,
            model,
            path,
            tier,
            fairness.level(self.class_rank[class_.name], len(self.classes), tier),
            class_.patience_s if terms.patience_s is None else terms.patience_s,
            settings.tariff(self.config, model.terms, tier),
            self.metrics.of(model.name, class_.name, tier),
            0.0 if tier in ("flex", "batch") else (class_.ttft_ms or 0.0) / 1000.0,
        )

    def tariff_of(self, model: str, tier: str) -> Tariff:
        run = self.dispatcher.models.get(model)
        return FREE if run is None else settings.tariff(self.config, run.terms, tier)

    def price_of(self, opened: Opened, output_tokens: int) -> int:
        """Price of a request that a dead gateway left open."""
        tariff = self.tariff_of(opened.model, opened.tier)
        return price_nano(tariff, opened.input_tokens, 0, output_tokens)

    # Pages.

    def _page(self, exchange: Exchange) -> None:
        path = exchange.path
        if exchange.method in (b"GET", b"HEAD"):
            if path in (b"/health", b"/healthz"):
                self._health(exchange)
                return
            if path == b"/openapi.json":
                if not self._description:
                    self._description = msgspec.json.encode(openapi.document())
                exchange.reply(200, self._description)
                return
            if path == b"/metrics":
                if self.siblings and exchange.query != OWN:
                    self.spawn(self._all_metrics(exchange))
                else:
                    exchange.reply(200, metrics.page(self.samples()), PROMETHEUS)
                return
        if path.startswith((b"/v1/models", *RELAYED)):
            self._with_account(exchange)
            return
        if path == b"/internal/room":
            self._internal(exchange)
            exchange.reply(200, b'{"batch_room":%d}' % self.batch_room())
            return
        self._no_such_address(exchange)

    async def _all_metrics(self, exchange: Exchange) -> None:
        """The metrics of all processes on the port; one that does not answer is left out."""
        pages = await asyncio.gather(
            *(asyncio.to_thread(fetch_metrics, path) for path in self.siblings)
        )
        samples = metrics.merged([self.samples(), *(metrics.read(page) for page in pages)])
        if exchange.front is not None:
            exchange.reply(200, metrics.page(samples), PROMETHEUS)

    def _page_for(self, exchange: Exchange, account: Account) -> None:
        path = exchange.path
        if path == b"/v1/models" and exchange.method in (b"GET", b"HEAD"):
            data = [self._model_entry(m) for m in self._models_of(account)]
            exchange.reply(200, msgspec.json.encode({"object": "list", "data": data}))
        elif path.startswith(b"/v1/models/") and exchange.method in (b"GET", b"HEAD"):
            name = path.removeprefix(b"/v1/models/").decode("latin-1")
            for model in self._models_of(account):
                if model.name == name:
                    exchange.reply(200, msgspec.json.encode(self._model_entry(model)))
                    return
            raise Problem(404, "model_not_found", f"The model `{name}` does not exist.", "model")
        elif path.startswith(RELAYED):
            self._relay(exchange, account)
        else:
            self._no_such_address(exchange)

    def _relay(self, exchange: Exchange, account: Account) -> None:
        """Pass a request for files or batches to the process that has them."""
        if self.admin is None:
            self._no_such_address(exchange)
        exchange.relay = True
        exchange.account = account
        exchange.lane = RelayLane(account)
        exchange.send(self.admin)

    def _no_such_address(self, exchange: Exchange) -> NoReturn:
        path = exchange.path.decode("latin-1")
        method = exchange.method.decode("latin-1")
        raise Problem(404, "unknown_url", f"Unknown request URL: {method} {path}.")

    def _models_of(self, account: Account) -> list[ModelRun]:
        allowed = account.tenant.models
        return [m for m in self.dispatcher.models.values() if not allowed or m.name in allowed]

    def _model_entry(self, model: ModelRun) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created_s,
            "owned_by": "headgate",
        }

    def _health(self, exchange: Exchange) -> None:
        engines = {name: not e.down for name, e in self.dispatcher.engines.items()}
        well = not self.draining and (not engines or any(engines.values()))
        body = msgspec.json.encode({"status": "ok" if well else "unavailable", "engines": engines})
        exchange.reply(200 if well else 503, body)

    def batch_room(self) -> int:
        """How many more batch requests engines and queues can use now."""
        dispatcher = self.dispatcher
        level = dispatcher.batch_level
        room = 0.0
        for engine in dispatcher.engines.values():
            if not engine.down:
                room += engine.cap * dispatcher.shares[level] - engine.in_flight
        waiting = sum(len(m.queue.rings[level]) for m in dispatcher.models.values())
        return max(0, math.ceil(room) * 2 - waiting)

    def samples(self) -> metrics.Samples:
        """All metrics of this process."""
        into = self.metrics.samples()
        into["headgate_connections"] = len(self.fronts)
        into["headgate_evicted_total"] = self.dispatcher.evicted
        into["headgate_retried_total"] = self.dispatcher.retried
        for name, engine in self.dispatcher.engines.items():
            label = f'{{engine="{name}"}}'
            into[f"headgate_engine_up{label}"] = 0 if engine.down else 1
            into[f"headgate_engine_in_flight{label}"] = engine.in_flight
            into[f"headgate_engine_cap{label}"] = engine.cap
            into[f"headgate_engine_token_seconds{label}"] = engine.token_s
        for model in self.dispatcher.models.values():
            into[f'headgate_waiting{{model="{model.name}"}}'] = model.queue.waiting
        return into

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
            status, len(body), exchange, self.date(), content_type, retry_after_s, close
        )

    def stream_head(self, exchange: Exchange) -> bytes:
        return heads.streamed(
            200, exchange, self.date(), "text/event-stream; charset=utf-8", NOT_CACHED
        )

    def relay_head(self, exchange: Exchange) -> bytes:
        kind = exchange.content_type.decode("latin-1")
        return heads.streamed(exchange.status, exchange, self.date(), kind)

    def date(self) -> str:
        """The date header, made once a second."""
        now_s = monotonic()
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


def _own_share(config: settings.Config) -> settings.Config:
    """The config with the engines' caps divided among the processes that share them."""
    workers = config.server.workers
    if workers == 1:
        return config
    engines = tuple(
        msgspec.structs.replace(
            engine,
            in_flight_max=math.ceil(engine.in_flight_max / workers),
            in_flight_min=math.ceil(engine.in_flight_min / workers),
        )
        for engine in config.engines
    )
    return msgspec.structs.replace(config, engines=engines)


class RelayLane(Lane):
    """The way of requests that are passed to the admin process as they are."""

    __slots__ = ()

    def __init__(self, account: Account) -> None:
        self.account = account

    def request(self, exchange: Exchange, engine: Engine) -> bytes:
        headers = exchange.headers
        door = exchange.door
        path = exchange.path + (b"?" + exchange.query if exchange.query else b"")
        kept = b"".join(
            b"%b: %b\r\n" % (name, headers[name])
            for name in (b"content-type", b"accept", b"idempotency-key")
            if name in headers
        )
        if not exchange.passed_on:
            framing = b"content-length: %d\r\n" % len(exchange.body)
        elif b"content-length" in headers:
            framing = b"content-length: %b\r\n" % headers[b"content-length"]
        else:
            framing = b"transfer-encoding: chunked\r\n"
        return b"%b%bx-request-id: %b\r\n%b: %b\r\n%b%b%b\r\n%b" % (
            engine.request_line(exchange.method, path),
            kept,
            exchange.id.encode(),
            INTERNAL,
            door.secret,
            b"x-headgate-tenant: %b\r\n" % self.account.tenant.name.encode(),
            b"x-headgate-key: %b\r\n" % self.account.key.encode(),
            framing,
            exchange.body,
        )


def fetch_metrics(path: str) -> bytes:
    """Another process's own metrics page; empty if it does not answer within a second. Blocks."""
    parts = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        sock.connect(path)
        sock.sendall(b"GET /metrics?own HTTP/1.0\r\n\r\n")
        while part := sock.recv(65_536):
            parts.append(part)
    return b"".join(parts).partition(b"\r\n\r\n")[2]

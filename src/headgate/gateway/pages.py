"""What the door answers beside inference: health, models, metrics, files and batches."""

import asyncio
import contextlib
import math
import socket
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from headgate.gateway import metrics, openapi
from headgate.gateway.admission import INTERNAL
from headgate.gateway.dispatch import ModelRun
from headgate.gateway.engines import Engine
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import Exchange
from headgate.gateway.lanes import Lane
from headgate.gateway.wheel import monotonic
from headgate.ledger.accounts import Account

if TYPE_CHECKING:
    from headgate.gateway.door import Door

RELAYED: Final = (b"/v1/files", b"/v1/batches", b"/v1/uploads")
PROMETHEUS: Final = "text/plain; version=0.0.4"
OWN: Final = b"own"


class Pages:
    """Every address that is no inference."""

    def __init__(self, door: "Door") -> None:
        self.door = door
        self._description = b""  # made when it is first asked for

    def open(self, exchange: Exchange) -> None:
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
                if self.door.siblings and exchange.query != OWN:
                    self.door.spawn(self._all_metrics(exchange))
                else:
                    exchange.reply(200, metrics.page(self.samples()), PROMETHEUS)
                return
        if path.startswith((b"/v1/models", *RELAYED)):
            self.door.admission.admit(exchange)
            return
        if path == b"/internal/room":
            self.door.admission.internal(exchange)
            exchange.reply(200, b'{"batch_room":%d}' % self.batch_room())
            return
        self._no_such_address(exchange)

    async def _all_metrics(self, exchange: Exchange) -> None:
        """The metrics of all processes on the port; one that does not answer is left out."""
        pages = await asyncio.gather(
            *(asyncio.to_thread(fetch_metrics, path) for path in self.door.siblings)
        )
        samples = metrics.merged([self.samples(), *(metrics.read(page) for page in pages)])
        if exchange.front is not None:
            exchange.reply(200, metrics.page(samples), PROMETHEUS)

    def show(self, exchange: Exchange, account: Account) -> None:
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
            self.relay(exchange, account)
        else:
            self._no_such_address(exchange)

    def relay(self, exchange: Exchange, account: Account) -> None:
        """Pass a request for files or batches to the process that has them."""
        if self.door.admin is None:
            self._no_such_address(exchange)
        exchange.relay = True
        exchange.account = account
        exchange.lane = RelayLane(account)
        exchange.send(self.door.admin, monotonic())

    def _no_such_address(self, exchange: Exchange) -> NoReturn:
        path = exchange.path.decode("latin-1")
        method = exchange.method.decode("latin-1")
        raise Problem(404, "unknown_url", f"Unknown request URL: {method} {path}.")

    def _models_of(self, account: Account) -> list[ModelRun]:
        allowed = account.tenant.models
        return [m for m in self.door.dispatcher.models.values() if not allowed or m.name in allowed]

    def _model_entry(self, model: ModelRun) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created_s,
            "owned_by": "headgate",
        }

    def _health(self, exchange: Exchange) -> None:
        engines = {name: not e.down for name, e in self.door.dispatcher.engines.items()}
        well = not self.door.draining and (not engines or any(engines.values()))
        body = msgspec.json.encode({"status": "ok" if well else "unavailable", "engines": engines})
        exchange.reply(200 if well else 503, body)

    def batch_room(self) -> int:
        """How many more batch requests engines and queues can use now."""
        dispatcher = self.door.dispatcher
        level = dispatcher.batch_level
        room = 0.0
        for engine in dispatcher.engines.values():
            if not engine.down:
                room += engine.cap * dispatcher.shares[level] - engine.in_flight
        waiting = sum(len(m.queue.rings[level]) for m in dispatcher.models.values())
        return max(0, math.ceil(room) * 2 - waiting)

    def samples(self) -> metrics.Samples:
        """All metrics of this process."""
        into = self.door.metrics.samples()
        into["headgate_connections"] = len(self.door.fronts)
        into["headgate_evicted_total"] = self.door.dispatcher.evicted
        into["headgate_retried_total"] = self.door.dispatcher.retried
        for name, engine in self.door.dispatcher.engines.items():
            label = f'{{engine="{name}"}}'
            into[f"headgate_engine_up{label}"] = 0 if engine.down else 1
            into[f"headgate_engine_in_flight{label}"] = engine.in_flight
            into[f"headgate_engine_cap{label}"] = engine.cap
            into[f"headgate_engine_token_seconds{label}"] = engine.token_s
        for model in self.door.dispatcher.models.values():
            into[f'headgate_waiting{{model="{model.name}"}}'] = model.queue.waiting
        return into


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

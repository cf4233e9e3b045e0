"""Engines and the connections to them."""

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import httptools

from headgate.gateway import config as settings
from headgate.gateway.known import Form, Known
from headgate.gateway.wheel import NEVER, Wheel, monotonic
from headgate.policy.reading import Reading

if TYPE_CHECKING:
    from headgate.gateway.dispatch import ModelRun
    from headgate.gateway.exchange import Exchange

IDLE_LINKS_MAX: Final = 512
LINK_IDLE_S: Final = 4.0  # uvicorn, which most engines run on, closes idle connections after 5 s
FIRST_CAP: Final = 16
READ_MAX_S: Final = 1.0  # no batch prompt keeps the next one waiting for longer
SEQUENCE_TOKENS: Final = 16.0  # to be read in the time by which an answer lengthens others' steps
CONNECT_TIMEOUT_S: Final = 3.0


class Engine:
    """One server: its address, what is in flight there and how much may be."""

    def __init__(self, terms: settings.Engine, key: str | None, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.in_flight = 0
        self.outstanding_tokens = 0.0
        self.batch_tokens = 0.0  # of these, what batch work is to take
        self.idle: list[Link] = []
        self.heads: Known[bytes] = Known()  # of its good answers; the content-type is what matters
        self.form: Form[bytes] | None = None  # of the last answer whose head was known
        self.links: set[Link] = set()
        self.batch: dict[Exchange, None] = {}  # evictable work here, oldest first
        self.models: list[ModelRun] = []
        self.down = False
        self.draining = False  # no longer in the config
        self.failures = 0
        self.stream_tokens = 0  # handed on since the last look at the pace
        self.streams = 0
        self.plain_s = 0.0
        self.plain_tokens = 0
        self.token_s = 0.0  # time between tokens, as last measured
        self.cap = float(terms.in_flight_max)
        self.rooms: list[float] = []  # in flight at which it is full, by level
        self.shares: list[float] = []
        self.late = 0.0  # slowest first token since the last look, over its objective
        self.batch_share = 1.0  # of what batch work may fill, while interactive work is late
        self.reading = Reading()
        self.unread = 0  # streams that are not batch work's and wait for their first token
        self.batch_due_s = 0.0  # when the last batch prompt will have been read
        self.batch_waits = False  # somebody will look again
        self.accept(terms, key)

    def set_cap(self, cap: float, shares: list[float]) -> None:
        """How much may be in flight, and how much of that each level may fill."""
        self.cap = cap
        self.shares = shares
        self.rooms = [max(1.0, cap * share) for share in shares]
        self.rooms[-1] = max(1.0, cap * shares[-1] * self.batch_share)

    def first_token(self, exchange: "Exchange", took_s: float) -> None:
        """A stream's first token came, so long after its prompt was sent here."""
        objective_s = exchange.lane.ttft_s
        if objective_s:
            self.late = max(self.late, took_s / objective_s)
        tokens = exchange.est_input - exchange.est_cached
        self.reading.first_token(exchange.id, tokens, took_s, self.token_s)

    def ahead_tokens(self, now_s: float) -> float:
        """What is done here before a new prompt's first token, in tokens to be read.

        Batch work counts while it is being read, not afterwards: it gives way to all others, and
        differs more from engine to engine than the prompt that nobody must be put behind.
        """
        others = self.in_flight - len(self.batch)
        return self.reading.left_tokens(now_s) + SEQUENCE_TOKENS * others

    def reads_for_s(self, now_s: float) -> float:
        """How much longer prompts are read here; NEVER: one will be told."""
        return NEVER if self.unread else self.reading.left_s(now_s)

    def batch_begins(self, tokens: int, now_s: float) -> None:
        """A batch prompt is sent: the next one may follow when this one has been read."""
        self.batch_due_s = now_s + min(READ_MAX_S, tokens * self.reading.token_s)

    def start_slowly(self) -> None:
        """With an objective to keep, find the cap from below."""
        self.cap = min(self.cap, float(max(self.terms.in_flight_min, FIRST_CAP)))

    def accept(self, terms: settings.Engine, key: str | None) -> None:
        """Take the terms of a new config; the address stays the same."""
        self.terms = terms
        self.name = terms.name
        self.answer_timeout_s = terms.answer_timeout_s
        self.silence_timeout_s = terms.silence_timeout_s
        self.cap = min(self.cap, float(terms.in_flight_max))
        parts = urlsplit(terms.url)
        self.unix_path = parts.path if parts.scheme == "unix" else None
        self.host = parts.hostname or "localhost"
        self.port = parts.port or 80
        self.base = "" if self.unix_path else parts.path.rstrip("/").removesuffix("/v1")
        authorization = f"authorization: Bearer {key}\r\n" if key else ""
        name = parts.netloc.rpartition("@")[2] or "localhost"
        self.head = f" HTTP/1.1\r\nhost: {name}\r\n{authorization}".encode("latin-1")

    def request_line(self, method: bytes, path: bytes) -> bytes:
        """First lines of a request, up to where its own headers begin."""
        return method + b" " + self.base.encode() + path + self.head

    def known_body(self, data: bytes) -> bytes | None:
        """The body of an answer whose head came before; `form` is of that head then."""
        form = self.form
        body = form.body_of(data) if form is not None else None
        if body is None:
            form = self.heads.find(data)
            body = form.body_of(data) if form is not None else None
            if body is not None:
                self.form = form
        return body

    def free_link(self, now_s: float) -> "Link | None":
        """A connection that is ready, the one used last first."""
        while self.idle:
            link = self.idle.pop()
            if link.transport is not None:
                if now_s - link.idle_since_s < LINK_IDLE_S:
                    return link
                link.transport.close()
        return None

    async def connect(self, wheel: Wheel) -> "Link":
        """A new connection; OSError or TimeoutError if there is none to be had."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            made: Any  # a Link
            if self.unix_path is not None:
                _, made = await self.loop.create_unix_connection(
                    lambda: cast("Any", Link(self, wheel)), self.unix_path
                )
            else:
                _, made = await self.loop.create_connection(
                    lambda: cast("Any", Link(self, wheel)), self.host, self.port
                )
        return cast("Link", made)

    def close(self) -> None:
        for link in self.idle:
            if link.transport is not None:
                link.transport.close()
        self.idle.clear()


NO_PARSER: Final = httptools.HttpResponseParser(object())  # of connections that are gone


class Link:
    """One connection to an engine, serving one exchange at a time.

    An asyncio.Protocol in all but name, so that it can be compiled.
    What the parser finds in one read is handed on in one piece.
    """

    __slots__ = (
        "_answer_over",
        "_fresh",
        "_headers",
        "_held",
        "_parser",
        "_parts",
        "_status",
        "_until_close",
        "deadline_s",
        "engine",
        "exchange",
        "idle_since_s",
        "keep",
        "on_body",
        "on_header",
        "transport",
        "used",
        "watched_tick",
        "wheel",
    )

    def __init__(self, engine: Engine, wheel: Wheel) -> None:
        self.engine = engine
        self.wheel = wheel
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.deadline_s = NEVER
        self.watched_tick = 0
        self.idle_since_s = 0.0
        self.used = False  # it has served before: the engine may have closed it meanwhile
        self.keep = True
        self._headers: dict[bytes, bytes] = {}
        self.on_header = self._headers.setdefault
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._fresh = False  # asked, and nothing has come yet
        self._held = False
        self._status = 0
        self._answer_over = False
        self._until_close = False

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.transport = transport
        self.engine.links.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._parser = NO_PARSER  # the two would keep each other alive until a collection
        self.engine.links.discard(self)
        self.deadline_s = NEVER
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            if self in self.engine.idle:
                self.engine.idle.remove(self)
        elif self._until_close and self._status and exc is None:
            exchange.answer_over(self._take_parts(), monotonic())
        else:
            exchange.engine_lost()

    def eof_received(self) -> None:
        """The engine closes; so do we."""

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # nobody asked: not a connection to be trusted further
            self.drop()
            return
        fresh, self._fresh = self._fresh, False
        if fresh:
            body = self.engine.known_body(data)
            if body is not None:
                assert self.engine.form is not None
                self._status = 200
                self.keep = True
                now_s = monotonic()
                exchange.answer_begins(200, self.engine.form.head, now_s)
                self._finish(exchange, body, now_s)
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self.drop()
            exchange.engine_lost()
            return
        if self._answer_over:
            if fresh and self.keep and self._status == 200:
                self.engine.heads.keep(data, self._kind())
            self._finish(exchange, self._take_parts(), monotonic())
        elif self._parts and self._status >= 200 and exchange.streams:
            self.deadline_s = monotonic() + self.engine.silence_timeout_s
            exchange.more(self._take_parts())

    def expire(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.drop()
        if exchange is not None:
            exchange.engine_silent()

    # From the parser.

    def on_message_begin(self) -> None:
        self._status = 0
        self._headers.clear()
        self._until_close = False

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        exchange = self.exchange
        if status < 200 or exchange is None:
            return
        headers = self._headers
        if not (b"content-length" in headers or b"Content-Length" in headers):
            lower = {name.lower() for name in headers}
            self._until_close = not (b"content-length" in lower or b"transfer-encoding" in lower)
        exchange.answer_begins(status, self._kind(), monotonic())

    def _kind(self) -> bytes:
        """The answer's content-type."""
        headers = self._headers
        kind = headers.get(b"content-type") or headers.get(b"Content-Type")
        if kind is None:
            kind = {name.lower(): value for name, value in headers.items()}.get(b"content-type")
        return kind or b""

    def on_message_complete(self) -> None:
        if self._status >= 200:  # not 100 Continue and its like
            self._answer_over = True
            self.keep = self._parser.should_keep_alive()

    # From the exchange.

    def ask(self, exchange: "Exchange", request: bytes, now_s: float) -> None:
        """Send a request; its answer goes to `exchange`."""
        assert self.transport is not None
        self.exchange = exchange
        self._status = 0
        self._answer_over = False
        self._fresh = True
        self.deadline_s = now_s + self.engine.answer_timeout_s
        if not self.watched_tick:
            self.wheel.watch(self)
        exchange.door.outbox.post(self.transport, request)

    def answered(self) -> bool:
        """Whether any of the answer has come."""
        return self._status != 0

    def write(self, data: bytes) -> None:
        """Send more of a request's body."""
        if self.transport is not None and self.exchange is not None:
            self.exchange.door.outbox.post(self.transport, data)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upload_must_wait()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upload_may_go_on()

    def hold(self) -> None:
        if self.transport is not None and not self._held:
            self._held = True
            self.transport.pause_reading()
            self.deadline_s = NEVER  # it is the client that is slow

    def go_on(self) -> None:
        if self.transport is not None and self._held:
            self._held = False
            self.transport.resume_reading()
            self.deadline_s = monotonic() + self.engine.silence_timeout_s
            self.wheel.watch(self)

    def drop(self) -> None:
        """Break the connection, and with it whatever the engine still does for it."""
        self.exchange = None
        self.deadline_s = NEVER
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, exchange: "Exchange", last: bytes, now_s: float) -> None:
        self.exchange = None
        self.deadline_s = NEVER
        self.used = True
        engine = self.engine
        assert self.transport is not None
        if self._held:
            self._held = False
            self.transport.resume_reading()
        if self.keep and not engine.draining and len(engine.idle) < IDLE_LINKS_MAX:
            self.idle_since_s = now_s
            engine.idle.append(self)
        else:
            self.transport.close()
        exchange.answer_over(last, now_s)

    def _take_parts(self) -> bytes:
        parts = self._parts
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return taken

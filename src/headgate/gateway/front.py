"""A client's connection: HTTP/1.1 in, one exchange after the other, answers out.

Framing stands on llhttp in its strict mode; what it lets through and a proxy must not (transfer
codings beside chunked, chunked bodies in HTTP/1.0) is refused here. No header of a client is ever
copied to an engine: its request is written anew.
"""

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import httptools

from headgate.gateway.errors import Problem
from headgate.gateway.exchange import Exchange
from headgate.gateway.known import BODY_MAX, Form
from headgate.gateway.wheel import NEVER, monotonic

if TYPE_CHECKING:
    from headgate.gateway.door import Door
    from headgate.gateway.lanes import Lane
    from headgate.ledger.accounts import Account

PIPELINED_MAX: Final = 16
LARGE_BODY: Final = BODY_MAX
UPLOAD_TIMES: Final = 10  # a file may take so many times as long as another body
HEADERS_MAX: Final = 100
# RFC 9112 asks for that of some; of the others two would be read in two ways.
GIVEN_ONCE: Final = frozenset(
    (
        b"authorization",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"x-headgate-internal",
    )
)
HIGH_WATER_BYTES: Final = 256 * 1024
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Head:
    """What is known of a request from its head alone."""

    __slots__ = ("account", "changes", "headers", "lanes", "path")

    def __init__(self, path: bytes, headers: dict[bytes, bytes]) -> None:
        self.path = path
        self.headers = headers
        self.account: Account | None = None  # of its key, when there were so many changes
        self.changes = -1
        self.lanes: dict[str, Lane] = {}  # by model, for requests that name no tier


NO_PARSER: Final = httptools.HttpRequestParser(object())  # of connections that are gone


class Front:
    """One client connection: an asyncio.Protocol in all but name, so that it can be compiled."""

    __slots__ = (
        "_body_bytes",
        "_deaf",
        "_form",
        "_head_bytes",
        "_headers",
        "_large",
        "_late",
        "_parser",
        "_reading",
        "_url",
        "_whole",
        "active",
        "closing",
        "deadline_s",
        "door",
        "paused",
        "pending",
        "transport",
        "watched_tick",
    )

    def __init__(self, door: "Door") -> None:
        self.door = door
        self.transport: asyncio.Transport | None = None
        self.active: Exchange | None = None
        self.pending: deque[Exchange] = deque()
        self.paused = False
        self.closing = False
        self.deadline_s = NEVER
        self.watched_tick = 0
        self._headers: dict[bytes, bytes] = {}
        self._parser = httptools.HttpRequestParser(self)
        self._form: Form[Head] | None = None  # of the last request whose head was known
        self._reading: Exchange | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        self._deaf = False
        self._large = False  # some read was larger than headers may be
        self._late: Exchange | None = None
        self._url = b""
        self._whole: Exchange | None = None  # read from its first byte to its last in this turn

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.door.fronts.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            keep_alive(sock)
        self._wait(self.door.server.idle_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.closing = True
        self.deadline_s = NEVER
        self.door.fronts.discard(self)
        self._parser = NO_PARSER  # the two would keep each other alive until a collection
        self.pending.clear()
        self._reading = None
        active, self.active = self.active, None
        if active is not None:
            active.client_left()

    def eof_received(self) -> None:
        """A client that will send no more has left: the connection is closed."""
        self.door.outbox.flush()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._read_late(data)
            return
        if self.closing:
            return
        begins = self._reading is None
        if begins and self.active is None and not self.pending and self._is_known(data):
            return
        self._large = self._large or len(data) > self.door.header_max
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._deaf = True
            self._read_late(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Problem):
                raise
            self._reject(cause)
            return
        except httptools.HttpParserError as error:
            self._reject(Problem(400, None, f"The request is not valid HTTP/1.1: {error}."))
            return
        if self._whole is not None:
            self._remember(data, begins)
        reading = self._reading
        if reading is not None and self.active is None:
            server = self.door.server
            if not reading.head_read:
                self._large = True
                self._head_bytes += len(data)
                if self._head_bytes > self.door.header_max:
                    self._reject(Problem(431, None, "The request's headers are too large."))
                    return
                self._wait_once(reading, server.header_timeout_s)
            else:
                self._wait_once(reading, server.header_timeout_s + server.body_timeout_s)

    def pause_writing(self) -> None:
        self.paused = True
        self._wait(self.door.server.stalled_reader_s)
        if self.active is not None and self.active.link is not None:
            self.active.link.hold()

    def resume_writing(self) -> None:
        self.paused = False
        self.deadline_s = NEVER
        if self.active is not None and self.active.link is not None:
            self.active.link.go_on()
        elif self.active is None:
            self._wait(self.door.server.idle_timeout_s)

    def expire(self) -> None:
        """The deadline has come: what it means depends on what was waited for."""
        if self.transport is None:
            return
        if self.paused or self.closing or (self.active is not None and self.active.uploading):
            self.transport.abort()
        elif self.active is not None:
            self.active.waited_enough()
        elif self._reading is not None:
            self._reject(Problem(408, None, "The request did not arrive in time."))
        else:
            self.transport.close()

    # From the parser.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers.clear()
        self._body_bytes = 0
        self._reading = Exchange(self)

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > 8192:
            raise Problem(414, None, "The request's URL is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name not in self._headers:
            self._headers[name] = value  # the first of a name is the one that counts
        elif name.lower() in GIVEN_ONCE:
            raise Problem(400, None, f"The header {name.decode('latin-1')} is given twice.")

    def on_headers_complete(self) -> None:
        reading = self._reading
        assert reading is not None
        given = self._headers
        headers = reading.headers = {name.lower(): value for name, value in given.items()}
        if len(given) > HEADERS_MAX or (
            self._large and sum(map(len, given.values())) > self.door.header_max
        ):
            raise Problem(431, None, "The request's headers are too many or too large.")
        if len(headers) != len(given):
            raise Problem(400, None, "A header is given twice, in two spellings.")
        self._head_bytes = 0
        reading.head_read = True
        parser = self._parser
        reading.method = parser.get_method()
        if reading.method == b"CONNECT":
            raise Problem(405, None, "This is no proxy: CONNECT is not taken.")
        reading.path = self._url
        if self._url.find(b"?") >= 0:
            reading.path, _, reading.query = self._url.partition(b"?")
        if b"transfer-encoding" in headers or parser.get_http_version() != "1.1":
            self._check_version(reading)
        elif b"host" not in headers:
            raise Problem(400, None, "A request in HTTP/1.1 must have a host header.")
        length = headers.get(b"content-length")
        if length is not None and len(length) > 4:
            self.door.preview(reading, int(length))
        if b"expect" in headers and self.active is None and self.transport is not None:
            self.write(CONTINUE)
        if (reading.body_max > self.door.body_max) and self.active is None and not self.pending:
            self._upload(reading)

    def _upload(self, reading: Exchange) -> None:
        """Let a file through while it comes in, instead of holding all of it."""
        if self.door.upload(reading):
            self.active = reading
            server = self.door.server
            self._wait(UPLOAD_TIMES * (server.header_timeout_s + server.body_timeout_s))

    def _check_version(self, reading: Exchange) -> None:
        version = self._parser.get_http_version()
        coding = reading.headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version != "1.1"):
            raise Problem(400, None, "The only transfer coding taken is chunked, in HTTP/1.1.")
        if version == "1.0":
            reading.chunked_out = False
        elif version != "1.1":
            raise Problem(505, None, "Only HTTP/1.1 and 1.0 are spoken here.")
        elif b"host" not in reading.headers:
            raise Problem(400, None, "A request in HTTP/1.1 must have a host header.")
        if coding is not None:
            self.door.preview(reading, 0)

    def on_body(self, body: bytes) -> None:
        reading = self._reading
        assert reading is not None
        self._body_bytes += len(body)
        if self._body_bytes > reading.body_max:
            raise Problem(413, None, f"The request's body is over {reading.body_max} bytes.")
        if self._body_bytes > LARGE_BODY and not reading.vouched:
            self.door.vouch(reading)
        if reading.uploading:
            reading.upload(body)
        else:
            reading.parts.append(body)

    def on_message_complete(self) -> None:
        reading, self._reading = self._reading, None
        assert reading is not None
        if reading.uploading:
            reading.keep_alive = self._parser.should_keep_alive()
            self.deadline_s = NEVER
            reading.uploaded()
            return
        if b"upgrade" in reading.headers and self._parser.should_upgrade():
            self._late = reading
            return
        reading.keep_alive = self._parser.should_keep_alive()
        if self.active is None and not self.pending:
            self._whole = reading
            self._start(reading)
        elif len(self.pending) >= PIPELINED_MAX:
            raise Problem(429, None, f"More than {PIPELINED_MAX} requests wait on one connection.")
        else:
            self.pending.append(reading)
            if self._body_bytes > LARGE_BODY and self.transport is not None:
                self.transport.pause_reading()  # one large body in waiting is enough

    def _is_known(self, data: bytes) -> bool:
        """Begin the request at once if its head came before, here or on another connection."""
        heads = self.door.heads
        form = self._form
        body = form.body_of(data) if form is not None and form.age == heads.age else None
        if body is None:
            form = heads.find(data)
            body = form.body_of(data) if form is not None else None
            if body is None:
                return False
            self._form = form
        assert form is not None
        self._start_known(form.head, body)
        return True

    def _start_known(self, head: Head, body: bytes) -> None:
        """Begin a request whose head came before, without asking the parser again."""
        if len(body) > self.door.body_max:
            self._reject(Problem(413, None, f"The body is over {self.door.body_max} bytes."))
            return
        exchange = Exchange(self)
        exchange.method = b"POST"
        exchange.path = head.path
        exchange.headers = head.headers
        exchange.body = body
        self.active = exchange
        self.deadline_s = NEVER
        self.door.begin_known(exchange, head)

    def _remember(self, data: bytes, begins: bool) -> None:
        """Keep the head of an ordinary request that came in one piece."""
        whole, self._whole = self._whole, None
        if whole is None or not begins:
            return
        headers = whole.headers
        if (
            whole.method == b"POST"
            and whole.keep_alive
            and whole.chunked_out
            and not whole.query
            and self.door.is_ordinary(whole.path, headers)
        ):
            self.door.heads.keep(data, Head(whole.path, headers))

    def _read_late(self, data: bytes) -> None:
        """Read the body of a request that offers an upgrade.

        The offer is ignored, as HTTP/1.1 allows, and the connection closed after the answer; the
        parser leaves what follows such a head to us.
        """
        late = self._late
        if late is None or self.closing:
            return
        late.parts.append(data)
        wanted = int(late.headers.get(b"content-length", b"0"))
        if sum(map(len, late.parts)) < wanted:
            return
        self._late = None
        late.parts = [b"".join(late.parts)[:wanted]]
        late.keep_alive = False
        if self.active is None:
            self._start(late)
        else:
            self.pending.append(late)

    # From the exchange.

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.door.outbox.post(self.transport, data)

    def exchange_over(self, keep_alive: bool, now_s: float) -> None:
        """The answer has been written: on to the next request, or goodbye."""
        self.active = None
        if self.transport is None:
            return
        if not keep_alive or self.door.draining:
            self._close()
        elif self.pending:
            self.door.loop.call_soon(self._next)
        elif not self.paused:
            self.deadline_s = now_s + self.door.idle_timeout_s
            if not self.watched_tick:
                self.door.wheel.watch(self)

    def patience(self, until_s: float) -> None:
        """Call the active exchange's `waited_enough` then."""
        if not self.paused:
            self.deadline_s = until_s
            self.door.wheel.watch(self)

    def drain(self) -> None:
        """Close as soon as nothing is under way."""
        if self.active is None and self._reading is None and self.transport is not None:
            self._close()

    def _next(self) -> None:
        if self.active is None and self.pending and not self.closing:
            if self.transport is not None:
                self.transport.resume_reading()
            self._start(self.pending.popleft())

    def _start(self, exchange: Exchange) -> None:
        self.active = exchange
        self.deadline_s = NEVER
        self.door.begin(exchange)

    def _reject(self, problem: Problem) -> None:
        """Answer what could not be read as a request, and close: framing is lost."""
        self._reading = None
        self.door.metrics.rejected += 1
        if self.active is None and self.transport is not None:
            body = problem.body()
            self.write(self.door.head(problem.status, body, close=True) + body)
            self._close()
        elif self.transport is not None:
            self.transport.abort()

    def _close(self) -> None:
        self.closing = True
        assert self.transport is not None
        self._wait(self.door.server.stalled_reader_s)
        self.door.outbox.flush()
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        self.deadline_s = monotonic() + seconds
        if not self.watched_tick:
            self.door.wheel.watch(self)

    def _wait_once(self, reading: Exchange, seconds: float) -> None:
        """Bound a request's arrival from its first byte, so that a trickle does not extend it."""
        until_s = reading.began_s + seconds
        if self.deadline_s != until_s:
            self.deadline_s = until_s
            self.door.wheel.watch(self)


def keep_alive(sock: socket.socket) -> None:
    """Notice a peer that vanished without a word: after 30 s idle and three silent probes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)

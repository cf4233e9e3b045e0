"""The life of one request.

1. Its head and body are read (`front`); the door finds its account, model, tier: its lane.
2. Its tenant's limits are reserved.
3. It waits its turn for an engine (`dispatch`), at most as long as it is patient.
4. It is sent; until the first byte of the answer it may be sent again, elsewhere.
5. The answer goes to the client: at once if it streams, in one piece if not.
6. Its usage is recorded, its reservation settled, its slot given back: once, however it ends.
"""

from typing import TYPE_CHECKING, Final

from headgate.gateway import heads, stream
from headgate.gateway.errors import Problem
from headgate.gateway.wheel import NEVER, monotonic, wall
from headgate.ledger.prices import price_nano
from headgate.ledger.usage import NAME_LENGTH, Counted, Item, Opened, Outcome

if TYPE_CHECKING:
    from headgate.gateway.bodies import Ask
    from headgate.gateway.door import Door
    from headgate.gateway.engines import Engine, Link
    from headgate.gateway.front import Front
    from headgate.gateway.lanes import Lane
    from headgate.gateway.traces import Span
    from headgate.ledger.accounts import Account
    from headgate.ledger.reservation import Reservation

MICRO: Final = 1e6
RETRIES: Final = 2  # after an engine failed with nothing of its answer delivered
PROGRESS_TOKENS: Final = 64  # a stream's progress is noted this often, for the case of a crash, and
# before that at 1, 2, 4 ... tokens, so that a short one is not billed at nothing after it
SIZES: Final = [b"%x\r\n" % size for size in range(2048)]  # first lines of chunks, made once
NEWLINE: Final = 10
HELD_EVENT_MAX: Final = 8 * 1024 * 1024  # of an event whose end has not come
RETRIED: Final = frozenset((502, 503, 504))
FIRST_EVENT_IS_A_TOKEN: Final = frozenset((b"/v1/chat/completions", b"/v1/completions"))

# States. A request is over when it is billed, or needs no bill.
READ: Final = 0
WAITING: Final = 1
SENT: Final = 2
HELD: Final = 3
OVER: Final = 4


class Exchange:
    """One request and its answer."""

    # What most requests never change stands here, so that making one stays cheap.
    headers: dict[bytes, bytes]  # names in lower case
    method = b""
    path = b""
    query = b""
    head_read = False
    keep_alive = True
    chunked_out = True  # the client can be sent chunks
    body = b""
    account: "Account | None" = None
    lane: "Lane"  # set once it is known
    ask: "Ask | None" = None
    order = ""  # batch and line of batch work
    id = ""
    wall_s = 0.0
    reservation: "Reservation | None" = None
    est_input = 0
    est_cached = 0  # of these, what the engine is thought to hold
    est_output = 0
    state: int = READ
    status = 0
    link: "Link | None" = None
    engine: "Engine | None" = None
    slot = False  # counted in at the engine
    unread = False  # counted there as a stream whose first token is awaited
    attempts = 0
    queued_s = 0.0
    first_byte_s = 0.0
    streams = False
    head_sent = False
    relay = False  # passed on as it is, unbilled: files, batches
    vouched = False  # its key has been looked up before its body is read
    passed_on = False  # its body goes on while it comes in
    uploading = False  # and is not complete yet
    content_type = b""
    strip = False  # usage in the stream that the client did not ask for
    keep_usage = False
    trace: "Span | None" = None
    tail = b""
    ending = b""  # the events by which a client knows that it has all, while they are held back
    events = 0
    latest = b""  # the piece of a stream that came last
    noted = 2
    last_usage = b""

    def __init__(self, front: "Front") -> None:
        self.front: Front | None = front
        self.door: Door = front.door
        self.began_s = monotonic()  # the clock the loop runs on, read finer
        self.parts: list[bytes] = []
        self.body_max = front.door.body_max

    # 4. Sent to an engine.

    def send(self, engine: "Engine", now_s: float) -> None:
        """Ask an engine that the dispatcher has chosen and counted this request in at."""
        door = self.door
        self.engine = engine
        self.state = SENT
        self.attempts += 1
        self.queued_s = now_s - self.began_s
        if self.front is not None:
            self.front.deadline_s = NEVER
        link = engine.free_link(now_s)
        if link is not None:
            self._ask(link, now_s)
        else:
            door.spawn(self._connect(engine, self.attempts))

    async def _connect(self, engine: "Engine", attempt: int) -> None:
        door = self.door
        try:
            link = await engine.connect(door.wheel)
        except (OSError, TimeoutError):
            door.dispatcher.engine_failed(engine)
            if self.state == SENT and self.attempts == attempt:
                self._again("The engine cannot be reached.")
            return
        if self.state == SENT and self.attempts == attempt and link.transport is not None:
            self._ask(link, monotonic())
        elif self.state == SENT and self.attempts == attempt:
            self._again("The engine closed the connection.")
        elif link.transport is not None:
            link.transport.close()

    def _ask(self, link: "Link", now_s: float) -> None:
        assert self.engine is not None
        self.link = link
        self.tail = b""
        link.ask(self, self.lane.request(self, self.engine), now_s)
        if self.parts:
            for part in self.parts:
                link.write(part)
            self.parts = []
            self.upload_may_go_on()

    def _again(self, why: str) -> None:
        """Try elsewhere what has delivered nothing yet, or give up with 502."""
        self.link = None
        if self.relay:
            self._relay_broken()
            return
        if self.head_sent:
            self._broken_stream("engine_lost")
            return
        if self.attempts <= RETRIES:
            self.door.dispatcher.again(self)
        else:
            self.fail(Problem(502, "engine_unavailable", why), "engine_lost")

    # A body passed on as it comes in.

    def upload(self, body: bytes) -> None:
        if b"content-length" not in self.headers:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if self.link is not None:
            self.link.write(body)
        elif self.state == SENT:
            self.parts.append(body)
            self.upload_must_wait()

    def uploaded(self) -> None:
        """The body is complete."""
        if b"content-length" not in self.headers:
            if self.link is not None:
                self.link.write(b"0\r\n\r\n")
            elif self.state == SENT:
                self.parts.append(b"0\r\n\r\n")
        self.upload_may_go_on()  # there may be no other time to hear the client's next request
        self.uploading = False

    def upload_must_wait(self) -> None:
        if self.uploading and self.front is not None and self.front.transport is not None:
            self.front.transport.pause_reading()

    def upload_may_go_on(self) -> None:
        if self.uploading and self.front is not None and self.front.transport is not None:
            self.front.transport.resume_reading()

    # 5. The engine's answer, told by the link.

    def answer_begins(self, status: int, content_type: bytes, now_s: float) -> None:
        self.status = status
        self.first_byte_s = now_s - self.began_s
        if self.relay:
            self.streams = True
            self.content_type = content_type
        else:
            self.streams = status == 200 and content_type.startswith(b"text/event-stream")
            if self.streams and self.engine is not None:
                self.engine.streams += 1

    def more(self, data: bytes) -> None:
        """A piece of a streamed answer."""
        if self.relay:
            self._relayed(data)
            return
        end = len(data) - 2
        if not self.tail and data.find(b"\n") == end and end > 0 and data[end + 1] == NEWLINE:
            count = 1  # one event of one line, as most are
        else:
            if self.tail or not data.endswith(b"\n\n"):
                data = self._whole_events(data)
                if not data:
                    return
            count = data.count(b"\n\n")
        if not self.events:
            self._first_event()
        self.events += count
        self.latest = data
        assert self.engine is not None
        self.engine.stream_tokens += count
        if data.find(b'"usage"') >= 0:  # `in` would first try whether it is a number
            self.last_usage = data
            if self.strip:
                data = stream.without_usage(data, self.keep_usage)
        if self.events >= self.noted:
            self.noted = self.events + min(self.events - 1, PROGRESS_TOKENS)
            self.door.meter.progress(self.id, self.events - 1)
        front = self.front
        if front is None or not data:
            return
        if not self.head_sent:
            self._stream_begins()
            if self.lane.names_tier:
                data = stream.with_tier(data, self.lane.tier_bytes)
        if self.door.meter.strict:
            cut = 0 if self.ending else stream.ending_at(data)
            self.ending += data[cut:]
            data = data[:cut]
        if data:
            front.write(self._framed(data))
        if front.paused and self.link is not None:
            self.link.hold()

    def answer_over(self, data: bytes, now_s: float) -> None:
        """The engine has said all by `now_s`; `data` is what came last, or the whole answer."""
        self.link = None
        if self.relay:
            self._relayed(data)
            self._relay_over()
        elif self.streams:
            if data:
                self.more(data)
            self._stream_over()
        elif self.status == 200:
            self._whole_answer(data, now_s)
        elif self.status in RETRIED and self.attempts <= RETRIES:
            self._again(f"The engine answered {self.status}.")
        else:
            self._engine_refused(data)

    def engine_lost(self) -> None:
        """The connection broke before the answer was complete."""
        link, self.link = self.link, None
        if self.state != SENT:
            return
        if self.relay:
            self._relay_broken()
            return
        assert self.engine is not None
        door = self.door
        stale = link is not None and link.used and not link.answered()
        if stale and not self.head_sent:
            # The engine closed an idle connection just as we used it: no failure of anyone's.
            now_s = monotonic()
            link = self.engine.free_link(now_s)
            if link is not None:
                self._ask(link, now_s)
            else:
                door.spawn(self._connect(self.engine, self.attempts))
            return
        door.dispatcher.engine_failed(self.engine)
        self._again("The engine broke off.")

    def engine_silent(self) -> None:
        """The engine said nothing for too long; the link has been dropped."""
        self.link = None
        if self.state != SENT:
            return
        if self.relay:
            self._relay_broken()
        elif self.head_sent:
            self._broken_stream("timeout")
        else:
            self.fail(
                Problem(504, "engine_timeout", "The engine did not answer in time."), "timeout"
            )

    # What else may end it.

    def client_left(self) -> None:
        """The client's connection is gone: cancel at once whatever is done for it."""
        self.front = None
        if self.state in (HELD, OVER):
            return
        if self.relay:
            self.state = OVER
            if self.link is not None:
                self.link.drop()
            return
        if self.state == READ and not hasattr(self, "lane"):
            # Its account is being fetched; who fetches sees that nobody waits.
            return
        door = self.door
        if self.state == WAITING:
            door.dispatcher.withdraw(self)
        link, self.link = self.link, None
        if link is not None:
            link.drop()
        self._record("left", 499)

    def waited_enough(self) -> None:
        """Its patience in the queue is over."""
        if self.state == WAITING:
            door = self.door
            door.dispatcher.withdraw(self)
            self.refuse(door.dispatcher.overloaded(self))

    def evict(self) -> None:
        """Give the engine back to work that ranks higher; the dispatcher queues this again."""
        link, self.link = self.link, None
        if link is not None:
            link.drop()
        self.attempts -= 1

    def refuse(self, problem: Problem) -> None:
        """Answer no before any engine was asked."""
        if hasattr(self, "lane") and self.state != OVER:
            self.fail(problem, "refused")
        else:
            self._say(problem)

    def fail(self, problem: Problem, outcome: Outcome) -> None:
        """Answer with an error and leave the record of it."""
        door = self.door
        body = problem.body()
        head = door.head(problem.status, body, self, problem.retry_after_s)
        self._record(outcome, problem.status, head + body)

    def _say(self, problem: Problem) -> None:
        body = problem.body()
        self.reply(problem.status, body, retry_after_s=problem.retry_after_s)

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        retry_after_s: float | None = None,
    ) -> None:
        """Answer from the door itself, without a record."""
        self.state = OVER
        self.upload_may_go_on()
        front = self.front
        if front is not None:
            head = front.door.head(status, body, self, retry_after_s, content_type=content_type)
            front.write(head if self.method == b"HEAD" else head + body)
            front.exchange_over(self.keep_alive, monotonic())

    # 6. The end.

    def _whole_answer(self, data: bytes, now_s: float) -> None:
        tokens = stream.usage_of(data)
        lane = self.lane
        if lane.names_tier:
            if data[:2] == b'{"' and data.find(b'"service_tier"') < 0:
                data = lane.tier_first + data[1:]
            else:
                data = stream.with_tier(data, lane.tier_bytes)
        head = heads.answer(len(data), self, self.door.date(now_s))
        self._record("done", 200, head + data, tokens, now_s)

    def _stream_over(self) -> None:
        last = self.ending + self.tail  # an engine may end without an empty line
        if not self.head_sent:
            self._stream_begins()
        if last:
            last = self._framed(last)
        self._record("done", 200, last + b"0\r\n\r\n" if self.chunked_out else last)

    def _engine_refused(self, data: bytes) -> None:
        body = stream.engine_error(self.status, data)
        head = self.door.head(self.status, body, self)
        self._record("failed", self.status, head + body)

    def _broken_stream(self, outcome: Outcome) -> None:
        """End a stream that lost its engine with an event that says so.

        The client's connection stays: the answer has its end, so its next request may be on the
        way already, and would be lost.
        """
        said = Problem(502, "engine_lost", "The engine broke off; what came before is billed.")
        data = b"data: " + said.body() + b"\n\n"
        if self.chunked_out:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        self._record(outcome, 200, data)

    def _record(
        self,
        outcome: Outcome,
        status: int,
        last: bytes = b"",
        tokens: stream.Tokens | None = None,
        now_s: float = 0.0,
    ) -> None:
        """Bill, settle, write the record; then say the last of the answer and free the slot."""
        door = self.door
        lane = self.lane
        counted: Counted = "engine"
        if tokens is None:
            tokens, counted = self._tokens_delivered(outcome)
        fed, cached, made = tokens
        price = price_nano(lane.tariff, fed, cached, made) if fed or made else 0
        if not now_s:
            now_s = monotonic()
        if self.reservation is not None:
            door.limits.settle(self.reservation, fed + made, price, now_s, made)
            self.reservation = None
        lane.count(self, outcome, fed, cached, made, now_s)
        bundle = lane.bundle(self, outcome, status, counted)
        item = Item(
            self.id[-NAME_LENGTH:],
            fed,
            cached,
            made,
            price,
            int(self.wall_s * MICRO),
            int(self.queued_s * MICRO),
            int(self.first_byte_s * MICRO),
            int((now_s - self.began_s) * MICRO),
            self.order,
        )
        if self.trace is not None and door.traces is not None:
            door.traces.end(self.trace, bundle.heading.record(item))
        if door.meter.strict or self.order:  # a batch line is never answered unbilled
            self.state = HELD
            door.meter.record(self.id, bundle, item, lambda: self._let_go(last, monotonic()))
        else:
            door.meter.record(self.id, bundle, item)
            self._let_go(last, now_s)

    def _let_go(self, last: bytes, now_s: float) -> None:
        self.state = OVER
        front, self.front = self.front, None
        door = self.door
        if front is not None:
            if last:
                front.write(last)
            front.exchange_over(self.keep_alive and self.chunked_out, now_s)
        if self.slot:
            door.dispatcher.release(self)

    def _tokens_delivered(self, outcome: Outcome) -> tuple[stream.Tokens, Counted]:
        """What is billed where there is no whole answer with counts in it."""
        if not self.head_sent:
            if outcome == "done":  # an answer without usage
                return (self.est_input, 0, 0), "estimate"
            return (0, 0, 0), "none"
        if self.last_usage:
            found = stream.last_usage(self.last_usage)
            if found is not None:
                return found, "engine"
        # One event a token, but for the first, with the role, and those that end the stream.
        told = self.events - 1 - stream.endings(self.latest)
        return (self.est_input, 0, max(told, 0)), "chunks"

    # Pieces.

    def open_entry(self) -> Opened:
        engine = self.engine.name if self.engine is not None else ""
        return Opened(self.id, *self.lane.facts, engine, self.est_input, self.wall_s, self.order)

    def started(self) -> None:
        """Take the name and the time by which the request will be known."""
        self.id = self.door.next_id()
        if self.door.traces is not None:
            self.trace = self.door.traces.begin(self.headers.get(b"traceparent"))
        self.wall_s = wall()

    def tells_first_token(self) -> bool:
        """Whether the first event of its answer will be its first token."""
        ask = self.ask
        return ask is not None and bool(ask.stream) and self.path in FIRST_EVENT_IS_A_TOKEN

    def _first_event(self) -> None:
        """What a stream began with. Engines may send an answer's head long before it."""
        self.first_byte_s = monotonic() - self.began_s
        if self.engine is not None and self.tells_first_token():
            self.door.dispatcher.first_token(self, self.first_byte_s - self.queued_s)

    def _framed(self, data: bytes) -> bytes:
        """A piece of a streamed answer as this client can read it."""
        if not self.chunked_out:
            return data
        size = len(data)
        if size < len(SIZES):
            return SIZES[size] + data + b"\r\n"
        return b"%x\r\n%b\r\n" % (size, data)

    def _stream_begins(self) -> None:
        self.head_sent = True
        if self.front is not None:
            self.front.write(self.door.stream_head(self))

    def _whole_events(self, data: bytes) -> bytes:
        """Put aside the last event if its end has not come yet."""
        data = self.tail + data
        if data.find(b"\r\n\r\n") >= 0:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            cut = 0
        self.tail = data[cut:]
        if len(self.tail) > HELD_EVENT_MAX:
            cut, self.tail = len(data), b""
        return data[:cut]

    def _relayed(self, data: bytes) -> None:
        front = self.front
        if front is None:
            return
        if not self.head_sent:
            self.head_sent = True
            front.write(front.door.relay_head(self))
        if data:
            front.write(self._framed(data))
            if front.paused and self.link is not None:
                self.link.hold()

    def _relay_over(self) -> None:
        self.state = OVER
        self.upload_may_go_on()  # answered before it was all read: the rest is read and dropped
        front, self.front = self.front, None
        if front is not None:
            if self.chunked_out:
                front.write(b"0\r\n\r\n")
            front.exchange_over(self.keep_alive and self.chunked_out, monotonic())

    def _relay_broken(self) -> None:
        if self.head_sent:
            self.state = OVER
            if self.front is not None and self.front.transport is not None:
                self.front.transport.abort()
        else:
            said = "Files and batches are not at hand now."
            self._say(Problem(503, "admin_unavailable", said, retry_after_s=1.0))

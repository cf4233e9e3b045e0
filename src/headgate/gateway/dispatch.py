"""Who goes to which engine, and when: queues, caps, eviction, the pace of engines."""

import asyncio
from typing import TYPE_CHECKING, Final

from headgate.gateway import config as settings
from headgate.gateway.engines import Engine
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import SENT, WAITING, Exchange
from headgate.gateway.prefixes import Prefixes
from headgate.gateway.wheel import NEVER, monotonic
from headgate.policy.fairness import OrderedQueue
from headgate.policy.routing import next_cap, next_share, pick

if TYPE_CHECKING:
    from headgate.gateway.door import Door

PACE_S: Final = 0.25  # how often caps follow the engines' measured pace
LEARNT: Final = 0.05  # weight of the latest in the mean time at an engine
DRAIN_LEARNT_S: Final = 5.0  # over which the rate of a level's queue is learnt
DRAIN_MIN_PER_S: Final = 0.01
BACK_MIN_S: Final = 1.0  # to come back after a refusal
BACK_MAX_S: Final = 600.0
PROBE_S: Final = 1.0
DOWN_AFTER: Final = 3  # failed probes; a refused connection counts at once
NO_ENGINE_PATIENCE_S: Final = 10.0
# Of batch work's room at an engine: from where its prompts wait for what the engine reads, and
# from where they wait for another engine to be free.
HALF_FULL: Final = 0.5
NEARLY_FULL: Final = 0.8


class ModelRun:
    """A model while the door is open: its engines, its queue, what is known of its rate."""

    def __init__(self, terms: settings.Model, engines: list[Engine], levels: int) -> None:
        self.terms = terms
        self.name = terms.name
        self.engines = engines
        self.queue: OrderedQueue[Exchange] = OrderedQueue(levels)
        self.prefixes = Prefixes() if len(engines) > 1 else None
        self.service_s = 0.0  # mean time at an engine, of late; 0 until one is done
        self.drained = [0] * levels  # taken from each level's queue since the last look
        self.drain_per_s = [0.0] * levels  # and how many a second, of late
        self.created_s = 0
        self.told = False  # a first token has come: reading can be told from outside

    def wait_s(self, ahead: int) -> float:
        """How long until so many that wait have begun, by Little's law; 0 if nothing is known."""
        running = sum(engine.in_flight for engine in self.engines)
        return ahead * self.service_s / running if running else 0.0

    def back_s(self, level: int, ahead: int) -> float:
        """How long until what waits ahead at a level has begun, at the rate it is served now.

        Capacity goes to the levels above first, so what this level is given of late says more
        than what the engines do in all; nothing is said while it is given nothing.
        """
        rate_per_s = self.drain_per_s[level]
        return ahead / rate_per_s if rate_per_s > DRAIN_MIN_PER_S else 0.0

    def look_at_drain(self, span_s: float) -> None:
        """Learn how fast each level's queue is served."""
        weight = min(1.0, span_s / DRAIN_LEARNT_S)
        for level, taken in enumerate(self.drained):
            self.drain_per_s[level] += weight * (taken / span_s - self.drain_per_s[level])
            self.drained[level] = 0

    def learn(self, took_s: float) -> None:
        """Take one more time at an engine into the mean."""
        if self.service_s:
            self.service_s += LEARNT * (took_s - self.service_s)
        else:
            self.service_s = took_s

    def alive(self) -> bool:
        return any(not engine.down for engine in self.engines)


class Dispatcher:
    """Hands requests to engines in order, never more at once than an engine keeps pace with."""

    def __init__(self, door: "Door") -> None:
        self.door = door
        self.models: dict[str, ModelRun] = {}
        self.engines: dict[str, Engine] = {}
        self.shares: list[float] = []  # of an engine's cap, by level
        self.batch_level = 0
        self.evicted = 0
        self.retried = 0

    # What an exchange asks for.

    def offer(self, exchange: Exchange, now_s: float) -> None:
        """A new request: to an engine at once, into the queue, or refused."""
        lane = exchange.lane
        model = lane.model
        queue = model.queue
        if not queue.waiting or queue.first_level() > lane.level:
            engine = self._choose(exchange, now_s)
            if engine is None and self._may_evict(lane.level) and self._evict_for(exchange):
                engine = self._choose(exchange, now_s)
            if engine is not None:
                self._take(exchange, engine, now_s)
                return
        self._queue(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        lane = exchange.lane
        lane.model.queue.remove(lane.level, lane.tenant, exchange)

    def again(self, exchange: Exchange) -> None:
        """A request whose engine failed it: first in its tenant's line, or at once elsewhere."""
        self.retried += 1
        self._give_back(exchange)
        if not self.renewed(exchange):
            return
        now_s = monotonic()
        engine = self._choose(exchange, now_s)
        if engine is not None:
            self._take(exchange, engine, now_s)
        else:
            self._requeue(exchange)

    def renewed(self, exchange: Exchange) -> bool:
        """See that a request goes on under the present config: nobody looks at the queue of a
        model that another has replaced. False if it may not, which it has been told."""
        model = exchange.lane.model
        return self.models.get(model.name) is model or self.door.lane_again(exchange)

    def release(self, exchange: Exchange) -> None:
        """A request is over and recorded: its slot serves the next."""
        engine = exchange.engine
        assert engine is not None
        self._give_back(exchange)
        models = engine.models
        if len(models) > 1 or (models and models[0].queue.waiting):
            self.pump(engine)

    def first_token(self, exchange: Exchange, took_s: float) -> None:
        """A stream's first token came: its prompt has been read, and batch prompts may follow."""
        engine = exchange.engine
        assert engine is not None
        engine.first_token(exchange, took_s)
        exchange.lane.model.told = True
        if exchange.unread:
            engine.unread -= 1
            exchange.unread = False
        model = exchange.lane.model
        if model.queue.waiting and not engine.unread:
            for one in model.engines:
                if not one.batch_waits:
                    self.pump(one)

    def engine_failed(self, engine: Engine) -> None:
        """An engine refused or broke a connection: no new work until a probe says it is well."""
        engine.failures += 1
        if not engine.down and engine.failures >= 2:
            engine.down = True
            self.door.log("engine_down", engine=engine.name)

    def overloaded(self, exchange: Exchange) -> Problem:
        """The refusal of a request that cannot be served in time."""
        lane = exchange.lane
        if not lane.model.alive():
            return Problem(
                503,
                "engine_unavailable",
                f"No engine for {lane.model.name} is up.",
                retry_after_s=5.0,
            )
        wait_s = self._back_s(exchange)
        return Problem(
            429,
            "engine_overloaded",
            f"{lane.model.name} cannot serve this within the {lane.patience_s:g} s it would wait; "
            f"try again in {wait_s:.0f} s.",
            retry_after_s=wait_s,
        )

    def pump(self, engine: Engine) -> None:
        """Fill an engine's free slots from the queues of its models, highest level first."""
        if engine.down:
            return
        while True:
            model, level = self._next_model(engine)
            if model is None:
                return
            if level == self.batch_level and self._must_batch_wait(engine, model, monotonic()):
                return
            full = engine.in_flight >= engine.rooms[level]
            if full and not (self._may_evict(level) and self._evict_at(engine)):
                return
            exchange = model.queue.pop(level)
            model.drained[level] += 1
            if model.prefixes is not None:  # nobody chose the engine, but what it holds counts
                exchange.est_cached = int(model.prefixes.held(exchange, [engine])[0])
            self._take(exchange, engine, monotonic())

    def pump_all(self) -> None:
        for engine in self.engines.values():
            self.pump(engine)

    # The pieces.

    def _choose(self, exchange: Exchange, now_s: float) -> Engine | None:
        lane = exchange.lane
        model = lane.model
        engines = model.engines
        if len(engines) == 1:
            engine = engines[0]
            if engine.down or engine.in_flight >= engine.rooms[lane.level]:
                return None
            if lane.level == self.batch_level and self._must_batch_wait(engine, model, now_s):
                return None
            return engine
        up = [e for e in engines if not e.down and e is not exchange.engine]
        if not up:  # the engine that has just failed this request is the only one left
            up = [e for e in engines if not e.down]
        batch = lane.level == self.batch_level
        if batch:
            up = [e for e in up if not self._must_batch_wait(e, model, now_s)]
        assert model.prefixes is not None
        cached = model.prefixes.held(exchange, up)
        if batch:
            ahead = [e.outstanding_tokens for e in up]
        elif model.told:
            ahead = [e.ahead_tokens(now_s) for e in up]
        else:
            ahead = [e.outstanding_tokens - e.batch_tokens for e in up]
        chosen = pick(
            [e.in_flight for e in up],
            [int(e.rooms[lane.level]) for e in up],
            ahead,
            [e.terms.speed for e in up],
            cached,
            exchange.est_input,
        )
        if chosen < 0:
            return None
        exchange.est_cached = int(cached[chosen])
        return up[chosen]

    def _take(self, exchange: Exchange, engine: Engine, now_s: float) -> None:
        engine.in_flight += 1
        engine.outstanding_tokens += exchange.est_input + exchange.est_output
        exchange.slot = True
        lane = exchange.lane
        if exchange.order:
            engine.batch[exchange] = None
            engine.batch_tokens += exchange.est_input + exchange.est_output
            engine.batch_begins(exchange.est_input, now_s)
        elif exchange.tells_first_token():
            exchange.unread = True
            engine.unread += 1
        if engine.reading.token_s:
            engine.reading.begin(exchange.id, exchange.est_input - exchange.est_cached, now_s)
        if lane.model.prefixes is not None:
            lane.model.prefixes.note(exchange, engine)
        if exchange.attempts == 0:
            self.door.meter.open(exchange.id, exchange.open_entry)
        exchange.send(engine, now_s)

    def _give_back(self, exchange: Exchange) -> None:
        """Undo `_take`; also tell the fair queue what was really used."""
        if not exchange.slot:
            return
        exchange.slot = False
        engine = exchange.engine
        assert engine is not None
        engine.in_flight -= 1
        engine.outstanding_tokens -= exchange.est_input + exchange.est_output
        if exchange.streams:
            engine.streams -= 1
            exchange.streams = False
        if exchange.unread:
            engine.unread -= 1
            exchange.unread = False
        engine.reading.over(exchange.id)
        exchange.est_cached = 0
        if exchange.order:
            engine.batch_tokens -= exchange.est_input + exchange.est_output
            engine.batch.pop(exchange, None)

    def _queue(self, exchange: Exchange) -> None:
        lane = exchange.lane
        model = lane.model
        patience_s = lane.patience_s
        if not model.alive():
            patience_s = min(patience_s, NO_ENGINE_PATIENCE_S)
        if model.queue.waiting >= model.terms.queue_max or self._wait_s(exchange) > patience_s:
            exchange.refuse(self.overloaded(exchange))
            return
        exchange.state = WAITING
        cost = exchange.est_input + exchange.est_output
        model.queue.push(lane.level, lane.tenant, lane.weight, cost, exchange)
        if exchange.front is not None:
            exchange.front.patience(exchange.began_s + patience_s)

    def _requeue(self, exchange: Exchange) -> None:
        exchange.engine = None
        if not self.renewed(exchange):
            return
        lane = exchange.lane
        exchange.state = WAITING
        cost = exchange.est_input + exchange.est_output
        lane.model.queue.push_front(lane.level, lane.tenant, lane.weight, cost, exchange)
        if exchange.front is not None:
            until_s = self.door.loop.time() + min(lane.patience_s, NO_ENGINE_PATIENCE_S)
            exchange.front.patience(max(until_s, exchange.began_s + lane.patience_s))

    def _wait_s(self, exchange: Exchange) -> float:
        """Roughly how long a new request would wait, from what is ahead of it.

        Inside a level a tenant waits behind its own requests and its turns, not behind all.
        """
        lane = exchange.lane
        model = lane.model
        rings = model.queue.rings
        ahead = sum(len(ring) for ring in rings[: lane.level])
        ahead += rings[lane.level].ahead_of(lane.tenant)
        return model.wait_s(ahead)

    def _back_s(self, exchange: Exchange) -> float:
        """When a refused request would find so short a queue that its patience is enough."""
        lane = exchange.lane
        model = lane.model
        ahead = model.queue.rings[lane.level].ahead_of(lane.tenant)
        wait_s = max(model.back_s(lane.level, ahead), self._wait_s(exchange))
        return min(max(wait_s - lane.patience_s, BACK_MIN_S), BACK_MAX_S)

    def _next_model(self, engine: Engine) -> tuple[ModelRun | None, int]:
        best: ModelRun | None = None
        best_level = 0
        for model in engine.models:
            if model.queue.waiting:
                level = model.queue.first_level()
                if best is None or level < best_level:
                    best, best_level = model, level
        return best, best_level

    def _may_evict(self, level: int) -> bool:
        """Only work with a place among the classes may cancel batch work; flex may not."""
        return level < self.batch_level - 1

    def _evict_for(self, exchange: Exchange) -> bool:
        """Make room for an interactive request on the engine with most batch work."""
        engines = [e for e in exchange.lane.model.engines if e.batch and not e.down]
        if not engines:
            return False
        return self._evict_at(max(engines, key=lambda e: len(e.batch)))

    def _evict_at(self, engine: Engine) -> bool:
        """Cancel the batch request begun last: it loses least. It waits again, unbilled."""
        if not engine.batch:
            return False
        exchange, _ = engine.batch.popitem()
        self.evicted += 1
        if exchange.state == SENT and not exchange.head_sent:
            exchange.evict()
            self._give_back(exchange)
            self._requeue(exchange)
            return True
        return False

    def _must_batch_wait(self, engine: Engine, model: ModelRun, now_s: float) -> bool:
        """Whether a batch prompt read now would be read before that of somebody who looks on.

        Batch prompts go in one after the other. An engine that has batch work enough for now lets
        them wait until it reads nothing else, and one that is nearly full until another engine is
        there to read what comes next. It costs the batch little: its answers go on meanwhile.
        """
        wait_s = engine.batch_due_s - now_s
        if wait_s <= 0.0:
            room = engine.rooms[self.batch_level]
            if engine.in_flight >= HALF_FULL * room:
                wait_s = engine.reads_for_s(now_s)
            if wait_s <= 0.0 and engine.in_flight >= NEARLY_FULL * room:
                others = [
                    e.reads_for_s(now_s) for e in model.engines if e is not engine and not e.down
                ]
                wait_s = min(others, default=0.0)
        if wait_s <= 0.0:
            return False
        if not engine.batch_waits and wait_s < NEVER:
            engine.batch_waits = True
            self.door.loop.call_later(wait_s, self._batch_may_go_on, engine)
        return True

    def _batch_may_go_on(self, engine: Engine) -> None:
        engine.batch_waits = False
        self.pump(engine)

    # What is done now and then.

    async def look_after(self) -> None:
        """Follow the engines' pace and keep queues moving, until cancelled."""
        loop = self.door.loop
        last_s = loop.time()
        while True:
            await asyncio.sleep(PACE_S)
            now_s = loop.time()
            for engine in self.engines.values():
                self._hold_batch_back(engine)
                self._follow_pace(engine, now_s - last_s)
            for model in self.models.values():
                model.look_at_drain(now_s - last_s)
            last_s = now_s
            self.pump_all()

    def _hold_batch_back(self, engine: Engine) -> None:
        """Let batch work fill less of an engine while others wait too long there."""
        late, engine.late = engine.late, 0.0
        share = next_share(engine.batch_share, 1.0, late)
        if share != engine.batch_share:
            engine.batch_share = share
            engine.set_cap(engine.cap, self.shares)

    def _follow_pace(self, engine: Engine, span_s: float) -> None:
        tokens = engine.stream_tokens + engine.plain_tokens
        spent_s = engine.streams * span_s + engine.plain_s
        engine.stream_tokens = engine.plain_tokens = 0
        engine.plain_s = 0.0
        if tokens < 8:
            return
        token_s = spent_s / tokens
        engine.token_s = token_s if not engine.token_s else 0.5 * (engine.token_s + token_s)
        objective_s = self.door.pace_objective_s(engine)
        if objective_s is not None:
            terms = engine.terms
            cap = next_cap(
                engine.cap,
                terms.in_flight_min,
                terms.in_flight_max,
                engine.token_s,
                objective_s,
                engine.in_flight,
            )
            engine.set_cap(cap, self.shares)

    async def probe(self) -> None:
        """Ask engines how they are; bring back those that answer."""
        while True:
            await asyncio.sleep(PROBE_S)
            for engine in list(self.engines.values()):
                if engine.terms.health and (engine.down or engine.in_flight or engine.failures):
                    self.door.spawn(self._probe(engine))

    async def _probe(self, engine: Engine) -> None:
        if await healthy(engine):
            engine.failures = 0
            if engine.down:
                engine.down = False
                self.door.log("engine_up", engine=engine.name)
                self.pump(engine)
            return
        engine.failures += 1
        if not engine.down and engine.failures >= DOWN_AFTER:
            engine.down = True
            self.door.log("engine_down", engine=engine.name)


async def healthy(engine: Engine) -> bool:
    """Whether the engine answers its health page with 200 within two seconds."""
    try:
        async with asyncio.timeout(2.0):
            if engine.unix_path is not None:
                reader, writer = await asyncio.open_unix_connection(engine.unix_path)
            else:
                reader, writer = await asyncio.open_connection(engine.host, engine.port)
            try:
                line = engine.request_line(b"GET", engine.terms.health.encode())
                writer.write(line + b"connection: close\r\n\r\n")
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split(b" ")[1:2] == [b"200"]

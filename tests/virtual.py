"""A door's dispatcher and emulated engines in virtual time: an hour of traffic in a minute.

The dispatcher, the engines as the door sees them, the batcher that times every step and the
batch's way of keeping the door supplied are the real ones or word for word the same; connections
and bodies are left out. What is measured so is exact but for chance, and chance is a seed.

    uv run python -m tests.virtual

prints what a batch beside interactive traffic costs first tokens, over several settings.
"""

import asyncio
import itertools
import math
import os
import random
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from unittest import mock

import msgspec

if __name__ == "__main__":
    os.environ["HEADGATE_PLAIN"] = "1"

from headgate.gateway import adoption, config, dispatch, emulate
from headgate.gateway.bench.beside import CONVERSATION, LINE, Lengths, seconds_of
from headgate.gateway.bodies import ABSENT
from headgate.gateway.engines import Engine
from headgate.gateway.exchange import OVER, SENT

HOP_S = 0.0003  # a message from the door to an engine, or back
ROOM_S = 0.05  # how often the batch asks for room
SETTLE_S = 40.0
TOLD = SimpleNamespace(stream=True, messages=ABSENT, prompt=ABSENT, input=ABSENT)
WHOLE = SimpleNamespace(stream=False, messages=ABSENT, prompt=ABSENT, input=ABSENT)


class Clock(selectors.SelectSelector):
    """Waiting is what makes time pass."""

    now_s = 1000.0

    def select(self, timeout=None):
        assert timeout is not None, "everything waits for ever"
        self.now_s += max(0.0, timeout)
        return []


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._clock = clock
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._clock.now_s

    def turn(self) -> None:
        self._run_once()

    def run_for(self, seconds: float) -> None:
        until_s = self.time() + seconds
        while self.time() < until_s:
            self.turn()


class Emulator(emulate.Emulator):
    def _cached_tokens(self, text: str, prompt: int) -> int:
        return 0  # no two prompts begin alike


class Request:
    """What the dispatcher knows of an exchange, and the engine of a reply."""

    front = None
    head_sent = False
    path = b"/v1/chat/completions"

    def __init__(self, valley: "Valley", prompt: int, output: int, number: int = -1) -> None:
        self.valley = valley
        self.number = number
        self.order = "a batch" if number < 0 else ""
        self.lane = valley.low if self.order else valley.high
        self.ask = WHOLE if self.order else TOLD
        self.id = self.request_id = next(valley.names)
        self.est_input, self.est_output, self.output = prompt, output, output
        self.est_cached = self.attempts = self.sendings = self.state = 0
        self.engine: Engine | None = None
        self.slot = self.unread = self.streams = False
        self.sequence = None
        self.began_s = valley.loop.time()
        self.sent_s = 0.0

    # To the dispatcher.

    def open_entry(self) -> None: ...

    def tells_first_token(self) -> bool:
        return not self.order

    def send(self, engine: Engine, now_s: float) -> None:
        self.engine, self.state, self.sent_s = engine, SENT, now_s
        self.attempts += 1
        self.sendings += 1
        self.valley.loop.call_later(HOP_S, self._arrive, self.sendings)

    def _arrive(self, sending: int) -> None:
        if self.state == SENT and sending == self.sendings:
            asked = {"prompt": "four" * self.est_input, "max_tokens": self.output}
            asked["priority"] = self.lane.level
            self.sequence = self.valley.emulators[self.engine].submit(self, asked)

    def evict(self) -> None:
        self.attempts -= 1
        if self.sequence is not None:
            self.valley.emulators[self.engine].abort(self.sequence)
            self.sequence = None

    # To the engine.

    def token(self, sequence: emulate.Sequence) -> None:
        if self.order:
            return
        self.engine.stream_tokens += 1
        if sequence.made == 1:
            self.valley.loop.call_later(HOP_S, self._first)

    def _first(self) -> None:
        valley, now_s = self.valley, self.valley.loop.time()
        self.streams = True
        self.engine.streams += 1
        valley.first_s[self.number] = now_s - self.began_s
        valley.door.dispatcher.first_token(self, now_s - self.sent_s)

    def finish(self, sequence: emulate.Sequence) -> None:
        self.valley.loop.call_later(HOP_S, self._over, sequence)

    def _over(self, sequence: emulate.Sequence) -> None:
        if self.state == OVER or sequence is not self.sequence:
            return
        self.state = OVER
        if not self.streams:
            self.engine.plain_s += self.valley.loop.time() - self.sent_s
            self.engine.plain_tokens += sequence.made
        if self.order:
            self.valley.lines -= 1
            self.valley.loop.call_later(2 * HOP_S, self.valley.serve)
        self.valley.door.dispatcher.release(self)


@dataclass(frozen=True)
class Setting:
    """Engines, what comes to them, and how much of each a batch may fill."""

    engines: int = 4
    places: int = 64
    rate_per_s: float = 4.0  # interactive requests an engine
    conversation: Lengths = CONVERSATION
    line: Lengths = LINE
    profile: emulate.Profile = field(default_factory=emulate.Profile)
    engine_share: float = 0.9
    requests: int = 10_000
    seed: int = 3

    def filled(self) -> emulate.Profile:
        return msgspec.structs.replace(self.profile, sequences_max=self.places)


class Valley:
    """Engines behind a dispatcher, interactive traffic and a batch."""

    def __init__(self, setting: Setting, loop: Loop) -> None:
        self.setting = setting
        self.loop = loop
        self.names = map(str, itertools.count(1))
        self.door = SimpleNamespace(
            loop=loop,
            meter=SimpleNamespace(open=lambda *_: None),
            log=lambda *_, **__: None,
            pace_objective_s=lambda _: None,
        )
        dispatcher = self.door.dispatcher = dispatch.Dispatcher(self.door)
        terms = {"batch": config.TierTerms(price=0.5, engine_share=setting.engine_share)}
        classes = (config.Class("high"), config.Class("low"))
        dispatcher.shares = adoption.shares(config.Config((), (), classes=classes, tiers=terms))
        dispatcher.batch_level = len(dispatcher.shares) - 1
        self.profile = setting.filled()
        self.engines = [self._engine(number) for number in range(setting.engines)]
        self.emulators = {one: Emulator(self.profile, "m") for one in self.engines}
        names = tuple(one.name for one in self.engines)
        model = dispatch.ModelRun(config.Model("m", names), self.engines, len(dispatcher.shares))
        dispatcher.models["m"] = model
        for one in self.engines:
            one.models.append(model)
            dispatcher.engines[one.name] = one
        both = {"model": model, "weight": 1.0, "patience_s": 86_400.0}
        self.high = SimpleNamespace(tenant="boss", level=2, ttft_s=1.0, **both)
        self.low = SimpleNamespace(tenant="night", level=dispatcher.batch_level, ttft_s=0.0, **both)
        self.first_s: dict[int, float] = {}
        self.lines = 0  # of the batch, at the door and the engines
        self.lines_max = 0
        self.batch_on = False
        self.dice = random.Random(4)
        self.minding = loop.create_task(dispatcher.look_after())

    def _engine(self, number: int) -> Engine:
        url = f"http://127.0.0.1:{8000 + number}"
        terms = config.Engine(f"e{number}", url, in_flight_max=self.setting.places)
        engine = Engine(terms, None, self.loop)
        engine.set_cap(float(terms.in_flight_max), self.door.dispatcher.shares)
        return engine

    # Interactive traffic.

    def bring(self, wanted: list[tuple[int, int, float]]) -> None:
        """Requests of so many tokens in and out, so long from now."""
        self._wanted = enumerate(wanted)
        self._began_s = self.loop.time()
        self._next()

    def _next(self) -> None:
        for number, (prompt, output, at_s) in self._wanted:
            self.loop.call_at(self._began_s + at_s, self._come, prompt, output, number)
            return

    def _come(self, prompt: int, output: int, number: int) -> None:
        request = Request(self, prompt, output, number)
        self.door.dispatcher.offer(request, self.loop.time())
        self._next()

    # The batch, as the runner keeps it going.

    def begin_batch(self) -> None:
        self.batch_on = True
        self._look_for_room()

    def _look_for_room(self) -> None:
        dispatcher = self.door.dispatcher
        level = dispatcher.batch_level
        room = sum(e.cap * dispatcher.shares[level] - e.in_flight for e in self.engines)
        waiting = len(self.low.model.queue.rings[level])
        most = 2 * self.setting.places * len(self.engines)
        self.lines_max = min(most, self.lines + max(0, math.ceil(room) * 2 - waiting))
        self.serve()
        self.loop.call_later(ROOM_S, self._look_for_room)

    def serve(self) -> None:
        while self.batch_on and self.lines < self.lines_max:
            self.lines += 1
            line = Request(self, *self.setting.line.draw(self.dice))
            self.loop.call_later(HOP_S, lambda line=line: self._offer(line))

    def _offer(self, line: Request) -> None:
        self.door.dispatcher.offer(line, self.loop.time())

    # What came of it.

    def spent_s(self) -> float:
        """Of all engines' time so far, what their tokens take of a full engine's."""
        prompt = sum(e.prompt_tokens for e in self.emulators.values())
        output = sum(e.generation_tokens for e in self.emulators.values())
        return seconds_of(self.profile, prompt, output)


@contextmanager
def valley(setting: Setting) -> Iterator[Valley]:
    clock = Clock()
    loop = Loop(clock)
    times = SimpleNamespace(monotonic=loop.time, time=loop.time)
    with (
        mock.patch.object(dispatch, "monotonic", loop.time),
        mock.patch.object(emulate, "time", times),
    ):
        asyncio.set_event_loop(loop)
        asyncio._set_running_loop(loop)
        made = Valley(setting, loop)
        try:
            yield made
        finally:
            made.minding.cancel()
            loop.turn()
            asyncio._set_running_loop(None)
            asyncio.set_event_loop(None)
            loop.close()


@dataclass(frozen=True)
class Outcome:
    """First tokens without and beside a batch, and the share of what was left that it used."""

    alone_s: list[float]
    beside_s: list[float]
    used_share: float
    evicted: int

    def ratio(self, quantile: float = 0.99) -> float:
        return at(self.beside_s, quantile) / at(self.alone_s, quantile)

    def interval(self, draws: int = 100) -> tuple[float, float]:
        """Where the ratio of the P99 lies with 90 %: the same requests drawn again and again."""
        dice = random.Random(5)
        pairs = list(zip(self.alone_s, self.beside_s, strict=True))
        ratios = []
        for _ in range(draws):
            alone, beside = zip(*dice.choices(pairs, k=len(pairs)), strict=True)
            ratios.append(at(beside, 0.99) / at(alone, 0.99))
        ratios.sort()
        return ratios[draws // 20], ratios[-1 - draws // 20]


def at(values, quantile: float) -> float:
    return sorted(values)[int(quantile * len(values))]


def wanted_of(setting: Setting) -> list[tuple[int, int, float]]:
    dice = random.Random(setting.seed)
    wanted = []
    due_s = 0.0
    for _ in range(setting.requests):
        due_s += dice.expovariate(setting.rate_per_s * setting.engines)
        wanted.append((*setting.conversation.draw(dice), due_s))
    return wanted


def first_tokens(setting: Setting, batch: bool) -> tuple[list[float], float, int]:
    """First tokens in the order of coming, the share a batch used, evictions."""
    wanted = wanted_of(setting)
    span_s = wanted[-1][2]
    taken_s = sum(seconds_of(setting.filled(), p, o) for p, o, _ in wanted)
    with valley(setting) as one:
        if batch:
            one.begin_batch()
            one.loop.run_for(SETTLE_S)
        before_s = one.spent_s()
        one.bring(wanted)
        one.loop.run_for(span_s)
        used_s = one.spent_s() - before_s - taken_s
        one.batch_on = False
        one.loop.run_for(60.0)
        firsts = [one.first_s[number] for number in range(len(wanted))]
        return firsts, used_s / (span_s * setting.engines - taken_s), one.door.dispatcher.evicted


def beside(setting: Setting) -> Outcome:
    alone, _, _ = first_tokens(setting, batch=False)
    firsts, share, evicted = first_tokens(setting, batch=True)
    return Outcome(alone, firsts, share, evicted)


SLOW = emulate.Profile(base_s=0.02, per_token_s=160e-6, per_kv_token_s=1e-8, kv_tokens=300_000)
SETTINGS = {
    "four engines, 64 places, lines of a page": Setting(),
    "half as many requests": Setting(rate_per_s=2.0),
    "half as many again": Setting(rate_per_s=6.0),
    "eight engines": Setting(engines=8),
    "two engines": Setting(engines=2),
    "one engine": Setting(engines=1),
    "lines of a few sentences": Setting(line=replace(LINE, prompt=100)),
    "lines of four pages": Setting(line=replace(LINE, prompt=1500)),
    "an engine three times slower, 128 places": Setting(places=128, rate_per_s=1.5, profile=SLOW),
    "256 places": Setting(places=256),
    "batch fills at most 0.7": Setting(engine_share=0.7),
    "batch fills at most 0.5": Setting(engine_share=0.5),
    "batch fills at most 0.3": Setting(engine_share=0.3),
}


def main() -> None:
    print("| | used | P99 alone, beside, ms | ratio (90 %) | median's | evicted |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, setting in SETTINGS.items():
        outcome = beside(setting)
        low, high = outcome.interval()
        print(
            f"| {name} | {outcome.used_share:.2f} "
            f"| {at(outcome.alone_s, 0.99) * 1e3:.0f}, {at(outcome.beside_s, 0.99) * 1e3:.0f} "
            f"| {outcome.ratio():.3f} ({low:.3f} to {high:.3f}) "
            f"| {outcome.ratio(0.5):.2f} | {outcome.evicted} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

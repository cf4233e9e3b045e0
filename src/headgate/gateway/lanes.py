"""A lane: one key's way to one model, at one endpoint and tier, worked out once and kept."""

import re
from typing import TYPE_CHECKING, Final

from headgate.gateway.asks import extended
from headgate.gateway.bodies import Ask
from headgate.gateway.metrics import Stats
from headgate.ledger.accounts import Account
from headgate.ledger.ports import Bundle
from headgate.ledger.prices import Tariff
from headgate.ledger.usage import NAME_LENGTH, Counted, Heading, Outcome

if TYPE_CHECKING:
    from headgate.gateway.dispatch import ModelRun
    from headgate.gateway.engines import Engine
    from headgate.gateway.exchange import Exchange

Facts = tuple[str, str, str, str, str, str]

NAMES_TIER: Final = frozenset((b"/v1/chat/completions", b"/v1/responses"))
TAKES_STREAM_OPTIONS: Final = frozenset((b"/v1/chat/completions", b"/v1/completions"))

# The one header of a client that an engine is told, and only in the form that the standard gives.
TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

USAGE: Final = b'{"include_usage":true}'
USAGE_ALWAYS: Final = b'{"include_usage":true,"continuous_usage_stats":true}'


class _Form:
    """How a lane's requests are written for one engine."""

    __slots__ = ("continuous", "fields", "line", "plain", "streamed")

    def __init__(self, lane: "Lane", engine: "Engine") -> None:
        line = engine.request_line(b"POST", lane.path).decode("latin-1")
        self.line = f"{line}content-type: application/json\r\nx-request-id: "
        self.continuous = engine.terms.kind == "vllm"
        self.fields: dict[str, bytes] = {}
        if engine.terms.priorities:
            self.fields["priority"] = str(lane.level).encode()
        if lane.model.terms.engine_model is not None:
            name = lane.model.terms.engine_model.replace("\\", "\\\\").replace('"', '\\"')
            self.fields["model"] = b'"' + name.encode() + b'"'
        self.plain = _spliced(self.fields)
        self.streamed = self.plain + _spliced(
            {"stream_options": USAGE_ALWAYS if self.continuous else USAGE}
        )


class Lane:
    """What is the same for all requests of one key, model, endpoint and tier."""

    __slots__ = (
        "_bundle",
        "_bundles",
        "_engine",
        "_form",
        "_forms",
        "_served",
        "account",
        "class_name",
        "facts",
        "level",
        "model",
        "names_tier",
        "path",
        "patience_s",
        "reserved",
        "stats",
        "tariff",
        "tenant",
        "tier",
        "tier_bytes",
        "tier_first",
        "ttft_s",
        "weight",
    )

    def __init__(
        self,
        account: Account,
        model: "ModelRun",
        path: bytes,
        tier: str,
        level: int,
        patience_s: float,
        tariff: Tariff,
        stats: Stats,
        ttft_s: float = 0.0,
    ) -> None:
        self.account = account
        self.tenant = account.tenant.name
        self.weight = account.tenant.weight
        self.class_name = account.tenant.class_
        self.model = model
        self.path = path
        self.names_tier = path in NAMES_TIER
        self.tier = tier
        self.tier_bytes = tier.encode()
        self.tier_first = b'{"service_tier":"%b",' % self.tier_bytes
        self.level = level
        self.patience_s = patience_s
        self.ttft_s = ttft_s  # the class's objective for the first token; 0 if it has none
        self.tariff = tariff
        self.stats = stats
        # What all its records say alike, in the order of a heading's fields.
        self.facts: Facts = (
            account.tenant.name,
            account.key,
            model.name,
            tier,
            account.tenant.class_,
            path.decode("latin-1").removeprefix("/v1/"),
        )
        self._bundles: dict[tuple[str, Outcome, int, int, Counted], Bundle] = {}
        self._served: Engine | None = None  # who served what came last without trouble
        self._bundle: Bundle | None = None  # and where that went
        self.reserved: Lane | None = None  # for what falls inside the tenant's reservation
        self._forms: dict[Engine, _Form] = {}
        self._engine: Engine | None = None  # that was asked last, and its form
        self._form: _Form | None = None

    def request(self, exchange: "Exchange", engine: "Engine") -> bytes:
        """The request as it goes to an engine."""
        form = self._form
        if engine is not self._engine or form is None:
            form = self._forms.get(engine)
            if form is None:
                form = self._forms[engine] = _Form(self, engine)
            self._engine, self._form = engine, form
        ask = exchange.ask
        assert ask is not None
        body = exchange.body
        if ask.stream and self.path in TAKES_STREAM_OPTIONS:
            body = _streamed(exchange, ask, form)
        elif form.plain:
            body = extended(body, ask, form.plain, form.fields)
        trace = ""
        if exchange.trace is not None:
            trace = f"\r\ntraceparent: {exchange.trace.header()}"
        elif b"traceparent" in exchange.headers:
            parent = exchange.headers[b"traceparent"]
            if TRACEPARENT.fullmatch(parent):
                trace = f"\r\ntraceparent: {parent.decode('latin-1')}"
        head = f"{form.line}{exchange.id}{trace}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body

    def bundle(
        self, exchange: "Exchange", outcome: Outcome, status: int, counted: Counted
    ) -> Bundle:
        """Where a request's record belongs."""
        engine = exchange.engine
        plain = (
            outcome == "done" and status == 200 and counted == "engine" and exchange.attempts == 1
        )
        found = self._bundle
        if plain and engine is self._served and found is not None:
            return found
        name = engine.name if engine is not None else ""
        rest = (name, outcome, status, exchange.attempts, counted)
        found = self._bundles.get(rest)
        if found is None:
            heading = Heading(exchange.id[:-NAME_LENGTH], *self.facts, *rest)
            found = self._bundles[rest] = Bundle(heading)
        if plain:
            self._served, self._bundle = engine, found
        return found

    def count(
        self,
        exchange: "Exchange",
        outcome: Outcome,
        fed: int,
        cached: int,
        made: int,
        now_s: float,
    ) -> None:
        """Learn from a request that is over."""
        if exchange.engine is not None:
            used = fed + made
            self.model.queue.rings[self.level].charge(
                self.tenant, used - exchange.est_input - exchange.est_output
            )
            if outcome == "done":
                took_s = now_s - exchange.began_s - exchange.queued_s
                self.model.learn(took_s)
                if made and not exchange.streams:
                    exchange.engine.plain_s += took_s
                    exchange.engine.plain_tokens += made
        self.stats.count(exchange, outcome, fed, cached, made, now_s)


def _streamed(exchange: "Exchange", ask: Ask, form: _Form) -> bytes:
    """The body of a streamed request, asking for the usage that the bill needs."""
    options = ask.stream_options
    wants = options is not None and bool(options.include_usage)
    wants_always = options is not None and bool(options.continuous_usage_stats)
    exchange.keep_usage = wants
    if wants and (wants_always or not form.continuous):
        exchange.strip = False
        return extended(exchange.body, ask, form.plain, form.fields)
    exchange.strip = True
    asked = USAGE_ALWAYS if form.continuous else USAGE
    fields = form.fields if options is None else {**form.fields, "stream_options": asked}
    return extended(exchange.body, ask, form.streamed, fields)


def _spliced(fields: dict[str, bytes]) -> bytes:
    return b"".join(b',"%b":%b' % (name.encode(), value) for name, value in fields.items())

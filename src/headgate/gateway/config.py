"""What `headgate serve CONFIG.toml` reads: engines, models, classes, tiers, tenants, limits."""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from headgate.core.errors import InputError
from headgate.ledger.accounts import Tenant
from headgate.ledger.prices import Tariff

NANO = 1_000_000_000
ORDINARY_TIERS = ("reserved", "priority", "default", "flex", "batch")


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the door listens and what it puts up with from clients."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    body_max_mb: float = 64.0
    header_max_kb: float = 32.0
    header_timeout_s: float = 20.0  # a request's head must be complete by then
    body_timeout_s: float = 120.0
    idle_timeout_s: float = 120.0  # a kept-alive connection without a request
    stalled_reader_s: float = 60.0  # a client that takes nothing of its stream
    drain_s: float = 30.0  # on SIGTERM, how long running requests may finish


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where accounts, limits and usage rest."""

    url: str = "sqlite:///headgate.db"
    folder: str = "headgate-state"  # write-ahead usage, batch files, run-time sockets
    strict: bool = False  # hold an answer's last byte until its usage is on disk


class Admin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process for admin, files and batches; on the loopback unless said otherwise."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8001


class Traces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where spans of requests go; nowhere unless an endpoint is named."""

    endpoint: str = ""  # of an OpenTelemetry collector: http://127.0.0.1:4318/v1/traces
    share: float = 1.0  # of the requests whose client does not say whether to trace


class Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One group of demand. Classes are served in the order the file names them."""

    name: str
    ttft_ms: float | None = None  # objective for the first token
    tpot_ms: float | None = None  # objective for the time between tokens
    patience_s: float = 30.0  # how long a request may wait for an engine
    engine_share: float | None = None  # of an engine's cap; None: 1 for the first class, else 0.95


class TierTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tier costs beside `default` and how long it waits."""

    price: float = 1.0  # times the default tier's
    patience_s: float | None = None  # None: the class's
    engine_share: float = 1.0  # it starts only while less than this share of an engine is taken


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible server."""

    name: str
    url: str  # http://host:port, or with a path before /v1
    kind: Literal["vllm", "sglang", "openai"] = "openai"
    key_env: str | None = None  # environment variable with the engine's own API key
    priorities: bool = False  # it schedules by the "priority" field; vLLM needs a flag for that
    in_flight_max: int = 256
    in_flight_min: int = 1
    speed: float = 1.0  # relative to the other engines of a model
    answer_timeout_s: float = 900.0  # to the first byte
    silence_timeout_s: float = 120.0  # between bytes of a stream
    health: str = "/health"  # empty: not probed
    tpot_ms: float | None = None  # time between tokens to keep; None: the strictest class's


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Currency units per million tokens in the default tier."""

    input: float = 0.0
    cached: float | None = None  # None: as input
    output: float = 0.0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name clients may ask for, and the engines that serve it."""

    name: str
    engines: tuple[str, ...]
    engine_model: str | None = None  # its name at the engines, if another
    price: Price = Price()
    tier_prices: dict[str, Price] = {}  # where a factor on the default price will not do
    output_tokens_guess: int = 256  # for requests that name no maximum
    queue_max: int = 20_000


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key given by its digest, for gateways that are run from the file alone."""

    id: str
    tenant: str
    sha256: str
    admin: bool = False


DEFAULT_TIERS: dict[str, TierTerms] = {
    "reserved": TierTerms(),
    "priority": TierTerms(price=2.0),
    "default": TierTerms(),
    "flex": TierTerms(price=0.5, patience_s=600.0, engine_share=0.8),
    "batch": TierTerms(price=0.5, patience_s=86_400.0, engine_share=0.9),
}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    engines: tuple[Engine, ...]
    models: tuple[Model, ...]
    server: Server = Server()
    state: State = State()
    admin: Admin = Admin()
    traces: Traces = Traces()
    classes: tuple[Class, ...] = (Class("default"),)
    tiers: dict[str, TierTerms] = {}
    tenants: tuple[Tenant, ...] = ()
    keys: tuple[Key, ...] = ()
    currency: str = "USD"
    batch: dict[str, Any] = {}

    def terms(self, tier: str) -> TierTerms:
        return self.tiers.get(tier) or DEFAULT_TIERS[tier]


def read_config(path: Path) -> Config:
    """Read and check a file; InputError names the place and what is allowed there."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8.") from None
    return parse_config(text, str(path))


def parse_config(text: str, where: str) -> Config:
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not valid TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}.") from None
    _check(config, where)
    return config


def tariff(config: Config, model: Model, tier: str) -> Tariff:
    """The model's prices in one tier, in whole billionths per million tokens."""
    price = model.tier_prices.get(tier)
    factor = 1.0
    if price is None:
        price, factor = model.price, config.terms(tier).price
    cached = price.input if price.cached is None else price.cached
    return Tariff(
        input_nano_per_m=round(price.input * factor * NANO),
        cached_nano_per_m=round(cached * factor * NANO),
        output_nano_per_m=round(price.output * factor * NANO),
    )


def engine_key(engine: Engine) -> str | None:
    """The engine's own API key, from the environment."""
    if engine.key_env is None:
        return None
    key = os.environ.get(engine.key_env)
    if not key:
        raise InputError(
            f"engines.{engine.name}.key_env: the environment has no {engine.key_env}; "
            f"set it, or drop key_env."
        )
    return key


def _check(config: Config, where: str) -> None:
    _unique(where, "classes", [c.name for c in config.classes])
    _unique(where, "engines", [e.name for e in config.engines])
    _unique(where, "models", [m.name for m in config.models])
    _unique(where, "tenants", [t.name for t in config.tenants])
    if not config.models:
        raise InputError(f"{where}: has no models; add a [[models]] with a name and its engines.")
    for engine in config.engines:
        _check_engine(engine, where)
    engines = {e.name for e in config.engines}
    for model in config.models:
        if not model.engines:
            raise InputError(f"{where}: models.{model.name}.engines is empty; name one at least.")
        for name in model.engines:
            if name not in engines:
                raise InputError(
                    f"{where}: models.{model.name}.engines names {name!r}, which is no engine; "
                    f"engines are {_list(engines)}."
                )
    _check_tiers(config, where)
    classes = {c.name for c in config.classes}
    for tenant in config.tenants:
        if tenant.class_ not in classes:
            raise InputError(
                f"{where}: tenants.{tenant.name}.class is {tenant.class_!r}; "
                f"classes are {_list(classes)}."
            )
        if not tenant.weight > 0.0:
            raise InputError(
                f"{where}: tenants.{tenant.name}.weight is {tenant.weight}; give more than 0."
            )
    if not 0.0 <= config.traces.share <= 1.0:
        raise InputError(f"{where}: traces.share is {config.traces.share}; give 0 to 1.")
    server = config.server
    if not 1 <= server.workers <= 256:
        raise InputError(f"{where}: server.workers is {server.workers}; give 1 to 256.")
    tenants = {t.name for t in config.tenants}
    for key in config.keys:
        if key.tenant not in tenants:
            raise InputError(
                f"{where}: keys.{key.id}.tenant is {key.tenant!r}; tenants are {_list(tenants)}."
            )
        if len(key.sha256) != 64 or not all(c in "0123456789abcdef" for c in key.sha256):
            raise InputError(
                f"{where}: keys.{key.id}.sha256 is not 64 lower-case hexadecimal digits; "
                f"`printf %s KEY | sha256sum` gives them."
            )


def _check_tiers(config: Config, where: str) -> None:
    for tier in config.tiers:
        if tier not in ORDINARY_TIERS:
            raise InputError(
                f"{where}: tiers.{tier} is no tier; tiers are {', '.join(ORDINARY_TIERS)}."
            )
    for tier in ORDINARY_TIERS:
        terms = config.terms(tier)
        if not 0.0 < terms.engine_share <= 1.0:
            raise InputError(
                f"{where}: tiers.{tier}.engine_share is {terms.engine_share}; "
                f"give more than 0 and at most 1."
            )


def _check_engine(engine: Engine, where: str) -> None:
    parts = urlsplit(engine.url)
    if parts.scheme not in ("http", "unix") or not (parts.hostname or parts.path):
        raise InputError(
            f"{where}: engines.{engine.name}.url is {engine.url!r}; give http://host:port "
            f"(put TLS in front of an engine with a local proxy)."
        )
    if not 1 <= engine.in_flight_min <= engine.in_flight_max:
        raise InputError(
            f"{where}: engines.{engine.name}.in_flight_min is {engine.in_flight_min} and "
            f"in_flight_max {engine.in_flight_max}; give 1 <= min <= max."
        )
    if not engine.speed > 0.0:
        raise InputError(
            f"{where}: engines.{engine.name}.speed is {engine.speed}; give more than 0."
        )


def _unique(where: str, what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where}: {what} names {name!r} twice; names must differ.")
        seen.add(name)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) if names else "none"

"""A door takes a config: at the start, and again whenever the file has changed."""

import math
import time
from typing import TYPE_CHECKING

import msgspec

from headgate.gateway import config as settings
from headgate.gateway.dispatch import ModelRun
from headgate.gateway.engines import Engine
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import Exchange
from headgate.gateway.wheel import monotonic
from headgate.policy import fairness

if TYPE_CHECKING:
    from headgate.gateway.door import Door


def adopt_engines(door: "Door") -> None:
    held = door.dispatcher.engines
    kept: dict[str, Engine] = {}
    for terms in door.config.engines:
        key = settings.engine_key(terms)
        engine = held.pop(terms.name, None)
        if engine is not None and engine.terms.url == terms.url:
            engine.accept(terms, key)
        else:
            if engine is not None:
                held[terms.name] = engine
            engine = Engine(terms, key, door.loop)
            if door.pace_objective_s(engine) is not None:
                engine.start_slowly()
        if door.pace_objective_s(engine) is None:
            engine.cap = float(terms.in_flight_max)
        engine.set_cap(engine.cap, door.dispatcher.shares)
        engine.models = []
        kept[terms.name] = engine
    for engine in held.values():
        engine.draining = True
        engine.close()
    door.dispatcher.engines = kept


def adopt_models(door: "Door") -> list[Exchange]:
    """Replace the models; returns what waited for the old ones."""
    dispatcher = door.dispatcher
    waiting: list[Exchange] = []
    for model in dispatcher.models.values():
        for level, ring in enumerate(model.queue.rings):
            while len(ring):
                waiting.append(model.queue.pop(level))
    old, dispatcher.models = dispatcher.models, {}
    created_s = int(time.time())
    for terms in door.config.models:
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


def shares(config: settings.Config) -> list[float]:
    """Of an engine's cap, how much each level may fill."""
    filled = [1.0] * (len(config.classes) * len(fairness.TIERS_IN_CLASS) + 2)
    for rank, class_ in enumerate(config.classes):
        own = class_.engine_share
        if own is None:
            own = 1.0 if rank == 0 else 0.95
        for tier in settings.ORDINARY_TIERS:
            level = fairness.level(rank, len(config.classes), tier)
            share = config.terms(tier).engine_share
            filled[level] = share if tier in ("flex", "batch") else share * own
    return filled


def place_again(door: "Door", exchange: Exchange) -> None:
    """Give a waiting request its place under a new config."""
    if lane_again(door, exchange):
        door.dispatcher.offer(exchange, monotonic())


def lane_again(door: "Door", exchange: Exchange) -> bool:
    """Give a request its lane under a new config; False if it has none, which it is told."""
    ask = exchange.ask
    assert ask is not None
    try:
        lane = door.admission.lane(exchange.lane.account, ask, exchange.path, bool(exchange.order))
    except Problem as problem:
        exchange.refuse(problem)
        return False
    held = exchange.reservation
    if held is not None and held.reserved and lane.reserved is not None:
        lane = lane.reserved
    exchange.lane = lane
    return True


def own_share(config: settings.Config) -> settings.Config:
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

"""Which engine was last sent a prompt that began like this one."""

import zlib
from typing import TYPE_CHECKING, Final

from headgate.gateway.asks import BYTES_PER_TOKEN
from headgate.gateway.bodies import ABSENT

if TYPE_CHECKING:
    from headgate.gateway.engines import Engine
    from headgate.gateway.exchange import Exchange

FIRST_BLOCK_BYTES: Final = 512
LAST_BLOCK_BYTES: Final = 65_536
REMEMBERED: Final = 50_000


class Prefixes:
    """Digests of prompt beginnings, at lengths that double, with the engine that has seen them.

    Two generations of a dict forget the oldest half at once, so memory is bounded.
    """

    def __init__(self) -> None:
        self._young: dict[tuple[int, int], Engine] = {}
        self._old: dict[tuple[int, int], Engine] = {}

    def held(self, exchange: "Exchange", engines: "list[Engine]") -> list[float]:
        """Tokens of this prompt each engine is thought to have cached."""
        held = [0.0] * len(engines)
        for key in reversed(_keys(exchange)):
            engine = self._young.get(key) or self._old.get(key)
            if engine is not None and engine in engines:
                held[engines.index(engine)] = key[0] / BYTES_PER_TOKEN
                break
        return held

    def note(self, exchange: "Exchange", engine: "Engine") -> None:
        for key in _keys(exchange):
            self._young[key] = engine
        if len(self._young) > REMEMBERED:
            self._old, self._young = self._young, {}


def _keys(exchange: "Exchange") -> list[tuple[int, int]]:
    """(length, digest) of the prompt's beginnings, shortest first."""
    ask = exchange.ask
    if ask is None:
        return []
    given = [field for field in (ask.messages, ask.prompt, ask.input) if field is not ABSENT]
    if not given:
        return []
    view = memoryview(given[0])
    keys = []
    digest = 0
    start, end = 0, FIRST_BLOCK_BYTES
    while end <= len(view) and end <= LAST_BLOCK_BYTES:
        digest = zlib.crc32(view[start:end], digest)
        keys.append((end, digest))
        start, end = end, end * 2
    return keys

"""Blocks: usage as it lies in the store, many records in a row under their heading."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec
from msgspec.structs import astuple

from headgate.ledger.sums import Sum, sum_of_items
from headgate.ledger.usage import MICRO, Filed, Heading, Item
from headgate.store.database import Row

DAY_US = 86_400 * MICRO
BLOCK_ITEMS = 2_000  # about 130 KB of JSON
_NAME, _STARTED = attrgetter("name"), attrgetter("started_us")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Item])


class Block(msgspec.Struct, frozen=True, gc=False):
    """Records of one heading that started on one day."""

    heading: Heading
    day: int
    items: list[Item]


class Making:
    """A block that is being made. What is added is written out at once and let go."""

    def __init__(self, heading: Heading, day: int) -> None:
        self.heading = heading
        self.day = day
        self.sum = Sum()
        self._first_name, self._last_name, self._last_us = "", "", 0
        self._texts: list[bytes] = []

    def add(self, items: Sequence[Item], last_us: int) -> None:
        names = list(map(_NAME, items))
        first, last = min(names), max(names)
        if not self._texts or first < self._first_name:
            self._first_name = first
        self._last_name = max(self._last_name, last)
        self._last_us = max(self._last_us, last_us) if self._texts else last_us
        self.sum += sum_of_items(items)
        self._texts.append(_ENCODER.encode(items)[1:-1])

    def row(self) -> Row:
        """As `add_block` takes it."""
        prefix, tenant, *alike = astuple(self.heading)
        return (
            tenant,
            self.day,
            *alike,
            prefix,
            self._first_name,
            self._last_name,
            self._last_us,
            self.sum.requests,
            f"[{b','.join(self._texts).decode()}]",
        )


class Blocks:
    """Records as blocks, with the sums that are kept of them."""

    def __init__(self, filed: Mapping[Heading, Sequence[Item]] | None = None) -> None:
        self.requests = 0
        self._made: list[Making] = []
        self._latest: dict[tuple[Heading, int], Making] = {}
        for heading, items in (filed or {}).items():
            for start in range(0, len(items), BLOCK_ITEMS):
                self.add(heading, items[start : start + BLOCK_ITEMS])

    def add(self, heading: Heading, items: Sequence[Item]) -> None:
        starts = list(map(_STARTED, items))
        first_us, last_us = min(starts), max(starts)
        day = last_us // DAY_US
        if first_us // DAY_US != day:
            days: dict[int, list[Item]] = defaultdict(list)
            for item in items:
                days[item.started_us // DAY_US].append(item)
            for those in days.values():
                self.add(heading, those)
            return
        block = self._latest.get((heading, day))
        if block is None or block.sum.requests >= BLOCK_ITEMS:
            block = self._latest[(heading, day)] = Making(heading, day)
            self._made.append(block)
        block.add(items, last_us)
        self.requests += len(items)

    def with_all_of(self, others: Sequence["Blocks"]) -> "Blocks":
        """These and others, to be added in one go."""
        joined = Blocks()
        joined.requests = self.requests + sum(other.requests for other in others)
        joined._made = [*self._made, *(block for other in others for block in other._made)]
        return joined

    def tenants(self) -> set[str]:
        return {block.heading.tenant for block in self._made}

    def rows(self) -> list[Row]:
        return [block.row() for block in self._made]

    def sums(self) -> dict[tuple[str | int, ...], Sum]:
        """By tenant, day, model, tier, class, key, engine and outcome."""
        found: dict[tuple[str | int, ...], Sum] = defaultdict(Sum)
        for block in self._made:
            h = block.heading
            alike = (h.tenant, block.day, h.model, h.tier, h.class_, h.key, h.engine, h.outcome)
            found[alike] += block.sum
        return found

    def days(self) -> dict[tuple[str, int, str, str], Sum]:
        """By tenant, day, model and tier: what budgets read."""
        found: dict[tuple[str, int, str, str], Sum] = defaultdict(Sum)
        for block in self._made:
            h = block.heading
            found[(h.tenant, block.day, h.model, h.tier)] += block.sum
        return found


def block_of(row: Row) -> Block:
    """A block from what `blocks` and its like select."""
    return Block(Heading(*row[3:15]), row[2], _DECODER.decode(row[15]))


def names_of(filed: Filed) -> Iterator[tuple[str, str, str]]:
    """Of each prefix the least and the greatest name."""
    names: dict[str, list[str]] = defaultdict(list)
    for heading, items in filed.items():
        names[heading.prefix] += map(_NAME, items)
    for prefix, those in names.items():
        yield prefix, min(those), max(those)

"""Blocks: usage as it lies in the store, many records in a row under their heading."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec
from msgspec.structs import astuple

from headgate.ledger.usage import MICRO, Filed, Heading, Item
from headgate.store.database import Row

DAY_US = 86_400 * MICRO
BLOCK_ITEMS = 2_000  # about 150 KB of JSON
_NAME, _STARTED = attrgetter("name"), attrgetter("started_us")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Item])


class Block(msgspec.Struct, frozen=True, gc=False):
    """Records of one heading that started on one day."""

    heading: Heading
    day: int
    items: Sequence[Item]
    last_us: int  # when the latest of them started

    def row(self) -> Row:
        """As `add_block` takes it."""
        prefix, tenant, *alike = astuple(self.heading)
        names = list(map(_NAME, self.items))
        return (
            tenant,
            self.day,
            *alike,
            prefix,
            min(names),
            max(names),
            self.last_us,
            len(names),
            _ENCODER.encode(self.items).decode(),
        )


def blocks_of(filed: Mapping[Heading, Sequence[Item]]) -> Iterator[Block]:
    """Records as blocks."""
    for heading, items in filed.items():
        for start in range(0, len(items), BLOCK_ITEMS):
            yield from _by_day(heading, items[start : start + BLOCK_ITEMS])


def _by_day(heading: Heading, items: Sequence[Item]) -> Iterator[Block]:
    starts = list(map(_STARTED, items))
    first_us, last_us = min(starts), max(starts)
    if first_us // DAY_US == last_us // DAY_US:  # as nearly always
        yield Block(heading, last_us // DAY_US, items, last_us)
        return
    days: dict[int, list[Item]] = {}
    for item in items:
        days.setdefault(item.started_us // DAY_US, []).append(item)
    for those in days.values():
        yield from _by_day(heading, those)


def block_of(row: Row) -> Block:
    """A block from what `blocks` and its like select."""
    return Block(Heading(*row[3:15]), row[2], _DECODER.decode(row[15]), row[1])


def by_name(filed: Filed) -> Iterator[tuple[str, str, str]]:
    """Of each prefix the least and the greatest name."""
    names: dict[str, list[str]] = {}
    for heading, items in filed.items():
        names.setdefault(heading.prefix, []).extend(map(_NAME, items))
    for prefix, those in names.items():
        yield prefix, min(those), max(those)

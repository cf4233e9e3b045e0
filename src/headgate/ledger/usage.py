"""What a request leaves behind: one usage record, and the notes that make it survive a crash.

A record is written in two parts. Its `Heading` is what it has alike with thousands of others and
is written once; its `Item` is what is left, two dozen bytes of name and numbers. Records are kept
as blocks of items under a heading, on their way to the store and in it. `UsageRecord` is the two
together, as people and programs read it.

A gateway writes `Opened` when a request is sent to an engine, `Progress` now and then while it
streams, and an item at its end. A request that was opened and has no record after a crash is
closed by `abandoned`, so that each leaves exactly one record.

As JSON they are arrays: half the bytes and a third of the time of objects with named fields. So
fields are added at the end alone, with a default: what is in a store must be read for ever.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

NAME_LENGTH = 10  # of a request's id: what stands in its item; the rest is in the heading
MICRO = 1_000_000

Outcome = Literal["done", "left", "refused", "failed", "engine_lost", "timeout", "gateway_lost"]
"""How a request ended: `left` is the client going away, `refused` never reached an engine,
`failed` is the engine's own error answer, `gateway_lost` is a record made after a crash."""

Counted = Literal["engine", "chunks", "estimate", "none"]
"""Where the token counts come from: the engine's own usage, chunks seen, or a guess by size."""


class Opened(msgspec.Struct, frozen=True, tag="opened", array_like=True, gc=False):
    """A request was admitted and is about to be sent to an engine."""

    request: str  # the x-request-id; unique across gateways
    tenant: str
    key: str  # the key's public id, never the key
    model: str
    tier: str
    class_: str = msgspec.field(name="class")
    endpoint: str = ""
    engine: str = ""
    input_tokens: int = 0  # estimate, replaced by the engine's count
    started_s: float = 0.0  # seconds since 1970, when the request's head had been read
    order: str = ""  # batch and line of batch work: "batch_abc/17"


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True, gc=False):
    """So many output tokens of a running stream have been handed to the client by now."""

    request: str
    output_tokens: int


class UsageRecord(msgspec.Struct, frozen=True, tag="usage", array_like=True, gc=False):
    """One request, once, from end to end. Sums of these are the bill."""

    request: str
    tenant: str
    key: str
    model: str
    tier: str  # the tier that served it: default, flex, priority, reserved or batch
    class_: str = msgspec.field(name="class")
    endpoint: str = ""  # path below /v1, such as chat/completions
    engine: str = ""  # the engine that served it last; empty if none did
    outcome: Outcome = "done"
    status: int = 200  # HTTP status the client was given; 499 when it left before an answer
    attempts: int = 1  # engines tried
    input_tokens: int = 0  # all prompt tokens, the cached ones included
    cached_tokens: int = 0
    output_tokens: int = 0
    counted: Counted = "engine"
    price_nano: int = 0  # billionths of the currency unit
    started_s: float = 0.0  # seconds since 1970
    queued_s: float = 0.0  # waiting in the gateway for an engine
    first_byte_s: float = 0.0  # from start to the engine's first byte of answer
    took_s: float = 0.0  # from start to the last byte, or to the client's leaving
    order: str = ""


class Heading(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What all records of a block say alike. Fields as in `UsageRecord`."""

    prefix: str  # of their requests' ids, all but the last NAME_LENGTH characters
    tenant: str
    key: str
    model: str
    tier: str
    class_: str = msgspec.field(name="class")
    endpoint: str = ""
    engine: str = ""
    outcome: Outcome = "done"
    status: int = 200
    attempts: int = 1
    counted: Counted = "engine"

    def record(self, item: "Item") -> UsageRecord:
        """One of the records under this heading."""
        return UsageRecord(
            self.prefix + item.name,
            self.tenant,
            self.key,
            self.model,
            self.tier,
            self.class_,
            self.endpoint,
            self.engine,
            self.outcome,
            self.status,
            self.attempts,
            item.input_tokens,
            item.cached_tokens,
            item.output_tokens,
            self.counted,
            item.price_nano,
            item.started_us / MICRO,
            item.queued_us / MICRO,
            item.first_byte_us / MICRO,
            item.took_us / MICRO,
            item.order,
        )


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one record says under its heading. Times are whole microseconds."""

    name: str  # the last NAME_LENGTH characters of the request's id
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    price_nano: int = 0
    started_us: int = 0  # since 1970
    queued_us: int = 0
    first_byte_us: int = 0
    took_us: int = 0
    order: str = ""


Filed = dict[Heading, list[Item]]


class Titled(msgspec.Struct, frozen=True, tag="heading", array_like=True, gc=False):
    """From here on, to the end of the file, items say this heading by its number."""

    number: int
    heading: Heading


class Items(msgspec.Struct, frozen=True, tag="items", array_like=True, gc=False):
    """Records that ended together, under one heading."""

    number: int
    items: list[Item]


# A UsageRecord among them was written by a gateway of before there were headings.
Entry = Opened | Progress | Titled | Items | UsageRecord


def parted(record: UsageRecord) -> tuple[Heading, Item]:
    """A record as its two parts; its times to the microsecond."""
    heading = Heading(
        record.request[:-NAME_LENGTH],
        record.tenant,
        record.key,
        record.model,
        record.tier,
        record.class_,
        record.endpoint,
        record.engine,
        record.outcome,
        record.status,
        record.attempts,
        record.counted,
    )
    item = Item(
        record.request[-NAME_LENGTH:],
        record.input_tokens,
        record.cached_tokens,
        record.output_tokens,
        record.price_nano,
        round(record.started_s * MICRO),
        round(record.queued_s * MICRO),
        round(record.first_byte_s * MICRO),
        round(record.took_s * MICRO),
        record.order,
    )
    return heading, item


def filed(records: Iterable[UsageRecord]) -> Filed:
    """Records under their headings."""
    found: Filed = {}
    for record in records:
        heading, item = parted(record)
        found.setdefault(heading, []).append(item)
    return found


def abandoned(opened: Opened, output_tokens: int, price_nano: int) -> UsageRecord:
    """The record of a request that a dead gateway left open, with the tokens last noted."""
    return UsageRecord(
        request=opened.request,
        tenant=opened.tenant,
        key=opened.key,
        model=opened.model,
        tier=opened.tier,
        class_=opened.class_,
        endpoint=opened.endpoint,
        engine=opened.engine,
        outcome="gateway_lost",
        status=499,
        input_tokens=opened.input_tokens,
        output_tokens=output_tokens,
        counted="estimate",
        price_nano=price_nano,
        started_s=opened.started_s,
        order=opened.order,
    )

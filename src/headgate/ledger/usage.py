"""What a request leaves behind: one usage record, and the notes that make it survive a crash.

A gateway writes three kinds of entries: `Opened` when a request is sent to an engine, `Progress`
now and then while it streams, and `UsageRecord` once at its end. A request that was opened and
has no record after a crash is closed by `abandoned`, so that each leaves exactly one record.

As JSON they are arrays: half the bytes and a third of the time of objects with named fields. So
fields are added at the end alone, with a default.
"""

from typing import Literal

import msgspec

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


Entry = Opened | Progress | UsageRecord


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

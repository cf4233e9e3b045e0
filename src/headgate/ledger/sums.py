"""Sums of usage: what each tenant, model, tier or day used and owes. They close to the unit."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal, cast, get_args

import msgspec

from headgate.core.errors import InputError
from headgate.ledger.usage import Item, UsageRecord

Dimension = Literal["tenant", "model", "day", "tier", "class", "key", "engine", "outcome"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


class Sum(msgspec.Struct, frozen=True):
    """So much, of whatever was added up."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    price_nano: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.price_nano + other.price_nano,
        )


def dimensions_of(text: str) -> list[Dimension]:
    """The dimensions that a text such as "tenant,model,day" names."""
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in DIMENSIONS:
            raise InputError(
                f"by names {name!r}; usage is summed by {', '.join(DIMENSIONS)}, joined by commas."
            )
    return cast("list[Dimension]", named)


def sum_of(record: UsageRecord) -> Sum:
    return Sum(
        1,
        record.input_tokens,
        record.cached_tokens,
        record.output_tokens,
        record.price_nano,
    )


def total(sums: Iterable[Sum]) -> Sum:
    result = Sum()
    for one in sums:
        result += one
    return result


def sum_of_items(items: Sequence[Item]) -> Sum:
    return Sum(
        len(items),
        sum(map(attrgetter("input_tokens"), items)),
        sum(map(attrgetter("cached_tokens"), items)),
        sum(map(attrgetter("output_tokens"), items)),
        sum(map(attrgetter("price_nano"), items)),
    )

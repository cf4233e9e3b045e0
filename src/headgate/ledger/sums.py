"""Sums of usage: what each tenant, model, tier or day used and owes. They close to the unit."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal, cast, get_args

import msgspec

from headgate.core.errors import InputError
from headgate.ledger.calendar import day_of
from headgate.ledger.usage import UsageRecord

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


def by_day(records: Iterable[UsageRecord]) -> dict[tuple[str, int, str, str], Sum]:
    """Sums by (tenant, day, model, tier): the rows budgets are read from."""
    groups: dict[tuple[str, int, str, str], list[UsageRecord]] = {}
    for record in records:
        key = (record.tenant, day_of(record.started_s), record.model, record.tier)
        group = groups.get(key)
        if group is None:
            groups[key] = [record]
        else:
            group.append(record)
    return {key: _sum_of_many(group) for key, group in groups.items()}


def _sum_of_many(records: Sequence[UsageRecord]) -> Sum:
    return Sum(
        len(records),
        sum(map(attrgetter("input_tokens"), records)),
        sum(map(attrgetter("cached_tokens"), records)),
        sum(map(attrgetter("output_tokens"), records)),
        sum(map(attrgetter("price_nano"), records)),
    )


def by_tenant(records: Iterable[UsageRecord]) -> dict[str, Sum]:
    sums: dict[str, Sum] = {}
    for record in records:
        sums[record.tenant] = sums.get(record.tenant, Sum()) + sum_of(record)
    return sums

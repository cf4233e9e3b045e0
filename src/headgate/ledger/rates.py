"""How much of a rate may be given out now, from what has been given out before.

Time is cut into quarter seconds, the slots. Each grant is booked in the slot *until* which it
may be used, so that whenever it is used, it is inside its booking: the sum of bookings over the
last minute is never less than what was used in it, and a minute's limit holds for every span of
sixty seconds, not for those of a clock alone. The same holds for a second.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from headgate.ledger.accounts import Limit

SLOTS_PER_S = 4
MINUTE = 60 * SLOTS_PER_S
SLICE_SLOTS = SLOTS_PER_S  # how long what was granted may be used
HISTORY = 2 * MINUTE  # older bookings decide nothing

Kind = Literal["requests", "tokens", "reserved_input", "reserved_output"]
Bound = Literal["minute", "second", "growth", "size"]


class Rate(msgspec.Struct, frozen=True):
    """One bounded quantity of a tenant and model."""

    per_min: int
    per_s: int
    growth_per_min: float | None = None  # highest ratio of a minute to the one before
    growth_floor: int = 0


class Grant(msgspec.Struct, frozen=True):
    """What may be used now; when it is less than was needed, what bounds it and for how long."""

    amount: int
    left: int  # what remains of the minute after this
    bound: Bound | None = None
    retry_after_s: float = 0.0


def rates_of(limit: Limit) -> dict[Kind, Rate]:
    """The rates a limit consists of."""
    rates: dict[Kind, Rate] = {}

    def bound(kind: Kind, per_min: int, growth: float | None = None) -> None:
        per_s = max(1, min(per_min, round(per_min * limit.burst_s / 60)))
        rates[kind] = Rate(per_min, per_s, growth, limit.growth_floor_tokens)

    if limit.requests_per_min is not None:
        bound("requests", limit.requests_per_min)
    if limit.tokens_per_min is not None or limit.growth_per_min is not None:
        bound("tokens", limit.tokens_per_min or UNBOUNDED, limit.growth_per_min)
    if limit.reserved_input_per_min:
        bound("reserved_input", limit.reserved_input_per_min)
    if limit.reserved_output_per_min:
        bound("reserved_output", limit.reserved_output_per_min)
    return rates


UNBOUNDED = 1 << 60


def grant(
    booked: Mapping[int, int], slot: int, rate: Rate, need: int, unmet: int, ahead: int = 0
) -> Grant:
    """What to give out in `slot` to one that can use nothing less than `need`.

    `booked` are the amounts by slot, `unmet` is what all who wait want, `ahead` what will be
    wanted soon. Of what nobody waits for, at most a quarter is given ahead, so that near the limit
    no process sits on what another lacks. One that is larger than a second's share, or than the
    growth's first step, is let through when that second, or minute, has seen nothing else.
    """
    minute = _since(booked, slot - MINUTE)
    second = _since(booked, slot - SLOTS_PER_S)
    allowed = rate.per_min
    if rate.growth_per_min is not None:
        before = _since(booked, slot - 2 * MINUTE) - minute
        grown = max(rate.growth_floor, int(before * rate.growth_per_min), 0 if minute else need)
        allowed = min(allowed, grown)
    left = max(0, allowed - minute)
    if need > rate.per_min:
        return Grant(0, left, "size", 60.0)
    if left < need:
        bound: Bound = "growth" if allowed < rate.per_min else "minute"
        return Grant(0, left, bound, _until_free(booked, slot, MINUTE, need - left))
    this_second = rate.per_s - second if second > 0 else max(rate.per_s, need)
    if this_second < need:
        wait_s = _until_free(booked, slot, SLOTS_PER_S, need - this_second)
        return Grant(0, left, "second", wait_s)
    spare = max(0, left - unmet) // 4
    amount = min(max(need, unmet) + min(ahead, spare), left, this_second)
    return Grant(amount, left - amount)


def _since(booked: Mapping[int, int], slot: int) -> int:
    # With the first slot, part of which lies outside the span.
    return sum(amount for at, amount in booked.items() if at >= slot)


def _until_free(booked: Mapping[int, int], slot: int, span: int, lacking: int) -> float:
    """Seconds until bookings worth `lacking` have left the span; the span when they never do."""
    for at in sorted(at for at in booked if at >= slot - span):
        lacking -= booked[at]
        if lacking <= 0:
            return (at + span + 1 - slot) / SLOTS_PER_S
    return span / SLOTS_PER_S

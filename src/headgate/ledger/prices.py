"""What a request costs, in whole billionths of the currency unit, so that sums close exactly."""

from dataclasses import dataclass
from typing import Final

MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Tariff:
    """Prices of one model in one tier, in billionths of the currency unit per million tokens."""

    input_nano_per_m: int = 0
    cached_nano_per_m: int = 0
    output_nano_per_m: int = 0


FREE: Final = Tariff()


def price_nano(tariff: Tariff, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """Price of one request, rounded half up once, after the three products are summed.

    `cached_tokens` are part of `input_tokens` and are priced apart.
    """
    nano = (
        (input_tokens - cached_tokens) * tariff.input_nano_per_m
        + cached_tokens * tariff.cached_nano_per_m
        + output_tokens * tariff.output_nano_per_m
    )
    return (nano + MILLION // 2) // MILLION

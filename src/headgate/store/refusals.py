"""What a client is told when a limit or a budget has no room for its request."""

from typing import Final

from headgate.ledger.accounts import Refusal
from headgate.ledger.rates import Kind
from headgate.store.slices import HeldBudget, HeldRate

NANO: Final = 1_000_000_000
WORDS: Final[dict[Kind, str]] = {
    "requests": "requests",
    "tokens": "tokens",
    "reserved_input": "reserved input tokens",
    "reserved_output": "reserved output tokens",
}


def of_rate(rate: HeldRate, amount: int) -> Refusal:
    """Why so much of a rate may not be used now, and when it may."""
    given = rate.refused
    assert given is not None
    words, per_min = WORDS[rate.kind], rate.rate.per_min
    again = f"try again in {given.retry_after_s:.2f} s."
    code = "limit_requests" if rate.kind == "requests" else "limit_tokens"
    if given.bound == "growth":
        return Refusal(
            "limit_growth",
            f"The load on {rate.model} grows faster than the {rate.rate.growth_per_min:g}-fold a "
            f"minute that is allowed; {again}",
            given.retry_after_s,
        )
    if given.bound == "size":
        return Refusal(
            code,
            f"This request may use {amount} {words}, more than the {per_min} a minute allowed "
            f"for {rate.model}; send a shorter prompt or ask for fewer tokens.",
            given.retry_after_s,
        )
    if given.bound == "second":
        return Refusal(
            code,
            f"Over {rate.rate.per_s} {words} in one second for {rate.model}; {again}",
            given.retry_after_s,
        )
    return Refusal(
        code, f"Over {per_min} {words} a minute for {rate.model}; {again}", given.retry_after_s
    )


def of_budget(budget: HeldBudget) -> Refusal:
    """That a budget is spent."""
    amount = f"{budget.limit / NANO:g}" if budget.unit == "money" else f"{budget.limit} tokens"
    span = "in all" if budget.period == "total" else f"a {budget.period}"
    return Refusal(
        "insufficient_quota",
        f"The budget of {amount} {span} is spent, or held by requests under way; "
        "ask whoever runs this gateway for more.",
    )

"""Who may ask for what: tenants, keys, limits and budgets, as every room speaks of them."""

from typing import Literal

import msgspec

ANY_MODEL = "*"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one tenant may use one model; None is no limit.

    A minute's limit is enforced by the second too: the bucket refills evenly and holds
    `burst_s` seconds' worth, but never less than one request.
    """

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    burst_s: float = 60.0
    growth_per_min: float | None = None  # highest ratio of a minute's tokens to the last one's
    growth_floor_tokens: int = 60_000  # a minute below this may always be reached
    reserved_input_per_min: int = 0  # guaranteed throughput, paid for whether used or not
    reserved_output_per_min: int = 0
    overflow: Literal["spill", "refuse"] = "spill"  # beyond the reservation: default tier, or 429


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum of money or tokens a tenant may use in a period; None is no bound."""

    period: Literal["day", "month", "total"] = "month"
    money: float | None = None  # currency units
    tokens: int | None = None


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who pays. A tenant belongs to a class and shares it with others by `weight`."""

    name: str
    class_: str = msgspec.field(name="class", default="default")
    weight: float = 1.0
    default_tier: str = "default"  # what service_tier "auto" means for this tenant
    tiers: tuple[str, ...] = ("default", "flex", "priority")  # tiers it may ask for
    models: tuple[str, ...] = ()  # empty: all
    limits: dict[str, Limit] = {}  # by model; "*" is for each model not named
    budgets: tuple[Budget, ...] = ()


class Account(msgspec.Struct, frozen=True):
    """What a presented key stands for."""

    key: str  # the key's public id
    tenant: Tenant
    admin: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Why a request may not go on now. `code` is the contract; the sentence is for people.

    Codes with status 429: `limit_requests`, `limit_tokens`, `limit_growth` (three different
    limits), `insufficient_quota` (a budget is spent; retrying does not help).
    """

    code: str
    message: str
    retry_after_s: float = 0.0

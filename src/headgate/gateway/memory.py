"""The simplest accounts, limits and meter that keep the contract of `headgate.ledger.ports`.

For tests and for a gateway that keeps no state. The durable ones in `headgate.store` pass the
same contract tests.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable

from headgate.ledger.accounts import ANY_MODEL, Account, Limit, Refusal, Tenant
from headgate.ledger.ports import Bundle, Limits, Meter
from headgate.ledger.reservation import Reservation, said
from headgate.ledger.usage import Item, Opened, UsageRecord

NO_LIMIT = Limit()


class MemoryAccounts:
    """Keys held as digests; nothing is ever fetched."""

    def __init__(self, keys: Iterable[tuple[str, Account]] = ()) -> None:
        self.changes = 0
        self._by_digest: dict[bytes, Account] = {}
        for key, account in keys:
            self.add(key, account)

    def add(self, key: str, account: Account) -> None:
        self._by_digest[hashlib.sha256(key.encode()).digest()] = account
        self.changes += 1

    def revoke(self, key: str) -> None:
        self._by_digest.pop(hashlib.sha256(key.encode()).digest(), None)
        self.changes += 1

    def lookup(self, key: str) -> Account | None:
        return self._by_digest.get(hashlib.sha256(key.encode("utf-8", "replace")).digest())

    def tenant(self, name: str) -> Tenant | None:
        for account in self._by_digest.values():
            if account.tenant.name == name:
                return account.tenant
        return None

    async def find(self, key: str) -> Account | None:
        return self.lookup(key)


class _Bucket:
    """What is left of a rate: refills evenly, holds at most `size`."""

    __slots__ = ("at_s", "left", "per_s", "size")

    def __init__(self, per_min: float, burst_s: float) -> None:
        self.per_s = per_min / 60.0
        self.size = max(self.per_s * burst_s, 1.0)
        self.left = self.size
        self.at_s = 0.0

    def refill(self, now_s: float) -> None:
        if now_s > self.at_s:
            self.left = min(self.size, self.left + (now_s - self.at_s) * self.per_s)
            self.at_s = now_s


class MemoryLimits(Limits):
    """Requests and tokens a minute for a tenant and model; no growth limits and no budgets."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], tuple[Limit, _Bucket | None, _Bucket | None]] = {}

    def reserve(
        self,
        account: Account,
        model: str,
        est_tokens: int,
        now_s: float,
        est_output: int = 0,
        est_price_nano: int = 0,
    ) -> Reservation | Refusal | None:
        reservation = Reservation(account.tenant.name, model, est_tokens)
        limits = account.tenant.limits
        if not limits:
            return reservation
        limit = limits.get(model) or limits.get(ANY_MODEL) or NO_LIMIT
        _, requests, tokens = self._of(account.tenant.name, model, limit)
        if requests is not None:
            requests.refill(now_s)
            if requests.left < 1.0:
                wait_s = (1.0 - requests.left) / requests.per_s
                return Refusal(
                    "limit_requests",
                    f"Over {limit.requests_per_min} requests a minute "
                    f"for {model}; try again in {wait_s:.1f} s.",
                    wait_s,
                )
        if tokens is not None:
            tokens.refill(now_s)
            if tokens.left < min(est_tokens, tokens.size):
                wait_s = (min(est_tokens, tokens.size) - tokens.left) / tokens.per_s
                return Refusal(
                    "limit_tokens",
                    f"Over {limit.tokens_per_min} tokens a minute "
                    f"for {model}; try again in {wait_s:.1f} s.",
                    wait_s,
                )
            tokens.left -= est_tokens
            assert limit.tokens_per_min is not None
            reservation.tokens_said = said("tokens", limit.tokens_per_min)
            reservation.remaining_tokens = max(0, int(tokens.left))
            reservation.reset_tokens_s = (tokens.size - tokens.left) / tokens.per_s
        if requests is not None:
            requests.left -= 1.0
            assert limit.requests_per_min is not None
            reservation.requests_said = said("requests", limit.requests_per_min)
            reservation.remaining_requests = int(requests.left)
            reservation.reset_requests_s = (requests.size - requests.left) / requests.per_s
        return reservation

    async def lease(self, account: Account, model: str) -> None:
        return

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        price_nano: int,
        now_s: float,
        output_tokens: int = 0,
    ) -> None:
        held = self._buckets.get((reservation.tenant, reservation.model))
        if held is not None and held[2] is not None:
            bucket = held[2]
            bucket.left = min(bucket.size, bucket.left + reservation.est_tokens - tokens)

    def _of(
        self, tenant: str, model: str, limit: Limit
    ) -> tuple[Limit, _Bucket | None, _Bucket | None]:
        held = self._buckets.get((tenant, model))
        if held is None or held[0] is not limit:
            per_min, tokens = limit.requests_per_min, limit.tokens_per_min
            held = (
                limit,
                _Bucket(per_min, limit.burst_s) if per_min is not None else None,
                _Bucket(tokens, limit.burst_s) if tokens is not None else None,
            )
            self._buckets[tenant, model] = held
        return held


class MemoryMeter(Meter):
    """Keeps entries in lists; a record is durable on the next turn of the loop."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.opened: list[Opened] = []
        self.records: list[UsageRecord] = []

    @property
    def full(self) -> bool:
        return False

    def open(self, request: str, entry: Callable[[], Opened]) -> None:
        self.opened.append(entry())

    def progress(self, request: str, output_tokens: int) -> None:
        return

    def record(
        self,
        request: str,
        bundle: Bundle,
        item: Item,
        durable: Callable[[], None] | None = None,
    ) -> None:
        self.records.append(bundle.heading.record(item))
        if durable is not None:
            asyncio.get_running_loop().call_soon(durable)

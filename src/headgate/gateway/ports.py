"""What the door needs from the rooms behind it. `memory.py` has the simplest that works;
`headgate.store` has the durable ones.

Every method here that is not a coroutine runs in the path of a request, on the event loop: it
must answer from memory in microseconds. Implementations fetch, lease and flush in the background.
"""

from collections.abc import Callable
from typing import Protocol

from headgate.ledger.accounts import Account, Refusal, Reservation
from headgate.ledger.usage import Opened, UsageRecord


class Accounts(Protocol):
    """Keys to accounts."""

    def lookup(self, key: str) -> Account | None:
        """The account of a presented key if it is known here and not revoked."""
        ...

    async def find(self, key: str) -> Account | None:
        """Ask the store for a key that `lookup` does not know; remembers that it is unknown."""
        ...


class Limits(Protocol):
    """Rates and budgets, shared by all gateway processes through leased slices."""

    def reserve(
        self, account: Account, model: str, est_tokens: int, now_s: float
    ) -> Reservation | Refusal | None:
        """Take one request and `est_tokens` off the limits, or say why not.

        None: this process holds no slice yet; `await lease(...)`, then reserve again.
        `now_s` is monotonic.
        """
        ...

    async def lease(self, account: Account, model: str) -> None:
        """Fetch a slice of the account's limits; returns within the store's timeout in any case."""
        ...

    def settle(self, reservation: Reservation, tokens: int, price_nano: int, now_s: float) -> None:
        """Correct a reservation to what was used. Called exactly once for each reservation."""
        ...


class Meter(Protocol):
    """Usage on its way to disk: appended in the order of calls, committed in groups."""

    strict: bool  # the last byte of an answer, and the slot it held, wait for the commit

    def open(self, opened: Opened) -> None:
        """Note that a request is being sent to an engine."""
        ...

    def progress(self, request: str, output_tokens: int) -> None:
        """Note how far a stream has come (every second or so)."""
        ...

    def record(self, usage: UsageRecord, durable: Callable[[], None] | None = None) -> None:
        """Write the request's one record; `durable` is called on the loop after the commit."""
        ...


class Prices(Protocol):
    """What the price path says about waiting."""

    def retry_after_s(self, class_: str, now_s: float) -> float:
        """When work of this class is worth offering again, in seconds from now."""
        ...

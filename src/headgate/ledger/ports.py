"""What a door needs from the rooms behind it.

`headgate.gateway.memory` has the simplest that works; `headgate.store` has the durable ones.
Every method here that is not a coroutine runs in the path of a request, on the event loop: it
must answer from memory in microseconds. Implementations fetch, lease and flush in the background.

Limits and meter are called several times by each request. They are base classes and not
protocols because a compiled call of a base class's method costs a tenth of a protocol's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol

from headgate.ledger.accounts import Account, Refusal, Tenant
from headgate.ledger.reservation import Reservation
from headgate.ledger.usage import Heading, Item, Opened

_NUMBERS: Final = count()


class Accounts(Protocol):
    """Keys to accounts."""

    changes: int  # grows whenever an answer of `lookup` may have changed

    def lookup(self, key: str) -> Account | None:
        """The account of a presented key if it is known here and not revoked."""
        ...

    def tenant(self, name: str) -> Tenant | None:
        """A tenant by name, for work that our own batch process sends."""
        ...

    async def find(self, key: str) -> Account | None:
        """Ask the store for a key that `lookup` does not know; remembers that it is unknown."""
        ...


class Limits(ABC):
    """Rates and budgets, shared by all gateway processes through leased slices."""

    @abstractmethod
    def reserve(
        self,
        account: Account,
        model: str,
        est_tokens: int,
        now_s: float,
        est_output: int = 0,
        est_price_nano: int = 0,
    ) -> Reservation | Refusal | None:
        """Take one request, `est_tokens` and `est_price_nano` off the limits, or say why not.

        `est_tokens` includes `est_output`. None: this process holds no slice that is large
        enough; `await lease(...)`, then reserve again, until it answers. `now_s` is monotonic.
        """

    @abstractmethod
    async def lease(self, account: Account, model: str) -> None:
        """Fetch a slice of the account's limits; returns within the store's timeout in any case."""

    @abstractmethod
    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        price_nano: int,
        now_s: float,
        output_tokens: int = 0,
    ) -> None:
        """Correct a reservation to what was used. Called exactly once for each reservation."""


class Bundle:
    """Records under one heading that have not been handed over yet."""

    def __init__(self, heading: Heading) -> None:
        self.number: int = next(_NUMBERS)  # for which files say the heading but once
        self.heading = heading
        self.items: list[Item] = []


class Meter(ABC):
    """Usage on its way to disk: appended in the order of calls, committed in groups."""

    strict: bool  # whether an answer's last byte, and the slot it held, wait for the commit

    @property
    @abstractmethod
    def full(self) -> bool:
        """The disk is full: no new request is taken until there is room for its record."""

    @abstractmethod
    def open(self, request: str, entry: Callable[[], Opened]) -> None:
        """Note that a request is being sent to an engine.

        `entry` is called within milliseconds, or never if the request is over before.
        """

    @abstractmethod
    def progress(self, request: str, output_tokens: int) -> None:
        """Note how far a stream has come (every second or so)."""

    @abstractmethod
    def record(
        self,
        request: str,
        bundle: Bundle,
        item: Item,
        durable: Callable[[], None] | None = None,
    ) -> None:
        """Write the request's one record; `durable` is called on the loop after the commit."""

"""All that a gateway process keeps: accounts, limits and the meter over one store."""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from headgate.ledger.accounts import Tenant
from headgate.store.accounts import KNOWN_FOR_S, StoreAccounts
from headgate.store.database import Database, Transaction
from headgate.store.grants import Grants
from headgate.store.limits import StoreLimits
from headgate.store.meter import SpoolMeter
from headgate.store.migrate import migrate
from headgate.store.open import connect
from headgate.store.shipping import Price, Shipper, ShippingThread
from headgate.store.tenants import GivenKey, Tenants
from headgate.store.usage import Usage

T = TypeVar("T")


class Migrating:
    """A database that is migrated when it is first reached, so that nobody waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._migrated = False

    def transaction(
        self, *, write: bool = True, durable: bool = True
    ) -> AbstractContextManager[Transaction]:
        if not self._migrated:
            with self._lock:
                if not self._migrated:
                    migrate(self._database)
                    self._migrated = True
        return self._database.transaction(write=write, durable=durable)

    def lock_migrations(self, transaction: Transaction) -> None:
        self._database.lock_migrations(transaction)

    def close(self) -> None:
        self._database.close()


class State:
    """One process's accounts, limits and meter. Made by `open_state`."""

    def __init__(
        self,
        database: Database,
        *,
        folder: Path,
        strict: bool,
        holder: str,
        ship: bool,
        price: Price | None,
        known_for_s: float,
    ) -> None:
        self.tenants = Tenants(database)
        self.usage = Usage(database)
        self.accounts = StoreAccounts(self.tenants, folder, known_for_s=known_for_s)
        self.limits = StoreLimits(Grants(database), holder)
        self.meter = SpoolMeter(folder / "usage", holder, strict=strict)
        self.shipping = (
            ShippingThread(Shipper(folder / "usage", self.usage, price)) if ship else None
        )
        self._database = database
        self._folder = folder

    @property
    def away(self) -> bool:
        """Whether the store could not be asked when it was last tried."""
        return self.accounts.away or self.limits.away

    async def start(self) -> None:
        """Returns when keys are known, or the store is known to be away."""
        self.meter.start()
        await self.accounts.start()
        await self.limits.start()
        if self.shipping is not None:
            self.shipping.start()

    async def stop(self) -> None:
        """Returns when all usage is durable and what is held of limits is given back."""
        await self.limits.stop()
        await self.accounts.stop()
        await self.meter.stop()
        if self.shipping is not None:
            await _in_thread(self.shipping.stop)
        self._database.close()

    async def seed(self, tenants: Sequence[Tenant], keys: Sequence[GivenKey] | None = None) -> None:
        """Add or change the config's tenants and keys. Raises StoreAway, InputError."""
        await _in_thread(lambda: self.tenants.seed(tenants, keys))
        await self.accounts.refresh()


def open_state(
    url: str,
    *,
    folder: Path,
    strict: bool,
    process: int,
    ship: bool = True,
    price: Price | None = None,
    known_for_s: float = KNOWN_FOR_S,
) -> State:
    """The state of one gateway process; nothing is read or written before `start`.

    `folder` is this machine's, shared by its processes: usage under way, a copy of the accounts.
    `ship` moves usage to the store from here; one process of a folder does, and any may.
    `price` is what a request costs that a crash left without a record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # No two are ever alike: files are shipped once by the name of who wrote them.
    holder = f"{socket.gethostname()}-{process}-{secrets.token_hex(8)}"
    return State(
        Migrating(connect(url)),
        folder=folder,
        strict=strict,
        holder=holder,
        ship=ship,
        price=price,
        known_for_s=known_for_s,
    )


async def _in_thread(call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, call)

"""Accounts, limits and meter of one process, opened together."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from headgate.gateway.memory import MemoryAccounts, MemoryLimits, MemoryMeter
from headgate.ledger.accounts import Account, Tenant
from headgate.ledger.usage import Opened


class MemoryState:
    """Stands in for the store; one key, kept in a file that only its owner reads."""

    def __init__(self, folder: Path, strict: bool) -> None:
        self.accounts = MemoryAccounts()
        self.limits = MemoryLimits()
        self.meter = MemoryMeter(strict)
        self._file = folder / "default-key"

    async def start(self) -> None:
        if self._file.exists():
            account = Account("key_default", Tenant("default"))
            self.accounts.add(self._file.read_text().strip(), account)

    async def stop(self) -> None:
        return

    async def seed(self, tenants: Sequence[Tenant]) -> None:
        return

    async def first_key(self, tenant: str) -> str:
        if not self._file.exists():
            self._file.touch(mode=0o600)
            self._file.write_text("sk-hg-" + secrets.token_hex(20))
        return self._file.read_text().strip()


def open_state(
    url: str,
    *,
    folder: Path,
    strict: bool,
    process: int,
    ship: bool = True,
    price: Callable[[Opened, int], int] | None = None,
) -> MemoryState:
    return MemoryState(folder, strict)

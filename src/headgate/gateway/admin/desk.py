"""What the pages and the batch runner share, and the settings they obey."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from headgate.ledger.accounts import Tenant
from headgate.store.accounts import StoreAccounts
from headgate.store.batches import Batches
from headgate.store.database import Database
from headgate.store.files import File, Files
from headgate.store.tenants import Tenants
from headgate.store.usage import Usage

T = TypeVar("T")


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The config's table `batch`: what files and batches may be like."""

    parallel_max: int = 256  # lines under way at once; the door says how many are of use
    lines_max: int = 50_000
    file_max_mb: float = 200.0
    tenant_files_max_gb: float = 20.0
    window_min_h: int = 1
    window_max_h: int = 168
    folder: str | None = None  # of the files; None: `files` in the state's folder


@dataclass
class Desk:
    """The store as the pages see it, where the files lie, and what the config says at present."""

    files: Files
    batches: Batches
    tenants: Tenants
    usage: Usage
    accounts: StoreAccounts
    models: frozenset[str]
    terms: Terms
    folder: Path  # of the files
    secret: str  # what the door says to prove itself
    wake: asyncio.Event  # there may be something to do for the runner

    def path(self, file: File) -> Path:
        return self.folder / file.id

    def models_of(self, tenant: Tenant | None) -> frozenset[str]:
        """The models a tenant may use."""
        if tenant is None:
            return frozenset()
        return self.models & frozenset(tenant.models) if tenant.models else self.models


def open_desk(
    database: Database,
    accounts: StoreAccounts,
    *,
    models: frozenset[str],
    terms: Terms,
    folder: Path,
    secret: str,
) -> Desk:
    (folder / "incoming").mkdir(parents=True, exist_ok=True)
    return Desk(
        Files(database),
        Batches(database),
        Tenants(database),
        Usage(database),
        accounts,
        models,
        terms,
        folder,
        secret,
        asyncio.Event(),
    )


async def in_thread(call: Callable[[], T]) -> T:
    """Run what blocks on a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, call)

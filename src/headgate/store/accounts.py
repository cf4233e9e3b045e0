"""The door's accounts: every valid key in memory, kept in step with the store.

A thread reads the store's version a few times a second and reads everything again when it has
changed, so that a revoked key is refused within `LOOK_S`. While the store is away, known keys go
on being served for a stated time; a copy on disk lets even a gateway that starts meanwhile serve
them. Neither memory nor the copy holds a key, only digests.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from headgate.ledger.accounts import Account, Tenant
from headgate.store.database import StoreAway
from headgate.store.tenants import Snapshot, Tenants, digest_of

LOG = logging.getLogger(__name__)
LOOK_S = 0.25
KNOWN_FOR_S = 86_400.0  # how long known keys are served while the store is away
UNKNOWN_FOR_S = 1.0  # a key the store did not know is not asked for again before
UNKNOWN_AT_MOST = 10_000
NEVER_S = float("inf")


class _Known(msgspec.Struct, frozen=True):
    digest: bytes
    account: Account
    expires_s: float


class StoreAccounts:
    """Keys to accounts, answered from memory."""

    def __init__(
        self,
        tenants: Tenants,
        folder: Path,
        *,
        known_for_s: float = KNOWN_FOR_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.away = False
        self.changes = 0  # another number whenever an answer of `lookup` may be another
        self._tenant_of: dict[str, Tenant] = {}
        self._tenants = tenants
        self._copy = folder / "accounts.json"
        self._known_for_s = known_for_s
        self._clock = clock
        self._version = -1
        self._wanted = 0  # looks asked for
        self._begun = 0  # the last of them that a look has begun for
        self._seen_s = 0.0  # when the store was last asked
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Lock | None = None

    async def start(self) -> None:
        """Learn the keys there are, from the copy on disk if the store is away."""
        self._looking = asyncio.Lock()
        await self.refresh()
        if self.away:
            await asyncio.get_running_loop().run_in_executor(None, self._read_copy)
        self._task = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def lookup(self, key: str) -> Account | None:
        """The account of a valid key.

        The digest is looked up, so time tells nothing about a key that is not known already, and
        compared in constant time.
        """
        digest = digest_of(key)
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            return None
        if self.away or known.expires_s != NEVER_S:
            now_s = self._clock()
            if now_s >= known.expires_s or (self.away and now_s - self._seen_s > self._known_for_s):
                return None
        return known.account

    def tenant(self, name: str) -> Tenant | None:
        """A tenant by its name, for work that was accepted on its behalf."""
        return self._tenant_of.get(name)

    async def find(self, key: str) -> Account | None:
        """Ask the store once more for a key; raises StoreAway when it cannot be asked."""
        digest = digest_of(key)
        now_s = self._clock()
        if now_s < self._unknown.get(digest, 0.0):
            return None
        await self.refresh()
        account = self.lookup(key)
        if account is None:
            if self.away:
                raise StoreAway("keys cannot be looked up")
            if len(self._unknown) >= UNKNOWN_AT_MOST:
                self._unknown.clear()
            self._unknown[digest] = now_s + UNKNOWN_FOR_S
        return account

    async def refresh(self) -> None:
        """Be in step with what the store says from now on; many who ask at once share a look."""
        assert self._looking is not None
        self._wanted += 1
        wanted = self._wanted
        async with self._looking:
            if self._begun >= wanted:
                return
            self._begun = self._wanted
            loop = asyncio.get_running_loop()
            try:
                snapshot = await loop.run_in_executor(None, self._look)
            except StoreAway:
                self.away = True
            except Exception:
                LOG.exception("accounts cannot be read")
                self.away = True
            else:
                self.away = False
                self._seen_s = self._clock()
                if snapshot is not None:
                    self._learn(snapshot)
            self._drop_expired()

    def _look(self) -> Snapshot | None:
        """What the store knows, if it has changed."""
        if self._version >= 0 and self._tenants.version() == self._version:
            return None
        snapshot = self._tenants.snapshot()
        self._write_copy(snapshot)
        return snapshot

    def _learn(self, snapshot: Snapshot) -> None:
        self._tenant_of = tenants = {tenant.name: tenant for tenant in snapshot.tenants}
        self.changes += 1
        self._version = snapshot.version
        self._known = {
            key.digest: _Known(
                key.digest,
                Account(key.id, tenants[key.tenant], key.admin),
                NEVER_S if key.expires_s is None else key.expires_s,
            )
            for key in snapshot.keys
            if key.tenant in tenants
        }
        self._unknown.clear()

    def _drop_expired(self) -> None:
        now_s = self._clock()
        if self.away and now_s - self._seen_s > self._known_for_s:
            now_s = NEVER_S
            self._version = -1  # they are learned anew when the store is back
        expired = [digest for digest, known in self._known.items() if now_s >= known.expires_s]
        for digest in expired:
            del self._known[digest]
        if expired:
            self.changes += 1

    def _write_copy(self, snapshot: Snapshot) -> None:
        with contextlib.suppress(OSError):  # served from memory all the same
            self._write_copy_whole(snapshot)

    def _write_copy_whole(self, snapshot: Snapshot) -> None:
        fresh = self._copy.with_suffix(f".{os.getpid()}")
        with open(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(snapshot))
        fresh.rename(self._copy)

    def _read_copy(self) -> None:
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            self._seen_s = self._copy.stat().st_mtime
            self._learn(msgspec.json.decode(self._copy.read_bytes(), type=Snapshot))
        self._version = -1  # learn whatever the store says when it is back

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.refresh()

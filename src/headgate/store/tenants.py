"""Tenants and their keys in the store. A key is shown once, when it is made; the store has its
SHA-256 alone. Keys carry 256 random bits, so a fast hash gives nothing away."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from headgate.core.errors import InputError
from headgate.ledger.accounts import Tenant
from headgate.store.database import Database, Transaction

KEY_PREFIX = "hg-"
HINT_LENGTH = len(KEY_PREFIX) + 4


class Key(msgspec.Struct, frozen=True):
    """What may be told about a key. Times are seconds since 1970."""

    id: str
    tenant: str
    hint: str
    label: str
    admin: int  # 1 or 0
    created_s: float
    expires_s: float | None
    revoked_s: float | None


class ValidKey(msgspec.Struct, frozen=True):
    digest: bytes
    id: str
    tenant: str
    admin: bool
    expires_s: float | None


class GivenKey(Protocol):
    """A key declared by its digest, in the config."""

    @property
    def id(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def admin(self) -> bool: ...


class Snapshot(msgspec.Struct, frozen=True):
    """All that a gateway must know to tell who is asking."""

    version: int
    tenants: list[Tenant]
    keys: list[ValidKey]


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


class Tenants:
    """Who may ask. Every method is one transaction; changes are seen by gateways at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, tenant: Tenant, *, from_config: bool = False) -> None:
        """Add a tenant, or change the one of that name."""
        self.seed([tenant], from_config=from_config)

    def seed(
        self,
        tenants: Sequence[Tenant],
        keys: Sequence[GivenKey] | None = None,
        *,
        from_config: bool = True,
    ) -> None:
        """Add or change tenants and keys; nothing is told to gateways when nothing changed.

        `keys` are all that the config declares: one it declared before and no more is revoked.
        """
        with self._database.transaction() as transaction:
            changed = transaction.execute_each(
                "put_tenant",
                [
                    {
                        "name": tenant.name,
                        "document": msgspec.json.encode(tenant).decode(),
                        "from_config": int(from_config),
                    }
                    for tenant in tenants
                ],
            )
            if keys is not None:
                changed += _seed_keys(transaction, keys)
            if sum(changed):
                transaction.execute("account_changed")

    def get(self, name: str) -> Tenant:
        """The tenant; raises InputError when there is none of that name."""
        with self._database.transaction(write=False) as transaction:
            return _tenant(transaction, name)

    def all(self) -> list[Tenant]:
        with self._database.transaction(write=False) as transaction:
            return [_decode(document) for document, _ in transaction.query("tenants")]

    def drop(self, name: str) -> None:
        """Remove a tenant with its keys. Its usage stays: it has been used."""
        with self._database.transaction() as transaction:
            _tenant(transaction, name)
            transaction.execute("drop_keys_of_tenant", {"tenant": name})
            transaction.execute("drop_tenant", {"name": name})
            transaction.execute("account_changed")

    def add_key(
        self,
        tenant: str,
        *,
        label: str = "",
        admin: bool = False,
        expires_s: float | None = None,
    ) -> tuple[str, Key]:
        """Make a key: (the key itself, to be shown once; what may be told about it)."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        with self._database.transaction() as transaction:
            _tenant(transaction, tenant)
            key = Key(
                id="key_" + secrets.token_hex(8),
                tenant=tenant,
                hint=secret[:HINT_LENGTH],
                label=label,
                admin=int(admin),
                created_s=transaction.now_s(),
                expires_s=expires_s,
                revoked_s=None,
            )
            row = msgspec.structs.asdict(key) | {"digest": digest_of(secret).hex()}
            del row["revoked_s"]
            transaction.execute("put_key", row)
            transaction.execute("account_changed")
        return secret, key

    def revoke_key(self, key: str) -> None:
        """Refuse a key from now on; raises InputError when there is no such valid key."""
        with self._database.transaction() as transaction:
            if not transaction.execute("revoke_key", {"id": key, "now_s": transaction.now_s()}):
                raise InputError(
                    f"No valid key has the id {key!r}; `headgate keys list` shows those there are."
                )
            transaction.execute("account_changed")

    def keys(self, tenant: str | None = None) -> list[Key]:
        with self._database.transaction(write=False) as transaction:
            if tenant is None:
                rows = transaction.query("keys")
            else:
                _tenant(transaction, tenant)
                rows = transaction.query("keys_of_tenant", {"tenant": tenant})
        return [Key(*row) for row in rows]

    def version(self) -> int:
        """A number that is another after every change."""
        with self._database.transaction(write=False) as transaction:
            return _version(transaction)

    def snapshot(self) -> Snapshot:
        with self._database.transaction(write=False) as transaction:
            return Snapshot(
                # First: what changes while we read is then read again.
                _version(transaction),
                [_decode(document) for document, _ in transaction.query("tenants")],
                [
                    ValidKey(bytes.fromhex(digest), key, tenant, bool(admin), expires_s)
                    for digest, key, tenant, admin, expires_s in transaction.query("valid_keys")
                ],
            )


def _seed_keys(transaction: Transaction, keys: Sequence[GivenKey]) -> list[int]:
    now_s = transaction.now_s()
    before = {name for (name,) in transaction.query("given_keys")}
    gone = sorted(before - {key.id for key in keys})
    for key in keys:
        _tenant(transaction, key.tenant)
    return transaction.execute_each(
        "revoke_key", [{"id": name, "now_s": now_s} for name in gone]
    ) + transaction.execute_each(
        "put_given_key",
        [
            {
                "id": key.id,
                "tenant": key.tenant,
                "digest": key.sha256,
                "admin": int(key.admin),
                "now_s": now_s,
            }
            for key in keys
        ],
    )


def _version(transaction: Transaction) -> int:
    [(version,)] = transaction.query("account_version")
    return int(version)


def _tenant(transaction: Transaction, name: str) -> Tenant:
    rows = transaction.query("tenant", {"name": name})
    if not rows:
        raise InputError(
            f"No tenant is called {name!r}; `headgate tenants list` shows those there are, "
            f"`headgate tenants add {name}` makes one."
        )
    return _decode(rows[0][0])


def _decode(document: str) -> Tenant:
    return msgspec.json.decode(document, type=Tenant)


def first_key(tenants: Tenants, tenant: str, folder: Path) -> str:
    """A newcomer's key, made once and kept in the folder for its owner's eyes alone."""
    path = folder / "default-key"
    if path.exists():
        key = path.read_text().strip()
        digest = digest_of(key)
        if any(known.digest == digest for known in tenants.snapshot().keys):
            return key
    key, _ = tenants.add_key(tenant, label="made by headgate serve")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    return key

"""The index of files; what is in them lies in a folder, under their ids."""

import secrets

import msgspec

from headgate.store.database import Database


class File(msgspec.Struct, frozen=True):
    """A file as its tenant knows it. Times are seconds since 1970."""

    id: str
    tenant: str
    bytes: int
    created_s: float
    expires_s: float | None
    filename: str
    purpose: str


def new_file_id() -> str:
    return "file-" + secrets.token_hex(12)


class Files:
    """Every question names the tenant: another's file is as if it were not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        file_id: str,
        tenant: str,
        size: int,
        filename: str,
        purpose: str,
        *,
        lives_s: float | None = None,
    ) -> File:
        """List a file whose content is in place."""
        with self._database.transaction() as transaction:
            now_s = transaction.now_s()
            expires_s = None if lives_s is None else now_s + lives_s
            file = File(file_id, tenant, size, now_s, expires_s, filename, purpose)
            transaction.execute("add_file", msgspec.structs.asdict(file))
        return file

    def get(self, tenant: str, file_id: str) -> File | None:
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("file", {"id": file_id, "tenant": tenant})
        return File(*rows[0]) if rows else None

    def all(self, tenant: str, purpose: str = "") -> list[File]:
        """A tenant's files, newest first."""
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("files", {"tenant": tenant, "purpose": purpose})
        return [File(*row) for row in rows]

    def bytes_of(self, tenant: str) -> int:
        with self._database.transaction(write=False) as transaction:
            [(size,)] = transaction.query("file_bytes", {"tenant": tenant})
        return int(size)

    def drop(self, tenant: str, file_id: str) -> bool:
        with self._database.transaction() as transaction:
            return bool(transaction.execute("drop_file", {"id": file_id, "tenant": tenant}))

    def expired(self) -> list[File]:
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("expired_files", {"now_s": transaction.now_s()})
        return [File(*row) for row in rows]

"""Batches in the store: who works on which, and how far each has come."""

import secrets
from collections.abc import Callable
from typing import Literal

import msgspec

from headgate.store.database import Database

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
OPEN: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")
CLAIM_S = 30.0  # a runner that is not heard of for this long has lost its batches


class Counts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """A batch as OpenAI's clients know it, and whose it is. Times are seconds since 1970."""

    id: str
    tenant: str
    key: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: Status = "validating"
    model: str | None = None
    errors: tuple[LineError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    metadata: dict[str, str] | None = None


Change = Callable[[Batch, int], Batch]


class Batches:
    """Batches of all tenants; questions that come from a tenant name it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        tenant: str,
        key: str,
        *,
        endpoint: str,
        input_file_id: str,
        completion_window: str,
        window_s: int,
        metadata: dict[str, str] | None,
    ) -> Batch:
        with self._database.transaction() as transaction:
            now_s = transaction.now_s()
            batch = Batch(
                id="batch_" + secrets.token_hex(12),
                tenant=tenant,
                key=key,
                endpoint=endpoint,
                input_file_id=input_file_id,
                completion_window=completion_window,
                created_at=int(now_s),
                expires_at=int(now_s) + window_s,
                metadata=metadata,
            )
            row = {
                "id": batch.id,
                "tenant": tenant,
                "key_id": key,
                "status": batch.status,
                "deadline_s": float(batch.expires_at),
                "created_s": now_s,
                "document": msgspec.json.encode(batch).decode(),
            }
            transaction.execute("add_batch", row)
        return batch

    def get(self, batch_id: str, tenant: str = "") -> Batch | None:
        """The batch, if it is the tenant's; any tenant's when none is named."""
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("batch", {"id": batch_id, "tenant": tenant})
        return _decode(rows[0][0]) if rows else None

    def all(self, tenant: str = "") -> list[Batch]:
        """Newest first."""
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("batches", {"tenant": tenant})
        return [_decode(document) for (document,) in rows]

    def change(self, batch_id: str, change: Change, tenant: str = "") -> Batch | None:
        """Replace a batch by what `change` makes of it at the present second."""
        with self._database.transaction() as transaction:
            rows = transaction.query("batch_to_change", {"id": batch_id, "tenant": tenant})
            if not rows:
                return None
            before = _decode(rows[0][0])
            after = change(before, int(transaction.now_s()))
            if after != before:
                document = msgspec.json.encode(after).decode()
                transaction.execute(
                    "change_batch",
                    {"id": batch_id, "status": after.status, "document": document},
                )
        return after

    def cancel(self, batch_id: str, tenant: str = "") -> Batch | None:
        """Ask for an end; what is done by then is kept. Nothing changes for one that is over."""

        def change(batch: Batch, now_s: int) -> Batch:
            if batch.status not in ("validating", "in_progress"):
                return batch
            return msgspec.structs.replace(batch, status="cancelling", cancelling_at=now_s)

        return self.change(batch_id, change, tenant)

    def claim(self, runner: str) -> list[Batch]:
        """Claim what nobody works on, keep what is claimed; the runner's, first deadline first."""
        with self._database.transaction() as transaction:
            now_s = transaction.now_s()
            transaction.execute(
                "claim_batches", {"runner": runner, "now_s": now_s, "until_s": now_s + CLAIM_S}
            )
            rows = transaction.query("claimed_batches", {"runner": runner})
        return [_decode(document) for (document,) in rows]


def _decode(document: str) -> Batch:
    return msgspec.json.decode(document, type=Batch)

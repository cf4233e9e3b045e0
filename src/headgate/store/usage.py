"""Usage records in the store, each once, and their sums by day in the same transaction."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import astuple

from headgate.ledger.calendar import LAST_DAY, day_of, iso_date
from headgate.ledger.sums import DIMENSIONS, Dimension, Sum, by_day
from headgate.ledger.usage import UsageRecord
from headgate.store.database import Database, Transaction


class Usage:
    """The bill. Adding a record a second time changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, records: Sequence[UsageRecord], holder: str = "") -> int:
        """Add records; the number of those that were new.

        `holder` is the writer they come from: what it held of budgets for them is released,
        since from here on they count themselves.
        """
        with self._database.transaction() as transaction:
            if holder:
                # In the order in which leases take them, so that nobody waits in a ring.
                for tenant in sorted({record.tenant for record in records}):
                    transaction.execute("lock_rate", {"tenant": tenant, "model": ""})
            priced = [
                _billed_once(transaction, record) if record.order else record for record in records
            ]
            fresh = _added(transaction, priced)
            sums = by_day(fresh)
            transaction.execute_each(
                "add_usage_day",
                [
                    {"tenant": tenant, "day": day, "model": model, "tier": tier}
                    | msgspec.structs.asdict(one)
                    for (tenant, day, model, tier), one in sorted(sums.items())
                ],
            )
            if holder:
                transaction.execute_each("release_budget", list(_released(sums, holder)))
        return len(fresh)

    def sums(
        self,
        by: Sequence[Dimension],
        *,
        tenant: str = "",
        first_day: int = 0,
        last_day: int = LAST_DAY,
    ) -> dict[tuple[str, ...], Sum]:
        """Sums of the records by the named dimensions; all tenants when none is named."""
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("usage_sums", where)
        columns = [DIMENSIONS.index(dimension) for dimension in by]
        sums: dict[tuple[str, ...], Sum] = {}
        for row in rows:
            named = (*row[:2], iso_date(row[2]), *row[3:8])
            key = tuple(named[column] for column in columns)
            sums[key] = sums.get(key, Sum()) + Sum(*map(int, row[8:]))
        return dict(sorted(sums.items()))

    def day_sums(
        self, *, tenant: str = "", first_day: int = 0, last_day: int = LAST_DAY
    ) -> dict[tuple[str, int, str, str], Sum]:
        """The kept sums by (tenant, day, model, tier)."""
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("usage_day_sums", where)
        return {(row[0], row[1], row[2], row[3]): Sum(*map(int, row[4:])) for row in rows}

    def records(
        self, tenant: str, *, first_day: int = 0, last_day: int = LAST_DAY, limit: int = 1000
    ) -> list[UsageRecord]:
        """A tenant's records, newest first."""
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day, "limit": limit}
        with self._database.transaction(write=False) as transaction:
            return [UsageRecord(*row) for row in transaction.query("usage_records", where)]

    def record(self, request: str) -> UsageRecord | None:
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("usage_record", {"request": request})
        return UsageRecord(*rows[0]) if rows else None


def _added(transaction: Transaction, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
    """Add records; those that were new, which nearly always are all."""
    rows = [(*astuple(record), day_of(record.started_s)) for record in records]
    if transaction.insert_all_new("add_usage", rows):
        return records
    added = transaction.insert_each("add_usage", rows)
    return [record for record, new in zip(records, added, strict=True) if new]


def _billed_once(transaction: Transaction, record: UsageRecord) -> UsageRecord:
    """The record, at no price when its line of a batch has been billed before."""
    if record.outcome != "done":
        return record
    line = {"order": record.order, "request": record.request}
    if transaction.execute("add_billed_order", line):
        return record
    [(request,)] = transaction.query("billed_order", line)
    return record if request == record.request else msgspec.structs.replace(record, price_nano=0)


def _released(
    sums: dict[tuple[str, int, str, str], Sum], holder: str
) -> Iterable[dict[str, object]]:
    for (tenant, day, _, _), one in sorted(sums.items()):
        used = {"money": one.price_nano, "tokens": one.input_tokens + one.output_tokens}
        for unit, amount in used.items():
            if amount:
                yield {
                    "tenant": tenant,
                    "day": day,
                    "holder": holder,
                    "unit": unit,
                    "amount": amount,
                }

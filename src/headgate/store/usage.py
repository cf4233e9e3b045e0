"""The bill: usage records in the store, in blocks, and their sums in the same transaction."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import asdict, astuple

from headgate.ledger.calendar import LAST_DAY, iso_date
from headgate.ledger.sums import DIMENSIONS, Dimension, Sum, sum_of_items
from headgate.ledger.usage import NAME_LENGTH, Filed, Heading, Item, UsageRecord, filed
from headgate.store.blocks import Block, Blocks, block_of, names_of
from headgate.store.database import Database, Transaction

BLOCKS_AT_ONCE = 16  # read
Sums = dict[tuple[str, ...], Sum]


class Position(msgspec.Struct, frozen=True):
    """How far a writer's files are in the store."""

    segment: int = 0
    bytes: int = 0
    ended: bool = False  # it was dead, and what it left open is closed

    def behind(self, size: int) -> "Position":
        return Position(self.segment, self.bytes + size)

    def ending(self) -> "Position":
        return Position(self.segment, self.bytes, ended=True)


class Step(msgspec.Struct, frozen=True):
    """From where to where in a writer's files records were read."""

    writer: str
    start: Position
    end: Position


class Moved(Exception):  # noqa: N818 - a state of the world, told as one
    """Somebody else has shipped from these files: what was read is to be read again."""


class Usage:
    """Records and their sums."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, records: Iterable[UsageRecord], holder: str = "") -> None:
        """Add records that come from no file.

        `holder` is the process they come from: what it held of budgets for them is released,
        since from here on they count themselves.
        """
        with self._database.transaction() as transaction:
            _add(transaction, Blocks(_billed_once(transaction, filed(records))), holder)

    def ship(
        self,
        step: Step,
        blocks: Blocks,
        orders: Filed | None = None,
        older: Sequence[UsageRecord] = (),
    ) -> int:
        """Add what lies between two positions of a file and move on to the second, or neither.

        So each record is added once, however often it is read: nobody who has read it before
        or beside this finds the first position any more, and gets Moved. `orders` are records
        of batches' lines, which are billed once; `older` are from before there were positions,
        and those that are there already stay out. The number of records added.
        """
        with self._database.transaction() as transaction:
            _move(transaction, step)
            more = [orders or {}, _unless_there(transaction, filed(older))]
            priced = [Blocks(_billed_once(transaction, those)) for those in more if those]
            return _add(transaction, blocks.with_all_of(priced) if priced else blocks, step.writer)

    def position(self, writer: str) -> Position:
        """How far a writer's files are in the store; from now on the store knows of it."""
        with self._database.transaction() as transaction:
            transaction.execute("meet_writer", {"writer": writer})
            [(segment, size, ended)] = transaction.query("writer", {"writer": writer})
        return Position(segment, size, bool(ended))

    def forget(self, writer: str) -> None:
        """Forget a writer that has ended and whose files are gone."""
        with self._database.transaction() as transaction:
            transaction.execute("forget_writer", {"writer": writer})

    def sums(
        self,
        by: Sequence[Dimension],
        *,
        tenant: str = "",
        first_day: int = 0,
        last_day: int = LAST_DAY,
    ) -> Sums:
        """The kept sums by the named dimensions; all tenants when none is named."""
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        with self._database.transaction(write=False) as transaction:
            kept = _kept(transaction, where)
        return summed(kept, by)

    def day_sums(
        self, *, tenant: str = "", first_day: int = 0, last_day: int = LAST_DAY
    ) -> dict[tuple[str, int, str, str], Sum]:
        """The kept sums by (tenant, day, model, tier): those that budgets are read from."""
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        with self._database.transaction(write=False) as transaction:
            return _kept_days(transaction, where)

    def open_days(
        self, *, tenant: str = "", first_day: int = 0, last_day: int = LAST_DAY
    ) -> tuple[int, list[str]]:
        """The bill's proof: add up the records themselves and hold them against all kept sums.

        The number of records, and the dates on which they differ from the sums.
        """
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        made: dict[tuple[str, ...], Sum] = defaultdict(Sum)
        with self._database.transaction(write=False) as transaction:
            kept = _kept(transaction, where)
            days: Sums = {
                (name, model, iso_date(day), tier): one
                for (name, day, model, tier), one in _kept_days(transaction, where).items()
            }
            for block in _blocks(transaction, where):
                made[_dimensions(block)] += sum_of_items(block.items)
        made_days = summed(made, ["tenant", "model", "day", "tier"])
        open_days = {key[2] for key in _differing(made, kept) | _differing(made_days, days)}
        return sum(one.requests for one in made.values()), sorted(open_days)

    def records(
        self, tenant: str, *, first_day: int = 0, last_day: int = LAST_DAY, limit: int = 1000
    ) -> list[UsageRecord]:
        """A tenant's records, newest first."""
        found: list[tuple[int, UsageRecord]] = []
        where = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
        with self._database.transaction(write=False) as transaction:
            offset = 0
            while rows := transaction.query(
                "newest_blocks", where | {"limit": BLOCKS_AT_ONCE, "offset": offset}
            ):
                offset += len(rows)
                for block in map(block_of, rows):
                    found += [(item.started_us, block.heading.record(item)) for item in block.items]
                found.sort(key=lambda one: (-one[0], one[1].request))
                del found[limit:]
                last_us = rows[-1][1]  # no record behind these rows started later
                if len(found) == limit and found[-1][0] > last_us:
                    break
        return [record for _, record in found]

    def record(self, request: str) -> UsageRecord | None:
        """The record of a request by its id."""
        prefix, name = request[:-NAME_LENGTH], request[-NAME_LENGTH:]
        where = {"prefix": prefix, "first_name": name, "last_name": name}
        with self._database.transaction(write=False) as transaction:
            rows = transaction.query("blocks_with", where)
        for block in map(block_of, rows):
            for item in block.items:
                if item.name == name:
                    return block.heading.record(item)
        return None


def summed(sums: Mapping[tuple[str, ...], Sum], by: Sequence[Dimension]) -> Sums:
    """Sums by all dimensions as sums by a few."""
    columns = [DIMENSIONS.index(dimension) for dimension in by]
    found: dict[tuple[str, ...], Sum] = defaultdict(Sum)
    for names, one in sums.items():
        found[tuple(names[column] for column in columns)] += one
    return dict(sorted(found.items()))


def _add(transaction: Transaction, blocks: Blocks, holder: str) -> int:
    """Add blocks and all that goes with them; the number of their records."""
    held: set[str] = set()
    if holder:
        held = {tenant for (tenant,) in transaction.query("budgets_held", {"holder": holder})}
        held &= blocks.tenants()
    # In the order in which leases take them, so that nobody waits in a ring.
    for tenant in sorted(held):
        transaction.execute("lock_rate", {"tenant": tenant, "model": ""})
    days, sums = blocks.days(), blocks.sums()
    transaction.insert("add_block", blocks.rows())
    transaction.insert("add_usage_day", [key + astuple(days[key]) for key in sorted(days)])
    transaction.insert("add_usage_sum", [key + astuple(sums[key]) for key in sorted(sums)])
    transaction.execute_each("release_budget", _released(days, holder, held))
    return blocks.requests


def _move(transaction: Transaction, step: Step) -> None:
    to = {"writer": step.writer, **asdict(step.end), "ended": int(step.end.ended)}
    start = {"from_segment": step.start.segment, "from_bytes": step.start.bytes}
    if not transaction.execute("move_writer", to | start):
        raise Moved(f"{step.writer} is not at {step.start} in the store any more")


def _billed_once(transaction: Transaction, items: Filed) -> Filed:
    """The records, at no price where a line of a batch has been billed before."""
    return {
        heading: (
            [_priced(transaction, heading, item) if item.order else item for item in those]
            if heading.outcome == "done"
            else those
        )
        for heading, those in items.items()
    }


def _priced(transaction: Transaction, heading: Heading, item: Item) -> Item:
    line = {"order": item.order, "request": heading.prefix + item.name}
    if transaction.execute("add_billed_order", line):
        return item
    [(request,)] = transaction.query("billed_order", line)
    return item if request == line["request"] else msgspec.structs.replace(item, price_nano=0)


def _unless_there(transaction: Transaction, items: Filed) -> Filed:
    """Those records of whose requests the store has none, each once."""
    there: set[tuple[str, str]] = set()
    for prefix, first, last in names_of(items):
        where = {"prefix": prefix, "first_name": first, "last_name": last}
        for block in map(block_of, transaction.query("blocks_with", where)):
            there.update((prefix, item.name) for item in block.items)
    found: Filed = {}
    for heading, those in items.items():
        for item in those:
            if (heading.prefix, item.name) not in there:
                there.add((heading.prefix, item.name))
                found.setdefault(heading, []).append(item)
    return found


def _released(
    days: Mapping[tuple[str, int, str, str], Sum], holder: str, held: set[str]
) -> list[dict[str, object]]:
    """What is let go of the budgets held, now that it is spent."""
    spent: dict[tuple[str, int], Sum] = defaultdict(Sum)
    for (tenant, day, _, _), one in days.items():
        if tenant in held:
            spent[(tenant, day)] += one
    return [
        {"tenant": tenant, "day": day, "holder": holder, "unit": unit, "amount": amount}
        for (tenant, day), one in sorted(spent.items())
        for unit, amount in (
            ("money", one.price_nano),
            ("tokens", one.input_tokens + one.output_tokens),
        )
        if amount
    ]


def _kept(transaction: Transaction, where: Mapping[str, object]) -> Sums:
    return {
        (*row[:2], iso_date(row[2]), *row[3:8]): Sum(*map(int, row[8:]))
        for row in transaction.query("usage_sums", where)
    }


def _kept_days(
    transaction: Transaction, where: Mapping[str, object]
) -> dict[tuple[str, int, str, str], Sum]:
    rows = transaction.query("usage_day_sums", where)
    return {(row[0], row[1], row[2], row[3]): Sum(*map(int, row[4:])) for row in rows}


def _blocks(transaction: Transaction, where: Mapping[str, object]) -> Iterator[Block]:
    after = 0
    while rows := transaction.query("blocks", {**where, "after": after, "limit": BLOCKS_AT_ONCE}):
        after = rows[-1][0]
        yield from map(block_of, rows)


def _dimensions(block: Block) -> tuple[str, ...]:
    h = block.heading
    return (h.tenant, h.model, iso_date(block.day), h.tier, h.class_, h.key, h.engine, h.outcome)


def _differing(
    made: Mapping[tuple[str, ...], Sum], kept: Mapping[tuple[str, ...], Sum]
) -> set[tuple[str, ...]]:
    return {key for key in made.keys() | kept.keys() if made.get(key) != kept.get(key)}

"""Slices of rates and budgets, given out by the store to the processes that ask.

Two processes never take from one rate at once: each locks the rate's row first. All asks of one
process at one moment are one transaction.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from headgate.ledger.rates import HISTORY, SLICE_SLOTS, SLOTS_PER_S, Grant, Kind, Rate, grant
from headgate.store.database import Database, Transaction

Unit = Literal["money", "tokens"]
NOW = -1  # a booking for the slot in which the store learns of it

# A dead process's hold on budgets outlives it by this, so that its records arrive first.
HOLD_S = 600.0
SEEN_S = 15.0  # a gateway not heard of for this long is gone
BUDGET_AHEAD_SHARE = 20


class RateAsk(msgspec.Struct, frozen=True):
    """What a process wants of one rate, and corrections to what it was given before."""

    tenant: str
    model: str
    kind: Kind
    rate: Rate
    need: int = 0  # the least that is of use; 0 to book corrections alone
    unmet: int = 0
    ahead: int = 0
    book: dict[int, int] = {}  # change of what is booked, by slot


class BudgetAsk(msgspec.Struct, frozen=True):
    """What a process wants of one budget in one period."""

    tenant: str
    unit: Unit
    first_day: int
    last_day: int
    limit: int  # nano or tokens
    need: int = 0
    unmet: int = 0
    ahead: int = 0
    hold: int = 0  # change of what it holds already: given back, or overdrawn


class RateAnswer(msgspec.Struct, frozen=True):
    grant: Grant
    slot: int  # in which the grant is booked


class BudgetAnswer(msgspec.Struct, frozen=True):
    amount: int
    left: int  # after this, for all gateways


class Grants:
    """Rates and budgets in the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(
        self, holder: str, rates: Sequence[RateAsk], budgets: Sequence[BudgetAsk]
    ) -> tuple[list[RateAnswer], list[BudgetAnswer]]:
        """Answers in the order of the asks."""
        with self._database.transaction(durable=False) as transaction:
            # Locks are taken in one order by all, so that nobody waits in a ring.
            for tenant, model in sorted(
                {(ask.tenant, ask.model) for ask in rates} | {(ask.tenant, "") for ask in budgets}
            ):
                transaction.execute("lock_rate", {"tenant": tenant, "model": model})
            now_s = transaction.now_s()
            slot = int(now_s * SLOTS_PER_S)
            return (
                [_take_rate(transaction, ask, slot) for ask in rates],
                [_take_budget(transaction, ask, holder, now_s) for ask in budgets],
            )

    def seen(self, holder: str) -> int:
        """Say that a gateway is alive, keep what it holds; the number of gateways alive."""
        with self._database.transaction(durable=False) as transaction:
            now_s = transaction.now_s()
            transaction.execute("seen", {"holder": holder, "now_s": now_s})
            transaction.execute(
                "drop_unseen", {"before_s": now_s - SEEN_S, "after_s": now_s + SEEN_S}
            )
            transaction.execute("keep_budgets", {"holder": holder, "expires_s": now_s + HOLD_S})
            transaction.execute("drop_old_budgets", {"now_s": now_s})
            [(count,)] = transaction.query("count_gateways")
            return int(count)

    def leave(self, holder: str) -> None:
        """Say that a gateway is going; what it holds for records under way stays held."""
        with self._database.transaction(durable=False) as transaction:
            transaction.execute("leave", {"holder": holder})


def _take_rate(transaction: Transaction, ask: RateAsk, slot: int) -> RateAnswer:
    where = {"tenant": ask.tenant, "model": ask.model, "kind": ask.kind}
    stored: dict[int, int] = {int(at): int(n) for at, n in transaction.query("rate_grants", where)}
    booked = rebooked(stored, ask.book, slot)
    until = slot + SLICE_SLOTS
    given = Grant(0, 0)
    if ask.need:
        given = grant(booked, slot, ask.rate, ask.need, ask.unmet, ask.ahead)
        if given.amount:
            booked[until] = booked.get(until, 0) + given.amount
    for at in sorted(stored.keys() | booked.keys()):
        if at not in booked:
            transaction.execute("drop_grant", {**where, "slot": at})
        elif booked[at] != stored.get(at):
            transaction.execute("book_grant", {**where, "slot": at, "amount": booked[at]})
    return RateAnswer(given, until)


def rebooked(stored: dict[int, int], changes: dict[int, int], slot: int) -> dict[int, int]:
    """Bookings by slot with the changes made and the old left out.

    What is booked later than any slice may last was booked before the clock was set back: it
    counts as booked now.
    """
    booked: dict[int, int] = {}
    for at, amount in stored.items():
        if at >= slot - HISTORY:
            kept = at if at <= slot + 2 * SLICE_SLOTS else slot
            booked[kept] = booked.get(kept, 0) + amount
    for at, change in changes.items():
        kept = slot if at == NOW or at > slot + 2 * SLICE_SLOTS else at
        if change > 0 or kept in booked:
            booked[kept] = booked.get(kept, 0) + change
    return {at: amount for at, amount in booked.items() if amount > 0 and at >= slot - HISTORY}


def _take_budget(
    transaction: Transaction, ask: BudgetAsk, holder: str, now_s: float
) -> BudgetAnswer:
    where = {
        "tenant": ask.tenant,
        "unit": ask.unit,
        "first_day": ask.first_day,
        "last_day": ask.last_day,
        "holder": holder,
    }
    if ask.hold:
        hold = {**where, "amount": ask.hold, "expires_s": now_s + HOLD_S}
        transaction.execute("hold_budget", hold)
    # In one statement: records move from held to spent, and must not be missed in between.
    [(spent, held)] = transaction.query("budget_used", {**where, "now_s": now_s})
    left = ask.limit - int(spent) - int(held)
    if not ask.need or left < ask.need:
        return BudgetAnswer(0, left)
    spare = max(0, left - ask.unmet) // BUDGET_AHEAD_SHARE
    amount = min(max(ask.need, ask.unmet) + min(ask.ahead, spare), left)
    hold = {**where, "amount": amount, "expires_s": now_s + HOLD_S}
    transaction.execute("hold_budget", hold)
    return BudgetAnswer(amount, left - amount)

"""What one process holds of one rate or budget, and what it should ask the store for next.

All of this happens on the event loop, in memory. `limits.py` carries the asks to the store.
"""

from typing import Final

import msgspec

from headgate.ledger.rates import SLICE_SLOTS, SLOTS_PER_S, UNBOUNDED, Grant, Kind, Rate, grant
from headgate.ledger.reservation import said
from headgate.store.grants import NOW, BudgetAnswer, BudgetAsk, RateAnswer, RateAsk, Unit, rebooked

SLICE_S: Final = SLICE_SLOTS / SLOTS_PER_S
REFUSE_FOR_S: Final = 0.25  # how long a refusal stands before the store is asked again
IDLE_S: Final = 2.0  # after which an unused part of a budget is given back
AHEAD: Final = 1.5  # of what the last slice was used for
SHORTEST_S: Final = 0.05  # over which a pace is taken
STEP: Final = 4  # of what could not be met


class Slice:
    """A grant of a rate: so much, until then."""

    __slots__ = ("ends_s", "free", "last_use_s", "slot", "used")

    def __init__(self, free: int, slot: int, ends_s: float) -> None:
        self.free = free
        self.used = 0
        self.slot = slot  # in which it is booked
        self.ends_s = ends_s  # monotonic
        self.last_use_s = 0.0


NOTHING: Final = Slice(0, 0, 0.0)


class HeldRate:
    """One rate as this process holds it."""

    def __init__(self, tenant: str, model: str, kind: Kind, rate: Rate) -> None:
        self.tenant = tenant
        self.model = model
        self.kind = kind
        self.rate = rate
        self.per_min = rate.per_min
        self.is_requests = kind == "requests"
        self.is_tokens = kind == "tokens"
        self.is_bounded = rate.per_min < UNBOUNDED
        self.said = said(kind, rate.per_min)
        self.slice = NOTHING
        self.left = 0  # of the minute, beyond the slice, when last heard
        self.fetching = False  # the next slice has been asked for
        self.refused: Grant | None = None
        self.refused_need = 0
        self._refused_until_s = 0.0
        self._need = 0
        self._unmet = 0
        self._ahead = 0
        self._book: dict[int, int] = {}

    def has(self, amount: int, now_s: float) -> bool:
        """Whether `amount` may be used; if not, it is noted as wanted."""
        held = self.slice
        if (held.free >= amount and now_s < held.ends_s) or amount == 0:
            return True
        self._need = min(self._need, amount) if self._need else amount
        self._unmet += amount
        return False

    def refuses(self, amount: int, now_s: float) -> bool:
        """Whether the store said a moment ago that there is not so much."""
        refused = now_s < self._refused_until_s and amount >= self.refused_need
        if refused:
            self._need = self._unmet = 0
        return refused

    def _is_running_out(self, now_s: float) -> bool:
        """Whether the next slice should be fetched before this one is used up, or ends."""
        held = self.slice
        return held.used > 0 and (held.free < held.used or now_s > held.ends_s - SLICE_S / 2)

    def settle(self, held: Slice, reserved: int, used: int) -> None:
        """Correct what was taken from a slice to what was used in the end."""
        if used == reserved:
            return
        if held is self.slice:
            held.free += reserved - used  # below 0 when more is owed than it has
            held.used -= reserved - used
        elif used > reserved:
            self._change(NOW, used - reserved)
        else:
            self._change(held.slot, used - reserved)
        if used < reserved:
            self._refused_until_s = 0.0

    def wants(self, now_s: float) -> bool:
        """Whether there is anything to tell the store, or to ask it for soon."""
        held = self.slice
        return bool(
            self._need
            or self._book
            or (held is not NOTHING and (now_s >= held.ends_s or self._is_running_out(now_s)))
        )

    def ask(self, now_s: float) -> RateAsk:
        """What to ask the store; the slice is let go when it is of no more use."""
        held = self.slice
        if held is not NOTHING:
            # What the next slice will be used for, at the pace of this one.
            began_s = held.ends_s - SLICE_S
            pace = held.used / max(min(now_s, held.ends_s) - began_s, SHORTEST_S)
            self._ahead = int(pace * SLICE_S * AHEAD)
            if self._need or now_s >= held.ends_s:
                self.let_go(now_s)
        if self._need:
            # The slice was too small for the demand: grow in large steps.
            self._ahead += self._unmet * STEP
        need = self._need or min(self._ahead, 1)
        ask = RateAsk(
            self.tenant,
            self.model,
            self.kind,
            self.rate,
            need=need,
            unmet=self._unmet,
            ahead=self._ahead,
            book=self._book,
        )
        self._need = self._unmet = self._ahead = 0
        self._book = {}
        return ask

    def learn(self, ask: RateAsk, answer: RateAnswer, asked_s: float, now_s: float) -> None:
        given = answer.grant
        self.fetching = False
        if given.amount:
            if self.slice is not NOTHING:
                self.let_go(now_s)
            self.slice = Slice(given.amount, answer.slot, asked_s + SLICE_S)
            self.left = given.left
            self._refused_until_s = 0.0
            # Who came meanwhile tries again with this slice before it is let go for a larger one.
            self._need = self._unmet = 0
        elif ask.unmet:
            self.refused = given
            self.refused_need = ask.need
            self._refused_until_s = now_s + min(REFUSE_FOR_S, given.retry_after_s)

    def restore(self, ask: RateAsk) -> None:
        """The store did not hear the ask: keep its corrections for the next one."""
        for slot, change in ask.book.items():
            self._change(slot, change)

    def answer_alone(self, ask: RateAsk, slot: int, gateways: int) -> RateAnswer:
        """What to use while the store is away: this process's share of the rate.

        It is booked with the corrections, so that the store hears of it when it is back.
        """
        rate = msgspec.structs.replace(
            self.rate,
            per_min=max(1, self.rate.per_min // gateways),
            per_s=max(1, self.rate.per_s // gateways),
            growth_floor=self.rate.growth_floor // gateways,
        )
        booked = rebooked({}, self._book, slot)
        given = Grant(0, 0)
        if ask.need:
            given = grant(booked, slot, rate, ask.need, ask.unmet, ask.ahead)
            self._change(slot + SLICE_SLOTS, given.amount)
        return RateAnswer(given, slot + SLICE_SLOTS)

    def let_go(self, now_s: float) -> None:
        """Give back what is free, and book what was used when it was used, not when it ended."""
        held, self.slice = self.slice, NOTHING
        if held is NOTHING:
            return
        last_use_s = min(held.last_use_s, held.ends_s)
        used_slot = held.slot - int((held.ends_s - last_use_s) * SLOTS_PER_S)
        self._change(held.slot, -held.free - held.used)
        if held.used:
            self._change(used_slot, held.used)
        held.slot = used_slot

    def _change(self, slot: int, change: int) -> None:
        self._book[slot] = self._book.get(slot, 0) + change


class HeldBudget:
    """One budget in one period as this process holds it."""

    def __init__(
        self, tenant: str, unit: Unit, days: tuple[int, int], limit: int, period: str
    ) -> None:
        self.tenant = tenant
        self.unit: Unit = unit
        self.is_money = unit == "money"
        self.days = days
        self.limit = limit
        self.period = period
        self.left = limit  # for all gateways, beyond what this one holds, when last heard
        self.free = 0
        self.used = 0  # since the store was last asked
        self._last_use_s = 0.0
        self._refused_until_s = 0.0
        self._refused_need = 0
        self.fetching = False  # more has been asked for
        self.known = False  # whether the store has been asked once
        self._need = 0
        self._unmet = 0
        self._hold = 0

    def has(self, amount: int) -> bool:
        if self.free >= amount and self.known:
            return True
        wanted = max(1, amount)
        self._need = min(self._need, wanted) if self._need else wanted
        self._unmet += wanted
        return False

    def refuses(self, amount: int, now_s: float) -> bool:
        refused = now_s < self._refused_until_s and amount >= self._refused_need
        if refused:
            self._need = self._unmet = 0
        return refused

    def use(self, amount: int, now_s: float) -> None:
        self.free -= amount
        self.used += amount
        self._last_use_s = now_s

    def settle(self, reserved: int, used: int) -> None:
        self.free += reserved - used
        self.used += used - reserved

    def let_go(self, now_s: float) -> None:
        """Give back what is free, or hold what was overdrawn."""
        self._hold -= self.free
        self.free = 0
        self.used = 0

    def wants(self, now_s: float) -> bool:
        idle = self.free > 0 and now_s - self._last_use_s > IDLE_S
        return bool(self._need or self._hold or self.free < 0 or idle or self.free < self.used)

    def ask(self, now_s: float) -> BudgetAsk:
        used = max(0, self.used)  # below 0 when more was given back than taken
        if self.free < 0 or (self.free > 0 and now_s - self._last_use_s > IDLE_S):
            self.let_go(now_s)
        ask = BudgetAsk(
            self.tenant,
            self.unit,
            *self.days,
            self.limit,
            need=max(0, self._need - self.free) if self._need else int(used > 0),
            unmet=max(0, self._unmet - self.free),
            ahead=STEP * (used + self._unmet),
            hold=self._hold,
        )
        self._need = self._unmet = self._hold = self.used = 0
        return ask

    def learn(self, ask: BudgetAsk, answer: BudgetAnswer, now_s: float) -> None:
        self.known = True
        self.fetching = False
        self.free += answer.amount
        self.left = answer.left
        if ask.need and ask.unmet and not answer.amount:
            self._refused_until_s = now_s + REFUSE_FOR_S
            self._refused_need = ask.need + self.free

    def restore(self, ask: BudgetAsk) -> None:
        self._hold += ask.hold

    def answer_alone(self, ask: BudgetAsk, gateways: int) -> BudgetAnswer:
        """What to use while the store is away: a share of what was left when last heard."""
        share = self.left // gateways
        amount = min(ask.need + ask.ahead, share) if share >= ask.need else 0
        self._hold += amount
        return BudgetAnswer(amount, self.left - amount * gateways)

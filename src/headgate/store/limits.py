"""The door's limits: slices of rates and budgets in memory, fetched from the store in groups.

A request that fits the slices this process holds costs no round trip. One that does not waits
for the next exchange with the store, together with all that lack something then. Exchanges also
happen four times a second, to give back what is not used and to fetch ahead what soon will be.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

from headgate.ledger.accounts import ANY_MODEL, Account, Limit, Refusal, Tenant
from headgate.ledger.calendar import DAY_S, days_of
from headgate.ledger.ports import Limits
from headgate.ledger.rates import SLOTS_PER_S, Kind, rates_of
from headgate.ledger.reservation import Reservation
from headgate.store import refusals
from headgate.store.database import StoreAway
from headgate.store.grants import BudgetAnswer, BudgetAsk, Grants, RateAnswer, RateAsk, Unit
from headgate.store.slices import HeldBudget, HeldRate, Slice

LOG = logging.getLogger(__name__)
EXCHANGE_S: Final = 0.25
ANSWER_S: Final = 2.0  # a store that takes longer counts as away
SEEN_EVERY_S: Final = 5.0
FORGET_S: Final = 300.0  # after which limits that nobody asked for are forgotten
LOOK_S: Final = 0.1  # between looks at the day whose budgets hold
NANO: Final = 1_000_000_000
T = TypeVar("T")
NO_LIMIT: Final = Limit()
NO_RATES: Final[list[HeldRate]] = []
NO_BUDGETS: Final[list[HeldBudget]] = []

Answers = tuple[list[RateAnswer], list[BudgetAnswer]]
Asked = tuple[list[tuple[HeldRate, RateAsk]], list[tuple[HeldBudget, BudgetAsk]]]


class Held(Reservation):
    """A reservation that knows what it was taken from."""

    def __init__(
        self, tenant: str, model: str, est_tokens: int, est_output: int, est_price_nano: int
    ) -> None:
        super().__init__(tenant, model, est_tokens)
        self.slices: list[tuple[HeldRate, Slice]] = []  # requests need no settling
        self.budgets: list[HeldBudget] = NO_BUDGETS
        self.est_output = est_output
        self.est_price_nano = est_price_nano

    def amount(self, kind: Kind) -> int:
        """How much of a rate it takes."""
        if kind == "requests":
            return 1
        if kind == "tokens":
            return self.est_tokens
        return self.est_output if kind == "reserved_output" else self.est_tokens - self.est_output


class _Scope:
    """The rates of one tenant and model."""

    __slots__ = ("last_asked_s", "limit", "limits", "rates", "reserved")

    def __init__(self, tenant: Tenant, model: str, limit: Limit) -> None:
        self.limits = tenant.limits
        self.limit = limit
        self.last_asked_s = 0.0
        self.rates: list[HeldRate] = []
        self.reserved: list[HeldRate] = []
        for kind, rate in rates_of(limit).items():
            kept = self.reserved if kind.startswith("reserved") else self.rates
            kept.append(HeldRate(tenant.name, model, kind, rate))


class _Holding:
    """What is held for one tenant: its rates by model, and its budgets of today."""

    __slots__ = ("budgets", "day", "look_s", "scopes", "tenant")

    def __init__(self) -> None:
        self.scopes: dict[str, _Scope] = {}
        self.budgets: list[HeldBudget] = NO_BUDGETS
        self.tenant: Tenant | None = None  # whose budgets they are
        self.day = 0
        self.look_s = 0.0  # when to see whether it is another day

    def scope(self, tenant: Tenant, model: str) -> _Scope:
        """The rates of a model, anew if they have changed."""
        limit = tenant.limits.get(model) or tenant.limits.get(ANY_MODEL) or NO_LIMIT
        scope = self.scopes.get(model)
        if scope is None or scope.limit != limit:
            scope = self.scopes[model] = _Scope(tenant, model, limit)
        scope.limits = tenant.limits  # the same after a reload
        return scope


class StoreLimits(Limits):
    """Rates and budgets, shared by all gateways of a store."""

    def __init__(
        self,
        grants: Grants,
        holder: str,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.away = False
        self.gateways = 1
        self._grants = grants
        self._holder = holder
        self._clock = clock
        self._monotonic = monotonic
        self._holdings: dict[str, _Holding] = {}  # by tenant
        self._past: list[HeldBudget] = []  # of periods that are over, until they are settled
        self._lacking: dict[HeldRate | HeldBudget, None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._wake: asyncio.Event | None = None
        self._exchanging = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._unanswered: tuple[asyncio.Future[Answers], Asked] | None = None
        self._seen_s = -SEEN_EVERY_S
        self._threads = ThreadPoolExecutor(1, "limits")

    async def start(self) -> None:
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Give back all that is not used."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for held in self._all():
            held.let_go(self._monotonic())
        with contextlib.suppress(StoreAway):
            await self.exchange()
            await self._in_thread(lambda: self._grants.leave(self._holder))
        self._threads.shutdown(wait=False)

    def reserve(
        self,
        account: Account,
        model: str,
        est_tokens: int,
        now_s: float,
        est_output: int = 0,
        est_price_nano: int = 0,
    ) -> Reservation | Refusal | None:
        tenant = account.tenant
        name, limits = tenant.name, tenant.limits
        holding = self._holdings.get(name)
        if holding is None:
            holding = self._holdings[name] = _Holding()
        reservation = Held(name, model, est_tokens, est_output, est_price_nano)
        rates: list[HeldRate] | Refusal | None = NO_RATES
        if limits:
            scope = holding.scopes.get(model)
            if scope is None or scope.limits is not limits:
                scope = holding.scope(tenant, model)
            scope.last_asked_s = now_s
            rates = self._choose(scope, reservation, now_s)
            if rates is None or type(rates) is Refusal:
                return rates
        budgets = NO_BUDGETS
        if tenant.budgets:
            if holding.tenant is not tenant or now_s >= holding.look_s:
                self._look_at_budgets(holding, tenant, now_s)
            budgets = holding.budgets
        for budget in budgets:
            amount = est_price_nano if budget.is_money else est_tokens
            if budget.free < amount or not budget.known:
                return self._lack_money(budgets, reservation, now_s)
        for rate in cast("list[HeldRate]", rates):
            held = rate.slice
            if rate.is_requests:
                free = held.free = held.free - 1
                held.used += 1
                reservation.requests_said = rate.said
                remaining = reservation.remaining_requests = rate.left + free
                reservation.reset_requests_s = 60.0 - 60.0 * remaining / rate.per_min
            else:
                amount = est_tokens if rate.is_tokens else reservation.amount(rate.kind)
                free = held.free = held.free - amount
                held.used += amount
                reservation.slices.append((rate, held))
                if rate.is_tokens and rate.is_bounded:
                    reservation.tokens_said = rate.said
                    remaining = reservation.remaining_tokens = rate.left + free
                    reservation.reset_tokens_s = 60.0 - 60.0 * remaining / rate.per_min
            held.last_use_s = now_s
            if free < held.used and not rate.fetching:
                rate.fetching = True
                self._fetch(rate)
        for budget in budgets:
            budget.use(est_price_nano if budget.is_money else est_tokens, now_s)
            if budget.free < budget.used and not budget.fetching:
                budget.fetching = True
                self._fetch(budget)
        reservation.budgets = budgets
        return reservation

    def _fetch(self, held: HeldRate | HeldBudget) -> None:
        """Ask for more before what is held is used up."""
        self._lacking[held] = None
        if self._wake is not None:
            self._wake.set()

    async def lease(self, account: Account, model: str) -> None:
        assert self._wake is not None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        price_nano: int,
        now_s: float,
        output_tokens: int = 0,
    ) -> None:
        assert type(reservation) is Held
        for rate, held in reservation.slices:
            if rate.is_tokens:
                rate.settle(held, reservation.est_tokens, tokens)
            elif rate.kind == "reserved_output":
                rate.settle(held, reservation.est_output, output_tokens)
            else:
                rate.settle(held, reservation.amount(rate.kind), tokens - output_tokens)
        for budget in reservation.budgets:
            if budget.is_money:
                budget.settle(reservation.est_price_nano, price_nano)
            else:
                budget.settle(reservation.est_tokens, tokens)

    def _choose(
        self, scope: _Scope, reservation: Held, now_s: float
    ) -> list[HeldRate] | Refusal | None:
        """The rates the request is to be taken from: reserved throughput before the others."""
        if scope.reserved:
            chosen = self._fit(scope.reserved, reservation, now_s)
            if type(chosen) is not Refusal:
                reservation.reserved = chosen is not None
                return chosen
            if scope.limit.overflow == "refuse":
                return chosen
        return self._fit(scope.rates, reservation, now_s)

    def _fit(
        self, rates: list[HeldRate], reservation: Held, now_s: float
    ) -> list[HeldRate] | Refusal | None:
        """The rates if each has room, the refusal of one that has none, None to ask first."""
        est_tokens = reservation.est_tokens
        for rate in rates:
            held = rate.slice
            if rate.is_requests:
                amount = 1
            else:
                amount = est_tokens if rate.is_tokens else reservation.amount(rate.kind)
            if (held.free < amount or now_s >= held.ends_s) and amount:
                break
        else:
            return rates
        for rate in rates:
            amount = reservation.amount(rate.kind)
            if not rate.has(amount, now_s):
                if rate.refuses(amount, now_s):
                    return refusals.of_rate(rate, amount)
                self._lacking[rate] = None
        return None

    def _lack_money(
        self, budgets: list[HeldBudget], reservation: Held, now_s: float
    ) -> Refusal | None:
        for budget in budgets:
            amount = reservation.est_price_nano if budget.is_money else reservation.est_tokens
            if not budget.has(amount):
                if budget.refuses(amount, now_s):
                    return refusals.of_budget(budget)
                self._lacking[budget] = None
        return None

    def _look_at_budgets(self, holding: _Holding, tenant: Tenant, now_s: float) -> None:
        """See that the budgets held are those of the tenant as it is now, and of today."""
        day = int(self._clock() // DAY_S)
        if holding.tenant is not tenant or holding.day != day:
            holding.budgets = self._budgets_on(tenant, day, holding.budgets)
            holding.tenant, holding.day = tenant, day
        holding.look_s = now_s + LOOK_S

    def _budgets_on(self, tenant: Tenant, day: int, before: list[HeldBudget]) -> list[HeldBudget]:
        held = {(one.unit, one.days): one for one in before}
        budgets = []
        for budget in tenant.budgets:
            days = days_of(budget.period, day)
            amounts: dict[Unit, int | None] = {
                "money": None if budget.money is None else round(budget.money * NANO),
                "tokens": budget.tokens,
            }
            for unit, amount in amounts.items():
                if amount is not None:
                    one = held.pop((unit, days), None)
                    if one is None:
                        one = HeldBudget(tenant.name, unit, days, amount, budget.period)
                    one.limit = amount
                    budgets.append(one)
        self._past += held.values()
        return budgets

    async def _run(self) -> None:
        assert self._wake is not None
        all_told_s = 0.0
        while True:
            # Not wait_for: until Python 3.12 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_S):
                    await self._wake.wait()
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            lacking, self._lacking = self._lacking, {}
            now_s = self._monotonic()
            try:
                if now_s - all_told_s >= EXCHANGE_S:
                    all_told_s = now_s
                    await self.exchange()
                else:
                    await self.exchange(list(lacking))
            except Exception:
                # Those who wait ask again; nobody is let through by a mistake of ours.
                LOG.exception("limits cannot be exchanged with the store")
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            # They take what came before those who came meanwhile ask for more.
            await asyncio.sleep(0)

    async def exchange(self, held: list[HeldRate | HeldBudget] | None = None) -> None:
        """Tell the store what was used and ask it for what is lacking; all that is held if None."""
        async with self._exchanging:
            await self._exchange(held)

    async def _exchange(self, held: list[HeldRate | HeldBudget] | None) -> None:
        now_s = self._monotonic()
        if held is None:
            self._forget(now_s)
            held = self._all()
        asked: Asked = ([], [])
        for one in held:
            if one.wants(now_s):
                if isinstance(one, HeldRate):
                    asked[0].append((one, one.ask(now_s)))
                else:
                    asked[1].append((one, one.ask(now_s)))
        if now_s - self._seen_s >= SEEN_EVERY_S and self._unanswered is None:
            self._seen_s = now_s
            await self._see()
        if asked[0] or asked[1]:
            answers = await self._answers(asked)
            self._learn(asked, answers, now_s)

    async def _answers(self, asked: Asked) -> Answers:
        rates = [ask for _, ask in asked[0]]
        budgets = [ask for _, ask in asked[1]]
        if self._unanswered is not None and not self._heard():
            _restore(asked)
            return self._alone(asked)
        answer = self._in_thread(lambda: self._grants.take(self._holder, rates, budgets))
        await asyncio.wait([answer], timeout=ANSWER_S)
        if not answer.done():
            # It may still have been heard: its corrections are sent again only if it was not.
            self._unanswered = (answer, asked)
            self.away = True
            return self._alone(asked)
        try:
            answers = answer.result()
        except StoreAway:
            self.away = True
            _restore(asked)
            return self._alone(asked)
        self.away = False
        return answers

    def _heard(self) -> bool:
        """Whether an exchange that took too long has ended by now."""
        assert self._unanswered is not None
        answer, asked = self._unanswered
        if not answer.done():
            return False
        if answer.exception() is not None:
            _restore(asked)
        self._unanswered = None
        return True

    def _alone(self, asked: Asked) -> Answers:
        slot = int(self._clock() * SLOTS_PER_S)
        return (
            [held.answer_alone(ask, slot, self.gateways) for held, ask in asked[0]],
            [held.answer_alone(ask, self.gateways) for held, ask in asked[1]],
        )

    def _learn(self, asked: Asked, answers: Answers, asked_s: float) -> None:
        now_s = self._monotonic()
        for (rate, rate_ask), rate_answer in zip(asked[0], answers[0], strict=True):
            rate.learn(rate_ask, rate_answer, asked_s, now_s)
        for (budget, budget_ask), budget_answer in zip(asked[1], answers[1], strict=True):
            budget.learn(budget_ask, budget_answer, now_s)

    async def _see(self) -> None:
        answer = self._in_thread(lambda: self._grants.seen(self._holder))
        await asyncio.wait([answer], timeout=ANSWER_S)
        if answer.done() and answer.exception() is None:
            self.gateways = max(1, answer.result())

    def _in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _all(self) -> list[HeldRate | HeldBudget]:
        return [
            *(
                rate
                for holding in self._holdings.values()
                for scope in holding.scopes.values()
                for rate in (*scope.rates, *scope.reserved)
            ),
            *(budget for holding in self._holdings.values() for budget in holding.budgets),
            *self._past,
        ]

    def _forget(self, now_s: float) -> None:
        for holding in self._holdings.values():
            stale = [
                model
                for model, scope in holding.scopes.items()
                if now_s - scope.last_asked_s > FORGET_S
                and not any(rate.wants(now_s) for rate in (*scope.rates, *scope.reserved))
            ]
            for model in stale:
                del holding.scopes[model]
        self._past = [held for held in self._past if held.wants(now_s) or held.free]


def _restore(asked: Asked) -> None:
    for rate, rate_ask in asked[0]:
        rate.restore(rate_ask)
    for budget, budget_ask in asked[1]:
        budget.restore(budget_ask)

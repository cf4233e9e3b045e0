"""Rates and budgets shared by several gateway processes, on both stores."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate.ledger.accounts import Account, Budget, Limit, Refusal, Tenant
from headgate.ledger.rates import Rate
from headgate.ledger.reservation import Reservation, said
from headgate.ledger.usage import UsageRecord
from headgate.store.database import Database, StoreAway
from headgate.store.grants import BudgetAsk, Grants, RateAsk, Unit
from headgate.store.limits import StoreLimits
from headgate.store.usage import Usage

NANO = 1_000_000_000


def account(limit: Limit | None = None, *budgets: Budget) -> Account:
    limits = {"*": limit} if limit else {}
    return Account("key_1", Tenant("acme", limits=limits, budgets=budgets))


async def ask(
    limits: StoreLimits,
    who: Account,
    tokens: int = 1,
    *,
    price_nano: int = 0,
    output: int = 0,
    model: str = "small",
) -> Reservation | Refusal:
    """As the door asks: again, for as long as a slice has to be fetched first."""
    for _ in range(1_000):
        now_s = asyncio.get_running_loop().time()
        answer = limits.reserve(who, model, tokens, now_s, output, price_nano)
        if answer is not None:
            return answer
        await limits.lease(who, model)
    raise AssertionError("asked a thousand times and got no answer")


Story = Callable[[list[StoreLimits]], Awaitable[None]]


def tell(database: Database, gateways: int, story: Story) -> None:
    async def run() -> None:
        grants = Grants(database)
        limits = [
            StoreLimits(grants, f"gateway-{i}", monotonic=asyncio.get_running_loop().time)
            for i in range(gateways)
        ]
        for one in limits:
            await one.start()
        await story(limits)
        for one in limits:
            await one.stop()

    asyncio.run(run())


def codes(answers: list[Reservation | Refusal]) -> dict[str, int]:
    names = [one.code if isinstance(one, Refusal) else "let through" for one in answers]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize("gateways", [1, 3])
def test_a_thousand_parallel_calls_never_pass_a_limit_of_requests(
    database: Database, gateways: int
) -> None:
    who = account(Limit(requests_per_min=100))

    async def story(limits: list[StoreLimits]) -> None:
        answers = await asyncio.gather(
            *(ask(limits[i % gateways], who) for i in range(1_000)),
        )
        assert codes(answers) == {"let through": 100, "limit_requests": 900}

    tell(database, gateways, story)


@pytest.mark.parametrize("gateways", [1, 3])
def test_a_thousand_parallel_calls_never_pass_a_limit_of_tokens(
    database: Database, gateways: int
) -> None:
    who = account(Limit(tokens_per_min=10_000))

    async def story(limits: list[StoreLimits]) -> None:
        answers = await asyncio.gather(
            *(ask(limits[i % gateways], who, 70) for i in range(1_000)),
        )
        through = [one for one in answers if isinstance(one, Reservation)]
        assert 10_000 - 70 * gateways < 70 * len(through) <= 10_000
        assert set(codes(answers)) == {"let through", "limit_tokens"}

    tell(database, gateways, story)


def test_five_parallel_calls_of_forty_do_not_pass_a_limit_of_a_hundred(database: Database) -> None:
    who = account(Limit(tokens_per_min=100))

    async def story(limits: list[StoreLimits]) -> None:
        answers = await asyncio.gather(*(ask(limits[0], who, 40) for _ in range(5)))
        assert codes(answers) == {"let through": 2, "limit_tokens": 3}
        refusals = [one for one in answers if isinstance(one, Refusal)]
        assert all(0 < one.retry_after_s <= 62 for one in refusals)

    tell(database, 1, story)


def test_what_was_reserved_and_not_used_may_be_used(database: Database) -> None:
    who = account(Limit(tokens_per_min=1_000))

    async def story(limits: list[StoreLimits]) -> None:
        for _ in range(50):  # 50 x 500 reserved, 50 x 10 used
            held = await ask(limits[0], who, 500)
            assert isinstance(held, Reservation)
            limits[0].settle(held, 10, 0, 0.0)
        # The other gateway may use it as soon as the first one's slice has ended.
        while isinstance(await ask(limits[1], who, 400), Refusal):
            await asyncio.sleep(0.1)
        assert isinstance(await ask(limits[0], who, 400), Refusal)

    tell(database, 2, story)


def test_what_was_used_beyond_the_estimate_is_owed(database: Database) -> None:
    who = account(Limit(tokens_per_min=1_000))

    async def story(limits: list[StoreLimits]) -> None:
        held = await ask(limits[0], who, 10)
        assert isinstance(held, Reservation)
        limits[0].settle(held, 995, 0, 0.0)
        assert isinstance(await ask(limits[0], who, 10), Refusal)

    tell(database, 1, story)


def test_a_second_takes_no_more_than_its_burst(database: Database) -> None:
    who = account(Limit(requests_per_min=600, burst_s=1.0))

    async def story(limits: list[StoreLimits]) -> None:
        answers = await asyncio.gather(*(ask(limits[0], who) for _ in range(100)))
        assert codes(answers) == {"let through": 10, "limit_requests": 90}
        refusal = next(one for one in answers if isinstance(one, Refusal))
        assert "in one second" in refusal.message
        assert refusal.retry_after_s <= 2.5

    tell(database, 1, story)


def test_load_may_not_grow_faster_than_it_may(database: Database) -> None:
    limit = Limit(tokens_per_min=1_000_000, growth_per_min=2.0, growth_floor_tokens=5_000)
    who = account(limit)

    async def story(limits: list[StoreLimits]) -> None:
        answers = await asyncio.gather(*(ask(limits[0], who, 1_000) for _ in range(20)))
        assert codes(answers) == {"let through": 5, "limit_growth": 15}

    tell(database, 1, story)


def test_a_request_larger_than_the_limit_is_told_so(database: Database) -> None:
    who = account(Limit(tokens_per_min=100))

    async def story(limits: list[StoreLimits]) -> None:
        refusal = await ask(limits[0], who, 101)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "limit_tokens"
        assert "more than the 100 a minute" in refusal.message

    tell(database, 1, story)


def test_one_models_limit_is_not_anothers_nor_one_tenants(database: Database) -> None:
    limit = {"*": Limit(requests_per_min=1), "large": Limit(requests_per_min=2)}
    acme = Account("key_1", Tenant("acme", limits=limit))
    bolt = Account("key_2", Tenant("bolt", limits=limit))

    async def story(limits: list[StoreLimits]) -> None:
        for who in (acme, bolt):
            for model, through in {"small": 1, "tiny": 1, "large": 2}.items():
                answers = [await ask(limits[0], who, model=model) for _ in range(3)]
                assert codes(answers) == {"let through": through, "limit_requests": 3 - through}

    tell(database, 1, story)


def test_the_answer_says_what_remains(database: Database) -> None:
    who = account(Limit(requests_per_min=10, tokens_per_min=1_000))

    async def story(limits: list[StoreLimits]) -> None:
        held = await ask(limits[0], who, 100)
        assert isinstance(held, Reservation)
        assert (held.requests_said, held.remaining_requests) == (said("requests", 10), 9)
        assert (held.tokens_said, held.remaining_tokens) == (said("tokens", 1_000), 900)
        assert held.reset_tokens_s == pytest.approx(6.0)

    tell(database, 1, story)


@pytest.mark.parametrize(("overflow", "last"), [("spill", False), ("refuse", None)])
def test_reserved_throughput_comes_first_and_spills_or_refuses(
    database: Database, overflow: str, last: bool | None
) -> None:
    limit = Limit(
        requests_per_min=1,
        reserved_input_per_min=200,
        reserved_output_per_min=100,
        overflow=overflow,  # type: ignore[arg-type]
    )
    who = account(limit)

    async def story(limits: list[StoreLimits]) -> None:
        answers = [await ask(limits[0], who, 90, output=30) for _ in range(4)]
        reserved = [one.reserved if isinstance(one, Reservation) else None for one in answers]
        assert reserved[:3] == [True, True, True]
        assert reserved[3] is last
        if overflow == "spill":  # the spilled request took the only one of the others
            assert isinstance(await ask(limits[0], who, 90, output=30), Refusal)

    tell(database, 1, story)


@pytest.mark.parametrize("gateways", [1, 3])
def test_parallel_calls_do_not_pass_a_budget_of_money(database: Database, gateways: int) -> None:
    who = account(None, Budget(money=1.0))

    async def story(limits: list[StoreLimits]) -> None:
        price_nano = NANO // 10
        answers = await asyncio.gather(
            *(ask(limits[i % gateways], who, price_nano=price_nano) for i in range(300))
        )
        assert codes(answers) == {"insufficient_quota": 290, "let through": 10}

    tell(database, gateways, story)


def test_a_budget_counts_records_once_whether_held_or_spent(database: Database) -> None:
    who = account(None, Budget(period="total", tokens=1_000))
    usage = Usage(database)

    async def story(limits: list[StoreLimits]) -> None:
        spent = 0
        while True:
            held = await ask(limits[spent % 2], who, 100)
            if isinstance(held, Refusal):
                break
            limits[spent % 2].settle(held, 70, 0, 0.0)
            record = UsageRecord(
                f"req_{spent}", "acme", "k", "small", "default", "maas", input_tokens=70
            )
            usage.add([record], f"gateway-{spent % 2}")
            spent += 1
        # 13 x 70 = 910, so that a fourteenth of 100 does not fit.
        assert spent == 13

    tell(database, 2, story)


def test_what_a_dead_gateway_held_of_a_budget_is_free_once_its_records_are_in(
    database: Database,
) -> None:
    who = account(None, Budget(period="total", tokens=1_000))
    usage = Usage(database)

    async def story(limits: list[StoreLimits]) -> None:
        dead = StoreLimits(Grants(database), "dead", monotonic=asyncio.get_running_loop().time)
        await dead.start()
        held = await ask(dead, who, 400)
        assert isinstance(held, Reservation)
        assert dead._task is not None
        dead._task.cancel()  # as kill -9 would: it gives nothing back
        assert isinstance(await ask(limits[0], who, 700), Refusal)
        record = UsageRecord("r", "acme", "k", "small", "default", "maas", input_tokens=400)
        usage.add([record], "dead")
        # But for the little it had fetched ahead: that is free when its hold ends.
        assert isinstance(await ask(limits[0], who, 500), Reservation)

    tell(database, 1, story)


class Flaky(Grants):
    """A store that can go away and come back."""

    away = False

    def take(self, *asks: object) -> object:  # type: ignore[override]
        if self.away:
            raise StoreAway("stopped")
        return super().take(*asks)  # type: ignore[arg-type]


def test_while_the_store_is_away_each_gateway_keeps_to_its_share(database: Database) -> None:
    who = account(Limit(requests_per_min=100))

    async def run() -> None:
        grants = Flaky(database)
        time = asyncio.get_running_loop().time
        limits = [StoreLimits(grants, f"gateway-{i}", monotonic=time) for i in range(2)]
        for one in limits:
            await one.start()
            await one.exchange()
        for one in limits:
            one.gateways = 2
        grants.away = True
        answers = await asyncio.gather(*(ask(limits[i % 2], who) for i in range(300)))
        assert codes(answers) == {"let through": 100, "limit_requests": 200}
        grants.away = False
        for one in limits:
            await one.exchange()
        # What was let through meanwhile is known to the store now.
        answers = await asyncio.gather(*(ask(limits[i % 2], who) for i in range(100)))
        assert codes(answers) == {"limit_requests": 100}
        for one in limits:
            await one.stop()

    asyncio.run(run())


def test_leases_and_records_of_many_tenants_never_wait_in_a_ring(database: Database) -> None:
    grants, usage = Grants(database), Usage(database)
    tenants = [f"tenant-{i}" for i in range(5)]
    units: tuple[Unit, ...] = ("tokens", "money")
    rate = Rate(10**9, 10**9)

    def lease(worker: int) -> None:
        dice = random.Random(worker)
        for _ in range(30):
            some = dice.sample(tenants, 3)
            rates = [RateAsk(name, "small", "tokens", rate, need=1) for name in some]
            budgets = [
                BudgetAsk(name, unit, 0, 10**6, 10**12, need=1)
                for name in some
                for unit in dice.sample(units, 2)
            ]
            grants.take(f"gateway-{worker}", rates, budgets)

    def add(worker: int) -> None:
        dice = random.Random(worker)
        for group in range(30):
            records = [
                UsageRecord(
                    f"{worker}-{group}-{i}",
                    dice.choice(tenants),
                    "k",
                    dice.choice(["small", "large"]),
                    "default",
                    "maas",
                    input_tokens=1,
                    price_nano=1,
                )
                for i in range(10)
            ]
            usage.add(records, f"gateway-{worker % 3}")

    with ThreadPoolExecutor(5) as threads:
        work = [threads.submit(lease, worker) for worker in range(3)]
        work += [threads.submit(add, worker) for worker in range(3, 5)]
        for one in work:
            one.result(60)  # StoreAway if two had waited for each other
    assert sum(one.requests for one in usage.day_sums().values()) == 600


class Slow(Grants):
    """A store that answers when it is let."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.let = threading.Event()
        self.let.set()

    def take(self, *asks: object) -> object:  # type: ignore[override]
        self.let.wait(30)
        return super().take(*asks)  # type: ignore[arg-type]


def test_a_store_that_hangs_holds_nobody_up_and_is_told_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate.store.limits.ANSWER_S", 0.1)
    who = account(Limit(requests_per_min=100))

    async def run() -> None:
        grants = Slow(database)
        limits = StoreLimits(grants, "gateway", monotonic=asyncio.get_running_loop().time)
        await limits.start()
        grants.let.clear()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(ask(limits, who) for _ in range(60)))
        assert codes(answers) == {"let through": 60}
        assert limits.away
        grants.let.set()
        for _ in range(200):
            await limits.exchange()
            if not limits.away and limits._unanswered is None:
                break
            await asyncio.sleep(0.02)
        await limits.exchange()
        answers = await asyncio.gather(*(ask(limits, who) for _ in range(60)))
        assert codes(answers)["let through"] <= 40
        await limits.stop()

    asyncio.run(run())


def test_a_limit_is_free_again_after_a_minute_whatever_the_clock_did(tmp_path: object) -> None:
    from pathlib import Path

    from headgate.store.migrate import migrate
    from headgate.store.sqlite import Sqlite

    clock = [1_000_000.0]
    assert isinstance(tmp_path, Path)
    database = Sqlite(tmp_path / "clock.db", clock=lambda: clock[0])
    migrate(database)
    who = account(Limit(requests_per_min=2))

    async def story(limits: list[StoreLimits]) -> None:
        assert codes([await ask(limits[0], who) for _ in range(3)])["let through"] == 2
        await asyncio.sleep(0.3)
        clock[0] -= 3_600.0  # an hour back
        assert codes([await ask(limits[0], who) for _ in range(2)]) == {"limit_requests": 2}
        clock[0] += 63.0
        await asyncio.sleep(0.3)
        assert codes([await ask(limits[0], who) for _ in range(3)])["let through"] == 2

    tell(database, 1, story)
    database.close()

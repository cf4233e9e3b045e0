"""Several gateways share rates and budgets while time passes, the store fails and processes die:
a model that keeps account of every single request says what may never happen."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headgate.ledger.accounts import Account, Budget, Limit, Refusal, Tenant
from headgate.ledger.reservation import Reservation
from headgate.ledger.usage import UsageRecord
from headgate.store.database import StoreAway
from headgate.store.grants import Grants
from headgate.store.limits import StoreLimits
from headgate.store.migrate import migrate
from headgate.store.sqlite import Sqlite
from headgate.store.usage import Usage

GATEWAYS = 3
REQUESTS = 8
TOKENS = 100
BUDGET = 400
EPOCH_S = 1_795_000_000.0


class Away(Grants):
    """A store that may fail before it has heard, or after."""

    failing = False

    def take(self, *asks: Any) -> Any:
        if self.failing:
            raise StoreAway("stopped")
        return super().take(*asks)


class SharedLimits(RuleBasedStateMachine):
    """Reserve, settle, pass time, exchange, kill; then look at what was let through."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 0.0
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Sqlite(Path(self.folder.name) / "db", clock=lambda: EPOCH_S + self.now_s)
        migrate(self.database)
        self.usage = Usage(self.database)
        self.grants = Away(self.database)
        limit = Limit(requests_per_min=REQUESTS, tokens_per_min=TOKENS)
        budget = Budget(period="total", tokens=BUDGET)
        self.who = Account("key", Tenant("acme", limits={"*": limit}, budgets=(budget,)))
        self.born = 0
        self.gateways = [self.new_gateway() for _ in range(GATEWAYS)]
        self.under_way: list[tuple[StoreLimits, str, Reservation, float]] = []
        self.let_through: list[tuple[float, int]] = []  # when, tokens held or used
        self.recorded: list[tuple[UsageRecord, str]] = []
        self.spent = 0

    def new_gateway(self) -> StoreLimits:
        self.born += 1
        return StoreLimits(
            self.grants,
            f"gateway-{self.born}",
            clock=lambda: EPOCH_S + self.now_s,
            monotonic=lambda: self.now_s,
        )

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for gateway in self.gateways:
                gateway._threads.shutdown()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.database.close()
            self.folder.cleanup()

    @rule(
        which=st.integers(0, GATEWAYS - 1),
        tokens=st.sampled_from([1, 3, 7, 20, 45]),
        times=st.sampled_from([1, 2, 5, 12]),
    )
    def reserve_some(self, which: int, tokens: int, times: int) -> None:
        for _ in range(times):
            self.reserve(which, tokens)

    def reserve(self, which: int, tokens: int) -> None:
        gateway = self.gateways[which]
        for _ in range(20):
            answer = gateway.reserve(self.who, "small", tokens, self.now_s)
            if answer is not None:
                break
            self.loop.run_until_complete(gateway.exchange())
        assert answer is not None, "asked twenty times and got no answer"
        if isinstance(answer, Refusal):
            assert answer.code in ("limit_requests", "limit_tokens", "insufficient_quota")
        else:
            self.under_way.append((gateway, gateway._holder, answer, self.now_s))
            self.let_through.append((self.now_s, tokens))

    @rule(row=st.integers(0, 100), used=st.integers(0, 60))
    def settle(self, row: int, used: int) -> None:
        """A request ends; it has used no more than was reserved for it."""
        if self.under_way:
            gateway, holder, held, at_s = self.under_way.pop(row % len(self.under_way))
            used = min(used, held.est_tokens)
            gateway.settle(held, used, 0, self.now_s)
            self.let_through[self.let_through.index((at_s, held.est_tokens))] = (at_s, used)
            self.spent += used
            record = UsageRecord(
                f"r{len(self.recorded)}-{self.born}-{self.spent}-{self.now_s}",
                "acme",
                "key",
                "small",
                "default",
                "maas",
                output_tokens=used,
                started_s=EPOCH_S + self.now_s,
            )
            self.recorded.append((record, holder))

    @rule()
    def ship(self) -> None:
        """Records arrive in the store; the last is left for later."""
        for record, holder in self.recorded[:-1]:
            self.usage.add([record], holder)
        self.recorded = self.recorded[-1:]

    @rule(which=st.integers(0, GATEWAYS - 1))
    def exchange(self, which: int) -> None:
        self.loop.run_until_complete(self.gateways[which].exchange())

    @rule(wait_s=st.sampled_from([0.1, 0.3, 0.9, 1.3, 20.0, 58.0]))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @rule(which=st.integers(0, GATEWAYS - 1))
    def kill(self, which: int) -> None:
        """kill -9: nothing is given back; what was under way there is billed as it stood."""
        dead = self.gateways[which]
        dead._threads.shutdown()
        self.gateways[which] = self.new_gateway()
        for entry in [one for one in self.under_way if one[0] is dead]:
            self.under_way.remove(entry)
            _, holder, held, _ = entry
            self.spent += held.est_tokens
            name = f"lost-{len(self.recorded)}-{self.born}-{self.spent}-{self.now_s}"
            record = UsageRecord(
                name, "acme", "key", "small", "default", "maas", output_tokens=held.est_tokens
            )
            self.recorded.append((record, holder))

    @invariant()
    def no_minute_passes_its_limits(self) -> None:
        if not hasattr(self, "let_through"):
            return
        minute = [tokens for at_s, tokens in self.let_through if at_s > self.now_s - 60.0]
        assert len(minute) <= REQUESTS
        assert sum(minute) <= TOKENS

    @invariant()
    def the_budget_is_never_passed(self) -> None:
        if hasattr(self, "under_way"):
            held = sum(one[2].est_tokens for one in self.under_way)
            assert self.spent + held <= BUDGET


SharedLimits.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSharedLimits = SharedLimits.TestCase


def test_nothing_leaks_whatever_was_refunded(tmp_path: Path) -> None:
    """After a long and varied story and one idle minute, the whole limit is free again."""
    now = [0.0]
    database = Sqlite(tmp_path / "db", clock=lambda: EPOCH_S + now[0])
    migrate(database)
    who = Account("key", Tenant("acme", limits={"*": Limit(tokens_per_min=TOKENS)}))

    async def story() -> None:
        gateways = [
            StoreLimits(
                Grants(database),
                f"gateway-{i}",
                clock=lambda: EPOCH_S + now[0],
                monotonic=lambda: now[0],
            )
            for i in range(2)
        ]

        async def ask(gateway: StoreLimits, tokens: int) -> Reservation | Refusal:
            while (answer := gateway.reserve(who, "small", tokens, now[0])) is None:
                await gateway.exchange()
            return answer

        for step in range(300):
            gateway = gateways[step % 2]
            answer = await ask(gateway, 1 + step % 37)
            now[0] += 0.7
            if isinstance(answer, Reservation):
                gateway.settle(answer, step % 23, 0, now[0])
        for gateway in gateways:
            now[0] += 2.0
            await gateway.exchange()
        now[0] += 62.0
        assert isinstance(await ask(gateways[0], TOKENS), Reservation)
        for gateway in gateways:
            gateway._threads.shutdown()

    asyncio.run(story())
    database.close()

"""Many requests that wait for one slice of a limit all get through."""

import asyncio
import time

from tests.house import run

from headgate.ledger.accounts import Account, Budget, Limit, Tenant
from headgate.store.state import open_state


def test_those_who_come_while_a_slice_is_fetched_do_not_take_it_from_those_who_waited(tmp_path):
    limit = Limit(requests_per_min=10**9, tokens_per_min=10**12)
    tenant = Tenant("t", limits={"*": limit}, budgets=(Budget("month", 1e9),))
    account = Account("k", tenant)

    async def story():
        state = open_state(
            f"sqlite:///{tmp_path}/db", folder=tmp_path, strict=False, process=0, ship=False
        )
        await state.start()
        await state.seed([tenant])
        limits = state.limits
        asked = 0

        async def one(number):
            nonlocal asked
            await asyncio.sleep(0.0005 * number)
            while limits.reserve(account, "m", 48, time.monotonic(), 16, 14_000) is None:
                asked += 1
                await limits.lease(account, "m")

        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*(one(n) for n in range(64)))
        finally:
            await state.stop()
        assert asked < 64 * 5

    run(story)

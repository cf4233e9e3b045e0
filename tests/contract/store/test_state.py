"""The whole of what a gateway process keeps, on both stores."""

import asyncio
import copy
import hmac
import stat
from functools import partial
from pathlib import Path

import pytest
from tests.postgres import Cluster
from tests.scribe import record_to

from headgate.ledger.accounts import Tenant
from headgate.ledger.usage import Opened, UsageRecord
from headgate.store.accounts import StoreAccounts
from headgate.store.database import StoreAway
from headgate.store.open import open_database
from headgate.store.state import State, open_state
from headgate.store.tenants import Tenants, digest_of, first_key
from headgate.store.usage import Usage

ACME = Tenant("acme", class_="maas")


def state_of(url: str, folder: Path, **options: object) -> State:
    return open_state(url, folder=folder, strict=False, process=0, **options)  # type: ignore[arg-type]


async def until(true: object) -> None:
    """Wait for something that background work will make true."""
    assert callable(true)
    for _ in range(400):
        if true():
            return
        await asyncio.sleep(0.025)
    raise AssertionError("it never became true")


def test_a_key_opens_the_door_until_it_is_revoked(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        state = state_of(url, tmp_path)
        await state.start()
        await state.seed([ACME])
        secret, key = state.tenants.add_key("acme")
        assert state.accounts.lookup(secret) is None
        found = await state.accounts.find(secret)
        assert found is not None
        assert (found.key, found.tenant) == (key.id, ACME)
        assert state.accounts.lookup(secret) is found
        assert await state.accounts.find(secret + "x") is None
        assert await state.accounts.find("") is None
        # Another process revokes it; this one hears of it by itself.
        state.tenants.revoke_key(key.id)
        await until(lambda: state.accounts.lookup(secret) is None)
        await state.stop()

    asyncio.run(story())


def test_what_lets_a_key_in_is_a_comparison_of_digests_in_constant_time(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        state = state_of(url, tmp_path)
        await state.start()
        await state.seed([ACME])
        secret, _ = state.tenants.add_key("acme")
        assert await state.accounts.find(secret) is not None
        compared = []
        equal = hmac.compare_digest
        monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or False)
        assert state.accounts.lookup(secret) is None
        monkeypatch.setattr(hmac, "compare_digest", equal)
        assert compared == [(digest_of(secret), digest_of(secret))]
        assert secret.encode() not in b"".join(compared[0])
        await state.stop()

    asyncio.run(story())


def test_a_key_past_its_day_is_refused(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        state = state_of(url, tmp_path)
        await state.start()
        await state.seed([ACME])
        secret, _ = state.tenants.add_key("acme", expires_s=1.0)
        assert await state.accounts.find(secret) is None
        await state.stop()

    asyncio.run(story())


def test_the_newcomers_key_is_the_same_after_a_restart(url: str, tmp_path: Path) -> None:
    async def story() -> str:
        state = state_of(url, tmp_path)
        await state.start()
        await state.seed([ACME])
        key = await asyncio.to_thread(first_key, state.tenants, "acme", tmp_path)
        await state.accounts.refresh()
        assert state.accounts.lookup(key) is not None
        await state.stop()
        return key

    assert asyncio.run(story()) == asyncio.run(story())
    assert stat.S_IMODE((tmp_path / "default-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "accounts.json").stat().st_mode) == 0o600


def test_usage_is_in_the_store_when_the_state_has_stopped(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        state = state_of(url, tmp_path)
        await state.start()
        durable = asyncio.Event()
        for i in range(500):
            opened = Opened(f"req_{i}", "acme", "k", "small", "default", "maas")
            state.meter.open(opened.request, partial(copy.copy, opened))
            usage = UsageRecord(f"req_{i}", "acme", "k", "small", "default", "maas", price_nano=3)
            record_to(state.meter, usage, durable.set if i == 499 else None)
        await durable.wait()
        await state.stop()

    asyncio.run(story())
    database = open_database(url)
    sums = Usage(database).sums(["tenant"])
    database.close()
    assert (sums[("acme",)].requests, sums[("acme",)].price_nano) == (500, 1_500)


def test_two_processes_of_one_folder_share_a_store(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        states = [
            open_state(url, folder=tmp_path, strict=True, process=i, ship=i == 0) for i in range(2)
        ]
        for state in states:
            await state.start()
        await states[0].seed([ACME])
        for i in range(100):
            usage = UsageRecord(f"req_{i}", "acme", "k", "small", "default", "maas")
            record_to(states[i % 2].meter, usage)
        await states[1].stop()
        await until(lambda: len(states[0].usage.records("acme")) == 100)
        await states[0].stop()

    asyncio.run(story())


@pytest.mark.engine
def test_known_keys_are_served_and_usage_is_kept_while_postgresql_is_stopped(
    postgres: Cluster, tmp_path: Path
) -> None:
    url = postgres.new_url()

    async def story() -> None:
        state = state_of(url, tmp_path)
        await state.start()
        await state.seed([ACME])
        secret, _ = state.tenants.add_key("acme")
        assert await state.accounts.find(secret) is not None
        postgres.stop()
        try:
            await until(lambda: state.accounts.away)
            assert state.accounts.lookup(secret) is not None
            with pytest.raises(StoreAway):
                await state.accounts.find("hg-unknown")
            late = state_of(url, tmp_path, ship=False)  # starts while the store is away
            await late.start()
            assert late.accounts.lookup(secret) is not None
            for i in range(50):
                record_to(late.meter, UsageRecord(f"l{i}", "acme", "k", "small", "default", "maas"))
            await late.stop()
            for i in range(50):
                record_to(
                    state.meter, UsageRecord(f"s{i}", "acme", "k", "small", "default", "maas")
                )
        finally:
            postgres.start()
        await until(lambda: not state.accounts.away)
        await until(lambda: len(state.usage.records("acme")) == 100)
        other, _ = state.tenants.add_key("acme")
        assert await state.accounts.find(other) is not None
        await state.stop()

    asyncio.run(story())


def test_known_keys_are_served_for_the_stated_time_alone(tmp_path: Path) -> None:
    clock = [1_000.0]
    database = open_database(f"sqlite:///{tmp_path}/headgate.db")
    tenants = Tenants(database)
    tenants.put(ACME)
    secret, _ = tenants.add_key("acme")

    async def story() -> None:
        accounts = StoreAccounts(tenants, tmp_path, known_for_s=60.0, clock=lambda: clock[0])
        await accounts.start()
        accounts.away = True
        clock[0] += 59.0
        assert accounts.lookup(secret) is not None
        clock[0] += 2.0
        assert accounts.lookup(secret) is None
        await accounts.stop()

    asyncio.run(story())
    database.close()

"""Batches run to their end: whatever the door answers, and however often all is restarted."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.gateway.admin.scripted import (
    GOOD,
    ScriptedDoor,
    lines_of,
    office,
    put_batch,
    until_status,
)

from headgate.gateway.admin import runner
from headgate.gateway.admin.desk import Desk
from headgate.gateway.admin.front import Front
from headgate.gateway.admin.runner import Runner, in_danger
from headgate.gateway.admin.slots import Slots


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK_S", 0.02)
    monkeypatch.setattr(runner, "ROOM_S", 0.005)
    monkeypatch.setattr(runner, "PAUSE_MIN_S", 0.005)
    monkeypatch.setattr(runner, "PAUSE_MAX_S", 0.02)


@asynccontextmanager
async def running(desk: Desk, front: Front) -> AsyncIterator[None]:
    task = asyncio.create_task(Runner(desk, front, "runner").run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_every_line_is_answered_once_and_joined_by_its_custom_id(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            batch = put_batch(desk, 200)
            async with running(desk, front):
                done = await until_status(desk, batch, "completed")
            assert done.request_counts.completed == done.request_counts.total == 200
            assert done.model == "large"
            output = lines_of(desk, done.output_file_id)
            assert set(output) == {f"line-{i}" for i in range(200)}
            assert output["line-7"]["response"] == {
                "status_code": 200,
                "request_id": "req_1",
                "body": GOOD,
            }
            assert done.error_file_id is None
            assert sorted(door.asked) == sorted(f"{batch.id}/{i}" for i in range(200))

    asyncio.run(story())


def test_lines_that_fail_go_to_the_error_file_and_others_are_tried_again(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def script(order: str, headers: dict[str, str]) -> tuple[int, object]:
        line = int(order.rpartition("/")[2])
        tries[order] = tries.get(order, 0) + 1
        again = tries[order] <= 3
        return {
            0: (400, {"error": {"code": "bad", "message": "no"}}),
            1: (503, {"error": {"code": "evicted"}}) if again else (200, GOOD),
            2: (429, {"error": {"code": "limit_tokens"}}) if again else (200, GOOD),
            3: (429, {"error": {"code": "insufficient_quota"}}),
            4: (500, {"error": {}}) if again else (200, GOOD),
            5: (502, b"<html>"),
            6: (200, {"choices": []}),
            7: (200, b"") if again else (200, GOOD),
            8: (200, None) if again else (200, GOOD),
        }.get(line, (200, GOOD))

    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            door.script = script
            batch = put_batch(desk, 12)
            async with running(desk, front):
                done = await until_status(desk, batch, "completed")
            assert (done.request_counts.completed, done.request_counts.failed) == (8, 4)
            error = lines_of(desk, done.error_file_id)
            assert set(error) == {"line-0", "line-3", "line-5", "line-6"}
            assert error["line-0"]["response"]["status_code"] == 400  # type: ignore[index]
            assert error["line-6"]["error"]["code"] == "empty_answer"  # type: ignore[index]
            assert set(lines_of(desk, done.output_file_id)) == {
                f"line-{i}" for i in (1, 2, 4, 7, 8, 9, 10, 11)
            }

    asyncio.run(story())


def test_a_restart_neither_loses_nor_repeats_an_answered_line(tmp_path: Path) -> None:
    dice = random.Random(5)

    async def story() -> None:
        async with office(tmp_path, parallel_max=16) as (desk, door, front):
            door.delay_s = 0.03
            batch = put_batch(desk, 300)
            restarts = 0
            while True:
                async with running(desk, front):
                    await asyncio.sleep(dice.uniform(0.02, 0.1))
                now = desk.batches.get(batch.id)
                assert now is not None
                if now.status == "completed":
                    break
                restarts += 1
            assert restarts > 2
            assert now.request_counts.completed == 300
            assert len(lines_of(desk, now.output_file_id)) == 300
            # Only what was under way at a restart was asked again.
            assert len(door.asked) - 300 <= restarts * door.most_under_way

    asyncio.run(story())


def test_a_cancelled_batch_keeps_what_was_answered_and_drops_what_runs(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            door.delay_s = 0.01
            door.room = 4
            batch = put_batch(desk, 500)
            async with running(desk, front):
                while len(door.answered) < 30:
                    await asyncio.sleep(0.005)
                cancelling = desk.batches.cancel(batch.id, "acme")
                assert cancelling is not None
                assert cancelling.status == "cancelling"
                done = await until_status(desk, batch, "cancelled")
            assert door.under_way == 0
            output = lines_of(desk, done.output_file_id)
            error = lines_of(desk, done.error_file_id)
            assert 30 <= len(output) < 500
            assert len(output) + len(error) == 500
            assert done.request_counts.completed == len(output)
            assert done.cancelled_at is not None

    asyncio.run(story())


def test_a_batch_cancelled_before_it_began_asks_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            batch = put_batch(desk, 5)
            desk.batches.cancel(batch.id)
            async with running(desk, front):
                done = await until_status(desk, batch, "cancelled")
            assert door.asked == []
            assert done.output_file_id is None

    asyncio.run(story())


def test_an_expired_batch_keeps_its_partial_results(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            door.delay_s = 0.2
            door.room = 2
            batch = put_batch(desk, 500, window_s=2)
            async with running(desk, front):
                done = await until_status(desk, batch, "expired")
            output = lines_of(desk, done.output_file_id)
            error = lines_of(desk, done.error_file_id)
            assert output
            assert len(output) + len(error) == 500
            assert {line["error"]["code"] for line in error.values()} == {"batch_expired"}  # type: ignore[index]

    asyncio.run(story())


def test_a_bad_input_fails_the_batch_with_the_lines_numbers(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            batch = put_batch(desk, 3)
            path = desk.folder / batch.input_file_id
            path.write_text(path.read_text() + "{\n")
            async with running(desk, front):
                done = await until_status(desk, batch, "failed")
            assert [(error.code, error.line) for error in done.errors] == [("invalid_json_line", 4)]
            assert door.asked == []

    asyncio.run(story())


def test_a_batch_may_use_its_tenants_models_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, _, front):
            batch = put_batch(desk, 1, tenant="bolt")
            path = desk.folder / batch.input_file_id
            path.write_text(path.read_text().replace('"large"', '"small"'))
            async with running(desk, front):
                done = await until_status(desk, batch, "failed")
            assert done.errors[0].code == "model_not_found"

    asyncio.run(story())


def test_no_more_lines_are_under_way_than_the_door_has_room_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            door.delay_s = 0.005
            door.room = 3
            batch = put_batch(desk, 60)
            async with running(desk, front):
                await until_status(desk, batch, "completed")
            # A few more than three: what is on its way is not seen by the door yet.
            assert door.most_under_way < 30

    asyncio.run(story())


def test_two_batches_share_the_room(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path, parallel_max=4) as (desk, door, front):
            door.delay_s = 0.002
            first = put_batch(desk, 100)
            second = put_batch(desk, 100, tenant="bolt")
            async with running(desk, front):
                await until_status(desk, first, "completed")
                await until_status(desk, second, "completed")
            half = [order.partition("/")[0] for order in door.answered[20:100]]
            assert min(half.count(first.id), half.count(second.id)) >= 20

    asyncio.run(story())


def test_a_batch_is_in_danger_when_its_pace_leaves_it_little_time() -> None:
    assert in_danger(rest=101, done=100, took_s=10.0, left_s=20.0)
    assert not in_danger(rest=99, done=100, took_s=10.0, left_s=20.0)
    assert not in_danger(rest=1_000_000, done=0, took_s=10.0, left_s=3_600.0)
    assert in_danger(rest=1, done=0, took_s=10.0, left_s=60.0)


def test_lines_of_a_batch_in_danger_go_first_and_others_in_turn() -> None:
    served: list[str] = []

    async def line(slots: Slots, name: str, urgent: bool) -> None:
        await slots.take(urgent)
        served.append(name)
        await asyncio.sleep(0)
        slots.give()

    async def story() -> None:
        slots = Slots(1)
        await slots.take()
        waiting = [asyncio.create_task(line(slots, name, name > "b")) for name in "abcd"]
        gone = asyncio.create_task(line(slots, "gone", True))
        await asyncio.sleep(0)
        gone.cancel()
        slots.give()
        await asyncio.gather(*waiting, gone, return_exceptions=True)
        assert slots.taken == 0

    asyncio.run(story())
    assert served == ["c", "d", "a", "b"]


def test_the_earliest_deadline_goes_first_and_tenants_take_turns() -> None:
    served: list[str] = []

    async def line(slots: Slots, tenant: str, deadline_s: float, urgent: bool = False) -> None:
        await slots.take(urgent, tenant, deadline_s)
        served.append(f"{tenant}{deadline_s:.0f}")
        await asyncio.sleep(0)
        slots.give()

    async def story() -> None:
        slots = Slots(1)
        await slots.take()
        wanted = [("a", 9.0), ("a", 3.0), ("a", 6.0), ("b", 8.0), ("b", 7.0)]
        waiting = [asyncio.create_task(line(slots, *one)) for one in wanted]
        waiting += [asyncio.create_task(line(slots, "c", at_s, True)) for at_s in (5.0, 4.0)]
        await asyncio.sleep(0)
        slots.give()
        await asyncio.gather(*waiting)
        assert slots.taken == 0
        assert not slots.wanted

    asyncio.run(story())
    assert served == ["c4", "c5", "a3", "b7", "a6", "b8", "a9"]


def test_a_line_names_its_tenant_key_and_order(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def script(order: str, headers: dict[str, str]) -> tuple[int, object]:
        seen.append(headers)
        return 200, GOOD

    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            door.script = script
            batch = put_batch(desk, 1)
            async with running(desk, front):
                await until_status(desk, batch, "completed")
            assert seen[0]["x-headgate-tenant"] == "acme"
            assert seen[0]["x-headgate-key"] == "key_1"
            assert seen[0]["x-headgate-internal"] == "secret"
            assert seen[0]["x-headgate-order"] == f"{batch.id}/0"

    asyncio.run(story())


def test_the_doors_absence_is_waited_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as (desk, door, front):
            nobody = Front("127.0.0.1", 1, {})
            batch = put_batch(desk, 3)
            async with running(desk, nobody):
                await until_status(desk, batch, "in_progress")
                await asyncio.sleep(0.1)
            assert isinstance(door, ScriptedDoor)
            async with running(desk, front):
                await until_status(desk, batch, "completed")

    asyncio.run(story())

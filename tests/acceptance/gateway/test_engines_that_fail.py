"""Engines that break off, hang, refuse and die: what was delivered is billed, the rest is not."""

import asyncio
import collections

import pytest
from tests.acceptance.gateway.clients import ask, ask_all
from tests.acceptance.gateway.running import Door, Emulated, chat, eventually, running
from tests.acceptance.gateway.scripted import scripted_engine

pytestmark = pytest.mark.engine
TERMS = "answer_timeout_s = 1.0\nsilence_timeout_s = 1.0\n"


@pytest.fixture
def pair(tmp_path):
    with scripted_engine() as engine:
        door = Door(tmp_path, {"scripted": engine.url}, engine=TERMS)
        with running(door):
            yield engine, door


@pytest.fixture
def two(tmp_path):
    """Two engines behind one model."""
    with scripted_engine() as one, scripted_engine() as other:
        door = Door(tmp_path, {"one": one.url, "other": other.url}, engine=TERMS)
        with running(door):
            yield one, other, door


def test_a_stream_that_loses_its_engine_says_so_and_is_billed_as_far_as_it_came(pair):
    engine, door = pair
    seen = asyncio.run(ask(door, chat(20, stream=True, script={"break_after": 7, "gap_s": 0.01})))
    assert (seen.tokens, seen.finished, seen.error) == (7, False, "engine_lost")
    (record,) = door.settled(1)
    assert (record.outcome, record.output_tokens) == ("engine_lost", 7)
    assert engine.requests[0].made == 7


def test_a_stream_that_falls_silent_is_ended_and_its_engine_let_go(pair):
    engine, door = pair
    seen = asyncio.run(ask(door, chat(20, stream=True, script={"hang_after": 3})))
    assert (seen.tokens, seen.finished) == (3, False)
    assert seen.error
    (record,) = door.settled(1)
    assert (record.outcome, record.output_tokens) == ("timeout", 3)
    eventually(lambda: engine.requests[0].left_s is not None, 5)


def test_an_engine_that_never_answers_is_a_504_that_costs_nothing(pair):
    engine, door = pair
    seen = asyncio.run(ask(door, chat(20, script={"hang_after": 3})))
    assert (seen.status, seen.error) == (504, "engine_timeout")
    (record,) = door.settled(1)
    assert (record.outcome, record.output_tokens, record.price_nano) == ("timeout", 0, 0)
    eventually(lambda: engine.requests[0].left_s is not None, 5)


def test_an_engine_that_breaks_before_its_answer_is_replaced_by_another(two):
    one, other, door = two
    one.script = {"break_after": 0}
    seen = asyncio.run(ask_all(door, [chat(4)] * 12, at_once=3))
    assert all((s.status, s.tokens) == (200, 4) for s in seen)
    records = door.settled(12)
    assert {record.engine for record in records} == {"other"}
    assert sum(record.output_tokens for record in records) == sum(o.made for o in other.requests)
    assert max(record.attempts for record in records) >= 2


def test_where_every_engine_fails_the_client_is_told_within_its_patience(pair):
    engine, door = pair
    seen = asyncio.run(ask(door, chat(4, script={"break_after": 0})))
    assert seen.status in (502, 503)
    (record,) = door.settled(1)
    assert (record.output_tokens, record.price_nano) == (0, 0)
    assert len(engine.requests) == record.attempts <= 3


def test_an_engine_is_not_blamed_for_closing_an_idle_connection(pair):
    engine, door = pair
    asyncio.run(ask(door, chat(1)))
    engine.hang_up()
    seen = asyncio.run(ask_all(door, [chat(1)] * 10, at_once=1))
    assert all(one.finished for one in seen)
    assert door.metrics()["headgate_engine_up"] == 1
    door.settled(11)


def test_an_engine_that_reports_itself_unwell_gets_no_work_until_it_is_well(two):
    one, _, door = two
    one.healthy = False
    one.script = {"break_after": 0}
    asyncio.run(ask_all(door, [chat(1)] * 6, at_once=2))
    eventually(lambda: door.metrics()["headgate_engine_up"] == 1, 10)
    before = len(one.requests)
    asyncio.run(ask_all(door, [chat(1)] * 10, at_once=2))
    assert len(one.requests) == before
    one.healthy, one.script = True, {}
    eventually(lambda: door.metrics()["headgate_engine_up"] == 2, 10)
    asyncio.run(ask_all(door, [chat(1, script={"gap_s": 0.02})] * 20, at_once=10))
    assert len(one.requests) > before
    door.settled(36)


def test_engines_killed_under_load_leave_one_record_for_each_request(tmp_path):
    """Real processes: what clients read, what the door bills and what engines counted agree."""
    fast = ("--base-ms", "2")
    engines = [Emulated(tmp_path, fast).start() for _ in range(2)]
    door = Door(tmp_path / "door", {f"e{row}": one.url for row, one in enumerate(engines)})
    try:
        with running(door):
            seen, survivor = asyncio.run(_kill_one_under_load(door, engines))
            records = door.settled(len([one for one in seen if one.request]))
    finally:
        for engine in engines:
            engine.stop()
    by_request = {record.request: record for record in records}
    assert all(one.request for one in seen)
    for one in seen:
        record = by_request[one.request]
        assert record.status == one.status
        assert record.output_tokens == one.tokens, (record, one)
    outcomes = collections.Counter(record.outcome for record in records)
    assert outcomes["done"] > 100
    assert outcomes["engine_lost"] >= 1
    # The engine that lived counted its own; none of its requests was lost.
    billed = sum(r.output_tokens for r in records if r.engine == "e1" and r.outcome == "done")
    assert billed == survivor["vllm:generation_tokens_total"]


async def _kill_one_under_load(door, engines):
    bodies = [chat(4 + row % 30, stream=row % 4 > 0) for row in range(300)]
    load = asyncio.create_task(ask_all(door, bodies, at_once=16))
    while engines[0].counts()["vllm:request_success_total"] < 20:
        await asyncio.sleep(0.01)
    engines[0].kill()
    seen = await load
    return seen, engines[1].counts()

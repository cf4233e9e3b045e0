"""What a client sees."""

import asyncio
import json

import pytest
from tests.house import KEY, answer_from, chat, house, request_for, run

from headgate.ledger.accounts import Limit, Tenant


def test_a_chat_is_answered_with_the_tier_that_served_it_and_one_record():
    async def story():
        async with house() as h:
            answer = await h.ask(**chat(max_tokens=5))
            assert answer.status == 200
            body = answer.json()
            assert body["service_tier"] == "default"
            assert body["usage"]["completion_tokens"] == 5
            (record,) = h.meter.records
            assert record.request == answer.headers["x-request-id"]
            assert (record.outcome, record.output_tokens, record.engine) == ("done", 5, "e0")
            assert record.price_nano == (record.input_tokens * 1000 + 5 * 2000)

    run(story)


def test_a_stream_ends_in_done_and_its_usage_is_shown_only_to_who_asked():
    async def story():
        async with house() as h:
            plain = await h.ask(**chat(max_tokens=3, stream=True))
            asked = await h.ask(
                **chat(max_tokens=3, stream=True, stream_options={"include_usage": True})
            )
            assert plain.events()[-1] == asked.events()[-1] == "[DONE]"
            assert b'"usage"' not in plain.body
            carrying = [e for e in asked.events()[:-1] if json.loads(e).get("usage")]
            assert len(carrying) == 1
            assert json.loads(carrying[0])["usage"]["completion_tokens"] == 3
            assert [r.output_tokens for r in h.meter.records] == [3, 3]
            assert {r.counted for r in h.meter.records} == {"engine"}

    run(story)


def test_unknown_fields_reach_the_engine_as_they_came():
    async def story():
        seen = []
        async with house() as h:
            submit = h.emulators[0].submit
            h.emulators[0].submit = lambda reply, asked: (seen.append(asked), submit(reply, asked))[
                1
            ]
            await h.ask(**chat(max_tokens=1, tools=[{"a": 1}], zebra={"é": [1, 2.50]}, priority=-9))
            await h.ask(**chat(max_tokens=1))
        assert seen[0]["zebra"] == {"é": [1, 2.5]}
        assert seen[0]["tools"] == [{"a": 1}]
        # A client does not choose its own priority.
        assert seen[0]["priority"] == seen[1]["priority"] >= 0

    run(story)


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [
        ("/v1/chat/completions", {"model": "no", "messages": []}, 404, "model_not_found", "model"),
        ("/v1/chat/completions", {"messages": []}, 400, "invalid_value", "model"),
        ("/v1/chat/completions", chat(service_tier="gold"), 400, "invalid_value", "service_tier"),
        ("/v1/chat/completions", chat(max_tokens="x"), 400, "invalid_value", "max_tokens"),
        ("/v1/chat/completions", chat(max_tokens=10**400), 400, "invalid_value", "max_tokens"),
        ("/v1/chat/completions", chat(n=10**400), 400, "invalid_value", "n"),
        ("/v1/nothing", chat(), 404, "unknown_url", None),
    ],
)
def test_errors_have_the_form_openai_gives_them(path, fields, status, code, param):
    async def story():
        async with house() as h:
            answer = await h.ask(path, **fields)
            assert answer.status == status
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == (code, param)
            assert error["message"].endswith(".")
            assert error["type"]

    run(story)


def test_a_wrong_or_missing_key_is_told_so_and_leaves_no_record():
    async def story():
        async with house() as h:
            assert (await h.ask(key="sk-wrong")).json()["error"]["code"] == "invalid_api_key"
            request = request_for().replace(b"authorization", b"x-something")
            assert (await h.raw(request)).json()["error"]["code"] == "missing_api_key"
            assert h.meter.records == []

    run(story)


def test_limits_refuse_with_a_code_a_wait_and_a_record_without_price():
    async def story():
        limit = Limit(requests_per_min=60, burst_s=1.0)
        async with house(tenants=(Tenant("t1", limits={"*": limit}),)) as h:
            first = await h.ask(**chat(max_tokens=1))
            second = await h.ask(**chat(max_tokens=1))
            assert first.headers["x-ratelimit-limit-requests"] == "60"
            assert first.headers["x-ratelimit-remaining-requests"] == "0"
            assert second.status == 429
            assert second.json()["error"]["code"] == "limit_requests"
            assert second.json()["error"]["type"] == "requests"
            assert int(second.headers["retry-after"]) >= 1
            assert [r.outcome for r in h.meter.records] == ["done", "refused"]
            assert h.meter.records[1].price_nano == 0

    run(story)


def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_it_got():
    async def story():
        async with house() as h:
            reader, writer = await h.send(request_for(**chat(max_tokens=1000, stream=True)))
            for _ in range(8):
                await reader.readuntil(b"\n\n")
            writer.close()
            (record,) = await h.settled(1)
            await asyncio.sleep(0.02)
            emulator = h.emulators[0]
            assert emulator.aborted == 1
            assert (record.outcome, record.status) == ("left", 499)
            assert 5 <= record.output_tokens <= emulator.aborted_tokens <= record.output_tokens + 3
            assert h.door.dispatcher.engines["e0"].in_flight == 0

    run(story)


def test_a_client_that_leaves_before_a_whole_answer_stops_the_engine_and_pays_nothing():
    async def story():
        async with house() as h:
            _, writer = await h.send(request_for(**chat(max_tokens=1000)))
            await asyncio.sleep(0.05)
            writer.close()
            (record,) = await h.settled(1)
            assert (record.outcome, record.price_nano) == ("left", 0)
            await asyncio.sleep(0.02)
            assert h.emulators[0].aborted == 1
            assert h.door.dispatcher.engines["e0"].in_flight == 0

    run(story)


def test_strict_metering_holds_the_end_until_the_record_is_durable():
    async def story():
        async with house(strict=True) as h:
            held = []
            h.meter.record = lambda request, bundle, item, durable=None: held.append(durable)
            reader, _ = await h.send(request_for(**chat(max_tokens=3, stream=True)))
            # A client that has seen [DONE] has all it wanted: the end begins there.
            await reader.readuntil(b'"finish_reason":"length"')
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.readuntil(b"[DONE]")
            engine = h.door.dispatcher.engines["e0"]
            assert engine.in_flight == 1
            held[0]()
            end = await reader.readuntil(b"0\r\n\r\n")
            assert end.endswith(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            assert engine.in_flight == 0

    run(story)


def test_models_are_listed_to_those_who_may_use_them():
    async def story():
        async with house(tenants=(Tenant("t1"), Tenant("t2", models=("other",)))) as h:
            request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n"
            mine = await h.raw(request % KEY.encode())
            theirs = await h.raw(request % f"{KEY}-2".encode())
            assert [m["id"] for m in mine.json()["data"]] == ["m"]
            assert theirs.json()["data"] == []
            assert (await h.ask(key=f"{KEY}-2", **chat())).status == 404

    run(story)


def test_one_connection_serves_many_requests_in_order_also_pipelined():
    async def story():
        async with house() as h:
            requests = [request_for(**chat(max_tokens=n)) for n in (4, 1, 2)]
            reader, _ = await h.send(b"".join(requests))
            made = [
                (await answer_from(reader)).json()["usage"]["completion_tokens"] for _ in requests
            ]
            assert made == [4, 1, 2]

    run(story)

"""OpenAI's own Python client, unchanged, against the door."""

import asyncio
import json
import time

import openai
import pytest
from tests.acceptance.gateway.running import price_nano
from tests.acceptance.gateway.scripted import PROMPT_TOKENS

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Who goes first?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
def client(door):
    with openai.OpenAI(base_url=f"{door.url}/v1", api_key=door.key, max_retries=0) as client:
        yield client


def record_of(door, request):
    """The record of one request, once it has reached the store."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        for record in door.records():
            if record.request == request:
                return record
        time.sleep(0.05)
    raise AssertionError(f"no record of {request}")


def test_a_chat_is_answered_counted_and_billed(client, door):
    said = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    assert said.choices[0].message.content == "w0 w1 w2 w3 w4 "
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (PROMPT_TOKENS, 5)
    assert said.service_tier == "default"
    record = record_of(door, said._request_id)
    assert (record.tenant, record.outcome, record.counted) == ("acme", "done", "engine")
    assert (record.input_tokens, record.output_tokens) == (PROMPT_TOKENS, 5)
    assert record.price_nano == price_nano(PROMPT_TOKENS, 5)


def test_a_stream_comes_in_pieces_and_is_billed_though_the_client_asked_for_no_usage(client, door):
    with client.chat.completions.with_streaming_response.create(
        model="tiny", messages=HELLO, max_tokens=5, stream=True
    ) as answer:
        request = answer.headers["x-request-id"]
        chunks = list(answer.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "w0 w1 w2 w3 w4 "
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)
    record = record_of(door, request)
    assert (record.output_tokens, record.counted) == (5, "engine")


def test_a_stream_ends_in_its_usage_for_a_client_that_asks(client):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_tools_pass_through_both_ways(client, engine, stream):
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        tools=[WEATHER],
        tool_choice="auto",
        stream=stream,
        extra_body={"script": {"tool": True}},
    )
    if stream:
        (calls,) = [c.choices[0].delta.tool_calls for c in answer if c.choices[0].delta.tool_calls]
    else:
        calls = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Leipzig"}
    assert engine.requests[-1].body["tools"] == [WEATHER]


def test_fields_the_door_does_not_know_reach_the_engine(client, engine):
    client.chat.completions.create(
        model="tiny", messages=HELLO, seed=7, extra_body={"guided_regex": "[a-z]+", "top_k": 3}
    )
    body = engine.requests[-1].body
    assert (body["seed"], body["guided_regex"], body["top_k"]) == (7, "[a-z]+", 3)


def test_text_completions_work_streamed_and_whole(client):
    whole = client.completions.create(model="tiny", prompt="Once", max_tokens=2)
    streamed = client.completions.create(model="tiny", prompt="Once", max_tokens=2, stream=True)
    assert whole.choices[0].text == "".join(c.choices[0].text for c in streamed) == "w0 w1 "


def test_embeddings_are_billed_by_their_input(client, door):
    answer = client.embeddings.with_raw_response.create(model="tiny", input=["a", "b"])
    found = answer.parse()
    assert [row.embedding for row in found.data] == [[0.5, -0.5]] * 2
    record = record_of(door, answer.headers["x-request-id"])
    assert (record.endpoint, record.input_tokens, record.output_tokens) == (
        "embeddings",
        PROMPT_TOKENS,
        0,
    )


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("huge")
    assert refused.value.code == "model_not_found"


def test_each_mistake_is_the_error_that_the_sdk_knows_it_by(client, door):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="huge", messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="sk-nobody").chat.completions.create(
            model="tiny", messages=HELLO
        )
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=HELLO, service_tier="golden")
    assert refused.value.param == "service_tier"
    with pytest.raises(openai.NotFoundError):
        client.post("/nowhere", cast_to=object, body={})


def test_an_engines_own_refusal_reaches_the_client_as_it_was_said(client, door):
    error = {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}
    with pytest.raises(openai.BadRequestError, match="too long") as refused:
        client.chat.completions.create(
            model="tiny", messages=HELLO, extra_body={"script": {"status": 400, "error": error}}
        )
    assert refused.value.param == "messages"
    record = record_of(door, refused.value.request_id)
    assert (record.outcome, record.status, record.price_nano) == ("failed", 400, 0)


def test_an_engine_that_is_busy_once_is_asked_again_by_the_door(client, engine, door):
    before = len(engine.requests)
    script = {"status": 503, "times": before + 1}
    answer = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, extra_body={"script": script}
    )
    assert answer.parse().usage.completion_tokens == 3
    assert len(engine.requests) == before + 2
    record = record_of(door, answer.headers["x-request-id"])
    assert (record.attempts, record.output_tokens) == (2, 3)


def test_the_sdk_retries_a_500_itself_and_each_try_leaves_its_record(client, engine, door):
    before = len(engine.requests)
    script = {"status": 500, "times": before + 1}
    said = client.with_options(max_retries=2).chat.completions.create(
        model="tiny", messages=HELLO, extra_body={"script": script}
    )
    assert said.usage.completion_tokens == 3
    asked = [one.headers["x-request-id"] for one in engine.requests[before:]]
    assert [record_of(door, request).outcome for request in asked] == ["failed", "done"]


def test_a_limit_is_a_429_that_says_when_to_come_back(client, door):
    small = client.with_options(api_key=door.key_for("small"))
    answer = small.chat.completions.with_raw_response.create(model="tiny", messages=HELLO)
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert int(answer.headers["x-ratelimit-remaining-requests"]) <= 2
    small.chat.completions.create(model="tiny", messages=HELLO)
    small.chat.completions.create(model="tiny", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as refused:
        small.chat.completions.create(model="tiny", messages=HELLO)
    assert refused.value.code == "limit_requests"
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 62


def test_the_tier_that_served_is_named(client):
    for asked, served in (("auto", "default"), ("default", "default"), ("priority", "priority")):
        said = client.chat.completions.create(model="tiny", messages=HELLO, service_tier=asked)
        assert said.service_tier == served
    flex = client.chat.completions.create(model="tiny", messages=HELLO, service_tier="flex")
    assert flex.service_tier == "flex"


def test_many_at_once_are_all_answered_and_each_billed_once(door):
    async def ask_all():
        async with openai.AsyncOpenAI(
            base_url=f"{door.url}/v1", api_key=door.key, max_retries=0
        ) as client:
            return await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="tiny", messages=HELLO, max_tokens=1 + row % 5
                    )
                    for row in range(60)
                )
            )

    answers = asyncio.run(ask_all())
    assert [a.usage.completion_tokens for a in answers] == [1 + row % 5 for row in range(60)]
    assert len({record_of(door, a._request_id).request for a in answers}) == 60

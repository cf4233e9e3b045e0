"""curl and LangChain against the door."""

import json
import subprocess

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:langchain"),
]

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def curl(door, *arguments, body=None):
    command = ["curl", "-sS", "--max-time", "20", "-H", f"Authorization: Bearer {door.key}"]
    command += [*arguments, f"{door.url}/v1/chat/completions"]
    return subprocess.run(command, capture_output=True, text=True, check=True, input=body).stdout


def test_a_newcomers_curl_is_answered(door):
    said = json.loads(curl(door, "-d", json.dumps(BODY)))
    assert said["choices"][0]["message"]["content"] == "w0 w1 w2 "


def test_curl_sees_events_and_the_done_line(door):
    body = json.dumps(BODY | {"stream": True})
    lines = curl(door, "-N", "-d", body).splitlines()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "w0 w1 w2 "


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_1_0_is_served(door, stream):
    body = json.dumps(BODY | {"stream": stream})
    said = curl(door, "--http1.0", "-d", body)
    assert said.count('"w') == (3 if stream else 1)
    assert said.endswith("data: [DONE]\n\n" if stream else "}")


def test_a_large_prompt_with_expect_100_is_served(door, engine):
    text = "long " * 60_000
    body = json.dumps(BODY | {"messages": [{"role": "user", "content": text}]})
    said = curl(door, "-H", "Expect: 100-continue", "--data-binary", "@-", body=body)
    assert json.loads(said)["usage"]["completion_tokens"] == 3
    assert engine.requests[-1].body["messages"][0]["content"] == text


@pytest.fixture
def langchain(door):
    """Arguments of LangChain's models, with a connection pool that is closed afterwards."""
    openai = pytest.importorskip("openai")
    with openai.DefaultHttpxClient() as pool:
        yield {
            "model": "tiny",
            "base_url": f"{door.url}/v1",
            "api_key": door.key,
            "http_client": pool,
        }


def test_langchain_asks_streams_and_calls_tools(langchain):
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(max_retries=0, **langchain)
    said = model.invoke("Who goes first?", max_tokens=4)
    assert said.content == "w0 w1 w2 w3 "
    assert said.usage_metadata["output_tokens"] == 4
    streamed = list(model.stream("Who goes first?", max_tokens=4))
    assert "".join(chunk.content for chunk in streamed) == "w0 w1 w2 w3 "

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    tools = model.bind_tools([weather])
    called = tools.invoke("Leipzig?", extra_body={"script": {"tool": True}})
    assert called.tool_calls[0]["args"] == {"city": "Leipzig"}


def test_langchain_embeds(langchain):
    from langchain_openai import OpenAIEmbeddings

    model = OpenAIEmbeddings(check_embedding_ctx_length=False, **langchain)
    assert model.embed_documents(["a", "b"]) == [[0.5, -0.5]] * 2

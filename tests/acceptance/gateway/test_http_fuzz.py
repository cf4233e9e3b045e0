"""Damaged requests, and whole ones cut anywhere. HEADGATE_FUZZ=20000 looks harder."""

import json
import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.acceptance.gateway.raw import exchange, request
from tests.acceptance.gateway.running import chat

pytestmark = pytest.mark.engine

bounded = settings(
    max_examples=int(os.environ.get("HEADGATE_FUZZ", "150")),
    derandomize="HEADGATE_FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEY = "sk-to-be-put-in"
CHUNKED = request(KEY, chat(1), [b"transfer-encoding: chunked"], length=False)
WHOLE = [
    request(KEY, chat(1)),
    request(KEY, chat(2, stream=True)),
    request(KEY, chat(1), [b"expect: 100-continue"]),
    b"GET /v1/models HTTP/1.1\r\nhost: door\r\nauthorization: Bearer sk-to-be-put-in\r\n\r\n",
    b"GET /health HTTP/1.1\r\nhost: door\r\n\r\n",
    CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4] + b"2\r\n{}\r\n0\r\n\r\n",
]
WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 1\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.0",
    b"\xff\xfe",
    b"A" * 9_000,
]


@st.composite
def damaged(draw):
    """One or two requests with up to four wounds."""
    data = b"".join(draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["cut", "twice", "insert", "flip"])):
            case "cut":
                data = data[:at] + data[until:]
            case "twice":
                data = data[:until] + data[at:]
            case "insert":
                data = data[:at] + draw(st.sampled_from(WORDS)) + data[at:]
            case "flip" if at < len(data):
                data = (
                    data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
                )
    return data


@pytest.fixture(scope="module")
def posts():
    """How many requests have been sent that an engine may see."""
    return []


@bounded
@given(data=damaged())
def test_whatever_comes_is_answered_in_http_or_not_at_all(door, engine, posts, data):
    data = data.replace(KEY.encode(), door.key.encode())
    got = exchange(door.port, data, half_close=True)  # raises if the answer is not HTTP
    assert all(200 <= status < 600 for status in got.statuses)
    assert len(got.statuses) <= data.count(b"HTTP/1") + 1  # the last may be a refusal
    posts.append(data.count(b"POST"))
    assert len(engine.requests) <= sum(posts)


def test_the_door_is_well_after_all_that(door):
    got = exchange(door.port, request(door.key), answers=1)
    assert got.statuses == [200]
    assert "Traceback" not in door.log()
    assert "task_failed" not in door.log()
    assert door.at_rest()


@bounded
@given(cuts=st.lists(st.integers(1, 1200), max_size=8), order=st.permutations(range(3)))
def test_where_the_network_cuts_a_request_makes_no_difference(door, cuts, order):
    asked = [request(door.key, chat(tokens + 1)) for tokens in order]
    data = b"".join(asked)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    got = exchange(door.port, pieces, answers=3)
    made = [json.loads(body)["usage"]["completion_tokens"] for body in got.bodies]
    assert (got.statuses, made) == ([200] * 3, [tokens + 1 for tokens in order])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = """model messages max_tokens max_completion_tokens n stream stream_options service_tier
    priority temperature tools user"""


@bounded
@given(odd=st.dictionaries(st.sampled_from(FIELDS.split()), JSON, min_size=1, max_size=3))
def test_any_json_is_served_or_refused_in_the_form_the_sdks_read(door, odd):
    body = {**chat(1), **odd}
    data = json.dumps(body).encode()
    got = exchange(door.port, request(door.key, body), answers=1)
    assert len(got.statuses) == 1, data
    if got.statuses[0] >= 400:
        assert set(json.loads(got.bodies[0])["error"]) >= {"message", "type", "param", "code"}, data
    assert got.statuses[0] != 500, data

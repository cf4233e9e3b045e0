"""OpenAI's Node SDK, unchanged: one run of it, looked at from several sides."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.gateway.running import eventually

pytestmark = pytest.mark.engine
SCRIPT = Path(__file__).with_name("openai_sdk.cjs")


@pytest.fixture(scope="module")
def given(door, node_packages):
    """What the SDK was given, by feature."""
    done = subprocess.run(
        ["node", str(SCRIPT), door.url, door.key, door.key_for("small")],
        env=os.environ | {"NODE_PATH": str(node_packages)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_chat_is_answered(given):
    assert given["chat"]["text"] == "w0 w1 w2 w3 w4 "
    assert given["chat"]["tier"] == "default"
    assert given["chat"]["request_id"].startswith("req_")


def test_a_stream_ends_in_its_usage(given):
    assert given["stream"] == {"text": "w0 w1 w2 w3 ", "made": 4}


def test_breaking_out_of_a_stream_stops_the_engine(given, engine):
    (left,) = [one for one in engine.requests if one.body.get("max_tokens") == 200]
    eventually(lambda: left.left_s is not None, 5)
    assert given["leave"]["read"] == 3
    assert left.made < 50


def test_tools_and_embeddings_pass_through(given):
    assert given["tools"] == {"name": "weather", "arguments": {"city": "Leipzig"}}
    assert given["embeddings"] == [[0.5, -0.5]] * 2
    assert given["models"] == ["tiny"]


def test_each_mistake_is_the_error_that_the_sdk_knows_it_by(given):
    assert {kind: (said["name"], said["code"]) for kind, said in given["errors"].items()} == {
        "model": ("NotFoundError", "model_not_found"),
        "key": ("AuthenticationError", "invalid_api_key"),
        "body": ("BadRequestError", "invalid_value"),
        "limit": ("RateLimitError", "limit_requests"),
    }


def test_the_sdk_retries_an_engine_that_failed_once(given):
    assert given["retries"] == {"made": 2}


def test_a_batch_is_run_through_files(given):
    assert given["batch"] == {"status": "completed", "custom_id": "one"}

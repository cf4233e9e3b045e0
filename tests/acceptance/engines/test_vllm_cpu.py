"""The real vLLM of the tests: it serves, and it can be recorded."""

import json
import urllib.request

import pytest
from tools.vllm_cpu import recording
from tools.vllm_cpu.server import Setup, fetch

pytestmark = pytest.mark.engine


def test_vllm_counts_the_tokens_it_was_asked_for(vllm):
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Who goes first?"}],
        "max_tokens": 9,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{vllm.url}/v1/chat/completions",
        json.dumps(asked).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = json.load(answer)
    assert said["usage"]["completion_tokens"] == 9
    assert "vllm:num_requests_running" in fetch(f"{vllm.url}/metrics")


def test_a_recording_accounts_for_every_token_and_step(vllm_installed, tmp_path):
    setup = Setup(kv_blocks=12, batch_cap=8, chunk=512, max_model_len=1024)
    recording.record(tmp_path, setup, loads=[0.8], requests=12, seed=5)
    facts = json.loads((tmp_path / "engine.json").read_text())
    assert (facts["kv_blocks"], facts["batch_cap"], facts["chunk"]) == (12, 8, 512)

    level = tmp_path / "level-0.8"
    requests, steps = (
        [json.loads(line) for line in (level / name).read_text().splitlines()]
        for name in ("requests.jsonl", "steps.jsonl")
    )
    assert len(requests) == 12
    for row in requests:
        stamps = ["queued_ts", "scheduled_ts", "first_token_ts", "client_first_ts"]
        assert [row[stamp] for stamp in stamps] == sorted(row[stamp] for stamp in stamps)
        assert row["first_token_ts"] <= row["last_token_ts"] <= row["client_last_ts"]
        assert row["client_sent_ts"] <= row["queued_ts"]
    # Every output token but a request's first comes from a decode; preempted work is redone.
    preempted = sum(row["preemptions"] for row in requests)
    after_first = sum(row["output_toks"] - 1 for row in requests)
    decoded = sum(step["decodes"] for step in steps)
    assert after_first - preempted <= decoded <= after_first
    prompts = sum(row["input_toks"] - row["cached_toks"] for row in requests)
    prefilled = sum(tokens for step in steps for _, tokens in step["chunks"])
    assert prefilled == prompts or (prefilled > prompts and preempted)
    assert all(
        step["decodes"] + sum(tokens for _, tokens in step["chunks"]) <= setup.chunk
        for step in steps
    )

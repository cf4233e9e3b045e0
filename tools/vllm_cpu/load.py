"""Requests of known lengths sent to an engine at known times, stamped as a client sees them."""

import asyncio
import json
import time
from dataclasses import dataclass

import numpy as np

from headgate.sim.dice import stream

FIRST_WORD, LAST_WORD = 3, 300  # token ids of the tiny model that are not special


@dataclass(frozen=True)
class Call:
    """One request: when to send it, and how many tokens go in and come out."""

    name: str
    at_s: float  # since the start of the load
    input_toks: int
    output_toks: int


@dataclass(frozen=True)
class Seen:
    """What the client saw of a call; stamps in seconds of the monotonic clock."""

    name: str
    sent_ts: float
    first_ts: float
    last_ts: float
    chunks: int


def poisson(
    seed: int, name: str, requests: int, rate_per_s: float, max_model_len: int
) -> list[Call]:
    """Poisson arrivals with the mixed lengths of conversations, short enough for the model."""
    dice = stream(seed, "vllm-recording", name)
    at_s = np.cumsum(dice.exponential(1.0 / rate_per_s, requests))
    inputs = np.clip(
        dice.lognormal(np.log(250.0), 0.8, requests), 16, max_model_len * 6 // 10
    ).astype(int)
    outputs = np.clip(dice.lognormal(np.log(60.0), 0.7, requests), 8, max_model_len // 5).astype(
        int
    )
    return [
        Call(f"{name}-{row}", *timed)
        for row, timed in enumerate(
            zip(at_s.tolist(), inputs.tolist(), outputs.tolist(), strict=True)
        )
    ]


async def drive(port: int, calls: list[Call], seed: int) -> list[Seen]:
    """Send every call at its time, whatever became of the earlier ones."""
    words = stream(seed, "vllm-recording", "words", calls[0].name)  # no prefix cached before
    bodies = [(call, _body(call, words)) for call in calls]  # made before the clock starts
    start = time.monotonic()

    async def at_its_time(call: Call, body: bytes) -> Seen:
        await asyncio.sleep(start + call.at_s - time.monotonic())
        return await _complete(port, call, body)

    return await asyncio.gather(*(at_its_time(call, body) for call, body in bodies))


def _body(call: Call, words: np.random.Generator) -> bytes:
    """A streaming completion of exactly so many tokens; random words share no prefix."""
    prompt = words.integers(FIRST_WORD, LAST_WORD, call.input_toks).tolist()
    asked = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": call.output_toks,
        "min_tokens": call.output_toks,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps(asked).encode()


async def _complete(port: int, call: Call, body: bytes) -> Seen:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await _stream(reader, writer, call, body)
    finally:
        writer.close()


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: Call, body: bytes
) -> Seen:
    sent = time.monotonic()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: vllm\r\nconnection: close\r\n"
        b"content-type: application/json\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (call.name.encode(), len(body), body)
    )
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{call.name}: {status!r} {(await reader.read(2000))!r}")
    first = last = 0.0
    chunks = 0
    async for line in reader:  # vLLM puts each event into a chunk of its own
        if line.startswith(b"data: {"):
            last = time.monotonic()
            first = first or last
            chunks += 1
    return Seen(call.name, sent, first, last, chunks)

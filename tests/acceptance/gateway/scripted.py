"""An OpenAI-compatible engine that does as the request says, and remembers what it did.

It runs on a thread of the test. A request's field `script`, unknown to OpenAI and to the door,
tells it what to do; its absence means a plain answer of `max_tokens` tokens.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS = 7  # of every prompt: its words do not matter here


@dataclass
class Asked:
    """One request as the engine saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    made: int = 0  # tokens computed, whether or not anyone read them
    finished: bool = False
    left_s: float | None = None  # monotonic time at which the asker was seen to be gone


@dataclass
class ScriptedEngine:
    """`script` may hold: `gap_s` between tokens, `pad` characters on each, `status` and `error` to
    answer with, `tool` to call a function, `hang_after` or `break_after` so many tokens, `times`
    to do any of that only for the first so many requests, `once` (a name) to do it once."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    healthy: bool = True
    script: dict[str, Any] = field(default_factory=dict)  # for requests that bring none
    _done: set[str] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Asked]:
        """Those that asked for inference."""
        return [one for one in self.asked if one.path.startswith("/v1/") and one.body]

    def hang_up(self) -> None:
        """Close every connection, as servers do with those that are idle."""
        self._loop.call_soon_threadsafe(lambda: [one.close() for one in self._writers])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (one := await _read(reader)) is not None:
                if one.path == "/health":
                    await _answer(writer, 200 if self.healthy else 503, b"")
                    continue
                self.asked.append(one)
                gone = asyncio.create_task(self._watch(reader, one))
                try:
                    if not await self._do(one, writer):
                        return
                except ConnectionError:  # seen by writing, before it was seen by reading
                    one.left_s = one.left_s or time.monotonic()
                    return
                finally:
                    await _cancelled(gone)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader, one: Asked) -> None:
        """Note when the asker hangs up. Nothing is pipelined to an engine."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.001)
        one.left_s = time.monotonic()

    async def _do(self, one: Asked, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the connection is not to be used again."""
        script = {**self.script, **one.body.get("script", {})}
        if len(self.requests) > script.get("times", 1 << 30) or script.get("once") in self._done:
            script = {}
        self._done.add(script.get("once", ""))
        if "status" in script:
            error = script.get("error", {"message": "as told", "type": "scripted", "code": None})
            one.finished = True
            await _answer(writer, script["status"], json.dumps({"error": error}).encode())
        elif one.path.endswith("/embeddings"):
            await _answer(writer, 200, json.dumps(_embeddings(one)).encode())
            one.finished = True
        elif one.body.get("stream"):
            return await self._stream(one, script, writer)
        else:
            if not await self._make(one, script, writer):
                return False
            await _answer(writer, 200, json.dumps(_whole(one, script)).encode())
            one.finished = True
        return True

    async def _make(self, one: Asked, script: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Compute the tokens of an answer that is sent in one piece."""
        for _ in range(_wanted(one)):
            if not await self._go_on(one, script, writer):
                return False
            one.made += 1
        return True

    async def _stream(
        self, one: Asked, script: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chat = one.path.endswith("/chat/completions")
        if chat:
            _event(writer, one, {"role": "assistant", "content": ""})
        if script.get("tool"):
            _event(writer, one, {"tool_calls": [{"index": 0, **_tool_call(one)}]})
            one.made += 1
        else:
            for row in range(_wanted(one)):
                if not await self._go_on(one, script, writer):
                    return False
                one.made += 1
                _event(writer, one, {"content": f"w{row} " + "x" * script.get("pad", 0)})
                await writer.drain()
        _event(writer, one, {}, "tool_calls" if script.get("tool") else "length")
        if (one.body.get("stream_options") or {}).get("include_usage"):
            _chunk(writer, {**_frame(one), "choices": [], "usage": usage(one)})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        one.finished = True
        return True

    async def _go_on(
        self, one: Asked, script: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        """Wait for the next token; False if the connection broke on the way, as scripted."""
        if one.made == script.get("hang_after", -1):
            while one.left_s is None:
                await asyncio.sleep(0.01)
        if one.made == script.get("break_after", -1):
            await writer.drain()
            reset(writer)
            return False
        if gap_s := script.get("gap_s", 0.0):
            await asyncio.sleep(gap_s)
        return one.left_s is None


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection as a killed process does: with a reset, not a farewell."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def usage(one: Asked) -> dict[str, int]:
    made = 0 if one.path.endswith("/embeddings") else one.made
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": made,
        "total_tokens": PROMPT_TOKENS + made,
    }


@contextlib.contextmanager
def scripted_engine() -> Iterator[ScriptedEngine]:
    """A scripted engine on a loopback port, with an event loop of its own."""
    engine = ScriptedEngine()
    loop = engine._loop
    thread = threading.Thread(target=loop.run_forever, name="scripted engine", daemon=True)
    thread.start()

    def on_loop(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = on_loop(asyncio.start_server(engine.serve, "127.0.0.1", 0, backlog=1000))
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        on_loop(_close(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.sleep(0.02)  # transports are closed by callbacks that must still run


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    line = await reader.readline()
    if not line:
        return None
    _, path, _ = line.decode("latin-1").split(" ", 2)
    headers = {}
    while (header := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    try:
        return Asked(path, headers, json.loads(body) if body else {})
    except ValueError:  # the door reads only the fields it needs, so such a thing may come
        return Asked(path, headers, {"script": {"status": 400}})


async def _answer(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(
        b"HTTP/1.1 %d Scripted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (status, len(body), body)
    )
    await writer.drain()


def _wanted(one: Asked) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if name in one.body:
            return int(one.body[name])
    return 3


def _frame(one: Asked) -> dict[str, Any]:
    chat = one.path.endswith("/chat/completions")
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "scripted", "object": kind, "created": 1, "model": one.body["model"]}


def _event(
    writer: asyncio.StreamWriter, one: Asked, delta: dict[str, Any], finish: str | None = None
) -> None:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if one.path.endswith("/chat/completions"):
        choice["delta"] = delta
    else:
        choice["text"] = delta.get("content", "")
    event = {**_frame(one), "choices": [choice]}
    if (one.body.get("stream_options") or {}).get("continuous_usage_stats"):
        event["usage"] = usage(one)
    _chunk(writer, event)


def _chunk(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _tool_call(one: Asked) -> dict[str, Any]:
    """A call of the first tool that was offered."""
    name = one.body["tools"][0]["function"]["name"]
    call = {"name": name, "arguments": '{"city": "Leipzig"}'}
    return {"id": "call_1", "type": "function", "function": call}


def _whole(one: Asked, script: dict[str, Any]) -> dict[str, Any]:
    text = "".join(f"w{row} " for row in range(one.made))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
    frame = _frame(one)
    if one.path.endswith("/chat/completions"):
        frame["object"] = "chat.completion"
        choice["message"] = {"role": "assistant", "content": text}
        if script.get("tool"):
            choice["message"] |= {"content": None, "tool_calls": [_tool_call(one)]}
            choice["finish_reason"] = "tool_calls"
    else:
        choice["text"] = text
    return {**frame, "choices": [choice], "usage": usage(one)}


def _embeddings(one: Asked) -> dict[str, Any]:
    given = one.body["input"]
    rows = given if isinstance(given, list) else [given]
    data = [
        {"object": "embedding", "index": row, "embedding": [0.5, -0.5]} for row in range(len(rows))
    ]
    return {"object": "list", "data": data, "model": one.body["model"], "usage": usage(one)}

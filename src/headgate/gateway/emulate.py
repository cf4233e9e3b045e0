"""An engine that computes nothing: OpenAI's API, vLLM's metrics, and a serving profile's timing.

It keeps the rules of a continuous batcher: each step gives one token to every running sequence
and spends what is left of the token budget on prompts; waiting requests go by (priority,
arrival); a client that leaves frees its place at the next step. What it writes is noise; counts,
timing, streaming, cancellation, priorities and metrics are real.
"""

import asyncio
import contextlib
import heapq
import json
import signal
import socket
import time
from collections import OrderedDict, deque
from typing import Any, cast

import httptools
import msgspec
import uvloop

from headgate.core.errors import InputError

BLOCK_TOKENS = 16
CACHED_BLOCKS_MAX = 50_000
ABORTS_KEPT = 10_000
PROSE = (
    "water is shared by those who came first and what is left goes to those who wait until the "
    "gate at the head of the canal opens for the next in line"
)
WORDS = PROSE.split()


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Step time and memory of an engine. The default is a dense 8B model on one A100.

    A step of n tokens over s cached ones takes max(base + per_token n, floor) + per_kv_token s.
    """

    base_s: float = 0.0075
    per_token_s: float = 0.000055
    per_kv_token_s: float = 6.5e-9
    kv_tokens: int = 400_000
    sequences_max: int = 256
    step_tokens_max: int = 2048

    def step_s(self, tokens: int, kv_tokens: int) -> float:
        return self.base_s + self.per_token_s * tokens + self.per_kv_token_s * kv_tokens


class Sequence:
    """One request in the batch."""

    __slots__ = (
        "asked",
        "cached",
        "fed",
        "gone",
        "made",
        "priority",
        "prompt",
        "reply",
        "serial",
        "wanted",
    )

    def __init__(self, reply: "Reply", asked: dict[str, Any], prompt: int, cached: int) -> None:
        self.reply = reply
        self.asked = asked
        self.prompt = prompt
        self.cached = cached
        self.fed = cached  # prompt tokens computed so far
        self.made = 0
        self.wanted = _wanted(asked)
        self.priority = int(asked.get("priority") or 0)
        self.serial = 0
        self.gone = False


class Emulator:
    """The batch, its clock and its counters."""

    def __init__(self, profile: Profile, model: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.profile = profile
        self.model = model
        self.running: list[Sequence] = []
        self.waiting: list[tuple[int, int, Sequence]] = []
        self.kv_tokens = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = 0
        self.aborted = 0
        self.aborted_tokens = 0
        self.preempted = 0
        self.aborts: deque[tuple[str, float]] = deque(maxlen=ABORTS_KEPT)  # of late: whose, when
        self._serial = 0
        self._stepping = False
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._step_end_s = 0.0

    def submit(self, reply: "Reply", asked: dict[str, Any]) -> Sequence:
        text = _prompt_text(asked)
        prompt = max(1, len(text) // 4)
        sequence = Sequence(reply, asked, prompt, self._cached_tokens(text, prompt))
        self._serial += 1
        sequence.serial = self._serial
        heapq.heappush(self.waiting, (sequence.priority, sequence.serial, sequence))
        if not self._stepping:
            self._stepping = True
            self.loop.call_soon(self._begin_step)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        sequence.gone = True
        self.aborted += 1
        self.aborts.append((sequence.reply.request_id, time.monotonic()))
        self.aborted_tokens += sequence.made

    def _begin_step(self) -> None:
        """Choose the step's tokens and set the clock for its end."""
        self._drop_gone()
        budget = self.profile.step_tokens_max
        tokens = 0
        for sequence in self.running:
            if sequence.fed >= sequence.prompt:
                tokens += 1
        for sequence in self.running:
            tokens += self._feed(sequence, budget - tokens)
        self._admit()
        for sequence in self.running:
            if sequence.fed == sequence.cached:
                tokens += self._feed(sequence, budget - tokens)
        if not self.running:
            self._stepping = False
            return
        step_s = self.profile.step_s(tokens, self.kv_tokens)
        self._step_end_s = max(self._step_end_s, time.monotonic() - step_s) + step_s
        self.loop.call_at(self._step_end_s, self._end_step)

    def _feed(self, sequence: Sequence, budget: int) -> int:
        """Spend budget on a prompt; 0 if it is complete."""
        chunk = min(sequence.prompt - sequence.fed, budget)
        if chunk <= 0:
            return 0
        sequence.fed += chunk
        self.prompt_tokens += chunk
        return chunk

    def _admit(self) -> None:
        profile = self.profile
        while self.waiting and len(self.running) < profile.sequences_max:
            sequence = self.waiting[0][2]
            if sequence.gone:
                heapq.heappop(self.waiting)
                continue
            need = sequence.prompt + sequence.wanted
            if self.running and self.kv_tokens + need > profile.kv_tokens:
                break
            heapq.heappop(self.waiting)
            self.kv_tokens += need
            self.running.append(sequence)

    def _end_step(self) -> None:
        """Hand every sequence whose prompt is complete its token."""
        for sequence in self.running:
            if sequence.gone or sequence.fed < sequence.prompt:
                continue
            sequence.made += 1
            self.generation_tokens += 1
            sequence.reply.token(sequence)
            if sequence.made >= sequence.wanted:
                sequence.gone = True
                self.finished += 1
                sequence.reply.finish(sequence)
        self._begin_step()

    def _drop_gone(self) -> None:
        kept = []
        for sequence in self.running:
            if sequence.gone:
                self.kv_tokens -= sequence.prompt + sequence.wanted
            else:
                kept.append(sequence)
        self.running = kept

    def _cached_tokens(self, text: str, prompt: int) -> int:
        """Tokens of the prompt's beginning that an earlier prompt left in the prefix cache."""
        cached = 0
        digest = 0
        hit = True
        size = BLOCK_TOKENS * 4
        for start in range(0, len(text) - size, size):
            digest = hash((digest, text[start : start + size]))
            if hit and digest in self._blocks:
                self._blocks.move_to_end(digest)
                cached += BLOCK_TOKENS
            else:
                hit = False
                self._blocks[digest] = None
        while len(self._blocks) > CACHED_BLOCKS_MAX:
            self._blocks.popitem(last=False)
        return min(cached, prompt - 1)

    def metrics(self) -> bytes:
        waiting = sum(1 for _, _, s in self.waiting if not s.gone)
        label = f'{{engine="0",model_name="{self.model}"}}'
        usage = min(1.0, self.kv_tokens / self.profile.kv_tokens)
        lines = []
        for name, kind, value in (
            ("num_requests_running", "gauge", len([s for s in self.running if not s.gone])),
            ("num_requests_waiting", "gauge", waiting),
            ("kv_cache_usage_perc", "gauge", usage),
            ("prompt_tokens_total", "counter", self.prompt_tokens),
            ("generation_tokens_total", "counter", self.generation_tokens),
            ("request_success_total", "counter", self.finished),
            ("num_preemptions_total", "counter", self.preempted),
            ("emulated_aborted_total", "counter", self.aborted),
            ("emulated_aborted_tokens_total", "counter", self.aborted_tokens),
        ):
            lines.append(f"# TYPE vllm:{name} {kind}\nvllm:{name}{label} {value}\n")
        return "".join(lines).encode()


class Reply(asyncio.Protocol):
    """One client connection of the emulated engine."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.transport: asyncio.Transport | None = None
        self.sequences: list[Sequence] = []
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._parts: list[bytes] = []
        self.request_id = ""
        self._id = ""
        self._kind = ""
        self._keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for sequence in self.sequences:
            if not sequence.gone:
                self.emulator.abort(sequence)
        self.sequences = []

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._parts = []
        self.request_id = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._keep = self._parser.should_keep_alive()
        path = self._url.partition(b"?")[0]
        if path in (b"/health", b"/ping"):
            self._answer(200, b"")
        elif path == b"/metrics":
            self._answer(200, self.emulator.metrics(), b"text/plain; version=0.0.4")
        elif path == b"/aborts":
            self._answer(200, json.dumps(list(self.emulator.aborts)).encode())
        elif path == b"/version":
            self._answer(200, b'{"version":"0.0.0+emulated"}')
        elif path == b"/v1/models":
            entry = {"id": self.emulator.model, "object": "model", "owned_by": "headgate"}
            self._answer(200, json.dumps({"object": "list", "data": [entry]}).encode())
        else:
            self._infer(path)

    def _infer(self, path: bytes) -> None:
        kinds = {
            b"/v1/chat/completions": "chat",
            b"/v1/completions": "text",
            b"/v1/embeddings": "embed",
        }
        try:
            asked = json.loads(b"".join(self._parts))
            self._kind = kinds[path]
            if not isinstance(asked, dict):
                raise ValueError("not an object")
        except KeyError:
            self._error(404, f"no such address: {path.decode('latin-1')}")
            return
        except ValueError as error:
            self._error(400, f"not JSON: {error}")
            return
        if self._kind == "embed":
            self._embed(asked)
            return
        if self._kind == "chat" and not isinstance(asked.get("messages"), list):
            self._error(400, "messages must be a list")
            return
        self._id = self.request_id or f"emulated-{time.time_ns():x}"
        sequence = self.emulator.submit(self, asked)
        self.sequences = [sequence]

    # From the batch.

    def token(self, sequence: Sequence) -> None:
        if not sequence.asked.get("stream") or self.transport is None:
            return
        if sequence.made == 1:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            if self._kind == "chat":
                self._event(sequence, {"role": "assistant", "content": ""}, None)
        self._event(sequence, _word(sequence.made), None)

    def finish(self, sequence: Sequence) -> None:
        self.sequences = []
        if self.transport is None:
            return
        if not sequence.asked.get("stream"):
            self._answer(200, self._whole(sequence))
            return
        self._event(sequence, "" if self._kind == "text" else {}, "length")
        options = sequence.asked.get("stream_options") or {}
        if options.get("include_usage"):
            self._chunk({**self._frame(sequence), "choices": [], "usage": _usage(sequence)})
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        if not self._keep:
            self.transport.close()

    def _event(self, sequence: Sequence, delta: Any, finish: str | None) -> None:
        if self._kind == "chat":
            content = {"content": delta} if isinstance(delta, str) else delta
            choice = {"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": delta, "logprobs": None, "finish_reason": finish}
        event = {**self._frame(sequence), "choices": [choice]}
        options = sequence.asked.get("stream_options") or {}
        if options.get("continuous_usage_stats"):
            event["usage"] = _usage(sequence)
        elif options.get("include_usage"):
            event["usage"] = None
        self._chunk(event)

    def _frame(self, sequence: Sequence) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if self._kind == "chat" else "text_completion",
            "created": int(time.time()),
            "model": sequence.asked.get("model", self.emulator.model),
        }

    def _chunk(self, event: dict[str, Any]) -> None:
        assert self.transport is not None
        data = b"data: " + msgspec.json.encode(event) + b"\n\n"
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _whole(self, sequence: Sequence) -> bytes:
        text = "".join(_word(n + 1) for n in range(sequence.made))
        if self._kind == "chat":
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
        frame = self._frame(sequence)
        if self._kind == "chat":
            frame["object"] = "chat.completion"
        return msgspec.json.encode({**frame, "choices": [choice], "usage": _usage(sequence)})

    def _embed(self, asked: dict[str, Any]) -> None:
        given = asked.get("input")
        inputs = (
            given if isinstance(given, list) and given and isinstance(given[0], str) else [given]
        )
        tokens = sum(max(1, len(str(text)) // 4) for text in inputs)
        self.emulator.prompt_tokens += tokens
        data = [
            {"object": "embedding", "index": n, "embedding": [0.0, 1.0, 0.0, 0.0]}
            for n in range(len(inputs))
        ]
        answer = {
            "object": "list",
            "data": data,
            "model": asked.get("model", self.emulator.model),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        self._answer(200, msgspec.json.encode(answer))

    def _error(self, status: int, message: str) -> None:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        self._answer(status, json.dumps({"error": error}).encode())

    def _answer(self, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
        if self.transport is None:
            return
        self.transport.write(
            b"HTTP/1.1 %d Status\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (status, content_type, len(body), body)
        )
        if not self._keep:
            self.transport.close()


def _prompt_text(asked: dict[str, Any]) -> str:
    """All text of the prompt, in order."""
    if "messages" in asked:
        pieces = []
        for message in asked["messages"]:
            content = message.get("content") if isinstance(message, dict) else None
            if isinstance(content, list):
                content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
            pieces.append(str(content or ""))
        return "\n".join(pieces)
    prompt = asked.get("prompt", "")
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def _wanted(asked: dict[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if isinstance(asked.get(name), int):
            return max(1, int(asked[name]))
    return 32


def _word(number: int) -> str:
    return WORDS[(number - 1) % len(WORDS)] + " "


def _usage(sequence: Sequence) -> dict[str, Any]:
    return {
        "prompt_tokens": sequence.prompt,
        "completion_tokens": sequence.made,
        "total_tokens": sequence.prompt + sequence.made,
        "prompt_tokens_details": {"cached_tokens": sequence.cached},
    }


def run_at(host: str, port: int, profile: Profile, model: str) -> None:
    """Serve at an address until SIGTERM or Ctrl-C."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise InputError(
            f"--port {port} on {host} cannot be taken ({error.strerror}); name a free one."
        ) from None
    sock.listen(4096)
    print(f"headgate: emulating {model} on http://{host}:{sock.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        run_on(sock, profile, model)


def run_on(listening: socket.socket, profile: Profile, model: str) -> None:
    """Serve on a socket that is listening already, until SIGTERM."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        emulator = Emulator(profile, model)
        await loop.create_server(lambda: Reply(emulator), sock=listening, backlog=4096)
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()

    uvloop.run(main())

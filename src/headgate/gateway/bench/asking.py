"""A client for many concurrent requests whose answers matter: statuses, tokens, first bytes."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass

import httptools
import msgspec

from headgate.gateway.bench.doors import MODEL


@dataclass(slots=True)
class Told:
    """What one request came to, as its client saw it."""

    status: int = 0
    request: str = ""
    output_tokens: int = 0
    began_s: float = 0.0  # on the clock that all processes of a machine share
    first_s: float = 0.0  # from asking to the first token
    took_s: float = 0.0
    left: bool = False  # the client went away before the end
    left_s: float = 0.0  # from asking to going
    complete: bool = False

    @property
    def ended_s(self) -> float:
        return self.began_s + self.took_s


class Asker(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.told = Told()
        self._done: asyncio.Future[None] | None = None
        self._leave_after = -1
        self._tail = b""
        self._body: list[bytes] = []
        self._streams = False
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-request-id":
            self.told.request = value.decode()
        elif name == b"content-type":
            self._streams = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self.told.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        told = self.told
        if not self._streams:
            self._body.append(body)
            return
        if not told.first_s:
            told.first_s = time.monotonic() - told.began_s
        told.output_tokens += body.count(b'"content":"') - body.count(b'"content":""')
        self._tail = body[-32:]
        if 0 <= self._leave_after <= told.output_tokens and self.transport is not None:
            self._leave()
            self.transport.abort()

    def on_message_complete(self) -> None:
        told = self.told
        if self._streams:
            told.complete = b"[DONE]" in self._tail
        else:
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
                answer = msgspec.json.decode(b"".join(self._body))
                told.output_tokens = answer["usage"]["completion_tokens"]
                told.complete = True
            told.first_s = time.monotonic() - told.began_s
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self.told.took_s = time.monotonic() - self.told.began_s
            self._done.set_result(None)

    def _leave(self) -> None:
        self.told.left = True
        self.told.left_s = time.monotonic() - self.told.began_s

    async def ask(self, message: bytes, leave_after: int = -1, leave_s: float = 0.0) -> Told:
        """Send a request and wait for its end.

        `leave_after` goes away after so many tokens of a stream, `leave_s` after a time.
        """
        assert self.transport is not None
        self.told = Told(began_s=time.monotonic())
        self._body, self._tail, self._streams = [], b"", False
        self._leave_after = leave_after
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        if leave_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._done), leave_s)
            if not self._done.done() and self.transport is not None:
                self._leave()
                self.transport.close()  # not abort: the request must be read before it is left
        await self._done
        return self.told


class Askers:
    """Connections that are used again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[Asker] = []

    async def ask(self, message: bytes, leave_after: int = -1, leave_s: float = 0.0) -> Told:
        asker = await self._connected()
        told = await asker.ask(message, leave_after, leave_s)
        if asker.transport is not None:
            self._idle.append(asker)
        return told

    async def _connected(self) -> Asker:
        while self._idle:
            asker = self._idle.pop()
            if asker.transport is not None:
                return asker
        _, asker = await asyncio.get_running_loop().create_connection(Asker, "127.0.0.1", self.port)
        return asker

    def close(self) -> None:
        for asker in self._idle:
            if asker.transport is not None:
                asker.transport.abort()


def message(port: int, key: str, prompt: str, output: int, stream: bool, **more: object) -> bytes:
    fields = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": output,
        "stream": stream,
        **more,
    }
    body = json.dumps(fields).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

"""Bytes to a door and back, for what no well-behaved client would send."""

import contextlib
import json
import socket
from collections.abc import Iterable
from typing import Any

import httptools
from tests.acceptance.gateway.running import chat

PATIENCE_S = 3.0


class Answers:
    """Reads a byte stream as HTTP answers; anything else raises."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._complete = True

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @property
    def whole(self) -> bool:
        """No answer was cut off in the middle."""
        return self._complete

    def on_message_begin(self) -> None:
        self._complete = False
        self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._complete = True
        if status == 100:
            self.bodies.pop()
        else:
            self.statuses.append(status)


def exchange(
    port: int, pieces: bytes | Iterable[bytes], answers: int = 1 << 30, half_close: bool = False
) -> Answers:
    """Send, then read until so many answers have come, the door hangs up, or nothing more comes."""
    got = Answers()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # the door may hang up on us in the middle
            for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                sock.sendall(piece)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while len(got.statuses) < answers and (data := sock.recv(65536)):
                got.feed(data)
    return got


def request(
    key: str,
    body: dict[str, Any] | None = None,
    headers: Iterable[bytes] = (),
    line: bytes = b"POST /v1/chat/completions HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A request with a body and the headers it needs, and others that are given."""
    data = json.dumps(body if body is not None else chat(1)).encode()
    lines = [line, b"host: door", b"authorization: Bearer " + key.encode(), *headers]
    if length:
        lines.append(b"content-length: %d" % len(data))
    return b"\r\n".join(lines) + b"\r\n\r\n" + data

"""Engines that cost nothing: a canned answer, and streams that are written as fast as they go.

The canned answer comes from nginx where there is one, so that the upstream is never what limits
a door; from a bare socket loop otherwise.
"""

import re
import select
import shutil
import socket
import time
from pathlib import Path

from headgate.gateway.bench.doors import MODEL

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"%b","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello there, how are you?"},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":8,"total_tokens":20}}'
) % MODEL.encode()

EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"%b","choices":'
    b'[{"index":0,"delta":{"content":"water "},"logprobs":null,"finish_reason":null}]}\n\n'
) % MODEL.encode()
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
ENDLESS = 10_000_000
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
LAST = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def canned_command(port: int, folder: Path) -> list[str]:
    """nginx that answers everything with ANSWER; empty if there is no nginx."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(nginx).exists():
        return []
    answer = ANSWER.decode().replace("'", "\\'")
    (folder / "upstream.conf").write_text(
        f"""
worker_processes 1; daemon off; pid {folder}/upstream.pid; error_log {folder}/upstream.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
  client_max_body_size 64m; client_body_buffer_size 512k; default_type application/json;
  client_body_temp_path {folder}/ub; proxy_temp_path {folder}/up; fastcgi_temp_path {folder}/uf;
  uwsgi_temp_path {folder}/uu; scgi_temp_path {folder}/us;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{answer}'; }} }}
}}
"""
    )
    return [nginx, "-c", str(folder / "upstream.conf")]


class SocketLoop:
    """Connections over epoll, with no more Python in each turn than it takes."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.poll = select.epoll()
        self.poll.register(listening.fileno(), select.EPOLLIN)
        self.held: dict[int, socket.socket] = {}

    def turn(self, timeout_s: float) -> list[tuple[int, bytes]]:
        """What arrived; connections that ended are forgotten."""
        came = []
        for number, _ in self.poll.poll(timeout_s):
            if number == self.listening.fileno():
                self._accept()
                continue
            try:
                data = self.held[number].recv(1 << 20)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                came.append((number, data))
            else:
                self.end(number)
                came.append((number, b""))
        return came

    def end(self, number: int) -> None:
        held = self.held.pop(number, None)
        if held is not None:
            self.poll.unregister(number)
            held.close()

    def _accept(self) -> None:
        try:
            while True:
                made, _ = self.listening.accept()
                made.setblocking(False)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.held[made.fileno()] = made
                self.poll.register(made.fileno(), select.EPOLLIN)
        except BlockingIOError:
            return


def listening_on(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


PHASES = 10  # of a period: as ten engines that each take their steps at their own time


def serve(port: int, rate_per_s: float) -> None:
    """Answer requests; to streams write one chunk each, `rate_per_s` times a second.

    0 writes as fast as the other side takes it. Each chunk is a write of its own. A stream's
    request says in `max_tokens` how many chunks it wants.
    """
    loop = SocketLoop(listening_on(port))
    phases: list[dict[int, int]] = [{} for _ in range(PHASES if rate_per_s else 1)]
    whole: dict[int, bytes] = {}
    tick_s = 1.0 / rate_per_s / PHASES if rate_per_s else 0.0
    due_s = time.perf_counter()
    turn = 0
    while True:
        if not any(phases):
            _take(loop.turn(0.1), loop, phases, whole)
            due_s = time.perf_counter()
            continue
        wait_s = due_s - time.perf_counter()
        if wait_s > 0.0:
            time.sleep(wait_s)  # the poll's own timeout counts whole milliseconds
        _take(loop.turn(0.0), loop, phases, whole)
        _write_all(loop, phases[turn % len(phases)])
        turn += 1
        due_s = max(due_s + tick_s, time.perf_counter() - PHASES * tick_s)


def _take(
    came: list[tuple[int, bytes]],
    loop: SocketLoop,
    phases: list[dict[int, int]],
    whole: dict[int, bytes],
) -> None:
    """Answer what is complete, or make a stream of it, in the phase with the fewest."""
    for number, data in came:
        if not data:
            for phase in phases:
                phase.pop(number, None)
            whole.pop(number, None)
            continue
        request = whole.pop(number, b"") + data
        if not _complete(request):
            whole[number] = request
        elif b'"stream":true' in request or b'"stream": true' in request:
            loop.held[number].send(STREAM_HEAD)
            min(phases, key=len)[number] = _wanted(request)
        else:
            loop.held[number].send(PLAIN)


def _write_all(loop: SocketLoop, streams: dict[int, int]) -> None:
    for number in list(streams):
        try:
            if streams[number] > 0:
                loop.held[number].send(CHUNK)
                streams[number] -= 1
            else:
                loop.held[number].send(LAST)
                del streams[number]
        except BlockingIOError:
            continue
        except OSError:
            del streams[number]
            loop.end(number)


def _complete(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    if not found:
        return False
    low = head.lower()
    if b"transfer-encoding" in low:
        return body.endswith(b"0\r\n\r\n")
    at = low.find(b"content-length:")
    if at < 0:
        return True
    return len(body) >= int(low[at + 15 : low.find(b"\r\n", at) if b"\r\n" in low[at:] else None])


_WANTED = re.compile(rb'"max(?:_completion)?_tokens":\s*(\d+)')


def _wanted(request: bytes) -> int:
    found = _WANTED.search(request)
    return int(found[1]) if found else ENDLESS


if __name__ == "__main__":
    import sys

    serve(int(sys.argv[1]), float(sys.argv[2]))

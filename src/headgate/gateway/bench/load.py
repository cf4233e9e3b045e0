"""Load: many connections at once (wrk where there is one), one at a time, and streams."""

import select
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path

from headgate.core.errors import InputError
from headgate.gateway.bench.doors import MODEL, pin

SMALL = (
    f'{{"model":"{MODEL}","messages":[{{"role":"system","content":"You are helpful."}},'
    '{"role":"user","content":"Say hello."}],"max_tokens":16}'
).encode()


def large(kilobytes: int) -> bytes:
    text = "a prompt of many words " * (kilobytes * 1024 // 23)
    return SMALL.replace(b"Say hello.", text.encode())


def request(port: int, key: str, body: bytes) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def saturate(
    port: int, key: str, body: bytes, folder: Path, connections: int, seconds: float
) -> float:
    """Good answers a second with so many connections always asking."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return _saturate_plainly(port, key, body, connections, seconds)
    (folder / "body.json").write_bytes(body)
    script = folder / "post.lua"
    script.write_text(
        f"""
local file = io.open("{folder}/body.json", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read
  bad = bad + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, bad, summary.duration))
end
"""
    )
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--timeout", "30"]
    done = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            asked, bad, micros = (int(word) for word in line.split()[1:])
            if bad > asked * 0.001:
                raise InputError(f"{bad} of {asked} requests to port {port} went wrong.")
            return asked / (micros / 1e6)
    raise InputError(f"wrk gave no result: {done.stdout[-200:]}{done.stderr[-200:]}")


def _saturate_plainly(port: int, key: str, body: bytes, connections: int, seconds: float) -> float:
    message = request(port, key, body)
    poll = select.epoll()
    held: dict[int, socket.socket] = {}
    for _ in range(connections):
        sock = _connected(port)
        sock.setblocking(False)
        held[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
        sock.send(message)
    done = 0
    began_s = time.perf_counter()
    until_s = began_s + seconds
    while time.perf_counter() < until_s:
        for number, _ in poll.poll(0.1):
            data = held[number].recv(65536)
            if not data.startswith(b"HTTP/1.1 200"):
                raise InputError(f"port {port} answered {data[:80]!r}.")
            done += 1
            held[number].send(message)
    took_s = time.perf_counter() - began_s
    for sock in held.values():
        sock.close()
    return done / took_s


def latencies_ms(port: int, key: str, body: bytes, count: int, rate_per_s: float) -> list[float]:
    """Times of single requests on one connection; `rate_per_s` 0 asks again at once."""
    message = request(port, key, body)
    times = []
    with _connected(port) as sock:
        due_s = time.perf_counter()
        for _ in range(count):
            if rate_per_s:
                due_s += 1.0 / rate_per_s
                time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            sock.sendall(message)
            _read_answer(sock)
            times.append((time.perf_counter() - began_s) * 1e3)
    return times


def _read_answer(sock: socket.socket) -> None:
    data = sock.recv(262_144)
    while b"\r\n\r\n" not in data:
        data += sock.recv(262_144)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise InputError(f"a request was answered {head[:60]!r} {body[:200]!r}.")
    low = head.lower()
    if b"transfer-encoding" in low:
        while not body.endswith(b"0\r\n\r\n"):
            body += sock.recv(262_144)
        return
    at = low.find(b"content-length:")
    size = int(low[at + 15 :].split(b"\r\n")[0])
    left = size - len(body)
    while left > 0:
        left -= len(sock.recv(262_144))


class StreamsRead:
    """What a reader of many streams saw."""

    def __init__(self) -> None:
        self.chunks = 0
        self.took_s = 0.0
        self.gaps_ms: list[float] = []
        self.ended = 0  # streams the door gave up


def read_streams(
    port: int,
    key: str,
    streams: int,
    tokens: int,
    seconds: float,
    settle_s: float,
    every_s: float = 0.0,
) -> StreamsRead:
    """Open so many streams and count the events that arrive, after a time to settle.

    Reading only every so often costs the reader less, and shows what a door can do rather than
    who wakes the reader; at 0 the times between events are true.
    """
    body = SMALL.replace(b'"max_tokens":16', b'"stream":true,"max_tokens":%d' % tokens)
    message = request(port, key, body)
    poll = select.epoll()
    held: dict[int, socket.socket] = {}
    last_s: dict[int, float] = {}
    for _ in range(streams):
        sock = _connected(port)
        sock.setblocking(False)
        held[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
        sock.send(message)
    seen = StreamsRead()
    buffer = bytearray(1 << 20)  # to make one for each read would cost more than the read
    start_s = time.perf_counter() + settle_s
    until_s = start_s + seconds
    while (now_s := time.perf_counter()) < until_s:
        counts = now_s >= start_s
        if every_s:
            time.sleep(every_s)
        for number, _ in poll.poll(0.05):
            size = held[number].recv_into(buffer)
            if not size:
                poll.unregister(number)
                seen.ended += 1
                if seen.ended > streams // 10:
                    raise InputError(f"port {port} ended {seen.ended} of {streams} streams early.")
                continue
            if counts:
                seen.chunks += buffer.count(b"data: ", 0, size)
            if number % 4 == 0:
                read_s = time.perf_counter()
                if counts and number in last_s:
                    seen.gaps_ms.append((read_s - last_s[number]) * 1e3)
                last_s[number] = read_s
    seen.took_s = time.perf_counter() - start_s
    for sock in held.values():
        sock.close()
    return seen


def percentile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


__all__ = ["SMALL", "large", "latencies_ms", "percentile", "pin", "read_streams", "saturate"]

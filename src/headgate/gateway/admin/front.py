"""The way back through the door: batch lines are requests like any other, of the lowest order."""

import asyncio
import contextlib
from collections.abc import Mapping

import h11
import msgspec

ANSWER_MAX = 64 * 1024 * 1024
IDLE_MAX = 512
READ_BYTES = 65_536


class Answer(msgspec.Struct, frozen=True):
    status: int
    request_id: str
    retry_after_s: float
    body: bytes


class FrontLost(OSError):  # noqa: N818 - a state of the world, told as one
    """The gateway closed the connection before it had answered."""


class Front:
    """Requests to the gateway's own port, over connections that are kept."""

    def __init__(self, host: str, port: int, headers: Mapping[str, str]) -> None:
        self._host = host
        self._port = port
        self._headers = [(name, value) for name, value in headers.items()]
        self._idle: list[_Line] = []

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request. Cancelling it closes the connection, so that the door cancels the work."""
        kept = bool(self._idle)
        line = self._idle.pop() if kept else await self._connect()
        while True:
            try:
                answer = await line.ask(method, path, self._all(headers), body)
            except FrontLost:
                line.close()
                if not kept or line.heard:
                    raise
                # The gateway closed an idle connection just as we used it.
                kept = False
                line = await self._connect()
                continue
            except BaseException:
                line.close()
                raise
            break
        if line.reusable and len(self._idle) < IDLE_MAX:
            self._idle.append(line)
        else:
            line.close()
        return answer

    def close(self) -> None:
        for line in self._idle:
            line.close()
        self._idle.clear()

    async def _connect(self) -> "_Line":
        return _Line(*await asyncio.open_connection(self._host, self._port))

    def _all(self, headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
        return [("host", f"{self._host}:{self._port}"), *self._headers, *(headers or {}).items()]


class _Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard = False  # anything of the present answer
        self.reusable = False
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def ask(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> Answer:
        self.heard = self.reusable = False
        http = self._http
        headers = [*headers, ("content-length", str(len(body)))]
        if body:
            headers.append(("content-type", "application/json"))
        request = h11.Request(method=method, target=path, headers=headers)
        data = [http.send(request), http.send(h11.Data(body)), http.send(h11.EndOfMessage())]
        try:
            self._writer.write(b"".join(part for part in data if part))
            await self._writer.drain()
            return await self._answer()
        except (h11.RemoteProtocolError, ConnectionError) as error:
            raise FrontLost(str(error)) from error

    async def _answer(self) -> Answer:
        http = self._http
        parts: list[bytes] = []
        size = 0
        head: h11.Response | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(READ_BYTES)
                self.heard = self.heard or bool(data)
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > ANSWER_MAX:
                    raise FrontLost("the answer is too long")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise FrontLost("the connection was closed")
        assert head is not None
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            self.reusable = True
        given = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        retry_after_s = 0.0
        with contextlib.suppress(ValueError):
            retry_after_s = float(given.get("retry-after", 0.0))
        return Answer(
            head.status_code, given.get("x-request-id", ""), retry_after_s, b"".join(parts)
        )

    def close(self) -> None:
        self._writer.close()

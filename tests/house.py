"""A door in this process, with an emulated engine behind it and a bare client in front."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import uvloop

from headgate.gateway.config import parse_config
from headgate.gateway.door import Door
from headgate.gateway.emulate import Emulator, Profile, Reply
from headgate.gateway.front import Front
from headgate.gateway.memory import MemoryAccounts, MemoryLimits, MemoryMeter
from headgate.ledger.accounts import Account, Tenant
from headgate.ledger.usage import UsageRecord

KEY = "sk-test"
QUICK = Profile(base_s=0.002, per_token_s=0.0, per_kv_token_s=0.0)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    def events(self) -> list[str]:
        return [e.removeprefix("data: ") for e in self.body.decode().split("\n\n") if e]


@dataclass
class House:
    """Everything a test looks at."""

    door: Door
    meter: MemoryMeter
    accounts: MemoryAccounts
    port: int
    emulators: list[Emulator]
    ports: list[int]
    servers: list[asyncio.Server] = field(default_factory=list)
    open_writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open_writers.append(writer)
        return reader, writer

    async def send(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(request)
        return reader, writer

    async def raw(self, request: bytes) -> Answer:
        reader, writer = await self.send(request)
        try:
            return await answer_from(reader)
        finally:
            writer.close()

    async def ask(self, path: str = "/v1/chat/completions", key: str = KEY, **fields) -> Answer:
        return await self.raw(request_for(path, key, **fields))

    async def settled(self, count: int) -> list[UsageRecord]:
        """The records, once there are so many."""
        for _ in range(2000):
            if len(self.meter.records) >= count:
                break
            await asyncio.sleep(0.005)
        return self.meter.records


def chat(**fields) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": "hello there"}], **fields}


def request_for(path: str = "/v1/chat/completions", key: str = KEY, **fields) -> bytes:
    body = json.dumps(fields or chat()).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer_from(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = await _chunks(reader)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Answer(int(first.split()[1]), headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int(await reader.readline(), 16)
        body += await reader.readexactly(size)
        await reader.readexactly(2)
        if size == 0:
            return body


class Sick(asyncio.Protocol):
    """An engine that does one thing, mostly wrong, with each request it gets."""

    def __init__(self, does: Callable[[asyncio.Transport, bytes], object]) -> None:
        self.does = does
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" in data:
            self.does(self.transport, data)


async def sick(
    h: House, does: Callable[[asyncio.Transport, bytes], object], name: str = "e0"
) -> None:
    """Put a sick engine in the place of one of the house's."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sick(does), "127.0.0.1", 0)
    h.servers.append(server)
    engine = h.door.dispatcher.engines[name]
    engine.port = server.sockets[0].getsockname()[1]
    engine.close()


@contextlib.asynccontextmanager
async def house(
    config: str = "",
    engines: int = 1,
    profile: Profile = QUICK,
    engine_terms: str = "",
    tenants: tuple[Tenant, ...] = (Tenant("t1"),),
    strict: bool = False,
) -> AsyncIterator[House]:
    """A door with `engines` emulated engines; tenant n has the key sk-test, sk-test-2, ..."""
    loop = asyncio.get_running_loop()
    emulators, servers, ports, text = [], [], [], ""
    for number in range(engines):
        emulator = Emulator(profile, "m")
        server = await loop.create_server(lambda e=emulator: Reply(e), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        emulators.append(emulator)
        servers.append(server)
        text += (
            f'[[engines]]\nname="e{number}"\nurl="http://127.0.0.1:{ports[-1]}"\nkind="vllm"\n'
            f"priorities=true\n{engine_terms}\n"
        )
    names = ",".join(f'"e{n}"' for n in range(engines))
    text += f'[[models]]\nname="m"\nengines=[{names}]\nprice={{input=1.0,output=2.0}}\n'
    text += "[admin]\nenabled=false\n" + config
    accounts = MemoryAccounts()
    for number, tenant in enumerate(tenants):
        key = KEY if number == 0 else f"{KEY}-{number + 1}"
        accounts.add(key, Account(f"key{number + 1}", tenant))
    meter = MemoryMeter(strict)
    door = Door(parse_config(text, "test.toml"), accounts, MemoryLimits(), meter)
    door.start()
    server = await loop.create_server(lambda: Front(door), "127.0.0.1", 0)
    servers.append(server)
    port = server.sockets[0].getsockname()[1]
    made = House(door, meter, accounts, port, emulators, ports, servers)
    try:
        yield made
    finally:
        for writer in made.open_writers:
            writer.transport.abort()
        for server in servers:
            server.close()
        await door.stop(0.0)
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on the loop the door is made for, for half a minute at most."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    uvloop.run(bounded())

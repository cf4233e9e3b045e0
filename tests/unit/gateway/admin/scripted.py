"""A desk over a fresh store, and a door that answers batch lines as a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headgate.gateway.admin.desk import Desk, Terms, open_desk
from headgate.gateway.admin.front import Front
from headgate.ledger.accounts import Tenant
from headgate.store.accounts import StoreAccounts
from headgate.store.batches import Batch, Status
from headgate.store.files import new_file_id
from headgate.store.open import open_database
from headgate.store.tenants import Tenants

GOOD = {"choices": [{"message": {"content": "yes"}}]}
Script = Callable[[str, dict[str, str]], tuple[int, object]]


@dataclass
class ScriptedDoor:
    """Answers each line by `script(order, headers)`; None as a body closes the connection."""

    script: Script = lambda order, headers: (200, GOOD)
    room: int = 1_000
    delay_s: float = 0.0
    port: int = 0
    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                start, *rest = head.decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in rest if line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                if start.startswith("GET /internal/room"):
                    writer.write(_answer(200, {"batch_room": max(0, self.room - self.under_way)}))
                    continue
                assert start == "POST /v1/chat/completions HTTP/1.1"
                if not await self._line(headers, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _line(self, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        order = headers["x-headgate-order"]
        self.asked.append(order)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            status, body = self.script(order, headers)
        finally:
            self.under_way -= 1
        if body is None:
            return False
        self.answered.append(order)
        writer.write(_answer(status, body))
        return True


def _answer(status: int, body: object) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body, indent=1).encode()
    return (
        b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nx-request-id: req_1\r\n\r\n" % (status, len(data))
    ) + data


@asynccontextmanager
async def office(folder: Path, **terms: object) -> AsyncIterator[tuple[Desk, ScriptedDoor, Front]]:
    """A desk with the tenants acme and bolt, a door, and the way to it."""
    database = open_database(f"sqlite:///{folder}/headgate.db")
    tenants = Tenants(database)
    tenants.seed([Tenant("acme"), Tenant("bolt", models=("large",))])
    accounts = StoreAccounts(tenants, folder)
    await accounts.start()
    desk = open_desk(
        database,
        accounts,
        models=frozenset({"small", "large"}),
        terms=Terms(**terms),  # type: ignore[arg-type]
        folder=folder / "files",
        secret="secret",
    )
    door = ScriptedDoor()
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    front = Front("127.0.0.1", door.port, {"x-headgate-internal": "secret"})
    try:
        yield desk, door, front
    finally:
        front.close()
        server.close()
        await accounts.stop()
        database.close()


def put_batch(desk: Desk, count: int, tenant: str = "acme", window_s: int = 3_600) -> Batch:
    """A batch of so many lines, as the pages would make it."""
    file_id = new_file_id()
    text = "".join(
        json.dumps(
            {
                "custom_id": f"line-{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "large", "messages": []},
            }
        )
        + "\n"
        for i in range(count)
    )
    (desk.folder / file_id).write_text(text)
    desk.files.add(file_id, tenant, len(text), "in.jsonl", "batch")
    return desk.batches.add(
        tenant,
        "key_1",
        endpoint="/v1/chat/completions",
        input_file_id=file_id,
        completion_window="1h",
        window_s=window_s,
        metadata=None,
    )


async def until_status(desk: Desk, batch: Batch, *statuses: Status) -> Batch:
    for _ in range(2_000):
        now = desk.batches.get(batch.id)
        assert now is not None
        if now.status in statuses:
            return now
        await asyncio.sleep(0.01)
    raise AssertionError(f"{now} is none of {statuses}")


def lines_of(desk: Desk, file_id: str | None) -> dict[str, dict[str, object]]:
    """A file's lines by custom id; each once."""
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in (desk.folder / file_id).read_text().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found

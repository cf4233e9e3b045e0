"""Clients that note exactly what they were given, and leave when they are told to."""

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.acceptance.gateway.running import Door


@dataclass
class Seen:
    """What one client saw of its request. Tokens are pieces of text, one for each token."""

    body: dict[str, Any]
    request: str = ""  # x-request-id
    status: int = 0  # 0: no answer came
    tokens: int = 0
    finished: bool = False  # the answer came to its proper end
    error: str = ""  # the code of an error answer or error event
    left: bool = False  # the client hung up of its own accord


async def ask(
    door: Door, body: dict[str, Any], leave_after: int | None = None, key: str = ""
) -> Seen:
    """One request on a connection of its own; hangs up after so many tokens of a stream."""
    seen = Seen(body)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    except OSError:
        return seen
    data = json.dumps(body).encode()
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: door\r\nconnection: close\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % ((key or door.key).encode(), len(data), data)
        )
        await _read(reader, seen, leave_after)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the door went away: what was seen until then stands
    finally:
        writer.transport.abort()
    return seen


async def _read(reader: asyncio.StreamReader, seen: Seen, leave_after: int | None) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    seen.status = int(head.split(" ", 2)[1])
    seen.request = re.findall(r"(?im)^x-request-id: (\S+)", head)[0]
    if "chunked" not in head.lower():
        size = int(re.findall(r"(?im)^content-length: (\d+)", head)[0])
        _whole(await reader.readexactly(size), seen)
        return
    async for line in reader:
        if line == b"0\r\n":
            break
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            seen.finished = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            seen.error = event["error"]["code"]
        elif event["choices"] and event["choices"][0]["delta"].get("content"):
            seen.tokens += 1
            if seen.tokens == leave_after:
                seen.left = True
                return


def _whole(data: bytes, seen: Seen) -> None:
    answer = json.loads(data)
    if seen.status == 200:
        seen.finished = True
        seen.tokens = answer["usage"]["completion_tokens"]
    else:
        seen.error = answer["error"]["code"]


async def ask_all(
    door: Door,
    bodies: Iterable[dict[str, Any]],
    at_once: int = 20,
    pause_s: float = 0.0,
    key: str = "",
) -> list[Seen]:
    """Every request, so many at a time, each client pausing between its own."""
    key = key or door.key
    left = iter(bodies)
    seen: list[Seen] = []

    async def client() -> None:
        for body in left:
            asked = {name: value for name, value in body.items() if name != "leave_after"}
            seen.append(await ask(door, asked, body.get("leave_after"), key))
            await asyncio.sleep(pause_s)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return seen

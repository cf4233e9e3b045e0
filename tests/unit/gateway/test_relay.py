"""Files and batches: passed to the process that has them, as they come in."""

import asyncio

from tests.house import KEY, answer_from, house, run

from headgate.gateway import config as settings
from headgate.gateway.engines import Engine


class Clerk(asyncio.Protocol):
    """Stands in for the admin process: reads a body, and says how long it was."""

    def __init__(self, seen):
        self.seen = seen
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.seen.append(data)
        whole = b"".join(self.seen)
        if whole.endswith((b"THE END", b"0\r\n\r\n")) or b"GET " in whole:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/x-lines\r\n"
                b"content-disposition: attachment\r\ncontent-length: 5\r\n\r\nhello"
            )


async def with_clerk(h):
    seen = []
    server = await asyncio.get_running_loop().create_server(lambda: Clerk(seen), "127.0.0.1", 0)
    h.servers.append(server)
    port = server.sockets[0].getsockname()[1]
    h.door.admin = Engine(settings.Engine("admin", f"http://127.0.0.1:{port}"), None, h.door.loop)
    h.door.secret = b"inside"
    return seen


HEAD = (
    b"%b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
    b"x-headgate-tenant: other\r\nx-headgate-internal: guess\r\ncontent-type: a/b\r\n"
)


def test_a_file_is_passed_on_while_it_comes_in_under_its_tenants_name():
    async def story():
        async with house() as h:
            seen = await with_clerk(h)
            length = b"content-length: %d\r\n\r\n" % (1_000_000 + 7)
            request = (HEAD % b"POST /v1/files?x=1").replace(b"x-headgate-internal: guess\r\n", b"")
            reader, writer = await h.send(request + length)
            writer.write(b"a" * 500_000)
            while sum(map(len, seen)) < 400_000:
                await asyncio.sleep(0.005)
            writer.write(b"a" * 500_000 + b"THE END")
            answer = await answer_from(reader)
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.headers["content-type"] == "text/x-lines"
            head = b"".join(seen).partition(b"\r\n\r\n")[0]
            assert head.startswith(b"POST /v1/files?x=1 HTTP/1.1\r\n")
            assert b"x-headgate-tenant: t1" in head
            assert b"x-headgate-internal: inside" in head
            assert b"other" not in head
            assert KEY.encode() not in head
            assert h.meter.records == []

    run(story)


def test_a_chunked_upload_and_a_plain_read_pass_too():
    async def story():
        async with house() as h:
            seen = await with_clerk(h)
            request = (HEAD % b"POST /v1/files").replace(b"x-headgate-internal: guess\r\n", b"")
            chunked = b"transfer-encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 9 + b"0\r\n\r\n"
            assert (await h.raw(request + chunked)).body == b"hello"
            assert b"".join(seen).count(b"abcde") == 9
            seen.clear()
            read = (HEAD % b"GET /v1/batches/b1").replace(b"x-headgate-internal: guess\r\n", b"")
            assert (await h.raw(read + b"\r\n")).body == b"hello"

    run(story)


def test_without_the_admin_process_files_are_503_and_the_door_stays_open():
    async def story():
        async with house() as h:
            await with_clerk(h)
            h.door.admin.port = 1
            request = (HEAD % b"GET /v1/files").replace(b"x-headgate-internal: guess\r\n", b"")
            answer = await h.raw(request + b"\r\n")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert (await h.ask()).status == 200

    run(story)

"""The HTTP layer refuses what could be read in two ways, and bounds what it reads."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.house import KEY, answer_from, chat, house, run

from headgate.gateway.emulate import Reply

BODY = json.dumps(chat(max_tokens=1)).encode()
AUTH = f"authorization: Bearer {KEY}\r\n".encode()


def post(extra: bytes = b"", version: bytes = b"1.1", body: bytes = BODY) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/%b\r\nhost: x\r\n%b%b\r\n" % (version, AUTH, extra) + body
    )


LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "request_",
    [
        post(LENGTH + CHUNKED, body=IN_CHUNKS),
        post(LENGTH + LENGTH),
        post(b"content-length: 5\r\n" + LENGTH),
        post(b"content-length: +%d\r\n" % len(BODY)),
        post(b"content-length : %d\r\n" % len(BODY)),
        post(b"transfer-encoding: gzip, chunked\r\n", body=IN_CHUNKS),
        post(b"transfer-encoding: xchunked\r\n", body=IN_CHUNKS),
        post(CHUNKED + b"transfer-encoding: identity\r\n", body=IN_CHUNKS),
        post(CHUNKED, version=b"1.0", body=IN_CHUNKS),
        post(CHUNKED, body=b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
        post(CHUNKED, body=b"-1\r\n\r\n"),
        post(LENGTH).replace(b"\r\n", b"\n"),
        post(b"x: a\r\n b: c\r\n" + LENGTH),
        post(b"x: a\x00b\r\n" + LENGTH),
        post(LENGTH, version=b"2.0"),
        post(LENGTH).replace(b"host: x\r\n", b""),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_could_be_smuggled_is_refused_and_the_connection_closed(request_):
    async def story():
        async with house() as h:
            reader, _ = await h.send(request_)
            answer = await answer_from(reader)
            assert answer.status in (400, 405, 501, 505), answer
            assert answer.headers.get("connection") == "close"
            assert await reader.read() == b""
            assert h.emulators[0].finished == 0

    run(story)


def test_chunked_bodies_http_1_0_and_expect_are_served():
    async def story():
        async with house() as h:
            assert (await h.raw(post(CHUNKED, body=IN_CHUNKS))).status == 200
            old = await h.raw(post(LENGTH, version=b"1.0"))
            assert old.status == 200
            assert old.headers["connection"] == "close"
            reader, writer = await h.send(post(LENGTH + b"expect: 100-continue\r\n", body=b""))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await answer_from(reader)).status == 200

    run(story)


def test_an_http_1_0_client_can_read_a_stream():
    async def story():
        async with house() as h:
            body = json.dumps(chat(max_tokens=2, stream=True)).encode()
            length = b"content-length: %d\r\n" % len(body)
            answer = await h.raw(post(length, version=b"1.0", body=body))
            assert answer.events()[-1] == "[DONE]"
            assert "transfer-encoding" not in answer.headers

    run(story)


def test_sizes_are_bounded():
    async def story():
        async with house("[server]\nbody_max_mb=0.01\nheader_max_kb=4\n") as h:
            big = b'{"x":"' + b"a" * 20_000 + b'"}'
            length = b"content-length: %d\r\n" % len(big)
            assert (await h.raw(post(length, body=b""))).status == 413
            chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
            assert (await h.raw(post(CHUNKED, body=chunked))).status == 413
            assert (await h.raw(post(b"x: " + b"a" * 6000 + b"\r\n" + LENGTH))).status == 431
            assert (await h.raw(b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000)).status == 431
            many = b"".join(b"x-%d: 1\r\n" % n for n in range(150))
            assert (await h.raw(post(many + LENGTH))).status == 431
            assert (await h.raw(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n")).status == 414

    run(story)


def test_nobody_without_a_valid_key_may_send_much():
    async def story():
        async with house() as h:
            large = b"content-length: 1000000\r\n"
            stranger = post(large, body=b"").replace(KEY.encode(), b"sk-nobody")
            assert (await h.raw(stranger)).status == 401
            chunks = post(CHUNKED, body=b"186a0\r\n" + b"a" * 100_000)
            stranger = chunks.replace(KEY.encode(), b"sk-nobody")
            assert (await h.raw(stranger)).status == 401

    run(story)


def test_a_request_that_trickles_in_is_given_up():
    async def story():
        async with house("[server]\nheader_timeout_s=0.4\nbody_timeout_s=0.4\n") as h:
            reader, writer = await h.send(b"POST /v1/chat")
            for _ in range(3):
                await asyncio.sleep(0.1)
                writer.write(b"x")
            assert (await answer_from(reader)).status == 408
            reader, writer = await h.send(post(LENGTH, body=b"{"))
            assert (await answer_from(reader)).status == 408

    run(story)


def test_an_idle_connection_is_closed_after_its_time():
    async def story():
        async with house("[server]\nidle_timeout_s=0.3\n") as h:
            reader, _ = await h.connect()
            assert await reader.read() == b""

    run(story)


def test_a_body_of_two_hundred_kilobytes_passes_unchanged():
    async def story():
        async with house() as h:
            text = "".join(chr(0x4E00 + n % 5000) for n in range(70_000))
            seen = []
            submit = h.emulators[0].submit

            def look(reply, asked):
                seen.append(asked)
                return submit(reply, asked)

            h.emulators[0].submit = look
            fields = chat(max_tokens=1, messages=[{"role": "user", "content": text}])
            assert (await h.ask(**fields)).status == 200
            assert seen[0]["messages"] == fields["messages"]

    run(story)


def test_of_a_clients_headers_an_engine_hears_its_trace_alone_and_only_if_it_is_one():
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    engine_head = []

    async def story():
        async with house() as h:
            read = Reply.data_received

            def look(self, data):
                engine_head.append(data.partition(b"\r\n\r\n")[0])
                read(self, data)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Reply, "data_received", look)
                for said in (trace, b"00-x", trace + b"\tx-priority: 1", trace.upper()):
                    more = b"traceparent: %b\r\ncookie: a=1\r\nx-priority: 9\r\n" % said
                    assert (await h.raw(post(more + LENGTH))).status == 200

    run(story)
    assert [trace in head for head in engine_head] == [True, False, False, False]
    assert not any(b"traceparent" in head for head in engine_head[1:])
    assert not any(b"cookie" in head or b"x-priority" in head for head in engine_head)


def test_an_offer_to_upgrade_is_ignored_and_the_request_served():
    async def story():
        async with house() as h:
            upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
            reader, _ = await h.send(post(upgrade + LENGTH) + post(LENGTH))
            assert (await answer_from(reader)).status == 200
            assert await reader.read() == b""

    run(story)


NOTHING = contextlib.nullcontext()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(1, 400), max_size=6),
    noise=st.one_of(st.none(), st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4))),
)
def test_any_cut_and_any_noise_ends_in_an_answer_or_a_close_and_never_in_a_stuck_slot(cuts, noise):
    request = post(LENGTH)
    if noise is not None:
        at = noise[0] % len(request)
        request = request[:at] + noise[1] + request[at + len(noise[1]) :]

    async def story():
        async with house("[server]\nheader_timeout_s=0.2\nbody_timeout_s=0.2\n") as h:
            reader, writer = await h.connect()
            last = 0
            with contextlib.suppress(ConnectionError, RuntimeError) if noise else NOTHING:
                for cut in sorted(cuts):
                    writer.write(request[last:cut])
                    await asyncio.sleep(0)
                    last = max(last, cut)
                writer.write(request[last:])
                if noise is None:
                    assert (await answer_from(reader)).status == 200
                else:
                    await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            await asyncio.sleep(0.01)
            assert h.door.dispatcher.engines["e0"].in_flight <= 1

    run(story)

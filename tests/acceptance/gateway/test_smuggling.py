"""Requests whose end two readers could see in two places. The door must refuse every one of them.

After RFC 9112 (sections 2.2, 3, 5, 6, 7, 11.2) and the published families of desynchronisation:
CL.TE, TE.CL, TE.TE, CL.CL, bare CR and LF, malformed chunks, absolute targets, upgrades.
"""

import json
from collections.abc import Iterator

import pytest
from tests.acceptance.gateway.raw import exchange, request
from tests.acceptance.gateway.running import chat

pytestmark = pytest.mark.engine

BODY = json.dumps(chat(1)).encode()
SIZE = len(BODY)
KEY = b"sk-to-be-put-in"
HIDDEN = request(KEY.decode(), chat(1, user="smuggled"))
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)


def head(*headers: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A request's head with the key, less what makes the framing."""
    always = [line, b"Host: door", b"Authorization: Bearer " + KEY]
    return b"\r\n".join([*always, *headers]) + b"\r\n\r\n"


LENGTH = b"Content-Length: %d" % SIZE
TE = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")

REFUSED = {
    # Two framings at once.
    "length and chunked": head(b"Content-Length: 4", TE) + CHUNKED + HIDDEN,
    "chunked and length": head(TE, b"Content-Length: 4") + CHUNKED + HIDDEN,
    "length of all, chunked of none": head(b"Content-Length: 60", TE) + b"0\r\n\r\n" + HIDDEN,
    # Transfer codings in disguise.
    "coding xchunked": head(b"Transfer-Encoding: xchunked") + CHUNKED + HIDDEN,
    "coding identity": head(b"Transfer-Encoding: identity", LENGTH) + BODY + HIDDEN,
    "codings chunked, identity": head(b"Transfer-Encoding: chunked, identity") + CHUNKED,
    "codings gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + CHUNKED,
    "coding twice": head(TE, b"Transfer-Encoding: identity") + CHUNKED + HIDDEN,
    "coding twice the same": head(TE, TE) + CHUNKED + HIDDEN,
    "coding with a space before the colon": head(b"Transfer-Encoding : chunked", LENGTH) + BODY,
    "coding with a tab before the colon": head(b"Transfer-Encoding\t: chunked", LENGTH) + BODY,
    "coding after a vertical tab": head(b"Transfer-Encoding: \x0bchunked", LENGTH) + BODY,
    "coding with a NUL": head(b"Transfer-Encoding: chunked\x00", LENGTH) + BODY,
    "coding folded": head(b"Transfer-Encoding:\r\n chunked", LENGTH) + BODY + HIDDEN,
    "coding in quotes": head(b'Transfer-Encoding: "chunked"') + CHUNKED,
    "coding empty": head(b"Transfer-Encoding:", LENGTH) + BODY + HIDDEN,
    "chunked in HTTP/1.0": head(TE, line=b"POST /v1/chat/completions HTTP/1.0") + CHUNKED,
    # Lengths in disguise.
    "two lengths": head(LENGTH, b"Content-Length: 0") + BODY + HIDDEN,
    "two lengths the same": head(LENGTH, LENGTH) + BODY + HIDDEN,
    "a list of lengths": head(b"Content-Length: %d, %d" % (SIZE, SIZE)) + BODY + HIDDEN,
    "length with a plus": head(b"Content-Length: +%d" % SIZE) + BODY + HIDDEN,
    "length below nothing": head(b"Content-Length: -1") + BODY + HIDDEN,
    "length in hexadecimal": head(b"Content-Length: 0x%x" % SIZE) + BODY + HIDDEN,
    "length with letters": head(b"Content-Length: %da" % SIZE) + BODY + HIDDEN,
    "length with an underscore": head(b"Content-Length: 1_0") + BODY + HIDDEN,
    "length of two words": head(b"Content-Length: 5 5") + BODY + HIDDEN,
    "length empty": head(b"Content-Length:") + HIDDEN,
    "length beyond 64 bits": head(b"Content-Length: 18446744073709551617") + BODY + HIDDEN,
    "length with a space before the colon": head(b"Content-Length : %d" % SIZE) + BODY,
    # Chunks.
    "chunk size with 0x": head(TE) + b"0x5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk size below nothing": head(TE) + b"-5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk size with a plus": head(TE) + b"+5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk size beyond 64 bits": head(TE) + b"10000000000000005\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk size with a bare LF": head(TE) + b"5\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk size with a space": head(TE) + b"5 \r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk without its end": head(TE) + b"5\r\nhello0\r\n\r\n" + HIDDEN,
    "chunk longer than its size": head(TE) + b"3\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "chunk extension with a bare LF": head(TE) + b"5;a\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a trailer that frames": head(TE)
    + b"%x\r\n%b\r\n0\r\nContent-Length: 900\r\n\r\n" % (SIZE, BODY),
    "chunk without a size": head(TE) + b"\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    # Lines and names.
    "line ends in bare LF": head(LENGTH).replace(b"\r\n", b"\n") + BODY,
    "line ends in bare CR": head(LENGTH).replace(b"\r\n", b"\r") + BODY + HIDDEN,
    "bare CR in a value": head(LENGTH, b"X: a\rContent-Length: 0") + BODY,
    "bare LF in a value": head(LENGTH, b"X: a\nTransfer-Encoding: chunked") + BODY,
    "NUL in a value": head(LENGTH, b"X: a\x00b") + BODY,
    "space in a name": head(LENGTH, b"X Y: a") + BODY,
    "name empty": head(LENGTH, b": a") + BODY,
    "line without a colon": head(LENGTH, b"Transfer-Encoding") + BODY,
    "first header begins with a space": head(LENGTH).replace(b"\r\nHost", b"\r\n Host", 1) + BODY,
    "host missing": head(LENGTH).replace(b"Host: door\r\n", b"") + BODY,
    "host twice, spelled apart": head(LENGTH, b"host: other") + BODY,
    "key twice, spelled apart": head(LENGTH, b"authorization: Bearer sk-other") + BODY,
    # First lines.
    "no version": b"POST /v1/chat/completions\r\n\r\n",
    "version 2": head(LENGTH, line=b"POST /v1/chat/completions HTTP/2.0") + BODY,
    "version 9": head(LENGTH, line=b"POST /v1/chat/completions HTTP/9.9") + BODY,
    "version 1.10": head(LENGTH, line=b"POST /v1/chat/completions HTTP/1.10") + BODY,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space in the target": head(LENGTH, line=b"POST /v1/chat /completions HTTP/1.1") + BODY,
    "control in the target": head(LENGTH, line=b"POST /v1/chat\x01completions HTTP/1.1") + BODY,
    "method unknown": head(LENGTH, line=b"POSTS /v1/chat/completions HTTP/1.1") + BODY,
    "method in small letters": head(LENGTH, line=b"post /v1/chat/completions HTTP/1.1") + BODY,
    "a tunnel": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: door\r\n\r\n",
    "an upgrade with chunks": head(*UPGRADE, TE) + CHUNKED + HIDDEN,
    "TLS on a plain port": bytes.fromhex("16030100a5010000a10303") + bytes(120),
}

TAKEN = {
    "an upgrade that is not taken up": head(*UPGRADE, LENGTH) + BODY + HIDDEN,
    "a length": head(LENGTH) + BODY,
    "chunks": head(TE) + CHUNKED,
    "chunks of one byte": head(TE) + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n",
    "chunked in capitals": head(b"TRANSFER-ENCODING: CHUNKED") + CHUNKED,
    "a chunk's extension": head(TE) + b"%x;name=value\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    "trailers": head(TE) + b"%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (SIZE, BODY),
    "an empty line first": b"\r\n" + head(LENGTH) + BODY,
    "spaces around a value": head(b"Content-Length: \t %d \t " % SIZE) + BODY,
}


@pytest.fixture(autouse=True)
def nothing_was_smuggled(engine, door):
    """Whatever came before, the hidden request never reaches the engine and the door is well."""
    yield
    assert all(one.body.get("user") != "smuggled" for one in engine.requests)
    assert exchange(door.port, request(door.key), answers=1).statuses == [200]
    assert "Traceback" not in door.log()


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_of_doubtful_framing_is_refused_and_ends_the_connection(door, engine, name):
    before = len(engine.requests)
    got = exchange(door.port, REFUSED[name].replace(KEY, door.key.encode()), half_close=True)
    assert len(got.statuses) <= 1
    assert all(400 <= status < 600 for status in got.statuses), got.bodies
    assert got.whole
    assert len(engine.requests) == before


@pytest.mark.parametrize("name", TAKEN)
def test_a_request_of_clear_framing_is_answered_once(door, engine, name):
    before = len(engine.requests)
    got = exchange(door.port, TAKEN[name].replace(KEY, door.key.encode()), answers=1)
    assert got.statuses == [200]
    assert [one.body for one in engine.requests[before:]] == [chat(1)]


@pytest.mark.parametrize(
    "again",
    [
        b"Authorization: Bearer sk-other",
        b"Content-Length: 5",
        b"Content-Type: text/plain",
        b"Host: elsewhere",
        b"host: elsewhere",
    ],
)
def test_a_header_that_may_stand_once_is_refused_when_it_stands_twice(door, engine, again):
    before = len(engine.requests)
    key = b"Authorization: Bearer " + KEY
    for lines in (key + b"\r\n" + again, again + b"\r\n" + key):
        asked = head(LENGTH).replace(key, lines)
        if not again.lower().startswith((b"authorization", b"host", b"content-length")):
            asked = asked.replace(key, b"Content-Type: application/json\r\n" + key, 1)
        got = exchange(door.port, (asked + BODY).replace(KEY, door.key.encode()), half_close=True)
        assert got.statuses == [400], lines
    assert len(engine.requests) == before


def test_of_another_header_given_twice_the_first_counts(door):
    key = b"Authorization: Bearer " + KEY
    asked = head(LENGTH).replace(key, key + b"\r\nX-Note: one\r\nX-Note: two") + BODY
    got = exchange(door.port, asked.replace(KEY, door.key.encode()), answers=1)
    assert got.statuses == [200]


def test_a_known_head_in_front_of_another_body_is_read_like_the_first(door, engine):
    """What is remembered of a head must never pass a body off as longer or shorter than it is."""
    given = head(LENGTH).replace(KEY, door.key.encode())
    for _ in range(3):
        assert exchange(door.port, given + BODY, answers=1).statuses == [200]
    before = len(engine.requests)
    length = b"ength: %d" % len(BODY)
    assert length in given
    for said in (b"ength: +%d", b"ength:  %d", b"ength: 0x%x", b"ength: %d,%d"):
        numbers = (len(BODY),) * said.count(b"%")
        got = exchange(door.port, given.replace(length, said % numbers) + BODY, half_close=True)
        assert all(status == 400 for status in got.statuses) or said == b"ength:  %d"
    # Two requests in one piece, and a request with the beginning of another.
    got = exchange(door.port, 2 * (given + BODY), answers=2)
    assert got.statuses == [200, 200]
    got = exchange(door.port, given + BODY + given[:40], answers=1)
    assert got.statuses == [200]
    assert all(one.body == chat(1) for one in engine.requests[before:])


def test_a_trailer_does_not_pass_for_a_header(door):
    nobody = head(TE).replace(b"Authorization: Bearer " + KEY + b"\r\n", b"")
    trailer = b"Authorization: Bearer " + door.key.encode() + b"\r\n"
    got = exchange(door.port, nobody + CHUNKED[:-2] + trailer + b"\r\n", answers=1)
    assert got.statuses == [401]


def test_requests_in_a_row_on_one_connection_are_answered_in_their_order(door):
    asked = [request(door.key, chat(tokens)) for tokens in (1, 4, 2)]
    got = exchange(door.port, b"".join(asked), answers=3)
    made = [json.loads(body)["usage"]["completion_tokens"] for body in got.bodies]
    assert (got.statuses, made) == ([200, 200, 200], [1, 4, 2])


def test_a_body_that_is_itself_a_request_stays_a_body(door, engine):
    before = len(engine.requests)
    outer = head(b"Content-Length: %d" % len(HIDDEN)).replace(KEY, door.key.encode())
    got = exchange(door.port, outer + HIDDEN, answers=1)
    assert got.statuses == [400]
    assert len(engine.requests) == before


MOST = 60_000_000  # bytes that are offered; networks hold a few million on their way


def endless(start: bytes, piece: bytes, sent: list[int]) -> Iterator[bytes]:
    """A request that goes on and on; `sent` learns how far it came."""
    yield start
    while sum(sent) < MOST:
        yield piece
        sent.append(len(piece))


TOO_MUCH = {
    "one header": (431, b"POST /v1/models HTTP/1.1\r\nX: ", b"a" * 4096),
    "many headers": (431, b"POST /v1/models HTTP/1.1\r\n", b"X-%d: a\r\n" % 7 * 400),
    "an address": (414, b"GET /", b"a" * 4096),
    "a body in chunks without a key": (
        401,
        head(TE).replace(KEY, b"hg-nobody"),
        b"4000\r\n" + b"a" * 0x4000 + b"\r\n",
    ),
    "a body without a key": (
        401,
        head(b"Content-Length: 20000000").replace(KEY, b"hg-nobody"),
        b"a" * 0x4000,
    ),
    "a body": (413, head(b"Content-Length: 900000000"), b"a" * 0x4000),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_of_anything_is_refused_long_before_its_end(door, name):
    status, start, piece = TOO_MUCH[name]
    sent: list[int] = []
    got = exchange(door.port, endless(start.replace(KEY, door.key.encode()), piece, sent))
    # A client that is still sending may find the connection reset before it has read why.
    assert got.statuses in ([status], [])
    assert sum(sent) < MOST / 2

"""Clients that hang up, stall, trickle and vanish: what they were given is billed, once."""

import asyncio
import resource
import socket
import time

import pytest
from tests.acceptance.gateway.clients import ask, ask_all
from tests.acceptance.gateway.raw import exchange, request
from tests.acceptance.gateway.running import Door, chat, eventually, price_nano, running
from tests.acceptance.gateway.scripted import scripted_engine

pytestmark = pytest.mark.engine
TCP_REPAIR = 19  # a socket closed in repair mode says nothing to its peer


@pytest.fixture
def pair(tmp_path):
    """An engine and a door of short patience, both fresh, so that records can be counted."""
    server = """
        header_timeout_s = 1.0
        body_timeout_s = 1.0
        idle_timeout_s = 1.0
        stalled_reader_s = 1.0
    """
    with scripted_engine() as engine:
        door = Door(tmp_path, {"scripted": engine.url}, server=server, engine="in_flight_max = 4\n")
        with running(door):
            yield engine, door


def test_a_client_that_leaves_a_stream_stops_the_engine_at_the_next_token(pair):
    engine, door = pair
    body = chat(100, stream=True, script={"gap_s": 0.1})
    seen = asyncio.run(ask(door, body, leave_after=5))
    (record,) = door.settled(1)
    eventually(lambda: engine.requests[0].left_s is not None, 5)
    assert engine.requests[0].made <= 6
    assert (record.outcome, record.request) == ("left", seen.request)
    assert 5 <= record.output_tokens <= engine.requests[0].made
    assert record.price_nano == price_nano(record.input_tokens, record.output_tokens)


def test_a_client_that_leaves_a_whole_answer_stops_the_engine_and_pays_nothing(pair):
    engine, door = pair
    with socket.create_connection(("127.0.0.1", door.port)) as sock:
        sock.sendall(request(door.key, chat(100, script={"gap_s": 0.05})))
        eventually(lambda: bool(engine.requests) and engine.requests[0].made >= 2, 5)
    (record,) = door.settled(1)
    eventually(lambda: engine.requests[0].left_s is not None, 5)
    assert engine.requests[0].made < 20
    assert (record.outcome, record.output_tokens, record.price_nano) == ("left", 0, 0)


def test_a_client_that_leaves_the_queue_is_never_sent_to_an_engine(pair):
    engine, door = pair

    async def fill_and_queue():
        running_ = [
            asyncio.create_task(ask(door, chat(10, stream=True, script={"gap_s": 0.1})))
            for _ in range(4)
        ]
        while len(engine.requests) < 4:
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(request(door.key, chat(1, user="waits")))
        while door.metrics()["headgate_waiting"] == 0:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while door.metrics()["headgate_waiting"] == 1:
            await asyncio.sleep(0.01)
        return await asyncio.gather(*running_)

    seen = asyncio.run(fill_and_queue())
    records = door.settled(5)
    assert all(one.finished for one in seen)
    assert len(engine.requests) == 4
    assert sorted(record.outcome for record in records) == ["done"] * 4 + ["left"]


def test_a_crowd_of_which_many_leave_is_billed_for_what_each_was_given(pair):
    engine, door = pair
    bodies = [
        chat(12, stream=True, script={"gap_s": 0.002}, leave_after=1 + row % 11)
        if row % 3
        else chat(5, stream=bool(row % 2))
        for row in range(150)
    ]
    seen = asyncio.run(ask_all(door, bodies, at_once=12))
    records = {record.request: record for record in door.settled(150)}
    asked = {one.headers["x-request-id"]: one for one in engine.requests}
    assert set(records) == {one.request for one in seen} == set(asked)
    for one in seen:
        record, made = records[one.request], asked[one.request].made
        if one.finished:
            assert (record.outcome, record.output_tokens) == ("done", made)
        else:
            assert one.left
            assert one.tokens <= record.output_tokens <= made
    # The slots are all back: as many as the engine takes run at once again.
    again = asyncio.run(ask_all(door, [chat(2)] * 8, at_once=4))
    assert all(one.finished for one in again)


def test_a_reader_that_stalls_holds_up_its_engine_and_not_the_doors_memory(pair):
    engine, door = pair
    body = chat(3000, stream=True, script={"pad": 20_000})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", door.port))
        sock.sendall(request(door.key, body))
        eventually(lambda: bool(engine.requests) and engine.requests[0].made > 0, 5)
        # Others are served meanwhile; then the door loses patience.
        assert exchange(door.port, request(door.key), answers=1).statuses == [200]
        eventually(lambda: engine.requests[0].left_s is not None, 10)
    assert engine.requests[0].made < 1500
    stalled, _ = sorted(door.settled(2), key=lambda record: -record.output_tokens)
    assert stalled.outcome == "left"
    assert stalled.output_tokens <= engine.requests[0].made


def test_a_request_that_trickles_in_is_given_up(pair):
    engine, door = pair
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sent = 0
        for byte in request(door.key):
            try:
                sock.sendall(bytes([byte]))
            except ConnectionError:
                break
            sent += 1
            time.sleep(0.2)
    assert sent < 30
    assert engine.requests == []
    assert door.metrics()["headgate_connections"] <= 1


@pytest.mark.parametrize("said", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: d"])
def test_a_connection_that_falls_silent_is_closed(pair, said):
    _, door = pair
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.sendall(said)
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_a_client_that_vanishes_without_a_word_is_noticed_by_the_next_token(pair):
    engine, door = pair
    sock = socket.create_connection(("127.0.0.1", door.port))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    except OSError as refused:
        sock.close()
        pytest.skip(f"only an administrator can make a socket vanish ({refused})")
    sock.sendall(request(door.key, chat(200, stream=True, script={"gap_s": 0.05})))
    eventually(lambda: bool(engine.requests) and engine.requests[0].made >= 2, 5)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.close()
    (record,) = door.settled(1)
    assert record.outcome == "left"
    assert engine.requests[0].made < 50
    assert record.output_tokens <= engine.requests[0].made


def test_ten_thousand_idle_connections_cost_little_and_hold_up_nobody(tmp_path):
    idle = 10_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < idle + 500:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with scripted_engine() as engine:
        door = Door(tmp_path, {"scripted": engine.url})
        with running(door):
            key = door.key
            before = door.memory_bytes()
            socks = []
            try:
                for _ in range(idle):
                    socks.append(socket.create_connection(("127.0.0.1", door.port)))
                eventually(lambda: door.metrics()["headgate_connections"] >= idle, 20)
                seen = asyncio.run(ask_all(door, [chat(3, stream=True)] * 50, at_once=5))
                assert all(one.finished for one in seen)
                each = (door.memory_bytes() - before) / idle
                assert each < 20_000, f"{each:.0f} bytes for an idle connection"
                # Those that were idle are connections like any other.
                for sock in socks[:: idle // 10]:
                    sock.sendall(request(key))
                    assert sock.recv(12) == b"HTTP/1.1 200"
            finally:
                for sock in socks:
                    sock.close()
            eventually(lambda: door.metrics()["headgate_connections"] <= 1, 20)
            door.settled(60)

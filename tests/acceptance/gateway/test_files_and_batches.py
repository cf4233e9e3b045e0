"""Files and batches through OpenAI's SDK: every line answered and billed once, at half price."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import openai
import pytest
from tests.acceptance.gateway.running import eventually, price_nano

pytestmark = pytest.mark.engine
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client(door):
    with openai.OpenAI(base_url=f"{door.url}/v1", api_key=door.key, max_retries=0) as client:
        yield client


def lines(count, tokens=3, **more):
    """A batch's input: `count` chat requests."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Who goes last?"}],
        "max_tokens": tokens,
        **more,
    }
    rows = [
        {"custom_id": f"line-{row}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for row in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def begin(client, data):
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def ended(client, batch, within_s=30):
    give_up = time.monotonic() + within_s
    while (found := client.batches.retrieve(batch.id)).status not in ENDED:
        assert time.monotonic() < give_up, found
        time.sleep(0.1)
    return found


def rows_of(client, file):
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


def batch_records(door, batch, count):
    eventually(lambda: len(door.records_of_order(batch.id)) >= count, 10)
    return door.records_of_order(batch.id)


def test_a_file_is_kept_shown_and_deleted(client):
    made = client.files.create(file=("notes.jsonl", b'{"a": 1}\n'), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (9, "notes.jsonl", "batch")
    assert client.files.retrieve(made.id).id == made.id
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.content(made.id).read() == b'{"a": 1}\n'
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_connection_that_brought_a_file_is_heard_again(door):
    """Also when all of the file was there before the way to the files' process was open."""
    part = b'--cut\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    form = part % (b"purpose", b"", b"batch")
    form += part % (b"file", b'; filename="in.jsonl"', lines(200)) + b"--cut--\r\n"
    headers = {"authorization": f"Bearer {door.key}"}
    kind = {"content-type": "multipart/form-data; boundary=cut"}

    def both(_):
        with closing(HTTPConnection("127.0.0.1", door.port, timeout=5)) as line:
            line.request("POST", "/v1/files", form, headers | kind)
            brought = line.getresponse()
            brought.read()
            line.request("GET", "/v1/files", headers=headers)
            return brought.status, line.getresponse().status

    with ThreadPoolExecutor(6) as crowd:  # more than there can be ways open already
        assert list(crowd.map(both, range(6))) == [(200, 200)] * 6


def test_a_batch_answers_every_line_once_at_half_price(client, door):
    batch = ended(client, begin(client, lines(40)))
    assert (batch.status, batch.request_counts.completed) == ("completed", 40)
    rows = rows_of(client, batch.output_file_id)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"line-{n}" for n in range(40))
    assert {row["response"]["status_code"] for row in rows} == {200}
    assert {row["response"]["body"]["usage"]["completion_tokens"] for row in rows} == {3}
    records = batch_records(door, batch, 40)
    assert len(records) == 40
    assert {(r.tier, r.output_tokens) for r in records} == {("batch", 3)}
    assert {r.price_nano for r in records} == {price_nano(records[0].input_tokens, 3) // 2}


def test_lines_that_fail_are_put_apart_and_cost_nothing(client, door):
    bad = lines(1, script={"status": 400}).replace(b"line-0", b"bad-0")
    batch = ended(client, begin(client, lines(3) + bad))
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 3, 1)
    (row,) = rows_of(client, batch.error_file_id)
    assert (row["custom_id"], row["response"]["status_code"]) == ("bad-0", 400)
    assert sum(r.output_tokens for r in batch_records(door, batch, 4)) == 9


@pytest.mark.parametrize(
    "data",
    [
        b"not json\n",
        lines(1) + lines(1),
        lines(1).replace(b"/v1/chat/completions", b"/v1/embeddings"),
        lines(1).replace(b'"tiny"', b'"huge"'),
        lines(1).replace(b"/v1/chat/completions", b"http://127.0.0.1:1/v1/chat/completions"),
        b"",
    ],
    ids=["not json", "custom_id twice", "other endpoint", "no such model", "address", "empty"],
)
def test_a_batch_that_cannot_be_run_fails_with_the_line_that_is_wrong(client, engine, data):
    before = len(engine.requests)
    try:
        batch = ended(client, begin(client, data))
    except openai.BadRequestError:
        batch = None  # refused at once is as good
    if batch is not None:
        assert batch.status == "failed"
        assert batch.errors.data[0].message
    assert len(engine.requests) == before


def test_a_batch_that_is_cancelled_keeps_what_was_answered(client, door):
    batch = begin(client, lines(600, tokens=2, script={"gap_s": 0.3}))
    eventually(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 5, 20)
    client.batches.cancel(batch.id)
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    rows = rows_of(client, batch.output_file_id)
    assert 5 <= len(rows) == batch.request_counts.completed < 600
    done = [r for r in batch_records(door, batch, len(rows)) if r.outcome == "done"]
    assert len(done) == len(rows)


def test_one_tenant_sees_nothing_of_another(client, door):
    file = client.files.create(file=("in.jsonl", lines(1)), purpose="batch")
    batch = ended(client, begin(client, lines(1)))
    other = client.with_options(api_key=door.key_for("small"))
    for look in (
        lambda: other.files.retrieve(file.id),
        lambda: other.files.content(file.id),
        lambda: other.files.delete(file.id),
        lambda: other.files.content(batch.output_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        ),
    ):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            look()
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []

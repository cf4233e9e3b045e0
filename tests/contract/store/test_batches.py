"""Batches and files in the store, on both stores."""

import msgspec

from headgate.store.batches import Batch, Batches, Counts, LineError
from headgate.store.database import Database
from headgate.store.files import Files, new_file_id


def batch_of(batches: Batches, tenant: str = "acme", window_s: int = 86_400) -> Batch:
    return batches.add(
        tenant,
        "key_1",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        window_s=window_s,
        metadata={"team": "search"},
    )


def test_a_batch_comes_back_as_it_was_made(database: Database) -> None:
    batches = Batches(database)
    batch = batch_of(batches)
    assert batches.get(batch.id, "acme") == batch
    assert batch.expires_at == batch.created_at + 86_400


def test_one_tenants_batches_and_files_are_as_if_absent_to_another(database: Database) -> None:
    batches, files = Batches(database), Files(database)
    batch = batch_of(batches)
    file = files.add(new_file_id(), "acme", 10, "a.jsonl", "batch")
    assert batches.get(batch.id, "bolt") is None
    assert batches.all("bolt") == []
    assert batches.cancel(batch.id, "bolt") is None
    assert batches.get(batch.id) == batch
    assert files.get("bolt", file.id) is None
    assert files.all("bolt") == []
    assert not files.drop("bolt", file.id)
    assert files.get("acme", file.id) == file


def test_a_cancelled_batch_stays_as_it_ended(database: Database) -> None:
    batches = Batches(database)
    batch = batch_of(batches)
    cancelling = batches.cancel(batch.id, "acme")
    assert cancelling is not None
    assert cancelling.status == "cancelling"
    assert cancelling.cancelling_at is not None
    assert batches.cancel(batch.id, "acme") == cancelling
    batches.change(batch.id, lambda one, _: msgspec.structs.replace(one, status="cancelled"))
    again = batches.cancel(batch.id, "acme")
    assert again is not None
    assert again.status == "cancelled"


def test_a_change_keeps_what_it_does_not_name(database: Database) -> None:
    batches = Batches(database)
    batch = batch_of(batches)
    errors = (LineError("bad_line", "It is bad.", 3),)
    counts = Counts(5, 3, 2)
    changed = batches.change(
        batch.id,
        lambda one, _: msgspec.structs.replace(one, errors=errors, request_counts=counts),
    )
    assert changed == msgspec.structs.replace(batch, errors=errors, request_counts=counts)
    assert batches.get(batch.id) == changed


def test_a_batch_has_one_runner_and_the_nearest_deadline_comes_first(database: Database) -> None:
    batches = Batches(database)
    late, soon = batch_of(batches), batch_of(batches, "bolt", 3_600)
    assert [one.id for one in batches.claim("first")] == [soon.id, late.id]
    assert batches.claim("second") == []
    assert [one.id for one in batches.claim("first")] == [soon.id, late.id]
    new = batch_of(batches)
    assert [one.id for one in batches.claim("second")] == [new.id]
    batches.change(new.id, lambda one, _: msgspec.structs.replace(one, status="completed"))
    assert batches.claim("second") == []


def test_files_are_listed_by_purpose_and_counted(database: Database) -> None:
    files = Files(database)
    first = files.add(new_file_id(), "acme", 10, "a.jsonl", "batch")
    second = files.add(new_file_id(), "acme", 5, "b.txt", "assistants", lives_s=-1.0)
    assert {file.id for file in files.all("acme")} == {first.id, second.id}
    assert files.all("acme", "batch") == [first]
    assert files.bytes_of("acme") == 15
    assert files.expired() == [second]
    assert files.drop("acme", second.id)
    assert files.expired() == []

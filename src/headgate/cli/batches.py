"""`headgate batches`: what is deferred, and how far it has come."""

import json
from datetime import UTC, datetime

import click
import msgspec

from headgate.cli.store import as_json, show, with_database
from headgate.core.errors import InputError
from headgate.store.batches import Batch, Batches
from headgate.store.database import Database


@click.group()
def batches() -> None:
    """Batches of all tenants."""


@batches.command("list")
@click.option("--tenant", default="", help="Of this one alone.")
@as_json
@with_database
def list_batches(database: Database, tenant: str, as_json: bool) -> None:
    """The batches there are, newest first."""
    rows = [
        (
            batch.id,
            batch.tenant,
            batch.status,
            batch.request_counts.total,
            batch.request_counts.completed,
            batch.request_counts.failed,
            datetime.fromtimestamp(batch.expires_at, UTC).strftime("%Y-%m-%d %H:%M"),
        )
        for batch in Batches(database).all(tenant)
    ]
    headings = ["id", "tenant", "status", "requests", "completed", "failed", "deadline"]
    show(headings, rows, as_json=as_json, numbers=headings[3:6])


@batches.command("show")
@click.argument("batch")
@with_database
def show_batch(database: Database, batch: str) -> None:
    """One batch as JSON."""
    found = _found(batch, Batches(database).get(batch))
    click.echo(json.dumps(msgspec.to_builtins(found), indent=1))


@batches.command("cancel")
@click.argument("batch")
@with_database
def cancel(database: Database, batch: str) -> None:
    """Ask for a batch's end; what is answered by then is kept."""
    found = _found(batch, Batches(database).cancel(batch))
    click.echo(f"{found.id} is {found.status}.")


def _found(name: str, batch: Batch | None) -> Batch:
    if batch is None:
        raise InputError(
            f"No batch has the id {name!r}; `headgate batches list` shows those there are."
        )
    return batch

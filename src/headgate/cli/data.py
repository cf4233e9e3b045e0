"""`headgate data`: which public traces can be replayed, and whether yours are whole."""

import hashlib
from pathlib import Path

import click

from headgate.core.errors import InputError
from headgate.sim.traces.catalogue import TABLES
from headgate.sim.traces.tables import Table, candidates, locate, read


@click.group()
def data() -> None:
    """Public traces that a scenario can replay: what they are, and whether yours are whole."""


@data.command("list")
def list_tables() -> None:
    """List every table, with its file below the data folder, its source and its licence class."""
    for table in TABLES.values():
        click.echo(f"{table.name:24} {table.path}, {table.rows:,} rows, class {table.licence}")
        click.echo(f"{'':24} {table.about}")
    click.echo("Sources, columns, quirks and citations: docs/reference/traces.md.")


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
def check(folder: Path) -> None:
    """Read every table found in FOLDER to its last cell; exit 1 if one is damaged.

    A table that is not there is said so and is no failure: replay what you have.
    """
    if not any(path.is_file() for table in TABLES.values() for path in candidates(folder, table)):
        raise InputError(
            f"{folder} holds none of the {len(TABLES)} tables; name the folder that has "
            f"{next(iter(TABLES.values())).path}, see `headgate data list`."
        )
    damaged = 0
    for table in TABLES.values():
        verdict, fault = _verdict(folder, table)
        damaged += bool(fault)
        click.echo(f"{table.name:24} {verdict}")
        if fault:
            click.echo(f"{'':24} {fault}")
    if damaged:
        raise click.exceptions.Exit(1)


def _verdict(folder: Path, table: Table) -> tuple[str, str]:
    """How the table fared in a few words, and the sentence that says what is wrong, if any."""
    if not any(path.is_file() for path in candidates(folder, table)):
        return "not there", ""
    try:
        rows = len(read(folder, table))
    except InputError as error:
        return "damaged", str(error)
    with locate(folder, table).open("rb") as file:
        known = hashlib.file_digest(file, "sha256").hexdigest() == table.sha256
    return f"whole, {rows:,} rows, {'the known file' if known else 'not the known file'}", ""

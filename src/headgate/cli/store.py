"""Which store a command speaks to, and how tables are printed."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from headgate.core.errors import InputError
from headgate.store.database import Database, StoreAway
from headgate.store.open import open_database

DEFAULT_URL = "sqlite:///headgate-state/headgate.db"  # what `headgate serve` makes by itself

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def with_database(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command the store as its first argument, by --store or the config's."""

    @click.option("--store", "url", envvar="HEADGATE_STORE", help="Its url.")
    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="The gateway's CONFIG.toml; its state.url is the store.",
    )
    @wraps(command)
    def wrapped(*args: Any, url: str | None, config: Path | None, **options: Any) -> None:
        database = _open(url, config)
        try:
            command(database, *args, **options)
        except StoreAway as away:
            raise InputError(f"The store cannot be asked: {away}.") from None
        finally:
            database.close()

    return wrapped


def _open(url: str | None, config: Path | None) -> Database:
    if url is None and config is not None:
        from headgate.gateway.config import read_config

        url = read_config(config).state.url
    url = url or DEFAULT_URL
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        raise InputError(
            f"There is no store at {path}; name one with --store or --config, "
            "or start `headgate serve`, which makes it."
        )
    try:
        return open_database(url)
    except StoreAway as away:
        raise InputError(f"The store cannot be asked: {away}.") from None


def show(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    as_json: bool,
    numbers: Sequence[str] = (),
    total: Sequence[Any] | None = None,
) -> None:
    """Print rows under headings, as a table for people or as JSON for programs."""
    kept = [list(row) for row in rows]
    if as_json:
        click.echo(json.dumps([dict(zip(headings, row, strict=True)) for row in kept], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_footer=total is not None)
    for column, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            footer=_text(total[column]) if total is not None else "",
            overflow="fold",
        )
    for row in kept:
        table.add_row(*map(_text, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)

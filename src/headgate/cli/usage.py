"""`headgate usage`: what was used and what it costs, to the last token."""

import sys
from typing import Any

import click

from headgate.cli.store import as_json, show, with_database
from headgate.ledger.calendar import first_and_last_day, iso_date
from headgate.ledger.sums import Sum, dimensions_of, total
from headgate.store.database import Database
from headgate.store.usage import Usage

NANO = 1_000_000_000
NUMBERS = ["requests", "input", "cached", "output", "price"]


@click.command()
@click.option("--by", default="tenant", show_default=True, help="Such as tenant,model,day.")
@click.option("--tenant", default="", help="Of this one alone.")
@click.option("--from", "first", help="First day, such as 2026-11-21 (UTC).")
@click.option("--to", "last", help="Last day.")
@as_json
@with_database
def usage(
    database: Database, by: str, tenant: str, first: str | None, last: str | None, as_json: bool
) -> None:
    """Sum the usage records and say whether the bill closes.

    The sums are made of the records themselves, then held against the sums by day that budgets
    are read from. Exit status 1 when the two differ.
    """
    dimensions = dimensions_of(by)
    first_day, last_day = first_and_last_day(first, last)
    store = Usage(database)
    sums = store.sums(dimensions, tenant=tenant, first_day=first_day, last_day=last_day)
    rows = [(*names, *_numbers(one)) for names, one in sums.items()]
    whole = total(sums.values())
    footer = ["total", *[""] * (len(dimensions) - 1), *_numbers(whole)]
    show([*dimensions, *NUMBERS], rows, as_json=as_json, numbers=NUMBERS, total=footer)
    open_days = _difference(store, tenant, first_day, last_day)
    if open_days:
        click.echo(f"DOES NOT CLOSE: kept sums differ on {', '.join(open_days)}.", err=True)
        sys.exit(1)
    if not as_json:
        records = "1 record adds" if whole.requests == 1 else f"{whole.requests:,} records add"
        click.echo(f"Closes: {records} up to the kept sums, to the unit.")


def _difference(store: Usage, tenant: str, first_day: int, last_day: int) -> list[str]:
    """The days on which kept sums and records differ."""
    where: dict[str, Any] = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
    kept: dict[tuple[str, ...], Sum] = {
        (name, model, iso_date(day), tier): one
        for (name, day, model, tier), one in store.day_sums(**where).items()
    }
    made = store.sums(["tenant", "model", "day", "tier"], **where)
    return sorted({key[2] for key in kept.keys() | made.keys() if kept.get(key) != made.get(key)})


def _numbers(one: Sum) -> tuple[int, int, int, int, str]:
    return (
        one.requests,
        one.input_tokens,
        one.cached_tokens,
        one.output_tokens,
        f"{one.price_nano // NANO:,}.{one.price_nano % NANO:09d}",
    )

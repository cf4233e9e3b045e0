"""`headgate usage`: what was used and what it costs, to the last token."""

import sys
from typing import Any

import click

from headgate.cli.store import as_json, show, with_database
from headgate.ledger.calendar import first_and_last_day
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
@click.option("--proof/--no-proof", default=True, show_default=True, help="Add up each record.")
@as_json
@with_database
def usage(
    database: Database,
    by: str,
    tenant: str,
    first: str | None,
    last: str | None,
    proof: bool,
    as_json: bool,
) -> None:
    """Sum the usage and say whether the bill closes.

    The sums are those that are kept as records arrive. Then the records themselves are added up
    and held against them, and against the sums by day that budgets are read from. Exit status 1
    when they differ. --no-proof leaves that out: on a long bill it is what takes time.
    """
    dimensions = dimensions_of(by)
    first_day, last_day = first_and_last_day(first, last)
    where: dict[str, Any] = {"tenant": tenant, "first_day": first_day, "last_day": last_day}
    store = Usage(database)
    sums = store.sums(dimensions, **where)
    rows = [(*names, *_numbers(one)) for names, one in sums.items()]
    footer = ["total", *[""] * (len(dimensions) - 1), *_numbers(total(sums.values()))]
    show([*dimensions, *NUMBERS], rows, as_json=as_json, numbers=NUMBERS, total=footer)
    if not proof:
        return
    requests, open_days = store.open_days(**where)
    if open_days:
        click.echo(f"DOES NOT CLOSE: kept sums differ on {', '.join(open_days)}.", err=True)
        sys.exit(1)
    if not as_json:
        records = "1 record adds" if requests == 1 else f"{requests:,} records add"
        click.echo(f"Closes: {records} up to the kept sums, to the unit.")


def _numbers(one: Sum) -> tuple[int, int, int, int, str]:
    return (
        one.requests,
        one.input_tokens,
        one.cached_tokens,
        one.output_tokens,
        f"{one.price_nano // NANO:,}.{one.price_nano % NANO:09d}",
    )

"""`headgate replay` and `headgate explain`: questions asked of a fact log."""

import sys
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.table import Table

from headgate.control.explain import Explanation, explain, find
from headgate.control.factlog import entries, read_head
from headgate.control.machine import Machine
from headgate.control.replay import Replay, replay
from headgate.control.waits import Estimate, Waits
from headgate.core.errors import InputError
from headgate.sim.policies import from_head


def _play(file: BinaryIO, name: str, until_s: float | None) -> tuple[Waits, Replay]:
    """The machine of the log's head after the log's facts, and what was seen of its waits."""
    head = read_head(file, name)
    machine = Machine(head.fleet, from_head(head), dict(head.standing))
    waits = Waits(machine)
    return waits, replay(machine, entries(file, name), until_s, waits)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give a file that "
            f"`headgate simulate --log` wrote."
        ) from None


@click.command(name="replay")
@click.argument("log", type=click.Path(path_type=Path))
def replay_command(log: Path) -> None:
    """Feed LOG back through the machine and compare wishes.

    Exit status 1 when a wish differs.
    """
    with _open(log) as file:
        _, result = _play(file, log.name, None)
    if result.difference is None:
        click.echo(
            f"{log.name}: {result.facts:,} facts to {result.until_s:,.0f} s, the same "
            f"{result.wishes:,} wishes."
        )
        return
    difference = result.difference
    click.echo(f"{log.name}: fact {difference.number} leads to other wishes: {difference.fact}")
    click.echo(f"  logged: {difference.logged}")
    click.echo(f"  made:   {difference.made}")
    sys.exit(1)


@click.command(name="explain")
@click.argument("work")
@click.option("--at", "at", required=True, metavar="TIME", help="Seconds, or 7200s, 90m, 30h, 2d.")
@click.option(
    "--log",
    "log",
    type=click.Path(path_type=Path),
    required=True,
    help="A fact log that `headgate simulate --log` wrote.",
)
def explain_command(work: str, at: str, log: Path) -> None:
    """Say why WORK is where it is at TIME: the rule, and what would change it."""
    at_s = seconds(at)
    with _open(log) as file:
        waits, result = _play(file, log.name, at_s)
    if result.difference is not None:
        raise InputError(
            f"{log.name} no longer replays from fact {result.difference.number} on; it was "
            f"written by another version or policy: run the simulation again."
        )
    machine = waits.machine
    show(explain(machine, find(machine, work), waits))


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str) -> float:
    """A time such as 7200, 90m, 30h or 2d."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"--at is {text!r}; give seconds, or a number with s, m, h or d.")
    return value


def show(told: Explanation) -> None:
    """Print an explanation."""
    console = Console(highlight=False)
    console.print(
        f"[bold]{told.work}[/bold] ({told.kind} of {told.tenant}, class {told.class_}) at "
        f"{told.at_s:,.0f} s: [bold]{told.state}[/bold] since {told.since_s:,.0f} s"
        + (f" on {told.gpus} accelerators of {told.pool}" if told.pool else "")
    )
    console.print(f"rule: [bold]{told.rule}[/bold] - {told.meaning}")
    if told.by is not None:
        console.print(f"its accelerators went to: {told.by}")
    if told.pools:
        console.print(
            f"in line: {told.ahead} before it, {told.higher} on higher levels want the same pools"
        )
        priced = any(view.price_per_h is not None for view in told.pools)
        money = ("price/h", "bid/h") if priced else ()
        table = Table(
            "pool", "wants", "free", "whole nodes", "class holds", "guaranteed", *money, "says"
        )
        for view in told.pools:
            bids = (f"{view.price_per_h:.2f}", f"{view.bid_per_h:.2f}") if priced else ()
            table.add_row(
                view.pool,
                str(view.wanted),
                str(view.free),
                f"{view.whole_nodes_free} of {view.whole_nodes_wanted}",
                str(view.class_held),
                str(view.class_guarantee),
                *bids,
                view.says,
            )
        console.print(table)
    if told.binding:
        console.print(f"what binds: {told.binding}")
    console.print(f"smallest change: {told.change}")
    if told.back_s is not None:
        at = "now" if told.back_s == 0 else f"in {duration(told.back_s)}"
        console.print(f"the price is expected to be at its bid {at}")
    if told.state == "waiting":
        console.print(f"time to start: {_expected(told.wait)}")


def _expected(wait: Estimate | None) -> str:
    if wait is None:
        return "unknown: too few works like it have started by now"
    high = "an unknown time" if wait.high_s == float("inf") else duration(wait.high_s)
    middle = "" if wait.middle_s == float("inf") else f", half within {duration(wait.middle_s)}"
    return (
        f"nine of ten like it start between {duration(wait.low_s)} and {high} from now{middle} "
        f"(from {wait.alike} works)"
    )


def duration(span_s: float) -> str:
    """A time as a person says it."""
    if span_s < 90:
        return f"{span_s:.0f} s"
    return f"{span_s / 60:.0f} min" if span_s < 5400 else f"{span_s / 3600:.1f} h"

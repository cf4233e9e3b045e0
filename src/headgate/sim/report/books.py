"""The end of the page: where every GPU-hour went, and what the figures rest on."""

from html import escape
from typing import Any

from headgate.sim.report.parts import bar, cell, legend, row, table

Outcome = dict[str, Any]
Result = dict[str, Any]


LEDGER_COLOURS = {
    "training": "--training",
    "maas": "--online",
    "internal": "--internal",
    "external": "--external",
    "lost": "--ink",
    "starting": "--starting",
    "stopping": "--starting",
    "free": "--free",
    "kept for a gang": "--idle",
    "down": "--soft",
}


def ledger_lines(result: Result) -> dict[str, float]:
    """GPU-hours by what they were spent on; with no remainder they are the fleet."""
    ledger = result["ledger_gpu_hours"]
    lines: dict[str, float] = {
        f"{name}: running": spent["running"] for name, spent in ledger["classes"].items()
    }
    for what in ("lost", "starting", "stopping"):
        lines[what] = sum(spent[what] for spent in ledger["classes"].values())
    lines.update(ledger["idle"])
    return lines


def ledger(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return ""
    lines = {name: ledger_lines(result) for name, result in results.items()}
    fleet = {name: result["ledger_gpu_hours"]["fleet"] for name, result in results.items()}
    bars = []
    for name, mine in lines.items():
        parts = [
            (what, LEDGER_COLOURS.get(what.split(":")[0], "--starting"), hours / 1e3)
            for what, hours in mine.items()
        ]
        bars.append(
            bar(
                name,
                parts,
                0.0,
                fleet[name] / 1e3 or 1.0,
                f"{fleet[name] / 1e3:,.1f} k",
                "thousand GPU-hours",
            )
        )
    first = next(iter(lines.values()))
    rows = [row(what, (cell(f"{mine[what]:,.1f}") for mine in lines.values())) for what in first]
    sums = (cell(f"{sum(mine.values()):,.1f}") for mine in lines.values())
    rows.append(row("sum", sums, kind="sum"))
    rows.append(row("the fleet, GPUs × time", (cell(f"{x:,.1f}") for x in fleet.values())))
    left = (
        cell(f"{r['ledger_residual']:.0e}" if r["ledger_residual"] else "0")
        for r in results.values()
    )
    rows.append(row("residual, share of the fleet", left))
    names = [(what, colour) for what, colour in LEDGER_COLOURS.items() if what != "stopping"]
    return (
        '<p class="say">Where every GPU-hour went. Tenants and idle time by cause add up to the '
        "fleet; a replica counts as running while it is up, busy or not.</p>"
        f"{legend((n.replace('starting', 'starting or stopping'), c) for n, c in names)}"
        f"<div class=bars>{''.join(bars)}</div>{table(('GPU-hours', *results), rows)}"
    )


def scenario(outcome: Outcome) -> str:
    """What the figures rest on: the fleet, what was scaled or assumed, what work is worth."""
    pools = [
        row(pool["name"], (cell(pool["generation"]), cell(f"{pool['gpus']:,}")))
        for pool in outcome["pools"]
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in outcome["notes"])
    worth = outcome["worth"]
    prices = [
        row(name.removesuffix("_usd_per_gpu_h"), (cell(f"{usd:g}"),))
        for name, usd in worth.items()
        if isinstance(usd, int | float)
    ]
    for name, usd in worth.get("lease_usd_per_gpu_h", {}).items():
        prices.append(row(f"lease on {name}", (cell(f"{usd:g}"),)))
    return (
        f'<ul class="notes">{notes}</ul>{_tokens(outcome)}<div class="panels"><div>'
        f"<h3>Fleet</h3>{table(('pool', 'generation', 'GPUs'), pools)}</div><div>"
        f"<h3>Worth of a GPU-hour</h3>{table(('', 'US dollars'), prices)}"
        f'<p class="say"><small>{escape(worth.get("source", ""))}</small></p></div></div>'
        f'<p class="say"><small>{_times(outcome)}</small></p>'
    )


def _tokens(outcome: Outcome) -> str:
    """What a million tokens of each service are worth, and who says so."""
    worth: dict[str, dict[str, Any]] = outcome["token_worth"]
    if not worth:
        return ""
    rows = [
        row(name, (*(cell(f"{part[key]:g}") for key in TOKEN_WORTH), cell(part["source"])))
        for name, part in worth.items()
    ]
    heads = ("", *TOKEN_WORTH.values(), "source")
    return f"<h3>Worth of a million tokens, US dollars</h3>{table(heads, rows, 'tokens')}"


TOKEN_WORTH = {
    "online": "online, in objective",
    "batch": "batch, in time",
    "missed": "missed deadline",
}


def _times(outcome: Outcome) -> str:
    took = ", ".join(
        f"{escape(name)} {r['wall_s']:.1f} s ({r['facts']:,} facts)"
        for name, r in outcome["policies"].items()
    )
    return f"Simulated in: {took}." if took else ""

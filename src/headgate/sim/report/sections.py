"""The sections of the page, in reading order; a section with nothing to say is left out."""

from collections.abc import Callable
from html import escape
from typing import Any

from headgate.core.rules import MEANINGS
from headgate.sim.report.charts import use_panels, waiting_panels
from headgate.sim.report.parts import bar, cell, group, legend, metered, row, table
from headgate.sim.report.words import (
    CLASS_COLOURS,
    FIGURES,
    USE_COLOURS,
    VALUE_COLOURS,
    VALUE_NAMES,
    best_of,
    lasting,
)

Outcome = dict[str, Any]
Result = dict[str, Any]


def head(outcome: Outcome) -> str:
    """What was simulated, what came of it in one sentence, and the value of each policy."""
    gpus = sum(pool["gpus"] for pool in outcome["pools"])
    chips = (
        (f"{gpus:,}", "accelerators"),
        (str(len(outcome["pools"])), "pools"),
        (f"{outcome['days']:g}", "day" if outcome["days"] == 1 else "days"),
        (str(outcome["demand"]), "demand"),
    )
    marks = "".join(f"<li><b>{escape(a)}</b> {escape(b)}</li>" for a, b in chips)
    marks += f"<li>seed <b>{outcome['seed']}</b></li>"
    return (
        f"<h1>{escape(outcome['scenario'])}</h1>"
        f'<p class="about">{escape(outcome["about"])}</p><ul class="chips">{marks}</ul>'
        f"{partial(outcome)}{_lead(outcome)}{_value(outcome)}"
    )


def partial(outcome: Outcome) -> str:
    """Says of a run that was stopped how far each policy got; empty when all ended."""
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return '<p class="warn"><b>Stopped early.</b> No policy had begun.</p>'
    if not any(result["partial"] for result in results.values()):
        return ""
    reached = ", ".join(
        f"{escape(name)} {result['simulated_s'] / 3600:.1f} h" for name, result in results.items()
    )
    return (
        f'<p class="warn"><b>Stopped early: these figures are partial.</b> Of '
        f"{outcome['days'] * 24:g} h the policies simulated: {reached}. Sums of policies that got "
        f"further are larger for that reason alone, so no figure is marked as best.</p>"
    )


def _comparable(outcome: Outcome) -> bool:
    return not any(result["partial"] for result in outcome["policies"].values())


def _lead(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if len(results) < 2 or not _comparable(outcome):
        return ""
    ranked = sorted(results, key=lambda name: -results[name]["value"])
    first, second, last = ranked[0], ranked[1], ranked[-1]
    top = results[first]["value"]

    def more(name: str) -> str:
        below = results[name]["value"]
        return f"{top / below - 1:.1%} more than" if below > 0 else "more than"

    text = f"<b>{escape(first)}</b> did work worth {top / 1e3:,.0f} k$: "
    text += f"{more(second)} {escape(second)}"
    text += f", the next best, and {more(last)} {escape(last)}." if last != second else "."
    return f'<p class="lead">{text}</p>'


def _value(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return ""
    gross = [sum(max(v, 0.0) for v in r["value_usd"].values()) for r in results.values()]
    whole = max(max(gross) / 1e3, 1e-9)
    bars = []
    for name, result in results.items():
        usd = result["value_usd"]
        parts = [
            (VALUE_NAMES[source], colour, usd.get(source, 0.0) / 1e3)
            for source, colour in VALUE_COLOURS.items()
        ]
        off = -usd.get("missed deadlines", 0.0) / 1e3
        bars.append(bar(name, parts, off, whole, f"{result['value'] / 1e3:,.1f} k$", "k$"))
    names = [(VALUE_NAMES[source], colour) for source, colour in VALUE_COLOURS.items()]
    if any(result["value_usd"].get("missed deadlines", 0.0) < 0 for result in results.values()):
        names.append(("taken off for missed deadlines", "off"))
    return (
        f"{legend(names)}<div class=bars>{''.join(bars)}</div>"
        f'<p class="say"><small>Value by source, in thousands of US dollars. What a unit of each '
        f'work is worth stands under <a href="#scenario">scenario</a>.</small></p>'
    )


def comparison(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return ""
    rows = []
    for figure in FIGURES:
        best = best_of(figure, results) if _comparable(outcome) else set()
        cells = [cell(figure.text(figure.of(r)), best=n in best) for n, r in results.items()]
        rows.append(row(figure.label, cells, figure.meaning))
    mark = " The best of each line is marked with a dot." if _comparable(outcome) else ""
    return (
        f'<p class="say">Every policy met the same demand, the same failures and the same seed.'
        f"{mark}</p>{table(('', *results), rows, 'figures')}"
    )


def use(outcome: Outcome) -> str:
    if not outcome["policies"]:
        return ""
    names = [*USE_COLOURS.items(), ("capacity that is live", "rule")]
    return (
        '<p class="say">Accelerators by what they did. Colour is useful work, grey is not: '
        "the grey under the line is what the policy left unused.</p>"
        f"{legend(names)}{use_panels(outcome)}"
    )


def waiting(outcome: Outcome) -> str:
    if not outcome["policies"]:
        return ""
    return (
        '<p class="say">Accelerators that waiting work asked for, by class: gangs, leases and '
        "replicas of services. Batch that waits for a valley is not counted.</p>"
        f"{legend(CLASS_COLOURS.items())}{waiting_panels(outcome)}"
    )


def busy(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return ""
    rows = []
    for pool in outcome["pools"]:
        shares = {name: r["busy_share_by_pool"][pool["name"]] for name, r in results.items()}
        cells = [metered(f"{share:.1%}", share) for share in shares.values()]
        rows.append(row(pool["name"], cells, f"{pool['generation']}, {pool['gpus']:,} GPUs"))
    hours = [
        row(
            name,
            (
                f'<td style="background:color-mix(in oklab, var(--heat) {_heat(x):.0f}%, '
                f'var(--surface))">{x * 100:.0f}</td>'
                for x in result["busy_share_by_hour"]
            ),
        )
        for name, result in results.items()
    ]
    return (
        '<p class="say">Share of the live accelerators at useful work, by generation.</p>'
        f"{table(('', *results), rows)}"
        '<p class="say" style="margin-top:26px">The same by hour of the day, in percent.</p>'
        f"{table(('', *(str(h) for h in range(24))), hours, 'hours')}"
    )


def _heat(share: float) -> float:
    """Percent of colour for a busy share: white at a half and below, full at 1."""
    return 100 * min(max((share - 0.5) * 2, 0.0), 1.0)


def classes(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results:
        return ""
    rows, reasons = [], set()
    for name in outcome["classes"]:
        mine = {policy: result["classes"][name] for policy, result in results.items()}
        rows.append(group(name, len(results) + 1))
        for label, text in CLASS_ROWS:
            told = [text(figures) for figures in mine.values()]
            if any(told):
                rows.append(row(label, (cell(x or "–") for x in told)))
        for reason in sorted({reason for c in mine.values() for reason in c["refused"]}):
            reasons.add(reason)
            counts = (cell(f"{c['refused'].get(reason, 0):,}") for c in mine.values())
            rows.append(row(f"refused: {reason}", counts))
    meant = "".join(
        f"<br>{escape(reason)}: {escape(MEANINGS.get(reason, 'a rule of its own'))}."
        for reason in sorted(reasons)
    )
    return (
        '<p class="say">Waits are those of gangs and leases; a wait that had not ended counts as '
        f"far as it had come.</p>{table(('', *results), rows)}"
        f'<p class="say"><small>{meant.removeprefix("<br>")}</small></p>'
    )


def _waits(key: str) -> Callable[[Result], str]:
    return lambda figures: lasting(figures[key]) if figures["submitted"] else ""


CLASS_ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("GPU-hours", lambda c: f"{c['gpu_hours']:,.0f}"),
    ("submitted", lambda c: f"{c['submitted']:,}" if c["submitted"] else ""),
    ("finished", lambda c: f"{c['finished']:,}" if c["submitted"] else ""),
    ("still waiting at the end", lambda c: f"{c['waiting']:,}" if c["submitted"] else ""),
    ("wait, mean", _waits("wait_mean_s")),
    ("wait, P90", _waits("wait_p90_s")),
    ("wait, longest", _waits("wait_longest_s")),
    ("evictions", lambda c: f"{c['evictions']:,}"),
    ("guarantee broken", lambda c: lasting(c["guarantee_broken_s"])),
)


def services(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not results or not outcome["services"]:
        return ""
    rows = []
    for name in outcome["services"]:
        cells = []
        for result in results.values():
            figures = result["services"][name]
            below = (
                f"{figures['goodput_tokens'] / 1e9:,.1f} of {figures['arrived_tokens'] / 1e9:,.1f}"
            )
            if figures["refused_tokens"] >= 5e6:
                below += f", {figures['refused_tokens'] / 1e9:,.2f} refused"
            if figures["batch_tokens"]:
                below += f"; batch {figures['batch_tokens'] / 1e9:,.1f}"
            share = figures["attainment"]
            cells.append(metered(f"{share:.2%}", share, below=below))
        rows.append(row(name, cells))
    return (
        '<p class="say">Share of the tokens that arrived whose request was served within its '
        "objective; below it the 10⁹ tokens served so, of those that arrived, and batch tokens "
        f"of the same model. Tokens are output-equivalent.</p>{table(('', *results), rows)}"
    )


BATCH_ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("orders", lambda b: f"{b['orders']:,}"),
    ("due or done", lambda b: f"{b['due']:,}"),
    ("done in time", lambda b: f"{b['in_time']:,}"),
    ("deadlines met", lambda b: f"{b['deadlines_met']:.1%}"),
    ("10⁹ tokens in time", lambda b: f"{b['tokens_in_time'] / 1e9:,.1f}"),
    ("10⁹ tokens late", lambda b: f"{b['tokens_late'] / 1e9:,.1f}"),
)


def batch(outcome: Outcome) -> str:
    results: dict[str, Result] = outcome["policies"]
    if not any(result["batch"]["orders"] for result in results.values()):
        return ""
    rows = [
        row(label, (cell(text(r["batch"])) for r in results.values())) for label, text in BATCH_ROWS
    ]
    return (
        '<p class="say">Deferrable work with a deadline. An order that is neither due nor done '
        f"when the simulation ends counts on no side.</p>{table(('', *results), rows)}"
    )


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
        f'<ul class="notes">{notes}</ul><div class="panels"><div>'
        f"<h3>Fleet</h3>{table(('pool', 'generation', 'GPUs'), pools)}</div><div>"
        f"<h3>Worth of a GPU-hour</h3>{table(('', 'US dollars'), prices)}"
        f'<p class="say"><small>{escape(worth.get("source", ""))}</small></p></div></div>'
        f'<p class="say"><small>{_times(outcome)}</small></p>'
    )


def _times(outcome: Outcome) -> str:
    took = ", ".join(
        f"{escape(name)} {r['wall_s']:.1f} s ({r['facts']:,} facts)"
        for name, r in outcome["policies"].items()
    )
    return f"Simulated in: {took}." if took else ""


SECTIONS: tuple[tuple[str, str, Callable[[Outcome], str]], ...] = (
    ("head", "", head),
    ("figures", "The figures", comparison),
    ("use", "Use of the fleet", use),
    ("waiting", "Waiting", waiting),
    ("busy", "Busy share", busy),
    ("classes", "Classes", classes),
    ("services", "Services", services),
    ("batch", "Batch", batch),
    ("ledger", "Ledger", ledger),
    ("scenario", "Scenario", scenario),
)

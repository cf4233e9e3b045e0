"""Those who asked: classes, services and batch, under each policy."""

from collections.abc import Callable
from html import escape
from typing import Any

from headgate.core.rules import MEANINGS
from headgate.sim.report.parts import cell, group, metered, row, table
from headgate.sim.report.words import lasting

Outcome = dict[str, Any]
Result = dict[str, Any]


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

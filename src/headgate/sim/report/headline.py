"""The head of the page: what was simulated, what came of it, and the policies side by side."""

from html import escape
from typing import Any

from headgate.sim.report.parts import bar, cell, legend, row, table
from headgate.sim.report.words import FIGURES, VALUE_COLOURS, VALUE_NAMES, best_of

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

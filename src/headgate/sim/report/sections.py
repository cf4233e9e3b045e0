"""The sections of the page, in reading order; a section with nothing to say is left out."""

from collections.abc import Callable
from itertools import repeat
from typing import Any

from headgate.sim.report.books import ledger, scenario
from headgate.sim.report.charts import use_panels, waiting_panels
from headgate.sim.report.classes import batch, classes, services
from headgate.sim.report.headline import comparison, head
from headgate.sim.report.parts import legend, metered, row, table
from headgate.sim.report.words import CLASS_COLOURS, USE_COLOURS

Outcome = dict[str, Any]
Result = dict[str, Any]


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
    hours = [row(name, map(_hour, range(24), repeat(result))) for name, result in results.items()]
    return (
        '<p class="say">Share of the live accelerators at useful work, by generation.</p>'
        f"{table(('', *results), rows)}"
        '<p class="say" style="margin-top:26px">The same by hour of the day, in percent.</p>'
        f"{table(('', *(str(h) for h in range(24))), hours, 'hours')}"
    )


def _hour(hour: int, result: Result) -> str:
    """The cell of one hour of the day; a dash where the simulation did not reach it."""
    if result["simulated_s"] <= hour * 3600:
        return "<td>–</td>"
    share = result["busy_share_by_hour"][hour]
    mix = f"color-mix(in oklab, var(--heat) {_heat(share):.0f}%, var(--surface))"
    return f'<td style="background:{mix}">{share * 100:.0f}</td>'


def _heat(share: float) -> float:
    """Percent of colour for a busy share: white at a half and below, full at 1."""
    return 100 * min(max((share - 0.5) * 2, 0.0), 1.0)


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

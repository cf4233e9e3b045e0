"""What each figure is called, what it means, and how it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Result = dict[str, Any]

# Colours are CSS variables of page.css: one for each use, the same in every chart.
USE_COLOURS = {
    "training": "--training",
    "online tokens": "--online",
    "batch tokens": "--batch",
    "internal applications": "--internal",
    "external leases": "--external",
    "starting or stopping": "--starting",
    "replicas with nothing to do": "--idle",
    "free": "--free",
}
CLASS_COLOURS = {
    "training": "--training",
    "maas": "--online",
    "internal": "--internal",
    "external": "--external",
}
VALUE_COLOURS = {
    "foundation": "--training",
    "gangs": "--training-soft",
    "online": "--online",
    "batch": "--batch",
    "applications": "--internal",
    "leases": "--external",
}
VALUE_NAMES = {
    "foundation": "foundation training",
    "gangs": "research gangs",
    "online": "online tokens",
    "batch": "batch tokens",
    "applications": "internal applications",
    "leases": "external leases",
}
LIGHT = {"--training-soft", "--batch", "--internal", "--external", "--idle", "--free", "--starting"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the comparison."""

    label: str
    meaning: str
    of: Callable[[Result], float]
    text: Callable[[float], str]
    best: Literal["most", "least", "none"] = "most"


def plain(x: float) -> str:
    return f"{x:,.0f}"


def one(x: float) -> str:
    return f"{x:,.1f}"


def percent(x: float) -> str:
    return f"{x:.1%}"


def percents(x: float) -> str:
    return f"{x:.2%}"


def lasting(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def refused(result: Result) -> int:
    return sum(sum(c["refused"].values()) for c in result["classes"].values())


def evictions(result: Result) -> int:
    return sum(int(c["evictions"]) for c in result["classes"].values())


def longest_wait_s(result: Result) -> float:
    return max((float(c["wait_longest_s"]) for c in result["classes"].values()), default=0.0)


def training_wait_s(result: Result) -> float:
    return float(result["classes"].get("training", {}).get("wait_mean_s", 0.0))


FIGURES = (
    Figure(
        "Value, k$",
        "What the work done is worth at the scenario's prices, missed deadlines taken off.",
        lambda r: r["value"] / 1e3,
        one,
    ),
    Figure(
        "Busy share",
        "Accelerator time at useful work, of all that was live. Booting, waiting replicas and "
        "lost work are not useful.",
        lambda r: r["busy_share"],
        percent,
    ),
    Figure(
        "Goodput, 10⁹ tokens",
        "Tokens delivered within their objective, online and batch, counted as output tokens.",
        lambda r: r["goodput_tokens"] / 1e9,
        one,
    ),
    Figure(
        "Objective attained",
        "Online tokens whose request did not wait longer than its objective allows.",
        lambda r: r["attainment"],
        percents,
    ),
    Figure(
        "Valley harvested",
        "Of what online requests leave idle, the share that anything else put to use.",
        lambda r: r["valley_harvest"],
        percent,
    ),
    Figure(
        "Batch deadlines met",
        "Of the batch orders that were due or done, those done in time.",
        lambda r: r["batch"]["deadlines_met"],
        percent,
    ),
    Figure(
        "Work lost",
        "Running time of gangs and leases whose result was lost because they were stopped.",
        lambda r: r["lost_work_share"],
        percents,
        "least",
    ),
    Figure(
        "Guarantee broken",
        "Time a class waited, beyond the reclaim time, for what it is guaranteed; summed over "
        "classes and pools.",
        lambda r: r["guarantee_broken_s"],
        lasting,
        "least",
    ),
    Figure(
        "Training wait, mean",
        "How long a gang waited for its accelerators, those that still wait included.",
        training_wait_s,
        lasting,
        "least",
    ),
    Figure(
        "Longest wait",
        "The longest that any one gang or lease waited; a wait that did not end counts so far.",
        longest_wait_s,
        lasting,
        "least",
    ),
    Figure(
        "Refused",
        "Gangs and leases turned away, each with its reason.",
        lambda r: float(refused(r)),
        plain,
        "least",
    ),
    Figure(
        "Evictions",
        "Works that gave accelerators back before their end. A price, not a fault: it buys the "
        "rest.",
        lambda r: float(evictions(r)),
        plain,
        "none",
    ),
    Figure(
        "Ledger residual",
        "GPU-seconds that the ledger cannot account for, as a share of the fleet's.",
        lambda r: r["ledger_residual"],
        lambda x: "0" if x == 0 else f"{x:.0e}",
        "none",
    ),
)


def best_of(figure: Figure, results: dict[str, Result]) -> set[str]:
    """The policies that share the best figure as it is written; none where all are alike."""
    if figure.best == "none" or len(results) < 2:
        return set()
    values = {name: figure.of(result) for name, result in results.items()}
    top = max(values.values()) if figure.best == "most" else min(values.values())
    best = {name for name, value in values.items() if figure.text(value) == figure.text(top)}
    return set() if len(best) == len(results) else best

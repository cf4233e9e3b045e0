"""`headgate simulate`: replay a scenario under several policies and show what each did."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headgate.core.errors import InputError
from headgate.sim.contest import Settings, run_policies, warm_up
from headgate.sim.policies import make
from headgate.sim.report import write_report
from headgate.sim.scenario import LONGEST_DAYS, Scenario, read
from headgate.sim.story import Story, build

SCENARIOS = Path(__file__).parents[1] / "scenarios"
REPORT = Path("headgate-report.html")


@click.command()
@click.argument("scenario", required=False, type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="A policy to run; give it again for more. silos, fifo, priority, headgate, or your own "
    "as module:Class or file.py:Class. Default: those the scenario names.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of public traces to replay; without it demand is generated.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--days", type=float, help="Simulate so many days instead of the scenario's.")
@click.option(
    "--fidelity",
    type=click.Choice(["windows", "requests"]),
    help="Play traffic as a fluid in windows, or every single request. Default: the scenario's.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help=f"Where the report goes. Default: {REPORT}.",
)
@click.option(
    "--log",
    "log_dir",
    type=click.Path(path_type=Path),
    help="Folder for each policy's fact log, for `headgate replay` and `headgate explain`.",
)
def simulate(
    scenario: Path | None,
    policies: tuple[str, ...],
    data: Path | None,
    seed: int,
    days: float | None,
    fidelity: str | None,
    json_file: Path | None,
    report: Path | None,
    log_dir: Path | None,
) -> None:
    """Replay SCENARIO under several policies, side by side on the same demand.

    Without SCENARIO the bundled day is played (pool-day; pool-week is bundled too). Ctrl-C stops
    early and keeps what was simulated so far, marked as partial.
    """
    console = Console(stderr=True)
    chosen = _scenario(scenario, days)
    if fidelity is not None:
        chosen = msgspec.structs.replace(chosen, fidelity=fidelity)
    _writable(json_file)
    _writable(report)
    if log_dir is not None and log_dir.exists() and not log_dir.is_dir():
        raise InputError(f"--log {log_dir} is a file; give a folder for the logs.")
    with console.status("preparing the demand"):
        story = build(chosen, _folder(data), seed)
    names = policies or chosen.policies
    for name in names:
        make(name, story)  # a name that is not known is said before anything runs
    with console.status("loading the kernels (the first time they are compiled: half a minute)"):
        warm_up()
    results = _run(console, names, story, Settings(seed, log_dir))
    outcome = summary(chosen, story, results, seed, data)
    outcome["asked"] = list(names)
    Console().print(table(chosen, results))
    if json_file is not None:
        json_file.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
        click.echo(f"figures: {json_file}", err=True)
    where = report or REPORT
    write_report(where, outcome)
    click.echo(f"report: {where} (opens in a browser)", err=True)
    absent = [name for name in names if name not in results]
    if absent or any(result["partial"] for result in results.values()):
        not_begun = f"; not begun: {', '.join(absent)}" if absent else ""
        click.echo(f"stopped early: the figures are partial{not_begun}.", err=True)
        sys.exit(130)


def _scenario(path: Path | None, days: float | None) -> Scenario:
    """The scenario of that path, or the bundled one of that name."""
    path = path or Path("pool-day")
    bundled = SCENARIOS / f"{path.name}.toml"
    scenario = read(bundled if not path.exists() and not path.suffix and bundled.exists() else path)
    if days is None:
        return scenario
    if not 0 < days <= LONGEST_DAYS:
        raise InputError(f"--days is {days:g}; give more than 0 and at most {LONGEST_DAYS}.")
    return msgspec.structs.replace(scenario, days=days)


def _folder(data: Path | None) -> Path | None:
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data} is no folder; give the folder that holds the traces.")
    return data


def _writable(path: Path | None) -> None:
    """Say before the work, not after it, that a result could not be written."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file in it.")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path} cannot be written: its folder does not exist; make it first.")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise InputError(f"{path} cannot be written: permission is missing; give another place.")


def _run(
    console: Console, names: tuple[str, ...], story: Story, settings: Settings
) -> dict[str, dict[str, Any]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
    )
    bars: AbstractContextManager[Progress] = Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True
    )
    with bars as progress:
        tasks = {name: progress.add_task(name, total=1.0) for name in names}
        return run_policies(
            names,
            story,
            settings,
            lambda name, share: progress.update(tasks[name], completed=share),
        )


def summary(
    scenario: Scenario,
    story: Story,
    results: dict[str, dict[str, Any]],
    seed: int,
    data: Path | None,
) -> dict[str, Any]:
    """What the JSON file and the report hold."""
    return {
        "scenario": scenario.name,
        "about": scenario.about,
        "days": scenario.days,
        "seed": seed,
        "demand": "replayed from traces" if data is not None else "generated",
        "notes": story.notes,
        "pools": [
            {"name": pool.name, "generation": pool.generation, "gpus": pool.gpus}
            for pool in story.fleet.pools
        ],
        "classes": list(story.fleet.classes),
        "services": [service.name for service in story.fleet.services],
        "worth": msgspec.to_builtins(scenario.worth),
        "token_worth": {
            service.name: {
                "online": service.usd_per_million,
                "batch": service.batch_usd_per_million,
                "missed": service.batch_miss_usd_per_million,
                "source": service.usd_source,
            }
            for service in scenario.services
        },
        "policies": results,
    }


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("value, k$", lambda r: f"{r['value'] / 1e3:,.1f}"),
    ("busy share, %", lambda r: f"{r['busy_share']:.1%}"[:-1]),
    ("goodput, 10⁹ tokens", lambda r: f"{r['goodput_tokens'] / 1e9:,.1f}"),
    ("objective attained, %", lambda r: f"{r['attainment']:.2%}"[:-1]),
    ("valley harvested, %", lambda r: f"{r['valley_harvest']:.1%}"[:-1]),
    ("batch deadlines met, %", lambda r: f"{r['batch']['deadlines_met']:.1%}"[:-1]),
    ("work lost, %", lambda r: f"{r['lost_work_share']:.2%}"[:-1]),
    ("guarantee broken, s", lambda r: f"{r['guarantee_broken_s']:,.0f}"),
    ("training wait, mean, min", lambda r: f"{r['classes']['training']['wait_mean_s'] / 60:,.1f}"),
    ("longest wait, h", lambda r: f"{_longest_wait_s(r) / 3600:,.1f}"),
    ("refused", lambda r: f"{_refused(r):,}"),
    ("evictions", lambda r: f"{sum(c['evictions'] for c in r['classes'].values()):,}"),
    (
        "ledger residual",
        lambda r: "0" if r["ledger_residual"] < 1e-12 else f"{r['ledger_residual']:.0e}",
    ),
    ("simulated in, s", lambda r: f"{r['wall_s']:.1f}"),
)


def _longest_wait_s(result: dict[str, Any]) -> float:
    return max(float(c["wait_longest_s"]) for c in result["classes"].values())


def _refused(result: dict[str, Any]) -> int:
    return sum(sum(c["refused"].values()) for c in result["classes"].values())


def table(scenario: Scenario, results: dict[str, dict[str, Any]]) -> Table:
    """The policies side by side."""
    made = Table(title=f"{scenario.name}: {scenario.about}", title_justify="left")
    made.add_column("")
    for name in results:
        made.add_column(name, justify="right")
    for label, figure in ROWS:
        made.add_row(label, *(figure(result) for result in results.values()))
    return made

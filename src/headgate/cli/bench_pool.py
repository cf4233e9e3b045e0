"""`headgate bench pool`: policies against each other and against the hindsight bound."""

import json
import statistics
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from headgate.cli.simulate import SCENARIOS
from headgate.core.errors import InputError
from headgate.policy.forecast import choose, forecast
from headgate.sim.bound import bound
from headgate.sim.contest import Settings, run_policies
from headgate.sim.policies import make
from headgate.sim.scarcity import factor_for, scaled
from headgate.sim.scenario import Scenario, read
from headgate.sim.story import Story, build

QUARTER_S = 900.0
HOUR_AHEAD = 4  # quarters


class Run(msgspec.Struct):
    """One policy on one story."""

    scenario: str
    scarcity: float
    policy: str
    seed: int
    value: float
    value_over_bound: float  # the bound of the policy's own mode
    value_over_value_bound: float
    harvest_over_bound: float
    busy_share: float
    busy_share_min_generation: float
    attainment_loss_points: float
    lost_work_share: float
    guarantee_broken_s: float
    deadlines_met: float
    round_ms_p50: float
    round_ms_p99: float


@click.command()
@click.option("--scenario", type=click.Path(path_type=Path), default=Path("pool-week"))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of traces to replay.")
@click.option("--days", type=float, help="Simulate so many days instead of the scenario's.")
@click.option("--policy", "policies", multiple=True, help="A policy; again for more.")
@click.option("--load", "loads", multiple=True, type=float, help="Offered load; again for more.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="How many.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the runs here.")
def pool(
    scenario: Path,
    data: Path | None,
    days: float | None,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    seeds: int,
    json_file: Path | None,
) -> None:
    """Hold every policy against the best possible run, at three scarcities.

    The offered load is the share of the fleet that would just serve all demand, were time of no
    matter; demand is scaled to 0.8, 1.1 and 1.5 unless --load says otherwise. The foundation runs
    are orders and stay as they are.
    """
    chosen = _scenario(scenario, days)
    for load in loads:
        if not 0.0 < load <= 10.0:
            raise InputError(f"--load is {load:g}; give more than 0 and at most 10.")
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data} is no folder; give the folder that holds the traces.")
    names = policies or ("silos", "fifo", "priority", "headgate", "headgate-strict")
    runs: list[Run] = []
    scores: list[dict[str, float]] = []
    console = Console(stderr=True)
    for seed in range(seeds):
        plain = build(chosen, data, seed)
        for name in names:
            make(name, plain)  # a name that is not known is said before anything runs
        for load in loads or (0.8, 1.1, 1.5):
            story = build(scaled(chosen, factor_for(plain, seed, load)), data, seed)
            runs += _runs(console, story, names, load, seed)
            _write(json_file, runs, scores)
        scores.append(forecast_scores(plain))
    _write(json_file, runs, scores)
    _show(runs)


def _scenario(path: Path, days: float | None) -> Scenario:
    bundled = SCENARIOS / f"{path.name}.toml"
    chosen = read(bundled if not path.exists() and not path.suffix and bundled.exists() else path)
    if days is None:
        return chosen
    if not days > 0:
        raise InputError(f"--days is {days:g}; give more than 0.")
    return msgspec.structs.replace(chosen, days=days)


def _runs(
    console: Console, story: Story, names: tuple[str, ...], load: float, seed: int
) -> list[Run]:
    """Every policy on one story, with the bound of both modes and the services by themselves."""
    scenario = story.scenario
    settings = Settings(seed, timed=True)
    with console.status(f"load {load:g}, seed {seed}: the bound"):
        best = {mode: bound(story, seed, mode) for mode in ("value", "strict")}
    with console.status(f"load {load:g}, seed {seed}: {', '.join(names)}"):
        results = run_policies(names, story, settings)
    with console.status(f"load {load:g}, seed {seed}: each with the services alone"):
        alone = run_policies(names, alone_in_the_pool(story), settings)
    return [
        Run(
            scenario=scenario.name,
            scarcity=load,
            policy=name,
            seed=seed,
            value=r["value"],
            value_over_bound=r["value"] / best[_mode(name)].value,
            value_over_value_bound=r["value"] / best["value"].value,
            harvest_over_bound=r["valley_harvest"] / best[_mode(name)].harvest,
            busy_share=r["busy_share"],
            busy_share_min_generation=min(r["busy_share_by_pool"].values()),
            attainment_loss_points=100 * (alone[name]["attainment"] - r["attainment"]),
            lost_work_share=r["lost_work_share"],
            guarantee_broken_s=r["guarantee_broken_s"],
            deadlines_met=r["batch"]["deadlines_met"],
            round_ms_p50=r["round_ms"]["p50"],
            round_ms_p99=r["round_ms"]["p99"],
        )
        for name, r in results.items()
    ]


def _mode(name: str) -> str:
    return "strict" if name.endswith("-strict") else "value"


def alone_in_the_pool(story: Story) -> Story:
    """The same services and failures with nothing beside them."""
    return Story(
        scenario=story.scenario,
        fleet=msgspec.structs.replace(story.fleet, guarantees=()),
        facts=[],
        truth=type(story.truth)(),
        live_s=story.live_s,
        gone_s=story.gone_s,
        arrived=story.arrived,
        requests=story.requests,
        demands=story.demands,
        failures=story.failures,
        worth_usd_per_gpu_s=[],
        group=[],
        peak_gpus=story.peak_gpus,
    )


def forecast_scores(story: Story) -> dict[str, float]:
    """An hour ahead over the second half of the story, from what was seen before: the weighted
    absolute error (WAPE) beside that of the last value, and how often the 90th percentile held."""
    windows = max(1, round(QUARTER_S / story.scenario.window_s))
    n = len(story.arrived) // windows
    seen = story.arrived[: n * windows].reshape(n, windows, -1).mean(axis=1)
    if n < 16 or not seen.shape[1]:
        return {}
    wrong = last = total = 0.0
    held = []
    for at in range(n // 2, n - HOUR_AHEAD):
        past, truth = seen[:at], seen[at + HOUR_AHEAD - 1]
        if at == n // 2 or at % 24 == 0:
            pull = choose(past)
        said = forecast(past, (HOUR_AHEAD,), pull)
        wrong += float(np.abs(said.p50[0] - truth).sum())
        last += float(np.abs(past[-1] - truth).sum())
        total += float(truth.sum())
        held += (truth <= said.p90[0]).tolist()
    return {
        "wape": wrong / total,
        "wape_persistence": last / total,
        "p90_coverage": sum(held) / len(held),
    }


def _write(path: Path | None, runs: list[Run], scores: list[dict[str, float]]) -> None:
    if path is None:
        return
    told: dict[str, Any] = {"runs": msgspec.to_builtins(runs)}
    scores = [score for score in scores if score]
    if scores:
        told["forecast"] = {
            key: statistics.mean(score[key] for score in scores) for key in scores[0]
        }
    try:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {path}: cannot write ({error.strerror}).") from None


COLUMNS: tuple[tuple[str, str, float], ...] = (
    ("value / bound, %", "value_over_bound", 100),
    ("harvest / bound, %", "harvest_over_bound", 100),
    ("busy, %", "busy_share", 100),
    ("least busy pool, %", "busy_share_min_generation", 100),
    ("attainment lost, points", "attainment_loss_points", 1),
    ("work lost, %", "lost_work_share", 100),
    ("guarantee broken, s", "guarantee_broken_s", 1),
    ("round P99, ms", "round_ms_p99", 1),
)


def _show(runs: list[Run]) -> None:
    table = Table(title=f"{runs[0].scenario}: means over seeds, ± standard deviation")
    table.add_column("load")
    table.add_column("policy")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for load, name in dict.fromkeys((run.scarcity, run.policy) for run in runs):
        mine = [run for run in runs if (run.scarcity, run.policy) == (load, name)]
        cells = []
        for _, key, scale in COLUMNS:
            seen = [scale * getattr(run, key) for run in mine]
            spread = f" ± {statistics.stdev(seen):.2f}" if len(seen) > 1 else ""
            cells.append(f"{statistics.mean(seen):.2f}{spread}")
        table.add_row(f"{load:g}", name, *cells)
    Console().print(table)

"""`headgate bench pool`: policies against each other and against the hindsight bound."""

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
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
from headgate.sim.counterfactual import verify
from headgate.sim.policies import make
from headgate.sim.scarcity import enlarged, factor_for, scaled
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
    plan_ms_p50: float | None  # of the rounds that made prices anew; None: the policy has none
    plan_ms_p99: float | None


@click.command()
@click.option("--scenario", type=click.Path(path_type=Path), default=Path("pool-week"))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of traces to replay.")
@click.option("--days", type=float, help="Simulate so many days instead of the scenario's.")
@click.option("--policy", "policies", multiple=True, help="A policy; again for more.")
@click.option("--load", "loads", multiple=True, type=float, help="Offered load; again for more.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="How many.")
@click.option(
    "--explained",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Explanations to try out; 0 for none.",
)
@click.option("--large/--no-large", default=True, help="Time rounds on 100,000 accelerators too.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the runs here.")
def pool(
    scenario: Path,
    data: Path | None,
    days: float | None,
    policies: tuple[str, ...],
    loads: tuple[float, ...],
    seeds: int,
    explained: int,
    large: bool,
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
    told = Told()
    console = Console(stderr=True)
    for seed in range(seeds):
        plain = build(chosen, data, seed)
        for name in names:
            make(name, plain)  # a name that is not known is said before anything runs
        for load in loads or (0.8, 1.1, 1.5):
            story = build(scaled(chosen, factor_for(plain, seed, load)), data, seed)
            told.runs += _runs(console, story, names, load, seed)
            told.write(json_file)
        told.scores.append(forecast_scores(plain))
    if explained:
        with console.status(f"{explained:,} explanations tried out"):
            told.explain = _explained(chosen, data, explained)
        told.write(json_file)
    if large:
        with console.status("rounds on 100,000 accelerators"):
            told.large = _large(chosen)
    told.write(json_file)
    told.show()


@dataclass
class Told:
    """What the bench has found by now."""

    runs: list[Run] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    explain: dict[str, Any] = field(default_factory=dict)
    large: dict[str, Any] = field(default_factory=dict)

    @property
    def forecast(self) -> dict[str, float]:
        """Means over seeds."""
        scores = [score for score in self.scores if score]
        keys = scores[0] if scores else {}
        return {key: statistics.mean(score[key] for score in scores) for key in keys}

    def write(self, path: Path | None) -> None:
        if path is None:
            return
        parts = {"explain": self.explain, "forecast": self.forecast, "large": self.large}
        told: dict[str, Any] = {"runs": msgspec.to_builtins(self.runs)}
        told |= {name: part for name, part in parts.items() if part}
        try:
            path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json {path}: cannot write ({error.strerror}).") from None

    def show(self) -> None:
        _show(self.runs)
        console = Console()
        if self.forecast:
            console.print(
                "demand an hour ahead: WAPE {wape:.3f}, of the last value {wape_persistence:.3f}; "
                "90th percentile held {p90_coverage:.1%}".format(**self.forecast)
            )
        if self.explain:
            console.print(
                "explanations: the stated change admitted the work in {verified_share:.2%} of "
                "{cases:,} cases; the 90 % interval held {interval_coverage:.1%} of {waits:,} "
                "waits".format(**self.explain)
            )
        if self.large:
            console.print(
                "{accelerators:,} accelerators: round P99 {round_ms_p99:.0f} ms, with prices made "
                "anew {plan_ms_p99:.0f} ms".format(**self.large)
            )


# Intervals learn for a day or so; on a fleet so large a tenth of a day does for rounds.
EXPLAINED_DAYS = 3.0
LARGE_GPUS = 100_000
LARGE_DAYS = 0.1


def _explained(scenario: Scenario, data: Path | None, cases: int) -> dict[str, Any]:
    """Explanations of `headgate` on the first days, tried out in the simulated world."""
    day = msgspec.structs.replace(scenario, days=min(scenario.days, EXPLAINED_DAYS))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        found = executor.submit(verify, "headgate", build(day, data, 0), Settings(), cases).result()
    return {
        "verified_share": found.share,
        "cases": found.cases,
        "unexplained": found.unexplained,
        "by_kind": dict(found.by_kind),
        "interval_coverage": found.waits.coverage,
        "waits": found.waits.judged,
    }


def _large(scenario: Scenario) -> dict[str, Any]:
    """Rounds of `headgate` on a fleet of 100,000 accelerators, demand generated in proportion."""
    gpus = sum(pool.nodes_in_all * pool.gpus_per_node for pool in scenario.pools)
    short = msgspec.structs.replace(scenario, days=min(scenario.days, LARGE_DAYS))
    story = build(enlarged(short, LARGE_GPUS / gpus), None, 0)
    result = run_policies(("headgate",), story, Settings(timed=True))["headgate"]
    times = {f"round_ms_{name}": value for name, value in result["round_ms"].items()}
    plans = {f"plan_ms_{name}": times.pop(f"round_ms_plan_{name}") for name in ("p50", "p99")}
    return {"accelerators": story.fleet.gpus, "facts": result["facts"], **times, **plans}


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
            plan_ms_p50=r["round_ms"].get("plan_p50"),
            plan_ms_p99=r["round_ms"].get("plan_p99"),
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


COLUMNS: tuple[tuple[str, str, float], ...] = (
    ("value / bound, %", "value_over_bound", 100),
    ("harvest / bound, %", "harvest_over_bound", 100),
    ("busy, %", "busy_share", 100),
    ("least busy pool, %", "busy_share_min_generation", 100),
    ("attainment lost, points", "attainment_loss_points", 1),
    ("work lost, %", "lost_work_share", 100),
    ("guarantee broken, s", "guarantee_broken_s", 1),
    ("round P99, ms", "round_ms_p99", 1),
    ("plan P99, ms", "plan_ms_p99", 1),
)


def _show(runs: list[Run]) -> None:
    """One table a load: figures down, policies across."""
    console = Console()
    for load in dict.fromkeys(run.scarcity for run in runs):
        mine = [run for run in runs if run.scarcity == load]
        names = list(dict.fromkeys(run.policy for run in mine))
        seeds = len({run.seed for run in mine})
        spread = f", means of {seeds} seeds ± standard deviation" if seeds > 1 else ""
        table = Table(title=f"{mine[0].scenario}, offered load {load:g}{spread}")
        table.add_column("")
        for name in names:
            table.add_column(name, justify="right")
        for heading, key, scale in COLUMNS:
            table.add_row(heading, *(_cell(mine, name, key, scale) for name in names))
        console.print(table)


def _cell(runs: list[Run], name: str, key: str, scale: float) -> str:
    seen = [getattr(run, key) for run in runs if run.policy == name]
    values = [scale * value for value in seen if value is not None]
    if not values:
        return ""
    places = 0 if max(map(abs, values)) >= 1000 else 2
    spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{places}f}{spread}"

"""`headgate bench fleet`: how fast the pool simulator is."""

import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

from headgate.core.errors import InputError
from headgate.sim.contest import Settings, run_policies, warm_up
from headgate.sim.jobs import repeated, simulate_jobs
from headgate.sim.scenario import read
from headgate.sim.story import build
from headgate.sim.workloads import gangs, replayed

SCENARIOS = Path(__file__).parents[1] / "scenarios"
DAY_S = 86_400.0
HALF_YEAR_S = 182 * DAY_S
FLEET_GPUS = 4_096
LARGE_FLEET_GPUS = 10_000
# Philly's cluster held about 2,400 accelerators; the half year is scaled to a fleet of 10,000.
PHILLY_GPUS = 2_400


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of public traces; without it demand is generated from published statistics.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures.")
def fleet(data: Path | None, repeats: int, json_file: Path | None) -> None:
    """Time the job simulator, a week of the pool under four policies, and half a year of gangs."""
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data} is no folder; give the folder that holds the traces.")
    warm_up()
    result: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}",
        "demand": "replayed from traces" if data is not None else "generated",
    }
    result |= _job_events(data, repeats)
    click.echo(
        f"job simulator: {result['job_events_per_s']:,.0f} events/s (median of {repeats}, "
        f"{result['job_events_per_s_min']:,.0f} to {result['job_events_per_s_max']:,.0f})"
    )
    result |= _week(data)
    click.echo(
        f"pool-week, {len(result['week_policies'])} policies: {result['week_wall_s']:.1f} s "
        f"together, demand included"
    )
    result |= _half_year(data)
    click.echo(
        f"half a year of gangs on {LARGE_FLEET_GPUS:,} accelerators: "
        f"{result['half_year_wall_s']:.1f} s for {result['half_year_events']:,} events"
    )
    result["peak_rss_bytes"] = _peak_rss_bytes()
    click.echo(f"largest process: {result['peak_rss_bytes'] / 2**30:.2f} GiB")
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _job_events(data: Path | None, repeats: int) -> dict[str, Any]:
    """Facts a second of the job simulator alone, under fifo, on a fleet of 4,096."""
    jobs = (
        gangs.generate(gpus_offered=0.8 * FLEET_GPUS, span_s=14 * DAY_S, seed=1)
        if data is None
        else replayed.philly_stream(data, start_s=30 * DAY_S, span_s=40 * DAY_S, scale=2.0)
    )
    rates = []
    for _ in range(repeats):
        run = simulate_jobs(jobs, FLEET_GPUS)
        rates.append(run.facts / run.wall_s)
    return {
        "job_events_per_s": statistics.median(rates),
        "job_events_per_s_min": min(rates),
        "job_events_per_s_max": max(rates),
        "job_events": run.facts,
        "jobs": len(jobs),
    }


def _week(data: Path | None) -> dict[str, Any]:
    """The bundled week under its policies, from reading the file to the figures."""
    began_s = time.perf_counter()
    scenario = read(SCENARIOS / "pool-week.toml")
    story = build(scenario, data, 0)
    results = run_policies(scenario.policies, story, Settings())
    wall_s = time.perf_counter() - began_s
    return {
        "week_wall_s": wall_s,
        "week_policies": {name: result["wall_s"] for name, result in results.items()},
        "week_facts": {name: result["facts"] for name, result in results.items()},
        "week_residual": max(result["ledger_residual"] for result in results.values()),
    }


def _half_year(data: Path | None) -> dict[str, Any]:
    """Half a year of Philly's gangs, scaled from its cluster's size to 10,000 accelerators."""
    began_s = time.perf_counter()
    scale = LARGE_FLEET_GPUS / PHILLY_GPUS
    if data is None:
        jobs = gangs.generate(gpus_offered=0.8 * LARGE_FLEET_GPUS, span_s=HALF_YEAR_S, seed=2)
    else:
        trace = replayed.philly_stream(data, start_s=20 * DAY_S, span_s=57 * DAY_S, scale=scale)
        jobs = repeated(trace, HALF_YEAR_S)
    run = simulate_jobs(jobs, LARGE_FLEET_GPUS)
    return {
        "half_year_wall_s": time.perf_counter() - began_s,
        "half_year_events": run.facts,
        "half_year_jobs": len(jobs),
        "half_year_mean_wait_s": run.mean_wait_s,
    }


def _peak_rss_bytes() -> int:
    """The largest process of the bench; Linux counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) * unit

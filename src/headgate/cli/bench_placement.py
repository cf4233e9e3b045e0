"""`headgate bench placement`: the published packing experiment, six policies and ours."""

import statistics
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from headgate.core.errors import InputError
from headgate.kernels.placement import Pods
from headgate.policy.placement.bound import Bounds, bounds
from headgate.policy.placement.nodes import Nodes
from headgate.sim.packing import POLICIES, decision_us, pack
from headgate.sim.traces.openb import arrivals, load_nodes, load_pods


class Run(msgspec.Struct):
    """One run of one policy."""

    trace: str
    policy: str
    seed: int
    allocated_percent: float
    wall_s: float
    cpu_s: float


class Report(msgspec.Struct, omit_defaults=True):
    """What `--json` writes."""

    results: list[Run]
    bounds: Bounds | None = None
    decision_us_p99_100k: float | None = None
    decision_cpu_us_p99_100k: float | None = None  # what the clock counts, less others' turns


SPEED_GPUS = 100_000
SPEED_DECISIONS = 20_000


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of traces.")
@click.option("--trace", required=True, help="NAME in cluster/openb_pod_list_NAME.csv.gz.")
@click.option("--policy", "policies", multiple=True, help="A policy; all if none is named.")
@click.option("--seeds", default="42..51", show_default=True, help="First and last seed, A..B.")
@click.option("--bound", is_flag=True, help="Also bound what any policy could reach (a minute).")
@click.option("--speed", is_flag=True, help="Also time our decisions on 100,000 GPUs.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the runs here.")
def placement(
    data: Path,
    trace: str,
    policies: tuple[str, ...],
    seeds: str,
    bound: bool,
    speed: bool,
    json_file: Path | None,
) -> None:
    """Pack a cluster of 6,212 GPUs with a trace's pods and compare what each policy allocates.

    The pods arrive in random order, with repetition, until they have asked for 130 % of the
    cluster's GPUs; none leaves, and one that does not fit is dropped.
    """
    for policy in policies:
        if policy not in POLICIES:
            raise InputError(
                f"--policy {policy}: no such policy; give one of {', '.join(POLICIES)}."
            )
    chosen = _range(seeds)
    if json_file and not json_file.parent.is_dir():
        raise InputError(
            f"--json {json_file}: cannot write there; give a file in a folder that is."
        )
    nodes = load_nodes(data)
    pods = load_pods(data, trace, nodes)
    runs = []
    for policy in dict.fromkeys(policies or POLICIES):
        pack(nodes, pods, policy, seed=0)  # compile or load before timing
        for seed in chosen:
            packing = pack(nodes, pods, policy, seed)
            share = packing.allocated_percent
            runs.append(Run(trace, policy, seed, share, packing.wall_s, packing.cpu_s))
    _show(runs)
    report = Report(runs)
    if bound:
        _bound(report, nodes, pods, chosen[0])
    if speed:
        _speed(report, nodes, pods)
    if json_file:
        _write(json_file, msgspec.json.format(msgspec.json.encode(report)))


def _bound(report: Report, nodes: Nodes, pods: Pods, seed: int) -> None:
    found = report.bounds = bounds(nodes, arrivals(nodes, pods, seed))
    click.echo(
        f"No policy can pass {found.kept:.2f} % on the stream of seed {seed} if it drops no pod "
        f"that fits; {found.whole:.2f} % if it may, {found.fluid:.2f} % if pods and GPUs could be "
        "cut."
    )


def _speed(report: Report, nodes: Nodes, pods: Pods) -> None:
    clock_us, cpu_us = decision_us(nodes, pods, SPEED_GPUS, SPEED_DECISIONS, seed=0)
    report.decision_us_p99_100k = float(np.percentile(clock_us, 99))
    report.decision_cpu_us_p99_100k = float(np.percentile(cpu_us, 99))
    click.echo(
        f"A decision of ours on {SPEED_GPUS:,} GPUs: median {np.median(clock_us):.0f} µs, P99 "
        f"{report.decision_us_p99_100k:.0f} µs by the clock and "
        f"{report.decision_cpu_us_p99_100k:.0f} µs on the CPU."
    )


def _range(seeds: str) -> range:
    first, dots, last = seeds.partition("..")
    if not (first.isdecimal() and (last.isdecimal() if dots else True)):
        raise InputError(f"--seeds {seeds}: is no range; give first and last seed, such as 1..10.")
    chosen = range(int(first), int(last or first) + 1)
    if not chosen:
        raise InputError(f"--seeds {seeds}: holds no seed; the last must not be before the first.")
    return chosen


def _show(runs: list[Run]) -> None:
    table = Table(title=f"GPU allocated in percent of the cluster, trace {runs[0].trace}")
    table.add_column("policy")
    for heading in ("runs", "mean", "standard error", "s a run", "CPU s"):
        table.add_column(heading, justify="right")
    for policy in dict.fromkeys(run.policy for run in runs):
        share = [run.allocated_percent for run in runs if run.policy == policy]
        wall_s, cpu_s = (
            statistics.median(getattr(run, time) for run in runs if run.policy == policy)
            for time in ("wall_s", "cpu_s")
        )
        error = f"{np.std(share, ddof=1) / len(share) ** 0.5:.3f}" if len(share) > 1 else "-"
        mean = f"{np.mean(share):.2f}"
        table.add_row(policy, str(len(share)), mean, error, f"{wall_s:.2f}", f"{cpu_s:.2f}")
    Console().print(table)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--json {path}: cannot write ({error.strerror}).") from None

"""`headgate bench placement`: the published packing experiment, six policies and ours."""

import statistics
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from headgate.core.errors import InputError
from headgate.sim.packing import POLICIES, pack
from headgate.sim.traces.openb import load_nodes, load_pods


class Run(msgspec.Struct):
    """One run of one policy."""

    trace: str
    policy: str
    seed: int
    allocated_percent: float
    wall_s: float


class Report(msgspec.Struct):
    results: list[Run]


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of traces.")
@click.option("--trace", required=True, help="NAME in cluster/openb_pod_list_NAME.csv.gz.")
@click.option("--policy", "policies", multiple=True, help="A policy; all if none is named.")
@click.option("--seeds", default="42..51", show_default=True, help="First and last seed, A..B.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the runs here.")
def placement(
    data: Path, trace: str, policies: tuple[str, ...], seeds: str, json_file: Path | None
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
    nodes = load_nodes(data)
    pods = load_pods(data, trace, nodes)
    runs = []
    for policy in policies or POLICIES:
        pack(nodes, pods, policy, seed=0)  # compile or load before timing
        for seed in _range(seeds):
            packing = pack(nodes, pods, policy, seed)
            share = packing.allocated_percent
            runs.append(Run(trace, policy, seed, share, packing.wall_s))
    _show(runs)
    if json_file:
        _write(json_file, msgspec.json.format(msgspec.json.encode(Report(runs))))


def _range(seeds: str) -> range:
    first, dots, last = seeds.partition("..")
    if not (first.isdigit() and (last.isdigit() if dots else not last)):
        raise InputError(f"--seeds {seeds}: is no range; give first and last seed, such as 1..10.")
    chosen = range(int(first), int(last or first) + 1)
    if not chosen:
        raise InputError(f"--seeds {seeds}: holds no seed; the last must not be before the first.")
    return chosen


def _show(runs: list[Run]) -> None:
    table = Table(title=f"GPU allocated in percent of the cluster, trace {runs[0].trace}")
    table.add_column("policy")
    for heading in ("runs", "mean", "standard error", "s a run"):
        table.add_column(heading, justify="right")
    for policy in dict.fromkeys(run.policy for run in runs):
        share = [run.allocated_percent for run in runs if run.policy == policy]
        wall_s = statistics.median(run.wall_s for run in runs if run.policy == policy)
        error = f"{np.std(share, ddof=1) / len(share) ** 0.5:.3f}" if len(share) > 1 else "-"
        table.add_row(policy, str(len(share)), f"{np.mean(share):.2f}", error, f"{wall_s:.2f}")
    Console().print(table)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--json {path}: cannot write ({error.strerror}).") from None

"""`headgate bench serving`: exact, faithful, fast, and beside NVIDIA's replay."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headgate.cli.figures import show
from headgate.cli.serving import write_json
from headgate.kernels.serving.layout import W_ARRIVED, W_FINISHED, W_REFUSED
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.dice import stream
from headgate.sim.serving.dynamo import UnavailableError, replay_with_dynamo
from headgate.sim.serving.levels import predict_levels
from headgate.sim.serving.published import WINDOW_S, Demand, language_models, load_demand
from headgate.sim.serving.recorded import Errors, present
from headgate.sim.serving.replay import replay
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.service import Settings, SimulatedService
from headgate.sim.serving.stepfiles import load_step_tables
from headgate.sim.serving.validation import validate_run
from headgate.sim.serving.week import draw_windows, play_windows
from headgate.sim.serving.workload import Workload, load_workload

BLOCKS, CHUNK, CAP = 4096, 512, 128
WEEK_REQUESTS, WEEK_REPLICAS = 44_100_000, 1024
MOST_TOKENS = 32_768  # half of what a replica holds: the few longer requests are cut
# Stated in the reference data's own page: Vidur's simulation loop on w_10k_qps1, 2 cores.
VIDUR_S = 18.0


class Spread(NamedTuple):
    """Requests a second over several rounds."""

    median: float
    tenth: float
    ninetieth: float


class Report(msgspec.Struct):
    """What the bench measured; times in seconds, errors of the recorded runs in percent.

    `vllm_live_noise`: how far the rounds of a level lie apart, to read `vllm_live` beside.
    `requests_per_s`: the median over rounds, and its spread from the tenth to the ninetieth
    percentile. `warm_start_s`: the median.
    """

    vidur_max_error_s: float
    skip_max_error_s: float
    vllm_recorded: dict[str, float]
    vllm_live: dict[str, float]
    vllm_live_noise: dict[str, float]
    requests_per_s: dict[str, float]
    requests_per_s_spread: dict[str, tuple[float, float]]
    week_wall_s: float | None
    week_rss_bytes: int | None
    over_dynamo: dict[str, float]
    warm_start_s: float
    over_vidur: float
    skipped: dict[str, str]
    day_wall_s: float | None = None
    day_requests: int | None = None


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of traces.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
@click.option("--live", type=click.Path(path_type=Path), help="A recorded engine's folder.")
@click.option("--week/--no-week", default=True, show_default=True, help="44.1 million requests.")
@click.option("--day/--no-day", default=False, show_default=True, help="ServeGen's language day.")
@click.option("--dynamo/--no-dynamo", default=True, show_default=True, help="Run Dynamo beside.")
def serving(
    data: Path, json_file: Path | None, live: Path | None, week: bool, day: bool, dynamo: bool
) -> None:
    """Hold the serving kernel against Vidur, vLLM and Dynamo, and time it."""
    folder = data / "serving_ref"
    tables = load_step_tables(present(folder, "vidur_step_tables.npz"))
    skipped: dict[str, str] = {}
    _say("speed on 1, 32 and 1,024 replicas")
    speeds = _speeds(folder, tables)
    _say("differences to Vidur, to walking and to vLLM")
    found = Report(
        vidur_max_error_s=_vidur_error_s(folder, tables),
        skip_max_error_s=_skip_error_s(tables),
        vllm_recorded=_recorded(folder),
        vllm_live={},
        vllm_live_noise={},
        requests_per_s={name: speed.median for name, speed in speeds.items()},
        requests_per_s_spread={name: (s.tenth, s.ninetieth) for name, s in speeds.items()},
        week_wall_s=None,
        week_rss_bytes=None,
        over_dynamo={},
        warm_start_s=_warm_start_s(folder),
        over_vidur=0.0,
        skipped=skipped,
    )
    if live is None:
        skipped["vllm_live"] = (
            "no recording given; record one with python -m tools.vllm_cpu record and give --live"
        )
    else:
        predicted = predict_levels(live)
        found.vllm_live = _by_level(predicted.errors)
        found.vllm_live_noise = _by_level(predicted.noise_percent)
    found.over_vidur = VIDUR_S * found.requests_per_s["r1"] / 10_000
    if dynamo:
        _say("Dynamo's replay of the same requests, which takes minutes")
        found.over_dynamo = _beside_dynamo(folder, tables, skipped)
    if week:
        _say(f"a week of {WEEK_REQUESTS:,} requests")
        found.week_wall_s, found.week_rss_bytes = _week(data, tables)
    if day:
        _say("a day of three language models")
        found.day_wall_s, found.day_requests = _day(data, tables)
    show(msgspec.structs.asdict(found))
    if json_file:
        write_json(json_file, found)


def _say(part: str) -> None:
    click.echo(f"{part} ...", err=True)


def _service(
    tables: StepModel, replicas: int, routing: str, walk: bool = False
) -> SimulatedService:
    settings = Settings(Scheduler("vidur", CHUNK, CAP), routing=routing, walk=walk)
    return SimulatedService(settings, [tables], replicas, BLOCKS)


def _vidur_error_s(folder: Path, tables: StepModel) -> float:
    """The largest difference to Vidur's own times over all requests of its two runs."""
    worst = 0.0
    for run, replicas in (("qps1", 1), ("qps4", 4)):
        path = present(folder, f"ref_vidur_{run}.csv")
        reference = pl.read_csv(path)
        replayed = replay(_service(tables, replicas, "round-robin"), load_workload(path))
        for ours, theirs in ((replayed.ttft_s, "ttft_s"), (replayed.e2e_s, "e2e_s")):
            worst = max(worst, float(np.max(np.abs(ours - reference[theirs].to_numpy()))))
    return worst


def _skip_error_s(tables: StepModel) -> float:
    """The largest difference between skipping and walking, over random workloads of each profile,
    with memory so short that they preempt."""
    worst = 0.0
    for profile in ("sarathi", "vidur", "vllm-v1"):
        for seed in range(4):
            dice = stream(seed, "bench-serving", profile)
            n = 2000
            workload = Workload(
                np.cumsum(dice.exponential(0.3 * (seed + 1), n)),
                dice.integers(1, 2000, n),
                dice.integers(1, 400, n),
            )
            times = []
            for walk in (False, True):
                settings = Settings(Scheduler(profile, CHUNK, CAP), walk=walk)
                service = SimulatedService(settings, [tables], 1, 700)
                times.append(replay(service, workload).e2e_s)
            worst = max(worst, float(np.nanmax(np.abs(times[0] - times[1]))))
    return worst


def _recorded(folder: Path) -> dict[str, float]:
    run = folder / "vllm_rtxpro6000_llama31_8b"
    found = validate_run(run, Scheduler("vllm-v1", 2048, 128), 32, 36578, 100)
    return _flat(found.errors)


def _flat(errors: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{m}_{name}": error for m, part in errors.items() for name, error in part.items()}


def _by_level(levels: dict[str, Errors]) -> dict[str, float]:
    flat = {level: _flat(errors) for level, errors in levels.items()}
    return {f"{level}_{key}": error for level, part in flat.items() for key, error in part.items()}


def _speeds(folder: Path, tables: StepModel) -> dict[str, Spread]:
    """Requests a second of one core over several rounds: routing and metrics included."""
    cases = {
        "r1": ("w_10k_qps1.csv", 1, 200),
        "r32": ("w_100k_qps32.csv", 32, 15),
        "r1024": ("w_100k_qps32.csv", 1024, 15),
    }
    found = {}
    for name, (file, replicas, rounds) in cases.items():
        workload = load_workload(present(folder, file))
        found[name] = _speed(workload, tables, replicas, "round-robin", rounds)
        if replicas > 1:
            least = _speed(workload, tables, replicas, "least-outstanding", rounds)
            found[f"{name}_least_outstanding"] = least
    return found


def _speed(
    workload: Workload, tables: StepModel, replicas: int, routing: str, rounds: int
) -> Spread:
    speeds = len(workload) / _cpu_s(workload, tables, replicas, routing, rounds)
    tenth, median, ninetieth = np.quantile(speeds, [0.1, 0.5, 0.9])
    return Spread(float(median), float(tenth), float(ninetieth))


def _cpu_s(
    workload: Workload, tables: StepModel, replicas: int, routing: str, rounds: int
) -> NDArray[np.float64]:
    """Seconds of this process's own CPU for each of some replays, after a first one."""
    took = []
    for _ in range(rounds + 1):
        service = _service(tables, replicas, routing)
        began = time.process_time()
        service.play(workload)
        took.append(time.process_time() - began)
    return np.array(took[1:])


def _warm_start_s(folder: Path) -> float:
    """Seconds to the first result in a process that has its imports and its compiled code."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from headgate.cli.bench_serving import first_result\n"
        "began = time.perf_counter()\n"
        "first_result(Path(sys.argv[1]))\n"
        "print(time.perf_counter() - began)\n"
    )
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": scratch, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(6):  # the first compiles the interpreter's own code
            done = subprocess.run(
                [sys.executable, "-c", code, str(folder)],
                capture_output=True,
                text=True,
                check=True,
                env=env,
            )
            times.append(float(done.stdout.split()[-1]))
    return float(np.median(times[1:]))


def first_result(folder: Path) -> Seen:
    """Load tables and a workload and play it: what a fresh process is timed at."""
    tables = load_step_tables(present(folder, "vidur_step_tables.npz"))
    workload = load_workload(present(folder, "w_10k_qps1.csv"))
    return _service(tables, 1, "round-robin").play(workload)


def _beside_dynamo(folder: Path, tables: StepModel, skipped: dict[str, str]) -> dict[str, float]:
    """How many times less CPU our replay takes, in the same minutes on the same machine."""
    found: dict[str, float] = {}
    for name, replicas, rounds in (("w_10k_qps1", 1, 3), ("w_100k_qps32", 32, 1)):
        workload = load_workload(present(folder, f"{name}.csv"))
        ours_s = float(np.median(_cpu_s(workload, tables, replicas, "round-robin", 5)))
        try:
            with tempfile.TemporaryDirectory() as scratch:
                theirs = replay_with_dynamo(
                    workload, Path(scratch), replicas, BLOCKS, CHUNK, CAP, rounds
                )
        except (UnavailableError, subprocess.TimeoutExpired) as why:
            skipped["over_dynamo"] = str(why)
            return {}
        found[name] = theirs.cpu_s / ours_s
    return found


def _week(data: Path, tables: StepModel) -> tuple[float, int]:
    """A week of ServeGen's largest language model, scaled to 44.1 million requests: published rates
    by 10 minutes, published lengths. Wall seconds and peak memory, drawing included."""
    demand = load_demand(data, "m-large", 7, MOST_TOKENS).scaled_to(WEEK_REQUESTS)
    began = time.perf_counter()
    arrived = _play(demand, tables, "week")
    assert abs(arrived / WEEK_REQUESTS - 1.0) < 0.001
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _play(demand: Demand, tables: StepModel, name: str) -> int:
    """Play a demand on 1,024 replicas, a window at a time; how many requests there were."""
    service = _service(tables, WEEK_REPLICAS, "least-outstanding")
    windows = draw_windows(demand.rates_per_s, WINDOW_S, demand.lengths, 1, name)
    arrived, ended = _totals(play_windows(service, windows, WINDOW_S))
    assert arrived == ended
    return arrived


def _totals(seen: Iterator[Seen]) -> tuple[int, int]:
    arrived = ended = 0
    for one in seen:
        arrived += one.count(W_ARRIVED)
        ended += one.count(W_FINISHED) + one.count(W_REFUSED)
        one.quantile_s(0, 0.99)  # percentiles of each window are part of the work
    return arrived, ended


def _day(data: Path, tables: StepModel) -> tuple[float, int]:
    """The first day of ServeGen's three language models, each on 1,024 replicas four times as fast
    as the reference tables: published rates by 10 minutes, published lengths."""
    began = time.perf_counter()
    total = 0
    for model in language_models(data):
        demand = load_demand(data, model, 1, MOST_TOKENS)
        total += _play(demand, tables.scaled(0.25), model)
    return time.perf_counter() - began, total

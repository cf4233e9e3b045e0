"""`headgate serving`: replay requests through simulated replicas, hold them against an engine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.table import Table

from headgate.core.errors import InputError

if TYPE_CHECKING:
    from headgate.model.steptime import StepModel
    from headgate.sim.serving.replay import Report

FILE = click.Path(path_type=Path)


@click.group()
def serving() -> None:
    """Simulate replicas request by request."""


@serving.command()
@click.argument("workload", type=FILE)
@click.option("--profile", default="sarathi", show_default=True, help="sarathi, vidur or vllm-v1.")
@click.option("--step-tables", type=FILE, help="Step times as a predictor's tables (NPZ).")
@click.option("--step-model", type=FILE, help="Step times as a fitted model (JSON).")
@click.option("--replicas", default=1, show_default=True)
@click.option("--routing", default="round-robin", show_default=True, help="Who gets a request.")
@click.option("--kv-blocks", default=4096, show_default=True, help="KV blocks of a replica.")
@click.option("--block-tokens", default=16, show_default=True, help="Tokens in a KV block.")
@click.option("--chunk", default=512, show_default=True, help="Tokens in an iteration.")
@click.option("--batch-cap", default=128, show_default=True, help="Sequences at once.")
@click.option("--watermark", default=0.01, show_default=True, help="Share of blocks kept free.")
@click.option("--ttft-limit", default=None, type=float, help="Objective: first token within, s.")
@click.option("--tpot-limit", default=None, type=float, help="Objective: each further token, s.")
@click.option("--requests-out", type=FILE, help="Write a CSV row for each request.")
@click.option("--json", "json_file", type=FILE, help="Write the result here.")
def replay(
    workload: Path,
    profile: str,
    step_tables: Path | None,
    step_model: Path | None,
    replicas: int,
    routing: str,
    kv_blocks: int,
    block_tokens: int,
    chunk: int,
    batch_cap: int,
    watermark: float,
    ttft_limit: float | None,
    tpot_limit: float | None,
    requests_out: Path | None,
    json_file: Path | None,
) -> None:
    """Play WORKLOAD through replicas and report what its requests saw.

    WORKLOAD has the columns arrived_at (s), num_prefill_tokens and num_decode_tokens, or the
    names of the public traces: CSV, Parquet, NPZ or JSON lines.
    """
    from headgate.model.scheduling import Scheduler
    from headgate.sim.serving.replay import replay as play
    from headgate.sim.serving.replay import report, write_requests
    from headgate.sim.serving.service import Settings, SimulatedService
    from headgate.sim.serving.workload import load_workload

    scheduler = Scheduler(profile, chunk, batch_cap, block_tokens, watermark)
    requests = load_workload(workload)
    limits = (_limit("--ttft-limit", ttft_limit), _limit("--tpot-limit", tpot_limit))
    settings = Settings(
        scheduler=scheduler,
        routing=routing,
        groups=requests.groups,
        levels=int(requests.priority.max()) + 1,
        objectives=(limits,) * len(requests.groups),
    )
    model = step_times(step_tables, step_model)
    service = SimulatedService(settings, [model], replicas, kv_blocks)
    replayed = play(service, requests)
    found = report(replayed)
    found["routing"], found["profile"] = routing, profile
    show(found)
    if requests_out:
        try:
            write_requests(replayed, requests_out)
        except OSError as error:
            said = error.strerror or "no such folder"
            raise InputError(f"{requests_out}: cannot be written ({said}).") from None
    if json_file:
        write_json(json_file, found)


@serving.command()
@click.argument("run_dir", type=FILE)
@click.option("--layers", required=True, type=int, help="Transformer layers of the model.")
@click.option("--batch-cap", required=True, type=int, help="The engine's max_num_seqs.")
@click.option("--chunk", required=True, type=int, help="The engine's max_num_batched_tokens.")
@click.option("--kv-blocks", required=True, type=int, help="The engine's num_gpu_blocks.")
@click.option("--block-tokens", default=16, show_default=True, help="Tokens in a KV block.")
@click.option("--calibrate-first", default=100, show_default=True, help="Requests to calibrate on.")
@click.option(
    "--plan-ahead/--plan-in-turn",
    default=True,
    show_default=True,
    help="Whether the engine schedules asynchronously.",
)
@click.option("--json", "json_file", type=FILE, help="Write the result here.")
def validate(
    run_dir: Path,
    layers: int,
    batch_cap: int,
    chunk: int,
    kv_blocks: int,
    block_tokens: int,
    calibrate_first: int,
    plan_ahead: bool,
    json_file: Path | None,
) -> None:
    """Hold the simulation against RUN_DIR, a recorded vLLM run with its layer profile.

    Step times come from the profile, one factor from the first requests; what is reported is the
    signed error in percent on the rest, for the profile's tables and for the formula fitted to
    them.
    """
    from headgate.model.scheduling import Scheduler
    from headgate.sim.serving.validation import validate_run

    scheduler = Scheduler(
        "vllm-v1", chunk, batch_cap, block_tokens, watermark=0.0, plan_ahead=plan_ahead
    )
    found = validate_run(run_dir, scheduler, layers, kv_blocks, calibrate_first)
    console = Console()
    for name in ("tables", "fitted"):
        part = getattr(found, name)
        table = Table("error in %", "mean", "p50", "p90", "p99", title=f"{name} x {part.scale:.4f}")
        for measure, errors in part.errors.items():
            table.add_row(measure, *(f"{error:+.2f}" for error in errors.values()))
        console.print(table)
    if json_file:
        write_json(json_file, found)


def step_times(tables: Path | None, model: Path | None) -> "StepModel":
    """The step times that the command line names: exactly one of the two."""
    from headgate.sim.serving.stepfiles import load_step_model, load_step_tables

    if (tables is None) == (model is None):
        given = "neither" if tables is None else "both"
        raise InputError(
            f"step times: {given} of --step-tables and --step-model given; give one of them."
        )
    return load_step_tables(tables) if tables else load_step_model(model)  # type: ignore[arg-type]


def write_json(path: Path, found: object) -> None:
    """Write a result; a folder that does not exist is said in one sentence."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from None


def show(found: "Report") -> None:
    """Print a replay: a line of counts, a table of times."""
    console = Console()
    console.print(
        f"{found['finished']:,} of {found['requests']:,} requests finished, "
        f"{found['refused']:,} refused, {found['preemptions']:,} preemptions; "
        f"{found['goodput_tokens_per_s']:,.0f} good tokens/s over {found['span_s']:,.0f} s"
    )
    table = Table("", "mean", "p50", "p90", "p99")
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        times = found[name]
        assert isinstance(times, dict)
        table.add_row(name, *(f"{times[key]:.4f}" for key in ("mean", "p50", "p90", "p99")))
    console.print(table)
    share = found["out_of_range_percent"]
    assert isinstance(share, float)
    if share > 0:
        console.print(f"{share:.2f} % of the iterations lie outside the range of the step times.")


def _limit(option: str, seconds: float | None) -> float:
    if seconds is None:
        return float("inf")
    if not seconds > 0:
        raise InputError(f"{option} is {seconds:g}, which must be above 0 seconds.")
    return seconds

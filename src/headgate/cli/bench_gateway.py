"""`headgate bench gateway`: the door beside its peers, and whether it keeps its word."""

import json
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from headgate.cli.figures import show
from headgate.core.errors import InputError

PEERS = "nginx,vllm_router,sglang_router,litellm,headgate_plain"
PARTS = (
    "saturation",
    "chunks",
    "latency",
    "large",
    "paced",
    "memory",
    "start",
    "workers",
    "overload",
    "limits",
    "faults",
    "batch",
)


@click.command()
@click.option("--peers", default=PEERS, show_default=True, help="Or none.")
@click.option("--plain", is_flag=True, help="The door from its source, not compiled.")
@click.option("--only", help=f"Parts, of {', '.join(PARTS)}; all if not given.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(1), default=2.0, show_default=True, help="A round."
)
@click.option(
    "--requests",
    type=click.IntRange(1000),
    default=500_000,
    show_default=True,
    help="Through the door while its memory is watched; 2,000,000 in full.",
)
@click.option(
    "--fault-requests",
    type=click.IntRange(1000),
    default=100_000,
    show_default=True,
    help="While clients leave and engines are killed; 1,000,000 in full.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def gateway(
    peers: str,
    plain: bool,
    only: str | None,
    repeats: int,
    seconds: float,
    requests: int,
    fault_requests: int,
    json_file: Path | None,
) -> None:
    """Measure the door beside nginx, vllm_router, sglang_router and litellm, all in one run.

    The door is compiled first, as `headgate compile` does, where there is a C compiler; the peer
    headgate_plain is the same door from its source.

    Everything is on: keys, limits, tiers, fair queue, usage on disk. The door has one core, the
    upstream and the load another. Peers are installed in environments of their own in the user's
    cache folder; nginx and wrk are taken from the system where they are there.
    """
    from headgate.gateway import compiled
    from headgate.gateway.bench import doors, speed

    if plain:
        os.environ[compiled.PLAIN] = "1"
    else:
        _compile()
    named = () if peers == "none" else tuple(p.strip() for p in peers.split(","))
    for peer in named:
        if peer not in doors.PEERS:
            raise InputError(
                f"--peers {peer}: no such peer; give some of {', '.join(doors.PEERS)}, or none."
            )
        doors.install(peer)
    wanted = PARTS if only is None else tuple(part.strip() for part in only.split(","))
    for part in wanted:
        if part not in PARTS:
            raise InputError(f"--only {part}: no such part; give some of {', '.join(PARTS)}.")
    signal.signal(signal.SIGTERM, _leave)  # so that what was started is stopped too
    folder = Path(tempfile.mkdtemp(prefix="headgate-bench-"))
    plan = speed.Plan(named, repeats, seconds, requests, fault_requests, folder)
    doors.pin(speed.LOAD_CORE)
    found = _measure(plan, wanted, json_file)
    found["machine"] = _machine()
    show(found)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)


def _compile() -> None:
    """Compile the door, so that what is measured is the best that can be had of it."""
    from headgate.gateway import compiled

    if not (compiled.place() / "done").exists():
        click.echo("compiling the door, which takes a minute and is kept ...", err=True)
    try:
        compiled.build()
    except InputError as error:
        click.echo(f"The door runs from its source: {error}", err=True)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(143)


def _measure(plan: Any, wanted: tuple[str, ...], json_file: Path | None) -> dict[str, Any]:
    from headgate.gateway.bench import beside, faults, order, speed

    parts: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "saturation": ("", speed.saturation),
        "chunks": ("", speed.chunks),
        "latency": ("added_ms", speed.latency),
        "large": ("", speed.large_prompts),
        "paced": ("paced_streams", speed.paced),
        "memory": ("rss_mb", speed.memory),
        "start": ("start_s", speed.start),
        "workers": ("two_processes_ratio", speed.two_processes),
        "overload": ("overload", order.overload),
        "limits": ("limit_overshoot_requests", order.limits),
        "faults": ("faults", faults.faults),
        "batch": ("batch", beside.batch),
    }
    found: dict[str, Any] = {}
    for part in wanted:
        key, measure = parts[part]
        click.echo(f"{part} ...", err=True)
        try:
            figures = measure(plan)
            found.update({key: figures} if key else figures)
        except InputError as error:
            click.echo(f"headgate: {part}: {error}", err=True)
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _machine() -> dict[str, Any]:
    from headgate.gateway import compiled

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = Path("/proc/loadavg").read_text().split()[0]
    return {
        "processor": model,
        "compiled": not os.environ.get(compiled.PLAIN) and (compiled.place() / "done").exists(),
        "python": platform.python_version(),
        "load_average_at_end": float(load),
        "date": datetime.now(UTC).date().isoformat(),
    }

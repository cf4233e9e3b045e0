"""NVIDIA's Dynamo replay, run beside ours: installed apart, timed in a process of its own."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headgate.sim.serving.workload import Workload

VERSION = "1.6.1"
# The replay is in the compiled runtime; what else the package pulls in is not needed for it.
PACKAGES = (f"ai-dynamo-runtime=={VERSION}",)
PROMPT_BLOCK = 512

RUNNER = """
import json, sys, time
from dynamo._core import run_mocker_trace_replay
trace, workers, rounds, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
best = None
for _ in range(rounds):
    began, cpu = time.perf_counter(), time.process_time()
    result = run_mocker_trace_replay(
        [trace], extra_engine_args={"engine": json.loads(engine)}, num_workers=workers,
        trace_block_size=512, capture_planner_details=False)
    took = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu,
            "core_s": result.summary["wall_time_ms"] / 1e3,
            "completed": result.summary["completed_requests"]}
    best = took if best is None or took["cpu_s"] < best["cpu_s"] else best
print("RESULT " + json.dumps(best))
"""


@dataclass(frozen=True, slots=True)
class DynamoRun:
    """Its replay of a workload: seconds of CPU and of wall time, and how many it finished."""

    cpu_s: float
    wall_s: float
    completed: int


class UnavailableError(Exception):
    """Why Dynamo cannot be run here."""


def environment() -> Path:
    """The Python of an environment with Dynamo, built once in the user's cache folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    home = caches / "headgate" / f"dynamo-{VERSION}"
    python = home / "bin" / "python"
    if (home / "ready").is_file():
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise UnavailableError("uv is not on the path to install it with")
    for command in (
        [uv, "venv", "-q", "--clear", str(home)],
        [uv, "pip", "install", "-q", "--no-deps", "--python", str(python), *PACKAGES],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise UnavailableError(f"installing it failed: {_last_line(done.stderr)}")
    (home / "ready").touch()
    return python


def replay_with_dynamo(
    workload: Workload,
    folder: Path,
    replicas: int,
    blocks: int,
    chunk: int,
    batch_cap: int,
    rounds: int,
) -> DynamoRun:
    """The workload through as many of its mocked engines, the quickest of some rounds."""
    python = environment()
    trace = folder / "trace.jsonl"
    _write_trace(workload, trace)
    engine = {
        "num_gpu_blocks": blocks,
        "block_size": 16,
        "max_num_seqs": batch_cap,
        "max_num_batched_tokens": chunk,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
    }
    command = [str(python), "-c", RUNNER, str(trace), str(replicas), str(rounds)]
    done = subprocess.run(
        [*command, json.dumps(engine)], capture_output=True, text=True, timeout=1200
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found = json.loads(line.removeprefix("RESULT "))
            return DynamoRun(found["cpu_s"], found["wall_s"], found["completed"])
    raise UnavailableError(f"its replay failed: {_last_line(done.stderr)}")


def _write_trace(workload: Workload, path: Path) -> None:
    """The workload in Mooncake's format, no prompt sharing a block with another."""
    used = 0
    with open(path, "w") as file:
        for at_s, prefill, decode in zip(
            workload.arrived_s, workload.prefill, workload.decode, strict=True
        ):
            blocks = -(-int(prefill) // PROMPT_BLOCK)
            row = {
                "timestamp": round(float(at_s) * 1e3, 3),
                "input_length": int(prefill),
                "output_length": int(decode),
                "hash_ids": list(range(used, used + blocks)),
            }
            used += blocks
            file.write(json.dumps(row) + "\n")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"

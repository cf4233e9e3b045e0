"""Record a running vLLM: steps on a designed grid, then whole requests at several load levels.

    FOLDER/engine.json                what the engine is: blocks, caps, versions, machine, date
    FOLDER/grid/steps.jsonl           steps of the grid, to fit a step-time model on
    FOLDER/level-NAME/requests.jsonl  a line for each request, engine's stamps and client's
    FOLDER/level-NAME/steps.jsonl     the steps of that level

Stamps named `*_ts` are the engine's own (monotonic clock, taken in its scheduler), `client_*_ts`
the client's on the same clock, `arrival_time` the wall clock at the engine's front end. Fit on the
grid, not on the levels: steps that a run happened to visit make a model that is good at those.
"""

import asyncio
import datetime
import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.vllm_cpu.cores import apart, this_process_on
from tools.vllm_cpu.load import Call, Seen, drive, poisson
from tools.vllm_cpu.server import Setup, VllmCpu

Row = dict[str, Any]

GRID_BATCHES = (1, 2, 4, 8, 16, 32, 64)
GRID_CONTEXTS = (32, 256, 768, 1800)
GRID_CHUNKS = (16, 64, 128, 256, 512, 1024, 2000)
GRID_STEPS = 24  # decode steps in each cell: enough for a median
BURST = 2  # batches' worth of requests at once, to see what the engine can do


def record(
    folder: Path, setup: Setup, loads: list[float], requests: int, seed: int, rounds: int = 1
) -> None:
    """Start an engine of this setup, record it into `folder`, and stop it.

    Each round plays the same `requests` of every level once more, one level after the other: what
    the machine does meanwhile is shared by all levels, and how far the rounds of one level lie
    apart is the recording's own noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cores = apart()
    with tempfile.TemporaryDirectory() as scratch:
        log = Log(Path(scratch) / "steps.jsonl")
        with (
            VllmCpu(setup, log=folder / "vllm.log", steps=log.path, cores=cores) as engine,
            this_process_on(cores.rest if cores else None),
        ):
            _play(engine, log, warm_up(), seed)
            facts: Row = {**engine.facts(), **machine(), "seed": seed, "apart": cores is not None}
            steps = [step for cell in grid(setup) for step in _play(engine, log, cell, seed)[0]]
            capacity_per_s = _capacity_per_s(engine, log, setup, seed)
            rates_per_s = {f"level-{load:g}": load * capacity_per_s for load in loads}
            seen = _rounds(engine, log, rates_per_s, requests, seed, rounds)
    levels = [{"name": name, "rate_per_s": rate} for name, rate in rates_per_s.items()]
    facts |= {"capacity_per_s": capacity_per_s, "rounds": rounds, "levels": levels}
    write(folder / "grid" / "steps.jsonl", steps)
    for name, rows in seen.items():
        write(folder / name, rows)
    (folder / "engine.json").write_text(json.dumps(facts, indent=2) + "\n")


def _rounds(
    engine: VllmCpu,
    log: "Log",
    rates_per_s: dict[str, float],
    requests: int,
    seed: int,
    rounds: int,
) -> dict[str, list[Row]]:
    """Play all levels round after round; rows by file."""
    seen: dict[str, list[Row]] = {}
    for turn in range(rounds):
        for name, rate_per_s in rates_per_s.items():
            calls = poisson(seed, name, requests, rate_per_s, engine.setup.max_model_len)
            calls = [replace(call, name=f"{call.name}-{turn}") for call in calls]
            steps, rows = _play(engine, log, calls, seed)
            for kind, found in (("steps", steps), ("requests", rows)):
                seen.setdefault(f"{name}/{kind}.jsonl", []).extend(_of_round(turn, found))
    return seen


def _of_round(turn: int, rows: list[Row]) -> list[Row]:
    return [{"round": turn, **row} for row in rows]


class Log:
    """The file that the recording scheduler writes, read a piece at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def news(self) -> tuple[list[Row], dict[str, Row]]:
        """Steps and finished requests (by the engine's request id) since the last call."""
        with open(self.path) as file:
            file.seek(self._read)
            lines = [json.loads(line) for line in file]
            self._read = file.tell()
        steps = [line for line in lines if "at" in line]
        return steps, {line["request_id"]: line for line in lines if "request_id" in line}


def _play(engine: VllmCpu, log: Log, calls: list[Call], seed: int) -> tuple[list[Row], list[Row]]:
    """Drive the calls; what the engine's scheduler noted, and one row for each request."""
    seen = asyncio.run(drive(engine.port, calls, seed))
    steps, finished = log.news()
    return steps, [_joined(one, finished) for one in seen]


def _joined(seen: Seen, finished: dict[str, Row]) -> Row:
    """The engine's row of a call (vLLM wraps our id into `cmpl-ID-0-...`) with the client's."""
    (row,) = (row for key, row in finished.items() if key.startswith(f"cmpl-{seen.name}-0"))
    return {
        **row,
        "request_id": seen.name,
        "client_sent_ts": seen.sent_ts,
        "client_first_ts": seen.first_ts,
        "client_last_ts": seen.last_ts,
    }


def warm_up() -> list[Call]:
    return [Call(f"warm-{row}", 0.0, 64 * (row + 1), 16) for row in range(8)]


def grid(setup: Setup) -> Iterable[list[Call]]:
    """Decoding batches of every size and length, then chunks of prompt alone and beside decodes."""
    for batch in GRID_BATCHES:
        for context in GRID_CONTEXTS:
            # The first sequences go on decoding until the last has arrived and is prefilled.
            output = GRID_STEPS + batch + math.ceil(batch * context / setup.chunk)
            if batch <= setup.batch_cap and context + output <= setup.max_model_len:
                yield [
                    Call(f"decode-{batch}-{context}-{row}", 0.0, context, output)
                    for row in range(batch)
                ]
    chunks = sorted({min(chunk, setup.chunk) for chunk in GRID_CHUNKS})
    prompts = [*chunks, *(n * setup.chunk for n in (2, 4) if n * setup.chunk < setup.max_model_len)]
    for beside in (0, 8):
        for prompt in prompts:
            long = [Call(f"beside-{beside}-{prompt}-{row}", 0.0, 128, 120) for row in range(beside)]
            yield long + [
                Call(f"chunk-{beside}-{prompt}-{row}", 0.05 + 0.15 * row, prompt, 1)
                for row in range(5)
            ]


def _capacity_per_s(engine: VllmCpu, log: Log, setup: Setup, seed: int) -> float:
    """Requests a second when there is always more to do."""
    burst = poisson(seed, "burst", BURST * setup.batch_cap, 1.0, setup.max_model_len)
    _, rows = _play(engine, log, [replace(call, at_s=0.0) for call in burst], seed)
    began_s = min(row["queued_ts"] for row in rows)
    took_s: float = max(row["last_token_ts"] for row in rows) - began_s
    return len(rows) / took_s


def machine() -> Row:
    """The machine and the day, for whoever reads the figures."""
    cpus = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": f"{len(cpus)} cores, {cpus[0]}", "recorded": today}


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

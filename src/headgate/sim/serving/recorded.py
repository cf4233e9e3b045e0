"""A real engine's recorded run: read it, calibrate on its first requests, predict the rest.

A folder holds `requests.jsonl` (input_toks, output_toks, arrival_time, queued_ts, first_token_ts,
last_token_ts) and, where step times come from layers, `dense.csv`, `per_sequence.csv`,
`attention.csv` and for mixtures of experts `moe.csv`; each may be packed (`.gz`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.model.stepfit import LayerProfile
from headgate.model.steptime import Floats, StepModel
from headgate.sim.serving.replay import Replayed, replay
from headgate.sim.serving.seen import summary
from headgate.sim.serving.service import Settings, SimulatedService
from headgate.sim.serving.tables import read_table
from headgate.sim.serving.workload import Workload

STAMPS = (
    "input_toks",
    "output_toks",
    "arrival_time",
    "queued_ts",
    "first_token_ts",
    "last_token_ts",
)
MEASURES = ("ttft", "tpot", "e2e")

Errors = dict[str, dict[str, float]]
Times = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """Requests of a real engine and what they saw, in order of arrival, times in seconds.

    `queued_s`: from a request's arrival until the engine's scheduler had it. `turn`: the round that
    it was played in, where a level was played more than once.
    """

    source: str
    workload: Workload
    queued_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    turn: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ttft_s)

    def rows(self, kept: NDArray[np.bool_]) -> "RecordedRun":
        """Some of the requests, as a run that begins with the first of them."""
        whole = self.workload
        arrived_s = whole.arrived_s[kept]
        return RecordedRun(
            self.source,
            Workload(arrived_s - arrived_s[0], whole.prefill[kept], whole.decode[kept]),
            self.queued_s[kept],
            self.ttft_s[kept],
            self.tpot_s[kept],
            self.e2e_s[kept],
            self.turn[kept],
        )


def load_run(folder: Path) -> RecordedRun:
    """A recorded run; its clock starts with the first arrival.

    Arrivals are stamped by the wall clock at the front end, the rest by the engine's monotonic
    clock; the shortest way from one to the other puts both on one.
    """
    path = present(folder, "requests.jsonl")
    table = read_table(path)
    for name in STAMPS:
        if name not in table:
            raise InputError(f"{path}: has no column {name}; each line needs {', '.join(STAMPS)}.")
    columns = {name: np.asarray(table[name], np.float64) for name in STAMPS}
    broken = ~np.all([np.isfinite(column) for column in columns.values()], axis=0)
    broken |= (columns["input_toks"] < 1) | (columns["output_toks"] < 1)
    broken |= columns["last_token_ts"] < columns["first_token_ts"]
    if broken.any():
        row = int(np.argmax(broken)) + 1
        raise InputError(
            f"{path}: line {row} lacks a stamp or has no tokens; leave out requests that did not "
            "finish."
        )
    if len(broken) == 0:
        raise InputError(f"{path}: is empty; give a line for each request.")
    ahead = columns["queued_ts"] - columns["arrival_time"]
    arrived = columns["arrival_time"] + ahead.min()
    order = np.argsort(arrived, kind="stable")
    start = arrived[order[0]]
    at = {name: column[order] for name, column in columns.items()}
    arrived = arrived[order]
    after = np.where(at["output_toks"] > 1, at["output_toks"] - 1, np.nan)
    return RecordedRun(
        source=str(folder.name),
        workload=Workload(
            arrived - start, at["input_toks"].astype(np.int64), at["output_toks"].astype(np.int64)
        ),
        queued_s=at["queued_ts"] - arrived,
        ttft_s=at["first_token_ts"] - arrived,
        tpot_s=(at["last_token_ts"] - at["first_token_ts"]) / after,
        e2e_s=at["last_token_ts"] - arrived,
        turn=np.asarray(table.get("round", np.zeros(len(order))), np.int64)[order],
    )


def load_layer_profile(folder: Path) -> LayerProfile:
    """The layer profile in a folder, times in microseconds."""
    dense = _by_layer(present(folder, "dense.csv"), "tokens")
    per_sequence = _by_layer(present(folder, "per_sequence.csv"), "sequences")
    axes = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    attention = _rows(present(folder, "attention.csv"), axes)
    moe = np.zeros((0, 3))
    if any((folder / name).is_file() for name in ("moe.csv", "moe.csv.gz")):
        moe = _rows(present(folder, "moe.csv"), ("tokens", "activated_experts", "time_us"))
    return LayerProfile(f"layer profile {folder.name}", dense, per_sequence, attention, moe)


def present(folder: Path, name: str) -> Path:
    """A file of a folder, packed or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: holds neither {name} nor {name}.gz; give a recorded run's folder.")


def _rows(path: Path, columns: tuple[str, ...]) -> Floats:
    table = read_table(path)
    for name in columns:
        if name not in table:
            raise InputError(f"{path}: has no column {name}; it needs {', '.join(columns)}.")
    try:
        rows = np.stack([np.asarray(table[name], np.float64) for name in columns], axis=1)
    except ValueError:
        raise InputError(f"{path}: holds something that is no number.") from None
    wrong = ~np.isfinite(rows).all(axis=1) | (rows < 0).any(axis=1)
    if wrong.any() or len(rows) == 0:
        row = int(np.argmax(wrong)) + 1 if len(rows) else 0
        raise InputError(f"{path}: row {row} is not made of finite numbers of at least 0.")
    return rows


def _by_layer(path: Path, size: str) -> dict[str, Floats]:
    names = read_table(path).get("layer")
    if names is None:
        raise InputError(f"{path}: has no column layer; it needs layer, {size}, time_us.")
    rows = _rows(path, (size, "time_us"))
    found = {}
    for name in np.unique(names.astype(str)):
        mine = rows[names.astype(str) == name]
        found[str(name)] = mine[np.argsort(mine[:, 0])]
    return found


def simulate(run: RecordedRun, model: StepModel, settings: Settings, kv_blocks: int) -> Replayed:
    """The run's requests through one simulated replica, which must hold what the real one held."""
    replayed = replay(SimulatedService(settings, [model], 1, kv_blocks), run.workload)
    refused = np.isnan(replayed.e2e_s)
    if refused.any():
        row = int(np.argmax(refused))
        tokens = int(run.workload.prefill[row] + run.workload.decode[row])
        raise InputError(
            f"kv-blocks is {kv_blocks}, too few for a request of {tokens} tokens that the recorded "
            "engine served; give the number of blocks that the engine reports."
        )
    return replayed


def calibrate(
    run: RecordedRun, model: StepModel, settings: Settings, kv_blocks: int, first: int
) -> float:
    """The factor on all step times that gives the first requests their real mean end-to-end time.

    Only what the first requests saw is looked at; the arrivals and lengths of all are known.
    """
    if not 1 <= first <= len(run):
        raise InputError(
            f"calibrate-first is {first}, but the run has {len(run)} requests; "
            "give at least 1 and no more than there are."
        )
    return factor_for(run, model, settings, kv_blocks, slice(None, first))


def factor_for(
    run: RecordedRun, model: StepModel, settings: Settings, kv_blocks: int, rows: slice
) -> float:
    """The factor on all step times that gives these requests their real mean end-to-end time."""
    return factor_of(
        float(np.mean(run.e2e_s[rows])),
        lambda factor: simulate(run, model.scaled(factor), settings, kv_blocks).e2e_s[rows],
    )


def factor_of(real_s: float, play: Callable[[float], Floats]) -> float:
    """Where the mean of what `play` gives for a factor meets the real one, between a hundredth and
    a hundred, to 1e-5."""
    low, high = 0.01, 100.0
    while high / low > 1.0 + 1e-5:
        middle = float(np.sqrt(low * high))
        too_slow = float(np.mean(play(middle))) > real_s
        low, high = (low, middle) if too_slow else (middle, high)
    return float(np.sqrt(low * high))


def times_of(run: RecordedRun | Replayed) -> Times:
    """TTFT, TPOT and end-to-end time of each request, in seconds."""
    return {measure: getattr(run, f"{measure}_s") for measure in MEASURES}


def signed_errors(ours: Times, real: Times) -> Errors:
    """How far some times are off others, in percent: mean, P50, P90, P99."""
    found: Errors = {}
    for measure in MEASURES:
        known, guessed = summary(real[measure]), summary(ours[measure])
        found[measure] = {name: 100.0 * (guessed[name] / known[name] - 1.0) for name in known}
    return found

"""An engine recorded at several load levels: fit on its grid, predict each level.

The folder is what `python -m tools.vllm_cpu record` writes: `engine.json`, `grid/steps.jsonl`, and
`level-*/requests.jsonl`.
"""

from pathlib import Path

import msgspec
import numpy as np

from headgate.core.errors import InputError
from headgate.model.scheduling import Scheduler
from headgate.model.stepfit import Formula, Steps, fit_formula
from headgate.model.steptime import Floats, StepModel
from headgate.sim.serving.recorded import (
    Errors,
    calibrate,
    factor_for,
    load_run,
    present,
    signed_errors,
    simulate,
)
from headgate.sim.serving.service import Settings
from headgate.sim.serving.tables import unpacked

FOLLOWS_S = 5e-3  # a step that starts this soon after another's end was waiting for it
CALIBRATED = 3  # one request in so many, the first of each level, gives that level's factor
TRIMMED = 0.05  # share of the steps, the worst fitted, that were disturbed by something else


class Engine(msgspec.Struct):
    """What an engine reported of itself."""

    engine: str
    block_tokens: int
    kv_blocks: int
    batch_cap: int
    chunk: int
    prefix_caching: bool
    async_scheduling: bool

    def scheduler(self) -> Scheduler:
        return Scheduler(
            "vllm-v1",
            chunk=self.chunk,
            batch_cap=self.batch_cap,
            block_tokens=self.block_tokens,
            plan_ahead=self.async_scheduling,
            prefix_caching=self.prefix_caching,
        )


class RecordedStep(msgspec.Struct):
    """One step as the recording scheduler notes it."""

    at: float
    ended: float
    decodes: int
    decode_kv: int
    chunks: list[tuple[int, int]]


class Predicted(msgspec.Struct):
    """The fit, each level's factor, and signed errors in percent on what it was not taken from.

    `drift_percent` is how much slower (or, negative, faster) the engine itself was on what is
    predicted than on what it was calibrated on: on a machine that others use, it bounds what any
    prediction can do.
    """

    engine: str
    step_error_percent: float
    scales: dict[str, float]
    drift_percent: dict[str, float]
    errors: dict[str, Errors]


def load_engine(folder: Path) -> Engine:
    """What the recorded engine was."""
    path = present(folder, "engine.json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Engine)
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: does not describe an engine ({error}).") from None


def load_steps(folder: Path) -> Steps:
    """The steps recorded in a folder, with what each held up the next."""
    path = present(folder, "steps.jsonl")
    try:
        rows = [
            msgspec.json.decode(line, type=RecordedStep)
            for line in unpacked(path).splitlines()
            if line.strip()
        ]
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: holds a line that is no step ({error}).") from None
    if len(rows) < 20:
        raise InputError(f"{path}: has {len(rows)} steps; a fit needs at least 20.")
    at = np.array([row.at for row in rows])
    ended = np.array([row.ended for row in rows])
    gap = np.append(at[1:], np.inf) - ended
    seconds = np.where((gap >= 0) & (gap < FOLLOWS_S), ended + gap - at, ended - at)
    decodes = np.array([float(row.decodes) for row in rows])
    kv = np.array([float(row.decode_kv) for row in rows]) + decodes
    chunk = np.array([float(sum(tokens for _, tokens in row.chunks)) for row in rows])
    area = np.array([sum(c * (k + 0.5 * c) for k, c in row.chunks) for row in rows])
    context = np.where(chunk > 0, area / np.maximum(chunk, 1.0) - 0.5 * chunk, 0.0)
    worked = (seconds > 0) & (decodes + chunk > 0)
    columns = (column[worked] for column in (decodes, kv, chunk, context, seconds))
    return Steps(*columns)


def fit_steps(steps: Steps) -> Formula:
    """A formula fitted to recorded steps, twice: the second time without those furthest off."""
    rough = fit_formula(steps)
    off = np.abs(rough.step_s(steps) / steps.seconds - 1.0)
    kept = off <= np.quantile(off, 1.0 - TRIMMED)
    columns: list[Floats] = [
        getattr(steps, name)[kept] for name in ("decodes", "kv", "chunk", "context", "seconds")
    ]
    return fit_formula(Steps(*columns))


def engine_model(folder: Path, engine: Engine) -> tuple[Formula, StepModel]:
    """Step times fitted on the grid of a recording, with the range it covers."""
    steps = load_steps(folder / "grid")
    formula = fit_steps(steps)
    model = formula.model(engine.engine, f"grid of {folder.name}", engine.chunk, None)
    return formula, model


def predict_levels(folder: Path) -> Predicted:
    """Fit on the grid; at each level, calibrate on the first third and predict the rest."""
    engine = load_engine(folder)
    formula, model = engine_model(folder, engine)
    levels = sorted(path.parent for path in folder.glob("level-*/requests.jsonl*"))
    if not levels:
        raise InputError(f"{folder}: has no load levels; give a recording with level-* folders.")
    settings = Settings(engine.scheduler())
    scales, drifts, errors = {}, {}, {}
    for path in levels:
        run = load_run(path)
        first = max(1, len(run) // CALIBRATED)
        scale = calibrate(run, model, settings, engine.kv_blocks, first)
        replayed = simulate(run, model.scaled(scale), settings, engine.kv_blocks)
        scales[path.name] = scale
        rest = factor_for(run, model, settings, engine.kv_blocks, slice(first, None))
        drifts[path.name] = 100.0 * (rest / scale - 1.0)
        errors[path.name] = signed_errors(run, replayed, slice(first, None))
    return Predicted(engine.engine, formula.error_percent, scales, drifts, errors)

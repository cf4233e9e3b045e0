"""An engine recorded at several load levels: fit on a grid, calibrate on some, predict the others.

The folder is what `python -m tools.vllm_cpu record` writes: `engine.json`, `grid/steps.jsonl`, and
`level-*/requests.jsonl`, where each level is played in several rounds, one level after the other.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import msgspec
import numpy as np

from headgate.core.errors import InputError
from headgate.model.scheduling import Scheduler
from headgate.model.stepfit import Formula, Steps, fit_formula
from headgate.model.steptime import Floats, StepModel
from headgate.sim.serving.recorded import (
    MEASURES,
    Errors,
    RecordedRun,
    Times,
    factor_of,
    load_run,
    present,
    signed_errors,
    simulate,
    times_of,
)
from headgate.sim.serving.service import Settings
from headgate.sim.serving.tables import unpacked

FOLLOWS_S = 5e-3  # a step that starts this soon after another's end was waiting for it
LEAST_ALONE = 5  # requests on an idle engine that are needed to know how long one takes to reach it
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
    """The fit, what was calibrated, and signed errors in percent at the levels left out of both.

    `scales`: for each round, the factor on step times from the calibrated levels. `front_s`: how
    long a request takes from its arrival to the scheduler of an idle engine. `noise_percent`: how
    far one round of a level lies from all its rounds together, at most. That is the engine against
    itself, with the same requests at the same times, which no prediction can be asked to beat.
    """

    engine: str
    step_error_percent: float
    calibrated_on: list[str]
    scales: list[float]
    front_s: float
    errors: dict[str, Errors]
    noise_percent: dict[str, Errors]


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
    prompts = np.array([float(len(row.chunks)) for row in rows])
    worked = (seconds > 0) & (decodes + chunk > 0)
    columns = (column[worked] for column in (decodes, kv, chunk, context, prompts, seconds))
    return Steps(*columns)


def fit_steps(steps: Steps) -> Formula:
    """A formula fitted to recorded steps, twice: the second time without those furthest off."""
    rough = fit_formula(steps)
    off = np.abs(rough.step_s(steps) / steps.seconds - 1.0)
    kept = off <= np.quantile(off, 1.0 - TRIMMED)
    columns: list[Floats] = [getattr(steps, field.name)[kept] for field in fields(Steps)]
    return fit_formula(Steps(*columns))


def engine_model(folder: Path, engine: Engine) -> tuple[Formula, StepModel]:
    """Step times fitted on the grid of a recording, with the range it covers."""
    steps = load_steps(folder / "grid")
    formula = fit_steps(steps)
    model = formula.model(engine.engine, f"grid of {folder.name}", engine.chunk, None)
    return formula, model


@dataclass(frozen=True, slots=True)
class Player:
    """A recorded engine as the simulation knows it: step times, rules, and its front end.

    `front_s`: how long a request takes from its arrival to the scheduler of an idle engine.
    """

    model: StepModel
    settings: Settings
    kv_blocks: int
    front_s: float

    def play(self, run: RecordedRun, scale: float) -> Times:
        """What the requests of a run see, step times multiplied by `scale`."""
        later = replace(run.workload, arrived_s=run.workload.arrived_s + self.front_s)
        model = self.model.scaled(scale)
        seen = times_of(
            simulate(replace(run, workload=later), model, self.settings, self.kv_blocks)
        )
        return {
            measure: seconds + (0.0 if measure == "tpot" else self.front_s)
            for measure, seconds in seen.items()
        }

    def scale_for(self, runs: list[RecordedRun]) -> float:
        """The factor on step times that gives some runs their real mean end-to-end time."""
        real_s = float(np.mean(np.concatenate([run.e2e_s for run in runs])))
        return factor_of(
            real_s, lambda scale: np.concatenate([self.play(run, scale)["e2e"] for run in runs])
        )


def predict_levels(folder: Path) -> Predicted:
    """Fit on the grid, calibrate on every other load level from the lowest on, predict the others.

    Each round has a factor of its own, from that round of the calibrated levels: a machine's speed
    drifts within minutes, and the levels of a round are played within one or two.
    """
    engine = load_engine(folder)
    formula, model = engine_model(folder, engine)
    levels = load_levels(folder)
    known, left = list(levels)[::2], list(levels)[1::2]
    front_s = front_seconds([run for name in known for run in levels[name]])
    player = Player(model, Settings(engine.scheduler()), engine.kv_blocks, front_s)
    scales = [
        player.scale_for(list(runs)) for runs in zip(*(levels[n] for n in known), strict=True)
    ]
    errors, noise = {}, {}
    for name, runs in levels.items():
        real = [times_of(run) for run in runs]
        noise[name] = widest([signed_errors(one, together(real)) for one in real])
        if name in left:
            seen = [player.play(run, scale) for run, scale in zip(runs, scales, strict=True)]
            errors[name] = signed_errors(together(seen), together(real))
    return Predicted(engine.engine, formula.error_percent, known, scales, front_s, errors, noise)


def load_levels(folder: Path) -> dict[str, list[RecordedRun]]:
    """The rounds of each level, by its name, from the lowest load to the highest."""
    runs = {path.parent.name: load_run(path.parent) for path in folder.glob("level-*/requests.*")}
    if len(runs) < 2:
        raise InputError(
            f"{folder}: has {len(runs)} load levels; give a recording with two folders level-* at "
            "least, one to calibrate on and one to predict."
        )
    levels = {
        name: [run.rows(run.turn == turn) for turn in np.unique(run.turn)]
        for name, run in runs.items()
    }

    def load(name: str) -> float:
        first = levels[name][0]
        return len(first) / max(float(first.workload.arrived_s[-1]), 1e-9)

    return {name: levels[name] for name in sorted(levels, key=load)}


def front_seconds(runs: list[RecordedRun]) -> float:
    """The median of what requests on an idle engine took to reach its scheduler; 0 if few did."""
    waits: list[float] = []
    for run in runs:
        arrived_s = run.workload.arrived_s
        ended_s = np.maximum.accumulate(arrived_s + run.e2e_s)
        alone = arrived_s > np.concatenate([[-np.inf], ended_s[:-1]])
        waits += run.queued_s[alone].tolist()
    return float(np.median(waits)) if len(waits) >= LEAST_ALONE else 0.0


def together(parts: list[Times]) -> Times:
    """The times of several runs as of one."""
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in MEASURES}


def widest(rounds: list[Errors]) -> Errors:
    """The largest of several errors, without their signs."""
    return {
        measure: {
            name: max(abs(one[measure][name]) for one in rounds) for name in rounds[0][measure]
        }
        for measure in MEASURES
    }

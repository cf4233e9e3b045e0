"""The simulation held against a recorded run, from layer profile to signed errors."""

from pathlib import Path

import msgspec

from headgate.core.errors import InputError
from headgate.model.scheduling import Scheduler
from headgate.model.stepfit import designed_steps, fit_formula, tables_of
from headgate.model.steptime import StepModel
from headgate.sim.serving.recorded import (
    Errors,
    RecordedRun,
    Times,
    calibrate,
    load_layer_profile,
    load_run,
    signed_errors,
    simulate,
    times_of,
)
from headgate.sim.serving.replay import Replayed
from headgate.sim.serving.service import Settings


class Validated(msgspec.Struct):
    """One kind of step times: its factor, its own error a step, and how its simulation did."""

    scale: float
    step_error_percent: float | None
    errors: Errors
    preemptions: int
    out_of_range_percent: float


class Validation(msgspec.Struct):
    """Signed errors in percent on the requests that were not calibrated on.

    `errors` repeats those of the tables, the closer of the two kinds of step times.
    """

    requests: int
    calibrated_on: int
    errors: Errors
    tables: Validated
    fitted: Validated


def validate_run(
    folder: Path, scheduler: Scheduler, layers: int, kv_blocks: int, first: int
) -> Validation:
    """Fit, calibrate on the first requests, and score on the rest."""
    run = load_run(folder)
    if not 1 <= first < len(run):
        raise InputError(
            f"calibrate-first is {first}, but the run has {len(run)} requests; leave some to score."
        )
    chunk, cap = scheduler.chunk, scheduler.batch_cap
    tables = tables_of(load_layer_profile(folder), layers, chunk, cap)
    formula = fit_formula(designed_steps(tables, chunk, cap))
    fitted = formula.model(f"formula of {tables.name}", tables.source, chunk, tables)
    settings = Settings(scheduler)
    by_tables = score(run, tables, settings, kv_blocks, first)
    by_formula = score(run, fitted, settings, kv_blocks, first)
    return Validation(len(run), first, by_tables.errors, by_tables, by_formula)


def score(
    run: RecordedRun, model: StepModel, settings: Settings, kv_blocks: int, first: int
) -> Validated:
    """Calibrate step times on the first requests of a run and score them on the rest."""
    scale = calibrate(run, model, settings, kv_blocks, first)
    replayed = simulate(run, model.scaled(scale), settings, kv_blocks)
    steps = max(1, replayed.seen.iterations)
    return Validated(
        scale=scale,
        step_error_percent=model.error_percent,
        errors=signed_errors(_after(first, replayed), _after(first, run)),
        preemptions=int(replayed.preemptions.clip(0).sum()),
        out_of_range_percent=100.0 * replayed.seen.iterations_beyond / steps,
    )


def _after(first: int, run: RecordedRun | Replayed) -> Times:
    return {measure: seconds[first:] for measure, seconds in times_of(run).items()}

"""A recorded vLLM run: predicted from a layer profile and one factor."""

import numpy as np
import pytest
from tests.data import data_dir, needs_data

from headgate.core.errors import InputError
from headgate.model.scheduling import Scheduler
from headgate.model.stepfit import Formula, Steps, fit_formula
from headgate.sim.serving.validation import validate_run

RUN = data_dir() / "serving_ref" / "vllm_rtxpro6000_llama31_8b"


@needs_data
def test_a_recorded_run_is_predicted_within_three_percent() -> None:
    scheduler = Scheduler("vllm-v1", chunk=2048, batch_cap=128)
    found = validate_run(RUN, scheduler, layers=32, kv_blocks=36578, first=100)
    for part in (found.tables, found.fitted):
        for measure, errors in part.errors.items():
            for name, error in errors.items():
                assert abs(error) < 3.0, (measure, name, error)


@needs_data
def test_calibrating_on_everything_leaves_nothing_to_score() -> None:
    with pytest.raises(InputError, match="leave some to score"):
        validate_run(RUN, Scheduler("vllm-v1", chunk=2048), 32, kv_blocks=36578, first=300)


def test_a_formula_is_found_again_from_steps_it_made() -> None:
    truth = Formula(c0=0.01, c4=1e-6, c5=0.001, c1=4e-5, c2=1e-7, c6=2e-7, c3=2e-9, c7=3e-5)
    dice = np.random.default_rng(3)
    decodes = dice.integers(0, 100, 600) * 1.0
    chunk = np.where(dice.random(600) < 0.5, 0, dice.integers(1, 2000, 600)) * 1.0
    decodes[chunk == 0] += 1
    context = np.where(chunk > 0, dice.integers(0, 3000, 600), 0) * 1.0
    kv = decodes * dice.integers(50, 3000, 600)
    steps = Steps(decodes, kv, chunk, context, np.minimum(chunk, 1.0), np.ones(600))
    steps = Steps(decodes, kv, chunk, context, steps.prompts, truth.step_s(steps))
    found = fit_formula(steps)
    assert found.error_percent < 0.5
    assert found.c2 == pytest.approx(truth.c2, rel=0.02)
    assert found.c3 == pytest.approx(truth.c3, rel=0.05)

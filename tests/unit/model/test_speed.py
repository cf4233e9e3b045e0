import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.model import speed

STEP = speed.StepTime(base_ms=12.0, request_ms=0.05, prompt_ms=0.03, context_ms=2e-5)


def measured(step, noise=0.0):
    shapes = [(1024, 1024), (8192, 1024), (1024, 8192)]
    rows = [(isl, osl, float(c)) for isl, osl in shapes for c in (4, 8, 16, 32, 64, 128)]
    isl, osl, in_flight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    bent = 1 + noise * np.sin(np.arange(len(rows)) * 2.4)
    return isl, osl, in_flight, step.tpot_ms(isl, osl, in_flight) * bent


def test_a_step_time_is_found_again_from_its_points():
    found = speed.fit(*measured(STEP))
    assert found.base_ms == pytest.approx(12.0)
    assert found.request_ms == pytest.approx(0.05)
    assert found.prompt_ms == pytest.approx(0.03)
    assert found.context_ms == pytest.approx(2e-5)


def test_noisy_points_are_fitted_within_their_noise_and_no_term_is_negative():
    points = measured(STEP, noise=0.05)
    found = speed.fit(*points)
    assert speed.relative_error(found, *points) < 0.05
    assert min(found.base_ms, found.request_ms, found.prompt_ms, found.context_ms) >= 0


def test_a_prompt_token_never_takes_less_than_its_arithmetic():
    cached = speed.StepTime(base_ms=8.0, request_ms=0.05, prompt_ms=0.0, context_ms=1e-6)
    least = speed.prompt_least_ms(active_parameters=8e9, flops_per_s=8e14)
    assert least == pytest.approx(0.02)
    assert speed.fit(*measured(cached), least).prompt_ms >= 0.02


def test_capacity_meets_its_limit_exactly():
    found = speed.capacity(STEP, 1000, 200, tpot_limit_ms=40.0, in_flight_max=1e9)
    isl, osl = np.array(1000.0), np.array(200.0)
    assert STEP.tpot_ms(isl, osl, np.array(found.in_flight)) == pytest.approx(40.0)
    # Little's law: requests in flight = arrivals a second times time in service.
    assert found.in_flight == pytest.approx(found.requests_per_s * 200 * 0.040)


def test_capacity_stops_at_what_was_measured():
    found = speed.capacity(STEP, 1000, 200, tpot_limit_ms=40.0, in_flight_max=10.0)
    assert found.in_flight == 10.0


def test_a_replica_too_slow_for_one_request_serves_none():
    assert speed.capacity(STEP, 1000, 200, tpot_limit_ms=11.0, in_flight_max=64).requests_per_s == 0


@given(st.floats(10, 5000), st.floats(10, 5000))
def test_tokens_of_the_reference_request_add_up_to_the_capacity(isl, osl):
    """The time of prompt and output tokens is the whole time of the request."""
    found = speed.capacity(STEP, isl, osl, tpot_limit_ms=40.0, in_flight_max=256)
    tokens = found.tokens_per_s(isl, osl, found.input_weight)
    assert tokens == pytest.approx(found.requests_per_s * (isl * found.input_weight + osl))
    tpot_ms = STEP.tpot_ms(np.array(isl), np.array(osl), np.array(found.in_flight))
    prompt_ms = STEP.prompt_ms + STEP.context_ms * osl / 2
    output_ms = prompt_ms / found.input_weight
    assert isl * prompt_ms + osl * output_ms == pytest.approx(osl * tpot_ms / found.in_flight)


def test_a_slower_accelerator_serves_less():
    slow = STEP.slower(decode=1.5, prefill=2.3)
    fast = speed.capacity(STEP, 1000, 200, 40.0, 256).requests_per_s
    assert speed.capacity(slow, 1000, 200, 40.0, 256).requests_per_s < fast / 1.5

"""A window of traffic as a fluid, against a twin that walks it in small steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.kernels.fluid import fluid_window, fluid_windows

WINDOW_S = 60.0
STEPS = 2000


def stepped(
    arrived: float, queued: float, rate: float, wait_s: float, patience_s: float
) -> tuple[float, float, float, float]:
    """Tokens (served, in objective, left, refused), thirty milliseconds at a time."""
    step_s = WINDOW_S / STEPS
    inflow = arrived / WINDOW_S
    longest = patience_s * (rate if rate > 0 else inflow)
    served = good = 0.0
    refused = max(0.0, queued - longest)
    queue = queued - refused
    for _ in range(STEPS):
        done = min(rate * step_s, queue + inflow * step_s)
        room = longest - queue + done
        let_in = min(inflow * step_s, max(0.0, room))
        if rate > 0 and queue <= rate * wait_s:
            good += let_in
        queue += let_in - done
        served += done
        refused += inflow * step_s - let_in
    return served, good, queue, refused


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    # In tens of tokens a second: a queue that rises or falls by less than that for a whole window
    # crosses a level at a time that no step can tell.
    arrived=st.integers(0, 100).map(lambda tens: 10.0 * tens * WINDOW_S),
    queued=st.integers(0, 30_000).map(float),
    rate=st.integers(0, 150).map(lambda tens: 10.0 * tens),
    wait_s=st.integers(1, 40).map(lambda halves: halves / 2),
    patience_s=st.integers(20, 60).map(float),
)
def test_a_window_is_what_small_steps_make_of_it(
    arrived: float, queued: float, rate: float, wait_s: float, patience_s: float
) -> None:
    exact = fluid_window(arrived, queued, rate, WINDOW_S, wait_s, patience_s)
    # A step misplaces at most what comes and goes in it: at its crossing of the objective, at the
    # queue's end, and when the queue is full.
    step = 3 * (arrived / WINDOW_S + rate) * WINDOW_S / STEPS
    assert exact == pytest.approx(stepped(arrived, queued, rate, wait_s, patience_s), abs=step)


@given(
    arrived=st.floats(0, 1e6),
    queued=st.floats(0, 1e6),
    rate=st.one_of(st.just(0.0), st.floats(0, 1e5)),
)
def test_every_token_of_a_window_is_served_left_or_refused(
    arrived: float, queued: float, rate: float
) -> None:
    served, good, left, refused = fluid_window(arrived, queued, rate, WINDOW_S, 2.0, 30.0)
    assert served + left + refused == pytest.approx(arrived + queued, rel=1e-9, abs=1e-6)
    assert min(served, good, left, refused) >= 0
    assert good <= arrived
    assert served <= rate * WINDOW_S * (1 + 1e-9) + 1e-6


def test_windows_are_served_service_by_service() -> None:
    arrived, queued = np.array([600.0, 0.0, 9000.0]), np.array([0.0, 50.0, 10.0])
    rate, wait_s = np.array([20.0, 1.0, 100.0]), np.array([1.0, 2.0, 3.0])
    patience_s, out = np.array([5.0, 30.0, 60.0]), np.zeros((3, 4))
    fluid_windows(arrived, queued, rate, WINDOW_S, wait_s, patience_s, out)
    for v in range(3):
        alone = fluid_window(arrived[v], queued[v], rate[v], WINDOW_S, wait_s[v], patience_s[v])
        assert tuple(out[v]) == alone

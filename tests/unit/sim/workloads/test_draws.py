import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.sim.dice import stream
from headgate.sim.workloads import draws


@settings(max_examples=50, deadline=None)
@given(
    count=st.lists(st.integers(0, 10**7), min_size=1, max_size=8),
    cv=st.floats(0, 1e4),
    parts=st.integers(1, 20),
)
def test_pieces_add_up_to_their_window_and_none_is_negative(count, cv, parts):
    asked = np.array([count, count[::-1]])
    pieces = draws.split(stream(1), asked, np.full(asked.shape, cv), parts)
    assert pieces.min() >= 0
    assert (pieces.reshape(2, parts, -1).sum(axis=1) == asked).all()


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0, 5.0])
def test_pieces_vary_as_counts_of_a_renewal_process_do(cv):
    """Against the plain twin: Gamma gaps with this cv, drawn one by one and counted."""
    parts, mean = 10, 400
    windows = np.full((4000, 1), parts * mean)
    pieces = draws.split(stream(2), windows, np.full(windows.shape, cv), parts)
    dice = stream(3)
    enough = int(mean * parts + 6 * cv * np.sqrt(mean * parts) + 50)
    at = np.cumsum(dice.gamma(1 / cv**2, cv**2 / mean, (300, enough)), axis=1)
    assert at[:, -1].min() > parts
    counted = np.stack([np.histogram(row, bins=np.arange(parts + 1))[0] for row in at])
    theory = cv**2 * mean
    assert counted.var() == pytest.approx(theory, rel=0.25)
    # The total is fixed, so a piece varies by (1 - 1 / parts) of that.
    assert pieces.var() == pytest.approx(theory * (1 - 1 / parts), rel=0.1)
    assert pieces.mean() == mean


def test_smooth_arrivals_are_split_evenly():
    pieces = draws.split(stream(4), np.array([[1000]]), np.array([[0.0]]), 10)
    assert pieces.min() >= 98
    assert pieces.max() <= 102


def test_a_lone_request_falls_into_any_piece():
    pieces = draws.split(stream(5), np.ones((5000, 1), np.int64), np.ones((5000, 1)), 5)
    share = pieces.reshape(-1, 5).mean(axis=0)
    assert share == pytest.approx([0.2] * 5, abs=0.03)


def test_whole_counts_keep_their_mean():
    assert draws.whole(stream(6), np.full(100_000, 0.3)).mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_token_sums_have_the_mean_and_variance_of_their_requests(count):
    cells = np.full(50_000, count)
    drawn = draws.tokens(stream(7), cells, np.full(50_000, 900.0), np.full(50_000, 700.0**2))
    assert drawn.mean() == pytest.approx(900 * count, rel=0.02)
    assert drawn.var() == pytest.approx(700**2 * count, rel=0.05)


def test_a_request_has_at_least_one_token_and_no_request_has_none():
    asked = np.array([0, 3, 1])
    drawn = draws.tokens(stream(8), asked, np.zeros(3), np.zeros(3))
    assert drawn.tolist() == [0, 3, 1]

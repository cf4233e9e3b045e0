import polars as pl
import pytest

from headgate.core.errors import InputError
from headgate.sim.traces import servegen


def rates(folder, rows):
    (folder / "llm").mkdir(exist_ok=True)
    names = ["model", "client_id", "t_s", "rate_rps", "cv"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame.write_parquet(folder / "llm" / "servegen_client_rates.parquet")
    return folder


def lengths(folder, rows):
    (folder / "llm").mkdir(exist_ok=True)
    names = ["model", "client_id", "field", "window_start_s", "value", "prob"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame.write_parquet(folder / "llm" / "servegen_length_pdfs.parquet")
    return folder


GRID = [("m", c, t, float(c + t), 1.0) for t in (600, 1200, 1800) for c in (3, 9)]


def test_rates_are_laid_out_by_window_and_client_in_any_order_of_rows(tmp_path):
    found = servegen.client_rates(rates(tmp_path, GRID[::-1]), "m")
    assert found.clients == (3, 9)
    assert found.start_s == 600
    assert found.rate_per_s.tolist() == [[603, 609], [1203, 1209], [1803, 1809]]


def test_windows_without_any_request_are_called_gaps(tmp_path):
    rows = [(m, c, t, 0.0 if t == 1200 else 1.0, cv) for m, c, t, _, cv in GRID]
    assert servegen.client_rates(rates(tmp_path, rows), "m").gap_windows.tolist() == [1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (GRID[:3] + GRID[4:], "client 9 of m has 0 rows for the window at t_s 1200"),
        (GRID + GRID[-1:], "client 9 of m has 2 rows for the window at t_s 1800"),
        ([*GRID[:-1], ("m", 9, 1700, 1.0, 1.0)], "exactly one row for each 600 s"),
        ([("m", 3, 0, -1.0, 1.0)], "column rate_rps is -1.0 in row 1"),
        ([("other", 3, 0, 1.0, 1.0)], "has no model m; it has other"),
    ],
)
def test_a_hole_or_a_repeat_in_the_grid_is_refused(tmp_path, rows, said):
    with pytest.raises(InputError) as caught:
        servegen.client_rates(rates(tmp_path, rows), "m")
    assert said in str(caught.value)


def test_moments_of_lengths_are_those_of_the_distribution(tmp_path):
    rows = [("m", 3, "input_tokens", 21600, [10, 20], [0.5, 0.5])]
    found = servegen.length_moments(lengths(tmp_path, rows), "m", "input_tokens")
    assert (found.mean.tolist(), found.variance.tolist()) == ([[15.0]], [[25.0]])


@pytest.mark.parametrize("prob", [[1.0], [0.5, 0.6]])
def test_lengths_that_are_no_distribution_are_refused(tmp_path, prob):
    rows = [("m", 3, "input_tokens", 0, [10, 20], prob)]
    with pytest.raises(InputError, match="client 3 of m at window_start_s 0 is not a distribution"):
        servegen.length_moments(lengths(tmp_path, rows), "m", "input_tokens")

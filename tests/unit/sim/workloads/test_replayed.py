import numpy as np
import polars as pl
import pytest
from tests.data import data_dir, needs_data

from headgate.core.errors import InputError
from headgate.sim.traces import clusters, servegen
from headgate.sim.workloads import batches, replayed

DAY_S = 86_400.0


@pytest.fixture
def folder(tmp_path):
    """Two clients for an hour; the third window is a gap; only client 1 has lengths."""
    (tmp_path / "llm").mkdir()
    rate = {1: [1.0, 2.0, 0.0, 4.0, 4.0, 4.0], 2: [10.0, 0.0, 0.0, 10.0, 0.0, 0.0]}
    pl.DataFrame(
        [("m", c, 600 * w, r, 1.0) for c, row in rate.items() for w, r in enumerate(row)],
        schema=["model", "client_id", "t_s", "rate_rps", "cv"],
        orient="row",
    ).write_parquet(tmp_path / "llm" / "servegen_client_rates.parquet")
    pl.DataFrame(
        [("m", 1, f, 0, [n], [1.0]) for f, n in (("input_tokens", 50), ("output_tokens", 7))],
        schema=["model", "client_id", "field", "window_start_s", "value", "prob"],
        orient="row",
    ).write_parquet(tmp_path / "llm" / "servegen_length_pdfs.parquet")
    return tmp_path


def test_every_window_holds_the_requests_its_trace_says(folder):
    demand = replayed.servegen_demand(folder, "m", window_s=60)
    assert demand.tenants == ("m/1", "m/2")
    by_window = demand.requests.reshape(6, 10, 2).sum(axis=1)
    assert by_window[[0, 1, 3, 4, 5]].tolist() == [
        [600, 6000],
        [1200, 0],
        [2400, 6000],
        [2400, 0],
        [2400, 0],
    ]


def test_a_gap_is_filled_between_its_neighbours_and_said_so(folder):
    demand = replayed.servegen_demand(folder, "m", window_s=600)
    assert demand.requests[2].tolist() == [1800, 3000]
    assert any("1 windows without any recorded request" in note for note in demand.notes)


def test_lengths_are_the_clients_own_or_those_of_the_others(folder):
    demand = replayed.servegen_demand(folder, "m", window_s=600)
    asked = demand.requests.sum(axis=0)
    assert demand.input_tokens.sum(axis=0) == pytest.approx(asked * 50, rel=0.01)
    assert demand.output_tokens.sum(axis=0) == pytest.approx(asked * 7, rel=0.01)
    assert any("58% of the requests take the mixture" in note for note in demand.notes)


def test_the_rate_scale_scales_the_requests(folder):
    base = replayed.servegen_demand(folder, "m", window_s=600)
    half = replayed.servegen_demand(folder, "m", window_s=600, rate_scale=0.5)
    assert half.requests.sum() == pytest.approx(base.requests.sum() / 2, abs=6)


def test_a_short_trace_is_repeated_only_when_asked(folder):
    with pytest.raises(InputError, match="repeat = true"):
        replayed.servegen_demand(folder, "m", span_s=7200.0)
    twice = replayed.servegen_demand(folder, "m", window_s=600, span_s=7200.0, repeat=True)
    assert twice.requests[:6].tolist() == twice.requests[6:].tolist()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window_s": 7.0}, "window_s is 7"),
        ({"window_s": 0.0}, "window_s is 0"),
        ({"window_s": 1200.0}, "window_s is 1200"),
        ({"rate_scale": 0.0}, "rate_scale is 0"),
        ({"start_s": 3600.0}, "lies outside"),
        ({"start_s": -600.0}, "lies outside"),
        ({"span_s": 0.0}, "lies outside"),
    ],
)
def test_bad_settings_are_one_sentence(folder, settings, said):
    with pytest.raises(InputError, match=said):
        replayed.servegen_demand(folder, "m", **settings)


def test_the_same_seed_replays_the_same_demand_and_another_does_not(folder):
    one, again, other = (
        replayed.servegen_demand(folder, "m", window_s=60, seed=seed).requests for seed in (1, 1, 2)
    )
    assert (one == again).all()
    assert (one != other).any()


@needs_data
def test_a_week_of_servegen_keeps_its_hours_and_clients():
    demand = replayed.servegen_demand(data_dir(), "m-large", window_s=60)
    rates = servegen.client_rates(data_dir(), "m-large")
    assert demand.requests.sum(axis=0) == pytest.approx(rates.rate_per_s.sum(axis=0) * 600, abs=1)
    assert demand.span_s == 7 * DAY_S


@needs_data
def test_philly_at_scale_one_holds_its_own_jobs():
    jobs = clusters.philly_jobs(data_dir())
    start_s = 30 * DAY_S
    found = replayed.philly_stream(data_dir(), start_s=start_s, span_s=DAY_S, carry_over=False)
    inside = (jobs.submitted_s >= start_s) & (jobs.submitted_s < start_s + DAY_S)
    assert len(found) == inside.sum()
    assert (found.gpus * found.duration_s).sum() == pytest.approx(
        (jobs.gpus * jobs.duration_s)[inside].sum()
    )
    carried = replayed.philly_stream(data_dir(), start_s=start_s, span_s=DAY_S)
    assert len(carried) > len(found)
    under_way = (carried.submitted_s == 0).sum() - (found.submitted_s == 0).sum()
    assert under_way == len(carried) - len(found)


@needs_data
def test_philly_scaled_holds_as_many_more():
    one = replayed.philly_stream(data_dir(), start_s=30 * DAY_S, span_s=7 * DAY_S)
    many = replayed.philly_stream(data_dir(), start_s=30 * DAY_S, span_s=7 * DAY_S, scale=2.5)
    assert len(many) == pytest.approx(2.5 * len(one), rel=0.02)


@needs_data
def test_philly_outside_its_time_is_refused():
    with pytest.raises(InputError, match="no job is submitted"):
        replayed.philly_stream(data_dir(), start_s=1e9, span_s=DAY_S)


@needs_data
def test_dlrm_holds_its_active_replicas():
    found = replayed.dlrm_stream(data_dir(), start_s=5 * DAY_S, span_s=7 * DAY_S)
    alive = (found.created_s <= DAY_S) & (found.deleted_s > DAY_S)
    assert 3076 <= (alive * found.gpus).sum() <= 3367


@needs_data
def test_batches_have_the_lengths_of_the_arxiv_requests():
    plan = batches.Plan("m-mid", 7 * DAY_S, requests_per_day=5e6, requests_per_batch=5000)
    found = replayed.arxiv_batches(data_dir(), plan, seed=1)
    asked = found.requests.sum()
    assert asked / 7 == pytest.approx(5e6, rel=0.1)
    assert found.input_tokens.sum() / asked == pytest.approx(2588, rel=0.01)
    assert found.output_tokens.sum() / asked == pytest.approx(291, rel=0.02)
    assert np.allclose(found.deadline_s - found.submitted_s, DAY_S)


def test_a_batch_plan_of_nothing_is_refused():
    plan = batches.Plan("m", DAY_S, requests_per_day=0, requests_per_batch=10)
    with pytest.raises(InputError, match="requests_per_day is 0"):
        batches.generate(plan, batches.Lengths(1, 1, 1, 1), note="")

"""The loaders on the real files give the figures their publishers give."""

import numpy as np
import pytest
from tests.data import data_dir, needs_data

from headgate.sim.traces import clusters, requests, servegen
from headgate.sim.traces.catalogue import TABLES
from headgate.sim.traces.tables import read

pytestmark = needs_data


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_has_the_rows_it_should(table):
    assert len(read(data_dir(), table)) == table.rows


@pytest.mark.parametrize(
    ("model", "clients", "windows", "mean_rps"),
    [
        ("m-large", 162, 1008, 209.5),
        ("m-mid", 109, 1008, 1603.6),
        ("m-small", 43, 1008, 1063.0),
        ("deepseek-r1", 73, 144, 16.0),
        ("mm-image", 35, 144, 9.5),
    ],
)
def test_servegen_has_its_clients_and_rates(model, clients, windows, mean_rps):
    rates = servegen.client_rates(data_dir(), model)
    assert rates.rate_per_s.shape == rates.cv.shape == (windows, clients)
    assert rates.rate_per_s.sum(axis=1).mean() == pytest.approx(mean_rps, abs=0.1)


def test_only_the_middle_model_has_gaps():
    gaps = {m: len(servegen.client_rates(data_dir(), m).gap_windows) for m in ("m-mid", "m-large")}
    assert gaps == {"m-mid": 21, "m-large": 0}


def test_length_moments_cover_the_clients_that_have_files():
    lengths = servegen.length_moments(data_dir(), "m-mid", "output_tokens")
    assert len(lengths.clients) == 74
    assert np.nanmin(lengths.variance) >= 0
    assert 0.5 < servegen.reason_ratio(data_dir()) < 0.9


def test_philly_has_its_jobs_in_order():
    jobs = clusters.philly_jobs(data_dir())
    assert (len(jobs.gpus), len(jobs.tenants)) == (68_063, 14)
    assert (np.diff(jobs.submitted_s) >= 0).all()
    assert str(jobs.first) == "2017-09-04 10:30:41"
    assert jobs.submitted_s[0] == 10 * 3600 + 30 * 60 + 41


def test_dlrm_has_its_replicas():
    replicas = clusters.dlrm_replicas(data_dir())
    assert (replicas.gpus.sum(), len(replicas.apps)) == (7_386, 156)
    hours_s = np.arange(1, 31 * 24) * 3600.0
    alive = (replicas.created_s <= hours_s[:, None]) & (hours_s[:, None] < replicas.deleted_s)
    assert alive.sum(axis=1).min() == pytest.approx(3076, rel=0.01)
    assert alive.sum(axis=1).max() == pytest.approx(3367, rel=0.01)


def test_helios_masks_its_outage():
    use = clusters.helios_quota_use(data_dir())
    assert use.quota[0].sum() == 856
    assert round(use.running.sum(axis=1).mean()) == 597
    assert use.running.sum(axis=1).max() == 764
    assert round(use.pending.sum(axis=1).mean()) == 63


def test_azure_and_mooncake_have_their_lengths():
    code = requests.azure_requests(data_dir(), requests.AZURE_CODE)
    assert np.median(code.input_tokens) == 1469
    talk, prefixes = requests.mooncake_requests(data_dir())
    assert len(talk) == len(prefixes) == 12_031
    assert talk.input_tokens.mean() == pytest.approx(12_035, abs=1)
    assert talk.output_tokens.mean() == pytest.approx(343, abs=1)


def test_mooncake_requests_no_longer_arrive_in_heaps():
    talk, _ = requests.mooncake_requests(data_dir())
    assert (np.diff(talk.arrived_s) > 0).all()


def test_ragpulse_is_sorted_and_arxiv_paired():
    asked, session = requests.ragpulse_requests(data_dir())
    assert (np.diff(asked.arrived_s) >= 0).all()
    assert len(np.unique(session)) == 3_990
    prompt, output = requests.arxiv_lengths(data_dir())
    assert np.median(prompt) == 2730
    assert (prompt + output).max() <= 4096

"""Published demand: as many requests as were published, as long as they were."""

from pathlib import Path

import numpy as np
import pytest
from tests.data import data_dir, needs_data

from headgate.core.errors import InputError
from headgate.sim.serving.published import WINDOW_S, language_models, load_demand


@needs_data
def test_a_days_demand_has_the_published_rate_and_lengths() -> None:
    assert language_models(data_dir()) == ["m-large", "m-mid", "m-small"]
    demand = load_demand(data_dir(), "m-large", days=7, most_tokens=32_768)
    assert len(demand.rates_per_s) == 7 * 86_400 / WINDOW_S
    assert demand.rates_per_s.mean() == pytest.approx(209.5, rel=0.001)
    lengths = demand.lengths
    # The data's own page, over both published weeks: p50 654 and 67, p90 2,355 and 458.
    assert np.median(lengths.prefill) == pytest.approx(654, rel=0.1)
    assert np.median(lengths.decode) == pytest.approx(67, rel=0.15)
    assert np.quantile(lengths.prefill, 0.9) == pytest.approx(2355, rel=0.2)
    assert np.quantile(lengths.decode, 0.9) == pytest.approx(458, rel=0.1)
    assert (lengths.prefill + lengths.decode).max() <= 32_768


@needs_data
def test_a_demand_is_scaled_to_a_number_of_requests_and_keeps_its_shape() -> None:
    demand = load_demand(data_dir(), "m-small", days=1, most_tokens=32_768)
    scaled = demand.scaled_to(1_000_000)
    assert scaled.requests == pytest.approx(1_000_000)
    assert np.argmax(scaled.rates_per_s) == np.argmax(demand.rates_per_s)


def test_a_folder_without_the_data_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_demand(tmp_path, "m-large", 1, 1000)

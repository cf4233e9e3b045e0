import numpy as np
import pytest

from headgate.sim.demand import JobStream


def jobs(submitted_s, tenant_row):
    rows = np.ones(len(submitted_s), dtype=np.int64)
    return JobStream(np.array(submitted_s), rows * 60.0, rows, np.array(tenant_row), ("a", "b"))


def test_a_stream_knows_its_length():
    assert len(jobs([0.0, 5.0, 5.0], [0, 1, 1])) == 3


@pytest.mark.parametrize(
    ("submitted_s", "tenant_row"),
    [([5.0, 0.0], [0, 0]), ([-1.0, 0.0], [0, 0]), ([0.0], [2]), ([0.0], [-1]), ([0.0, 1.0], [0])],
)
def test_a_stream_out_of_order_or_of_unknown_tenants_cannot_be_made(submitted_s, tenant_row):
    with pytest.raises(AssertionError):
        jobs(submitted_s, tenant_row)

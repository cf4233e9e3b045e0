"""The bounds hold over every policy there is, on cases small enough to try them all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.kernels.placement import WHOLE, Pods
from headgate.policy.placement.bound import bounds
from headgate.policy.placement.nodes import Nodes


def nodes_of(rows):
    cpu, memory, gpus, model = np.array(rows, dtype=np.int64).T
    return Nodes(cpu, memory, gpus, model, ("a", "b"))


def pods_of(rows):
    return Pods(*np.array(rows, dtype=np.int64).reshape(-1, 5).T)


def best_of_all(nodes, pods, may_drop: bool) -> int:
    """Thousandths that the best of all ways to place the stream allocates."""

    def after(row: int, free: tuple) -> int:
        if row == len(pods.cpu):
            return 0
        cpu, memory, gpus, milli, models = (int(column[row]) for column in pods)
        best, fits = 0, False
        for n, (has_cpu, has_memory, rooms) in enumerate(free):
            able = [g for g, room in enumerate(rooms) if room >= milli]
            accepted = gpus == 0 or models >> int(nodes.model[n]) & 1
            if has_cpu < cpu or has_memory < memory or len(able) < gpus or not accepted:
                continue
            fits = True
            for first in able if gpus == 1 else [None]:
                taken = [first] if gpus == 1 else able[:gpus]
                left = tuple(r - milli * (g in taken) for g, r in enumerate(rooms))
                node = (has_cpu - cpu, has_memory - memory, left)
                rest = after(row + 1, (*free[:n], node, *free[n + 1 :]))
                best = max(best, gpus * milli + rest)
        return max(best, after(row + 1, free)) if may_drop or not fits else best

    return after(
        0,
        tuple(
            (int(nodes.cpu_milli[n]), int(nodes.memory_mib[n]), (WHOLE,) * int(nodes.gpus[n]))
            for n in range(len(nodes))
        ),
    )


share = st.tuples(
    st.integers(1, 4), st.integers(0, 2), st.just(1), st.sampled_from([300, 400, 700, 800, 1000]),
    st.integers(1, 3),
)  # fmt: skip
other = st.tuples(
    st.integers(1, 6), st.integers(0, 2), st.sampled_from([0, 2]), st.just(WHOLE), st.integers(1, 3)
).map(lambda p: p if p[2] else (*p[:3], 0, 3))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(3, 9), st.integers(2, 6), st.integers(1, 2), st.integers(0, 1)),
        min_size=1,
        max_size=2,
    ),
    st.lists(st.one_of(share, share, other), min_size=1, max_size=6),
)
def test_no_policy_passes_its_bound_and_each_bound_is_tighter(rows, wanted):
    nodes, pods = nodes_of(rows), pods_of(wanted)
    found = bounds(nodes, pods)
    percent = 100.0 / nodes.gpu_milli
    assert best_of_all(nodes, pods, may_drop=False) * percent <= found.kept + 1e-6
    assert best_of_all(nodes, pods, may_drop=True) * percent <= found.whole + 1e-6
    assert found.kept <= found.whole + 1e-6
    assert found.whole <= found.fluid + 1e-6 <= 100 + 2e-6


def test_whole_gpus_bound_what_shares_of_over_half_can_fill():
    """Two shares of 600 never share a GPU, which a fluid would let them."""
    found = bounds(nodes_of([(96, 64, 2, 0)]), pods_of([(1, 1, 1, 600, 3)] * 4))
    assert found.fluid == pytest.approx(100)
    assert found.whole == pytest.approx(60)


def test_pods_that_fit_and_come_first_cannot_be_passed_over():
    """The first 16 shares of 600 take the 16 GPUs, whatever comes later."""
    nodes = nodes_of([(96, 64, 2, 0)] * 8)
    found = bounds(nodes, pods_of([(1, 1, 1, 600, 3)] * 16 + [(1, 1, 1, WHOLE, 3)] * 16))
    assert found.whole == pytest.approx(100)
    assert found.kept == pytest.approx(60)

"""Where a request goes, and how many may be in flight there."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from headgate.policy.routing import next_cap, pick


def test_a_full_engine_is_never_picked():
    assert pick([4, 2], [4, 4], [0.0, 900.0], [1.0, 1.0], [0.0, 0.0], 100.0) == 1
    assert pick([4, 4], [4, 4], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0], 100.0) == -1


def test_a_cached_prefix_draws_until_the_load_there_outweighs_it():
    assert pick([1, 0], [9, 9], [500.0, 0.0], [1.0, 1.0], [900.0, 0.0], 1000.0) == 0
    assert pick([1, 0], [9, 9], [950.0, 0.0], [1.0, 1.0], [900.0, 0.0], 1000.0) == 1


def test_a_faster_engine_takes_more():
    assert pick([0, 0], [9, 9], [900.0, 500.0], [2.0, 1.0], [0.0, 0.0], 100.0) == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 9),
            st.floats(0, 1e6),
            st.floats(0.1, 9),
            st.floats(0, 5e3),
        ),
        min_size=1,
        max_size=8,
    ),
    st.floats(0, 1e5),
)
def test_the_compiled_rule_picks_as_the_plain_one(engines, tokens):
    columns = list(zip(*engines, strict=True))
    arrays = [np.array(c, dtype=np.int64 if n < 2 else np.float64) for n, c in enumerate(columns)]
    assert COMPILED(*arrays, tokens) == pick(*columns, tokens)


COMPILED = njit(pick)


def test_the_cap_settles_where_the_objective_is_kept():
    cap = 256.0
    seen = []
    for _ in range(300):
        token_s = 0.01 + 0.0005 * cap  # 40 in flight take 30 ms
        cap = next_cap(cap, 1.0, 256.0, token_s, 0.03, used=cap)
        seen.append(cap)
    assert 0.01 + 0.0005 * max(seen[50:]) <= 0.03
    assert min(seen[50:]) >= 0.8 * 40


def test_the_cap_does_not_grow_while_it_does_not_bind():
    assert next_cap(10.0, 1.0, 100.0, 0.001, 0.1, used=3) == 10.0

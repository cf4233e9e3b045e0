"""Where a request goes, and how many may be in flight there."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from headgate.policy.routing import next_cap, next_read_s, pick


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


def learnt(samples: list[tuple[float, float]], token_s: float = 0.01) -> float:
    read_s = 0.0
    for tokens, first_s in samples:
        read_s = next_read_s(read_s, tokens, first_s, token_s)
    return read_s


def test_reading_is_learnt_from_first_tokens_that_came_undisturbed():
    dice = np.random.default_rng(1)
    # 50 us a token; two in five also wait for another prompt of up to 100 ms.
    samples = [
        (tokens, 0.015 + 50e-6 * tokens + (dice.random() < 0.4) * dice.random() * 0.1)
        for tokens in dice.integers(100, 4000, 500)
    ]
    assert 45e-6 < learnt(samples) < 75e-6


def test_short_prompts_say_nothing_of_reading_and_a_late_one_little():
    samples = [(1000.0, 0.065)] * 50
    known = learnt(samples)
    assert learnt([*samples, *[(20.0, 0.5)] * 50]) == known
    assert known < learnt([*samples, (1000.0, 0.65)]) < 1.3 * known
    assert learnt([*samples, *[(1000.0, 0.005)] * 50]) < 0.01 * known

"""What can be told of an engine's reading from when prompts were sent and first tokens came."""

import numpy as np
import pytest

from headgate.policy.reading import Reading

STEP_S = 0.01
START_S, TOKEN_S = 1.5 * STEP_S, 50e-6


def learnt(samples: list[tuple[float, float]]) -> Reading:
    """Prompts of so many tokens, each sent when the one before was long done."""
    reading = Reading()
    for number, (tokens, took_s) in enumerate(samples):
        reading.begin(f"{number}", tokens, number * 100.0)
        reading.first_token(f"{number}", tokens, took_s, STEP_S)
    return reading


def whole_s(reading: Reading, tokens: float) -> float:
    """From sending a prompt to its first token."""
    return reading.start_s + tokens * reading.token_s


def known() -> Reading:
    return learnt([(tokens, START_S + TOKEN_S * tokens) for tokens in range(100, 4100, 100)])


def test_the_line_is_learnt_from_first_tokens():
    reading = known()
    assert reading.start_s == pytest.approx(START_S)
    assert reading.token_s == pytest.approx(TOKEN_S)


def test_it_is_learnt_though_two_in_five_wait_for_somebody_else():
    dice = np.random.default_rng(1)
    reading = learnt(
        [
            (tokens, START_S + TOKEN_S * tokens + (dice.random() < 0.4) * dice.random() * 0.1)
            for tokens in dice.integers(100, 4000, 500).tolist()
        ]
    )
    assert 0.9 * TOKEN_S < reading.token_s < 1.3 * TOKEN_S
    assert 0.0 <= reading.start_s < 0.05


def test_prompts_of_one_length_tell_what_that_length_takes():
    reading = learnt([(500.0, 0.04)] * 10)
    assert whole_s(reading, 500) == pytest.approx(0.04)
    assert reading.start_s == pytest.approx(START_S)


def test_short_prompts_do_not_make_reading_look_slow():
    dice = np.random.default_rng(2)
    lengths = dice.integers(5, 60, 300).tolist()
    reading = learnt([(n, START_S + TOKEN_S * n + dice.normal(0.0, 0.003)) for n in lengths])
    assert reading.token_s < 4 * TOKEN_S


def test_an_engine_reads_until_all_that_was_sent_is_read():
    reading = known()
    now_s = 10_000.0
    assert reading.left_s(now_s) == 0.0
    reading.begin("a", 1000, now_s)
    assert reading.left_s(now_s) == pytest.approx(START_S + 1000 * TOKEN_S)
    reading.begin("b", 2000, now_s)
    assert reading.left_s(now_s) == pytest.approx(START_S + 3000 * TOKEN_S)
    assert reading.left_tokens(now_s) == pytest.approx(3000 + START_S / TOKEN_S)
    reading.over("a")  # the other is still to be read
    assert reading.left_s(now_s) > 0.0
    reading.over("b")
    assert reading.left_s(now_s) == 0.0


def test_a_prompt_that_waited_behind_another_teaches_nothing_unless_it_was_quick():
    reading = known()
    before_s = whole_s(reading, 1000)
    reading.begin("a", 1000, 10_000.0)
    reading.begin("b", 1000, 10_000.0)
    reading.first_token("b", 1000, 0.2, STEP_S)
    assert whole_s(reading, 1000) == before_s
    reading.begin("a", 1000, 20_000.0)
    reading.begin("b", 1000, 20_000.0)
    reading.first_token("b", 1000, 0.02, STEP_S)
    assert whole_s(reading, 1000) < before_s


def test_a_first_token_that_was_very_late_is_forgotten_soon():
    """The first request of all found fifty prompts of a batch before it."""
    honest = [(tokens, START_S + TOKEN_S * tokens) for tokens in range(300, 2300, 100)]
    reading = learnt([(1000.0, 2.0), *honest])
    assert whole_s(reading, 1000) < 2.0 * (START_S + 1000 * TOKEN_S)


def test_an_engine_that_became_quicker_is_noticed_even_if_it_never_seems_to_be_idle():
    reading = known()
    for number in range(150):
        now_s = 10_000.0 + 0.001 * number
        reading.begin(f"old {number}", 1000, now_s)
        reading.begin(f"{number}", 1000, now_s)
        reading.first_token(f"old {number}", 1000, 0.01, STEP_S)
    assert whole_s(reading, 1000) < 0.02


def test_nothing_is_known_before_the_first_token():
    reading = Reading()
    reading.begin("a", 1000, 5.0)
    assert reading.left_s(5.0) == 0.0
    assert reading.left_tokens(5.0) == 0.0

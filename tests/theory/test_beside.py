"""A batch beside interactive traffic, in virtual time: the same figures on any machine."""

from dataclasses import replace

import pytest
from tests.virtual import SETTLE_S, Setting, at, beside, first_tokens, valley


def test_an_engine_full_of_batch_work_spends_all_its_time_but_for_the_cache_on_its_tokens():
    with valley(Setting(engines=1, engine_share=1.0)) as one:
        one.begin_batch()
        one.loop.run_for(SETTLE_S)
        before_s = one.spent_s()
        one.loop.run_for(60.0)
        assert 0.97 < (one.spent_s() - before_s) / 60.0 < 1.0


@pytest.mark.parametrize(("engines", "ratio"), [(4, 1.06), (8, 1.06), (1, 1.11)])
def test_a_batch_uses_nine_tenths_of_what_is_left_and_costs_the_late_first_tokens_little(
    engines, ratio
):
    outcome = beside(Setting(engines=engines, requests=2000))
    assert outcome.used_share > 0.9
    assert outcome.ratio() < ratio


def test_what_a_batch_may_fill_moves_the_balance():
    setting = Setting(requests=1500)
    more, less = beside(setting), beside(replace(setting, engine_share=0.5))
    assert less.used_share < more.used_share - 0.1
    assert less.ratio(0.5) < more.ratio(0.5)


def test_interactive_requests_are_all_answered_where_they_and_a_batch_are_too_many():
    outcome = beside(Setting(engines=2, rate_per_s=11.0, requests=1000))
    assert len(outcome.beside_s) == 1000
    assert min(outcome.beside_s) > 0.0


def test_before_reading_is_known_of_every_engine_none_is_avoided_for_it():
    firsts, _, _ = first_tokens(Setting(rate_per_s=6.0, requests=600), batch=False)
    assert at(firsts, 0.99) < 0.33  # the longest prompt alone takes 0.25 s

"""Generated demand has the statistics that its parameters state."""

import numpy as np
import pytest

from headgate.core.errors import InputError
from headgate.sim.workloads import batches, gangs, leases, profiles, replicas, services

DAY_S = 86_400.0


def day_of(name, seed=1, days=1, **settings):
    settings = {"rate_per_s": 300.0, "tenants": 150, "span_s": days * DAY_S} | settings
    return services.generate(name, services.SHAPES[name], seed=seed, **settings)


@pytest.mark.parametrize("name", services.SHAPES)
def test_a_service_asks_its_rate_and_lengths_on_average_over_many_days(name):
    shape = services.SHAPES[name]
    demand = day_of(name, days=30, window_s=600)
    asked = demand.requests.sum()
    assert asked / demand.span_s == pytest.approx(300, rel=0.15)
    # Tenants' swings move the mix of lengths about: the mean of some seeds is what must fit.
    means = np.mean(
        [
            (d.input_tokens.sum() / d.requests.sum(), d.output_tokens.sum() / d.requests.sum())
            for d in (day_of(name, seed, days=7, window_s=600) for seed in range(6))
        ],
        axis=0,
    )
    assert means == pytest.approx((shape.input_mean, shape.output_mean), rel=0.25)


@pytest.mark.parametrize("share", [0.74, 0.79, 0.6, 0.3])
@pytest.mark.parametrize("tenants", [10, 43, 400])
def test_the_busiest_tenth_of_tenants_sends_its_published_share(share, tenants):
    found = profiles.heavy_tailed_shares(tenants, share)
    whole = tenants // 10
    assert found[:whole].sum() + (tenants / 10 - whole) * found[whole] == pytest.approx(share)
    assert found.sum() == pytest.approx(1)
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("name", services.SHAPES)
def test_the_day_has_its_published_hours(name):
    """The mean of many days, as single days swing far more."""
    shape = services.SHAPES[name]
    demand = day_of(name, days=100, tenants=300, window_s=600)
    hours = demand.requests.sum(axis=1).reshape(100, 24, 6).mean(axis=(0, 2))
    assert np.corrcoef(hours / hours.mean(), shape.day)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "tenants", "days", "published_cv"),
    [
        ("large", 162, 7, 0.31),
        ("mid", 109, 7, 0.34),
        ("small", 43, 7, 0.28),
        ("reasoning", 73, 1, 0.51),
    ],
)
def test_the_whole_service_swings_as_much_as_published(name, tenants, days, published_cv):
    """Standard deviation over mean of the sum of all tenants in 600 s windows."""
    swings = []
    for seed in range(12):
        asked = day_of(name, seed, days, tenants=tenants, window_s=600).requests.sum(axis=1)
        swings.append(asked.std() / asked.mean())
    assert np.median(swings) == pytest.approx(published_cv, rel=0.15)


def test_the_same_seed_asks_the_same_and_another_does_not():
    assert (day_of("mid").requests == day_of("mid").requests).all()
    assert (day_of("mid").requests != day_of("mid", seed=2).requests).any()


def test_a_longer_span_needs_no_whole_window():
    demand = services.generate(
        "s", services.SHAPES["mid"], rate_per_s=1.0, tenants=3, span_s=700.0, window_s=60
    )
    assert demand.requests.shape == (20, 3)


@pytest.mark.parametrize(
    "settings", [{"rate_per_s": 0.0}, {"tenants": 0}, {"span_s": -1.0}, {"window_s": 7.0}]
)
def test_a_service_of_nothing_is_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        day_of("mid", **settings)


def test_gangs_offer_what_is_asked_and_begin_in_full_swing():
    offered = []
    for seed in range(8):
        found = gangs.generate(gpus_offered=1000, span_s=30 * DAY_S, seed=seed)
        ends_s = found.submitted_s + found.duration_s
        for at_s in np.arange(0, 30, 3) * DAY_S:
            held = (found.submitted_s <= at_s) & (ends_s > at_s)
            offered.append((held * found.gpus).sum())
    assert np.mean(offered) == pytest.approx(1000, rel=0.1)
    assert np.mean(offered[::10]) == pytest.approx(1000, rel=0.3)  # at the very start


def test_gangs_have_their_sizes_and_durations():
    found = gangs.generate(gpus_offered=3000, span_s=30 * DAY_S, seed=1)
    new = found.submitted_s > 0
    assert (found.gpus[new] == 1).mean() == pytest.approx(76_627 / 82_247, abs=0.01)
    alone = found.duration_s[new & (found.gpus == 1)]
    assert np.log(alone).mean() == pytest.approx(6.74, abs=0.05)
    assert found.duration_s.max() <= gangs.LONGEST_S
    hour = np.bincount((found.submitted_s[new] // 3600 % 24).astype(int), minlength=24)
    assert np.corrcoef(hour, gangs.DAY)[0, 1] > 0.8


def test_replicas_hold_the_same_number_at_all_times():
    found = replicas.generate(gpus=500, span_s=7 * DAY_S, seed=1)
    for at_s in np.arange(0, 7 * DAY_S, 5000.0):
        assert ((found.created_s <= at_s) & (found.deleted_s > at_s)).sum() == 500
    replaced = np.isfinite(found.deleted_s).sum() / 500 / 7
    assert replaced == pytest.approx(replicas.REPLACED_PER_DAY, rel=0.25)


def test_leases_offer_what_is_asked_and_start_after_they_are_asked_for():
    offered = []
    for seed in range(8):
        found = leases.generate(gpus_offered=600, span_s=20 * DAY_S, seed=seed)
        for at_s in np.arange(1, 20, 3) * DAY_S:
            held = (found.start_s <= at_s) & (found.start_s + found.duration_s > at_s)
            offered.append((held * found.gpus).sum())
        assert (found.start_s >= found.submitted_s).all()
    assert np.mean(offered) == pytest.approx(600, rel=0.15)
    assert 0 < len({len(used) for used in found.families}) <= len(leases.FAMILIES) + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: gangs.generate(gpus_offered=0),
        lambda: leases.generate(gpus_offered=-1),
        lambda: replicas.generate(gpus=0),
        lambda: replicas.generate(gpus=1, span_s=float("nan")),
    ],
)
def test_generators_of_nothing_are_refused(make):
    with pytest.raises(InputError, match="must be more than 0"):
        make()


def test_generated_batches_follow_their_plan():
    plan = batches.Plan("mid", 28 * DAY_S, 2e6, 4000, tenants=10)
    found = batches.generate(plan, batches.SUMMARIES, seed=1)
    assert found.requests.sum() / 28 == pytest.approx(2e6, rel=0.1)
    assert found.input_tokens.sum() / found.requests.sum() == pytest.approx(2588, rel=0.01)


def test_a_profile_is_read_between_the_middles_of_its_hours():
    day = np.arange(24.0) + 1
    assert profiles.at_hours(day, np.array([1800.0]))[0] == pytest.approx(1 / 12.5)
    assert profiles.at_hours(day, np.array([0.0]))[0] == pytest.approx(12.5 / 12.5)

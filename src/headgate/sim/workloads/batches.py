"""Batch work: files of requests that may wait, each with a deadline."""

from dataclasses import dataclass

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import BatchStream
from headgate.sim.dice import stream
from headgate.sim.workloads import draws, profiles

# Submissions in a working day, three hours a step from midnight, relative to the mean. No public
# trace holds batch submissions: assumption, with the swing of Philly's median hour (1.95).
WORKING_DAY = np.repeat([0.8, 0.55, 0.8, 1.25, 1.35, 1.3, 1.05, 0.9], 3)
# Batches differ in size by orders of magnitude; no public trace says how much: assumption.
SIZE_SIGMA = 1.0
BUSIEST_TENTH = 0.74  # of the requests, as of the maas tenants


@dataclass(frozen=True, slots=True)
class Plan:
    """What batch work a scenario wants of a service."""

    service: str
    span_s: float
    requests_per_day: float
    requests_per_batch: float  # mean of a lognormal
    deadline_s: float = 86_400.0  # from submission; the batch APIs of today promise 24 hours
    tenants: int = 20


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean and variance of the tokens of one request."""

    input_mean: float
    input_variance: float
    output_mean: float
    output_variance: float


# Summarisation of arXiv papers, 28,257 requests (Agrawal et al., Vidur, MLSys 2024; MIT).
SUMMARIES = Lengths(2588.0, 945.0**2, 291.0, 531.0**2)


def generate(
    plan: Plan,
    lengths: Lengths,
    *,
    seed: int = 0,
    note: str = "lengths are those of arXiv summaries",
) -> BatchStream:
    """Batches over the span: Poisson through a working day, sizes lognormal, tenants uneven."""
    wrong = [
        f"{name} is {getattr(plan, name):g}"
        for name in ("span_s", "requests_per_day", "requests_per_batch", "deadline_s", "tenants")
        if not getattr(plan, name) > 0
    ]
    if wrong:
        raise InputError(f"batch.{plan.service}: {' and '.join(wrong)}; give more than 0.")
    dice = stream(seed, "batches", plan.service)
    batches_per_day = plan.requests_per_day / plan.requests_per_batch
    submitted_s = profiles.times(dice, WORKING_DAY, batches_per_day, plan.span_s)
    count = len(submitted_s)
    size = plan.requests_per_batch * np.exp(
        SIZE_SIGMA * dice.standard_normal(count) - SIZE_SIGMA**2 / 2
    )
    asked = np.maximum(draws.whole(dice, size), 1)
    every = np.ones(count)
    shares = profiles.heavy_tailed_shares(plan.tenants, BUSIEST_TENTH)
    return BatchStream(
        service=plan.service,
        submitted_s=submitted_s,
        requests=asked,
        input_tokens=draws.tokens(
            dice, asked, lengths.input_mean * every, lengths.input_variance * every
        ),
        output_tokens=draws.tokens(
            dice, asked, lengths.output_mean * every, lengths.output_variance * every
        ),
        deadline_s=submitted_s + plan.deadline_s,
        tenant_row=profiles.pick(dice, shares, count),
        tenants=tuple(f"{plan.service}/batch-{row}" for row in range(plan.tenants)),
        notes=(
            f"{plan.service} batches: {count} generated, about {plan.requests_per_batch:g} "
            f"requests each, due {plan.deadline_s / 3600:g} h after submission; {note}; times "
            f"and sizes are an assumption.",
        ),
    )

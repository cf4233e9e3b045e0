"""How many tokens a second a replica serves within its objective, from measured points.

A decode step of a replica with C requests in flight takes a base time (weights are read once),
time for each request, time to read its context, and the time of the prompts that are prefilled
meanwhile: each request brings isl / osl prompt tokens for every token it decodes. So

    TPOT = base + C (request + prompt isl / osl + context (isl + osl / 2))

which is linear in its four terms and is fitted to measured points by least squares of the
relative error, no term below 0. At the objective TPOT = limit it gives the requests in flight,
and from them the requests a second.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of a decode step of one replica; every term in ms."""

    base_ms: float
    request_ms: float  # per request in flight
    prompt_ms: float  # per prompt token prefilled during the step
    context_ms: float  # per token of context that the step reads

    def tpot_ms(self, isl: Floats, osl: Floats, in_flight: Floats) -> Floats:
        return self.base_ms + in_flight * self.share_ms(isl, osl)

    def share_ms(self, isl: Floats, osl: Floats) -> Floats:
        """What each request in flight adds to a step."""
        return self.request_ms + self.prompt_ms * isl / osl + self.context_ms * (isl + osl / 2)

    def slower(self, decode: float, prefill: float) -> "StepTime":
        """The same replica on another accelerator: decode reads memory, prefill computes."""
        return StepTime(
            self.base_ms * decode,
            self.request_ms * decode,
            self.prompt_ms * prefill,
            self.context_ms * decode,
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica serves at its objective, for requests of one mean shape."""

    requests_per_s: float
    in_flight: float
    input_weight: float  # time of a prompt token over that of an output token, at this shape

    def tokens_per_s(self, isl: float, osl: float, input_weight: float) -> float:
        """Capacity in output tokens, a prompt token counting as `input_weight` of one."""
        return self.requests_per_s * (isl * input_weight + osl)


def fit(
    isl: Floats, osl: Floats, in_flight: Floats, tpot_ms: Floats, prompt_least_ms: float = 0.0
) -> StepTime:
    """The step time that measured points tell, one row each; at least 4 points.

    `prompt_least_ms` is what a prompt token must take at the speed of the accelerator's matrix
    products. Points say less where a prefix cache answered, or where all prompts were alike.
    """
    prompts = in_flight * isl / osl
    terms = np.stack(
        [np.ones_like(tpot_ms), in_flight, prompts, in_flight * (isl + osl / 2)], axis=1
    )
    # Dividing by the measurement makes the squares those of relative errors.
    wanted = 1.0 - prompt_least_ms * prompts / tpot_ms
    base, request, prompt, context = _non_negative_least_squares(terms / tpot_ms[:, None], wanted)
    return StepTime(float(base), float(request), float(prompt + prompt_least_ms), float(context))


def prompt_least_ms(active_parameters: float, flops_per_s: float) -> float:
    """Time of one prompt token: a multiplication and an addition for each active parameter."""
    return 2e3 * active_parameters / flops_per_s


def relative_error(
    step: StepTime, isl: Floats, osl: Floats, in_flight: Floats, tpot_ms: Floats
) -> float:
    """Median over the points of |predicted / measured - 1|."""
    return float(np.median(np.abs(step.tpot_ms(isl, osl, in_flight) / tpot_ms - 1)))


def capacity(
    step: StepTime, isl: float, osl: float, tpot_limit_ms: float, in_flight_max: float
) -> Capacity:
    """Requests a second of mean shape (isl, osl) while TPOT stays within its limit.

    `in_flight_max` keeps the answer near what was measured. A replica that misses the limit with
    one request alone serves none.
    """
    each_ms = float(step.share_ms(np.array(isl), np.array(osl)))
    in_flight = min((tpot_limit_ms - step.base_ms) / each_ms, in_flight_max)
    if in_flight < 1:
        return Capacity(0.0, 0.0, 0.0)
    tpot_ms = step.base_ms + in_flight * each_ms
    # A request takes osl steps, in each of which it has a share of 1 / in_flight: that time is
    # isl prompt + osl output. The context that both build together is shared evenly between their
    # tokens, and reading the weights is the output's.
    prompt_ms = step.prompt_ms + step.context_ms * osl / 2
    output_ms = tpot_ms / in_flight - prompt_ms * isl / osl
    return Capacity(in_flight / (osl * tpot_ms / 1e3), in_flight, prompt_ms / output_ms)


def _non_negative_least_squares(terms: Floats, wanted: Floats) -> Floats:
    """The best weights of at least 0: least squares over every subset of the (few) terms."""
    best, least = np.zeros(terms.shape[1]), np.inf
    for size in range(1, terms.shape[1] + 1):
        for chosen in combinations(range(terms.shape[1]), size):
            weights = np.linalg.lstsq(terms[:, chosen], wanted, rcond=None)[0]
            missed = float(np.sum((terms[:, chosen] @ weights - wanted) ** 2))
            if (weights >= 0).all() and missed < least:
                best, least = np.zeros(terms.shape[1]), missed
                best[list(chosen)] = weights
    return best

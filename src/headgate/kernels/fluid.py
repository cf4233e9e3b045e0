"""One window of one service's traffic as a fluid: exact for constant rates inside the window."""

import numpy as np
from numba import njit


@njit(cache=True)
def below(level: float, start: float, slope: float, span_s: float) -> float:
    """Seconds of a span in which start + slope t is at most `level`."""
    if slope == 0.0:
        return span_s if start <= level else 0.0
    cross_s = (level - start) / slope
    if slope > 0.0:
        return min(max(cross_s, 0.0), span_s)
    return span_s - min(max(cross_s, 0.0), span_s)


@njit(cache=True)
def fluid_window(
    arrived: float,
    queued: float,
    rate: float,
    window_s: float,
    wait_objective_s: float,
    patience_s: float,
) -> tuple[float, float, float, float]:
    """Tokens (served, in objective, left in the queue, refused) of one window.

    `arrived` tokens come evenly over the window to a queue of `queued`, served first come first
    served at `rate` tokens/s. An arrival is in its objective when what stands before it is served
    within `wait_objective_s`, and is refused when that would take longer than `patience_s`.
    served + left + refused = arrived + queued, to rounding.
    """
    inflow = arrived / window_s
    longest = patience_s * (rate if rate > 0.0 else inflow)
    refused = max(0.0, queued - longest)
    queue = queued - refused
    slope = inflow - rate
    objective = rate * wait_objective_s
    if slope > 0.0:
        rising_s = min(max((longest - queue) / slope, 0.0), window_s)
        full_s = window_s - rising_s
        good_s = below(objective, queue, slope, rising_s)
        if longest <= objective:
            good_s += full_s
        refused += full_s * slope
        left = queue + slope * rising_s
    else:
        falling_s = window_s if slope == 0.0 else min(queue / -slope, window_s)
        good_s = below(objective, queue, slope, falling_s) + window_s - falling_s
        left = max(0.0, queue + slope * falling_s)
    if rate <= 0.0:
        good_s = 0.0
    # What is refused at the door while the queue is full was not in its objective.
    in_objective = max(0.0, min(inflow * good_s, arrived))
    if slope > 0.0 and longest <= objective:
        in_objective = min(in_objective, max(0.0, arrived - refused))
    # Sums of large numbers leave rounding behind; no count falls below nothing for it.
    refused = max(0.0, refused)
    left = max(0.0, left)
    served = max(0.0, arrived + queued - refused - left)
    return served, in_objective, left, refused


@njit(cache=True)
def fluid_windows(
    arrived: np.ndarray,
    queued: np.ndarray,
    rate: np.ndarray,
    window_s: float,
    wait_objective_s: np.ndarray,
    patience_s: np.ndarray,
    out: np.ndarray,
) -> None:
    """`fluid_window` for every service; `out` is [service, 4]."""
    for v in range(len(arrived)):
        out[v, 0], out[v, 1], out[v, 2], out[v, 3] = fluid_window(
            arrived[v], queued[v], rate[v], window_s, wait_objective_s[v], patience_s[v]
        )

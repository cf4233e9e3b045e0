"""Long workloads drawn window by window, so that a week needs no more memory than an hour."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.sim.dice import stream
from headgate.sim.serving.seen import Seen
from headgate.sim.serving.service import SimulatedService
from headgate.sim.serving.workload import Workload


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompts and outputs to draw from, a row each: kept together, as they came."""

    prefill: NDArray[np.int64]
    decode: NDArray[np.int64]


def draw_windows(
    rates_per_s: NDArray[np.float64], window_s: float, lengths: Lengths, seed: int, name: str
) -> Iterator[Workload]:
    """Poisson arrivals at these rates, one workload a window, lengths drawn with repetition."""
    dice = stream(seed, "serving-windows", name)
    for w, rate_per_s in enumerate(rates_per_s):
        count = int(dice.poisson(rate_per_s * window_s))
        at_s = w * window_s + np.sort(dice.random(count)) * window_s
        rows = dice.integers(0, len(lengths.prefill), count)
        yield Workload(at_s, lengths.prefill[rows], lengths.decode[rows])


def play_windows(
    service: SimulatedService, windows: Iterator[Workload], window_s: float
) -> Iterator[Seen]:
    """Play window after window; the next is drawn by a second thread meanwhile. The last result is
    of what was left to finish."""
    with ThreadPoolExecutor(1) as drawing:
        coming = drawing.submit(next, windows, None)
        end_s = service.now_s
        while (workload := coming.result()) is not None:
            coming = drawing.submit(next, windows, None)
            end_s += window_s
            yield service.window(workload, end_s)
        yield service.window(Workload(*NOTHING), np.inf)


NOTHING = (np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))

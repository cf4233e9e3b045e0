"""A workload through replicas, told as numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.serving.layout import (
    W_CANCELLED,
    W_FINISHED,
    W_GOOD,
    W_GOOD_TOKENS,
    W_PREEMPTED,
    W_REFUSED,
    W_TOKENS,
)
from headgate.sim.serving.seen import Seen, summary
from headgate.sim.serving.service import SimulatedService
from headgate.sim.serving.workload import Workload

Report = dict[str, object]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What each request saw: NaN times and replica -1 where it was refused."""

    workload: Workload
    seen: Seen

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        return self.seen.books.out_s[:, 0]

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        return self.seen.books.out_s[:, 1]

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Seconds a token after the first; NaN for requests of one token."""
        after = np.where(self.workload.decode > 1, self.workload.decode - 1, np.nan)
        return (self.e2e_s - self.ttft_s) / after

    @property
    def replica(self) -> NDArray[np.int32]:
        return self.seen.books.out_i[:, 0]

    @property
    def preemptions(self) -> NDArray[np.int32]:
        return self.seen.books.out_i[:, 1]


def replay(service: SimulatedService, workload: Workload) -> Replayed:
    """Play a whole workload and keep what each request saw."""
    return Replayed(workload, service.play(workload, keep_requests=True))


def report(replayed: Replayed) -> Report:
    """The run as JSON: times in seconds, counts, goodput of the whole and of each class."""
    seen, workload = replayed.seen, replayed.workload
    ended_s = workload.arrived_s + replayed.e2e_s
    finished = np.isfinite(ended_s)
    span_s = float(np.max(ended_s[finished]) - workload.arrived_s[0]) if finished.any() else 0.0
    steps = max(1, seen.iterations)
    found: Report = {
        "requests": len(workload),
        "finished": seen.count(W_FINISHED),
        "refused": seen.count(W_REFUSED),
        "cancelled": seen.count(W_CANCELLED),
        "preemptions": seen.count(W_PREEMPTED),
        "span_s": span_s,
        "iterations": seen.iterations,
        "iterations_out_of_range": seen.iterations_beyond,
        "out_of_range_percent": 100.0 * seen.iterations_beyond / steps,
    }
    found |= _times(replayed, np.ones(len(workload), bool))
    found |= _goodput(seen, span_s, None)
    groups = workload.groups
    if len(groups) > 1:
        found["classes"] = {
            name: _times(replayed, workload.group == g) | _goodput(seen, span_s, g)
            for g, name in enumerate(groups)
        }
    return found


def _times(replayed: Replayed, rows: NDArray[np.bool_]) -> Report:
    return {
        "ttft_s": summary(replayed.ttft_s[rows]),
        "tpot_s": summary(replayed.tpot_s[rows]),
        "e2e_s": summary(replayed.e2e_s[rows]),
    }


def _goodput(seen: Seen, span_s: float, group: int | None) -> Report:
    finished = seen.count(W_FINISHED, group)
    return {
        "tokens": seen.count(W_TOKENS, group),
        "good_tokens": seen.count(W_GOOD_TOKENS, group),
        "good_percent": 100.0 * seen.count(W_GOOD, group) / finished if finished else 0.0,
        "goodput_tokens_per_s": seen.count(W_GOOD_TOKENS, group) / span_s if span_s else 0.0,
    }


def write_requests(replayed: Replayed, path: Path) -> None:
    """One row a request, in order of arrival; times empty and replica -1 where refused."""
    import polars as pl

    workload = replayed.workload
    numbers: Callable[[NDArray[np.float64]], pl.Series] = lambda x: pl.Series(x).fill_nan(None)  # noqa: E731
    pl.DataFrame(
        {
            "id": np.arange(len(workload)),
            "arrived_at": workload.arrived_s,
            "prefill": workload.prefill,
            "decode": workload.decode,
            "ttft_s": numbers(replayed.ttft_s),
            "e2e_s": numbers(replayed.e2e_s),
            "replica": replayed.replica,
            "preemptions": np.maximum(replayed.preemptions, 0),
        }
    ).write_csv(path)

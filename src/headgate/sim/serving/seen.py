"""What a run of a simulated service saw: counts, tokens, and times at any percentile."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.serving import layout as at
from headgate.kernels.serving.layout import E2E, TPOT, TTFT, Books, Fleet

if TYPE_CHECKING:
    from headgate.sim.serving.service import Settings

MEASURES = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}
ENDS_WITH = [at.WAITING, at.OUTSTANDING, at.ITER, at.ITERATIONS_BEYOND]
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(slots=True)
class Seen:
    """The books of a run and, once closed, the state of the replicas at its end.

    Times from histograms carry at most half a bin (0.2 %) of error; where requests were kept they
    are exact.
    """

    settings: "Settings"
    books: Books
    waiting: int = 0
    outstanding: int = 0
    iterations: int = 0
    iterations_beyond: int = 0
    replica_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def close(self, fleet: Fleet) -> None:
        """Note how the replicas stand at the end."""
        ends = fleet.rep[:, ENDS_WITH].sum(axis=0).tolist()
        self.waiting, self.outstanding, self.iterations, self.iterations_beyond = ends

    def count(self, column: int, group: int | None = None) -> int:
        """A window column's total, of one class or of all."""
        windows = self.books.windows[:, :, column]
        return int(windows.sum() if group is None else windows[:, group].sum())

    def quantile_s(self, measure: int, q: float, group: int | None = None) -> float:
        """A measure's quantile in seconds from the histograms; NaN where nothing was measured."""
        bins = self._bins(measure, group)
        total = int(bins.sum())
        if total == 0:
            return float("nan")
        rank = min(total - 1, int(np.floor(q * (total - 1) + 0.5)))
        return bin_middle_s(int(np.searchsorted(np.cumsum(bins), rank, side="right")))

    def mean_s(self, measure: int, group: int | None = None) -> float:
        """A measure's mean in seconds from the histograms."""
        bins = self._bins(measure, group)
        hit = np.flatnonzero(bins)
        if len(hit) == 0:
            return float("nan")
        return float(np.average([bin_middle_s(int(b)) for b in hit], weights=bins[hit]))

    def _bins(self, measure: int, group: int | None) -> NDArray[np.int64]:
        rows = self.books.histograms[:, measure]
        bins: NDArray[np.int64] = rows.sum(axis=0) if group is None else rows[group]
        return bins


def bin_middle_s(index: int) -> float:
    """The middle of a histogram bin; the first holds everything too short to tell from 0."""
    if index == 0:
        return 0.0
    octave, part = divmod(index, at.BINS_PER_OCTAVE)
    return float(2.0 ** (octave + at.FIRST_OCTAVE) * (1.0 + (part + 0.5) / at.BINS_PER_OCTAVE))


def summary(numbers: NDArray[np.float64]) -> dict[str, float]:
    """Mean, P50, P90 and P99 of exact times."""
    known = numbers[np.isfinite(numbers)]
    if len(known) == 0:
        return {name: float("nan") for name in ("mean", *QUANTILES)}
    found = {"mean": float(np.mean(known))}
    for name, q in QUANTILES.items():
        found[name] = float(np.quantile(known, q))
    return found

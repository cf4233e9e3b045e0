"""Demand replayed from public traces: what is scaled, filled or drawn is said in the notes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headgate.core.errors import InputError
from headgate.sim.demand import (
    BatchStream,
    Floats,
    Ints,
    JobStream,
    ReplicaStream,
    ServiceDemand,
)
from headgate.sim.dice import stream
from headgate.sim.traces import clusters, requests, servegen
from headgate.sim.workloads import batches, draws

DAY_S = 86_400.0


def servegen_demand(
    data_dir: Path,
    model: str,
    *,
    service: str | None = None,
    window_s: float = 60.0,
    start_s: float = 0.0,
    span_s: float | None = None,
    rate_scale: float = 1.0,
    repeat: bool = False,
    seed: int = 0,
) -> ServiceDemand:
    """The clients of a ServeGen model as tenants of `service`.

    `start_s` counts from the trace's first window; `span_s` of None is all there is from there.
    `rate_scale` multiplies every client's rate and keeps its burstiness. With `repeat`, a span
    beyond the trace starts it over, with fresh draws inside the windows.
    """
    service = service or model
    parts = round(servegen.WINDOW_S / window_s) if window_s > 0 else 0
    if parts < 1 or abs(parts * window_s - servegen.WINDOW_S) > 1e-6:
        raise InputError(
            f"services.{service}: window_s is {window_s:g}; a ServeGen window of 600 s must be a "
            f"whole number of them, so give 600, 300, 120, 60, 30 or the like."
        )
    if rate_scale <= 0:
        raise InputError(f"services.{service}: rate_scale is {rate_scale:g}; give more than 0.")
    rates = _gaps_filled(servegen.client_rates(data_dir, model))
    rows = _window_rows(service, rates, start_s, span_s, repeat)
    notes = [
        f"{service}: ServeGen {model}, {len(rates.clients)} clients as tenants, rates times "
        f"{rate_scale:g}, arrivals inside 600 s drawn from each client's burstiness."
    ]
    if len(rates.gap_windows):
        notes.append(
            f"{service}: {len(rates.gap_windows)} windows without any recorded request are filled "
            f"by interpolation between their neighbours."
        )
    if len(rows) > len(rates.rate_per_s):
        notes.append(f"{service}: the trace's {rates.span_s / DAY_S:g} days are repeated.")

    dice = stream(seed, "arrivals", service)
    expected = rates.rate_per_s[rows] * servegen.WINDOW_S * rate_scale
    asked = draws.split(dice, draws.whole(dice, expected), rates.cv[rows], parts)
    at_s = rates.start_s + rows * servegen.WINDOW_S
    tokens = {}
    for field in ("input_tokens", "output_tokens"):
        lengths = _lengths(data_dir, rates, field)
        row = np.clip(
            (at_s - lengths.start_s) // servegen.LENGTH_WINDOW_S, 0, len(lengths.mean) - 1
        )
        window = np.repeat(row.astype(np.int64), parts)
        tokens[field] = draws.tokens(
            stream(seed, field, service), asked, lengths.mean[window], lengths.variance[window]
        )
        notes.append(f"{service}: {lengths.note}")
    return ServiceDemand(
        service=service,
        tenants=tuple(f"{service}/{client}" for client in rates.clients),
        window_s=window_s,
        requests=asked,
        input_tokens=tokens["input_tokens"],
        output_tokens=tokens["output_tokens"],
        notes=tuple(notes),
    )


def _window_rows(
    service: str,
    rates: servegen.ClientRates,
    start_s: float,
    span_s: float | None,
    repeat: bool,
) -> Ints:
    """Rows of the trace's windows that the span covers, in order, repeated where asked."""
    first = round(start_s / servegen.WINDOW_S)
    there = len(rates.rate_per_s)
    wanted = there - first if span_s is None else int(np.ceil(span_s / servegen.WINDOW_S))
    if not 0 <= first < there or wanted < 1:
        raise InputError(
            f"services.{service}: start_s {start_s:g} with span_s {span_s} lies outside "
            f"{rates.model}, which holds {rates.span_s:g} s; start between 0 and its end."
        )
    if first + wanted > there and not repeat:
        raise InputError(
            f"services.{service}: {rates.model} holds {rates.span_s:g} s from its start, and "
            f"{start_s + (span_s or 0):g} s are asked for; ask for less, or set repeat = true."
        )
    return (first + np.arange(wanted)) % there


def _gaps_filled(rates: servegen.ClientRates) -> servegen.ClientRates:
    """Rates and burstiness of the gaps, client by client on a line between their neighbours."""
    gaps = rates.gap_windows
    known = np.setdiff1d(np.arange(len(rates.rate_per_s)), gaps)
    if len(gaps) == 0:
        return rates
    if len(known) == 0:
        raise InputError(f"{rates.model} has no window with any request; nothing can be replayed.")
    # Between neighbours before and after a gap, weighted by nearness; at an edge, the one there is.
    after = np.minimum(np.searchsorted(known, gaps), len(known) - 1)
    before = np.maximum(np.searchsorted(known, gaps) - 1, 0)
    span = np.maximum(known[after] - known[before], 1)
    share = np.clip((gaps - known[before]) / span, 0.0, 1.0)[:, None]
    filled = {}
    for name in ("rate_per_s", "cv"):
        column = getattr(rates, name).copy()
        column[gaps] = column[known[before]] * (1 - share) + column[known[after]] * share
        filled[name] = column
    return servegen.ClientRates(
        rates.model, rates.clients, rates.start_s, filled["rate_per_s"], filled["cv"], gaps
    )


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Moments for every client of the rates, [6 h window, client], nothing missing."""

    start_s: float
    mean: Floats
    variance: Floats
    note: str


def _lengths(data_dir: Path, rates: servegen.ClientRates, field: str) -> _Lengths:
    """Recorded moments, and borrowed ones: from the nearest window, or from all other clients."""
    known = servegen.length_moments(data_dir, rates.model, field)
    recorded = ~np.isnan(known.mean)
    rows = np.arange(len(known.mean))
    nearest = np.empty(known.mean.shape, dtype=np.int64)
    for column in range(len(known.clients)):
        there = np.flatnonzero(recorded[:, column])
        nearest[:, column] = there[np.abs(rows[:, None] - there).argmin(axis=1)]
    own_mean = np.take_along_axis(known.mean, nearest, axis=0)
    own_variance = np.take_along_axis(known.variance, nearest, axis=0)

    busy = rates.rate_per_s.mean(axis=0)
    share = busy[np.searchsorted(rates.clients, known.clients)] + 1e-12
    share = share / share.sum()
    # The mixture of all recorded clients, each by its share of the requests. One lender drawn for
    # a client that sends a third of all requests would decide the whole service's lengths.
    pooled_mean = own_mean @ share
    pooled_variance = (own_variance + own_mean**2) @ share - pooled_mean**2
    has_own = np.isin(rates.clients, known.clients)
    source = np.searchsorted(known.clients, rates.clients).clip(max=len(known.clients) - 1)
    lent = busy[~has_own].sum() / max(busy.sum(), 1e-12)
    return _Lengths(
        known.start_s,
        np.where(has_own, own_mean[:, source], pooled_mean[:, None]),
        np.where(has_own, own_variance[:, source], pooled_variance[:, None]),
        f"{field} of {lent:.0%} of the requests take the mixture of the other clients, as theirs "
        f"were not recorded; a window without a record takes the client's nearest.",
    )


def philly_stream(
    data_dir: Path,
    *,
    start_s: float = 0.0,
    span_s: float,
    scale: float = 1.0,
    carry_over: bool = True,
    seed: int = 0,
) -> JobStream:
    """Philly's gangs submitted from `start_s` (from midnight of the trace's first day) on.

    `scale` makes that many of every job on average: whole copies, and one more with the
    probability of the fraction, each shifted by up to half an hour either way. With `carry_over`,
    jobs that would still run at the start if none had waited are submitted at 0 with what is left.
    """
    if scale <= 0 or span_s <= 0:
        raise InputError(
            f"philly: scale is {scale:g} and span_s {span_s:g}; both must be more than 0."
        )
    jobs = clusters.philly_jobs(data_dir)
    begun_s = jobs.submitted_s - start_s
    left_s = jobs.duration_s.copy()
    early = begun_s < 0
    if carry_over:
        left_s[early] += begun_s[early]
    chosen = (begun_s < span_s) & (~early | (carry_over & (left_s >= 1.0)))
    if not (chosen & ~early).any():
        raise InputError(
            f"philly: no job is submitted in {span_s:g} s from start_s {start_s:g}; from midnight "
            f"of its first day, the trace holds {jobs.submitted_s[0]:g} to "
            f"{jobs.submitted_s[-1]:g} s."
        )
    dice = stream(seed, "philly")
    row = np.repeat(np.flatnonzero(chosen), draws.whole(dice, np.full(chosen.sum(), scale)))
    copied = np.diff(row, prepend=-1) == 0
    shift_s = np.where(copied, dice.uniform(-1800, 1800, len(row)), 0.0)
    submitted_s = np.clip(np.maximum(begun_s[row], 0.0) + shift_s * ~early[row], 0.0, None)
    order = np.argsort(submitted_s, kind="stable")
    order = order[submitted_s[order] < span_s]
    row = row[order]
    notes = [
        f"Philly: jobs of {span_s / DAY_S:g} days from second {start_s:g} of the trace, "
        f"{scale:g} of each, copies shifted by up to 30 minutes."
    ]
    if carry_over:
        notes.append(
            f"Philly: {int(early[row].sum())} jobs already under way are submitted at the start "
            f"with what is left of them."
        )
    return JobStream(
        submitted_s=submitted_s[order],
        duration_s=left_s[row],
        gpus=jobs.gpus[row],
        tenant_row=jobs.tenant_row[row],
        tenants=jobs.tenants,
        notes=tuple(notes),
    )


def dlrm_stream(
    data_dir: Path,
    *,
    start_s: float = 0.0,
    span_s: float,
    scale: float = 1.0,
    seed: int = 0,
) -> ReplicaStream:
    """The replicas of the DLRM applications that live between `start_s` and `start_s + span_s`.

    `scale` makes that many of every replica on average, at the same times.
    """
    if scale <= 0 or span_s <= 0:
        raise InputError(
            f"dlrm: scale is {scale:g} and span_s {span_s:g}; both must be more than 0."
        )
    replicas = clusters.dlrm_replicas(data_dir)
    alive = (replicas.created_s < start_s + span_s) & (replicas.deleted_s > start_s)
    alive &= replicas.deleted_s > replicas.created_s
    copies = draws.whole(stream(seed, "dlrm"), np.full(alive.sum(), scale))
    row = np.repeat(np.flatnonzero(alive), copies)
    if len(row) == 0:
        raise InputError(
            f"dlrm: no replica is left of {int(alive.sum())} alive between {start_s:g} s and "
            f"{start_s + span_s:g} s at scale {scale:g}; raise scale or choose another span."
        )
    created_s = np.maximum(replicas.created_s[row] - start_s, 0.0)
    deleted_s = replicas.deleted_s[row] - start_s
    order = np.argsort(created_s, kind="stable")
    return ReplicaStream(
        created_s=created_s[order],
        deleted_s=np.where(deleted_s >= span_s, np.inf, deleted_s)[order],
        gpus=replicas.gpus[row][order],
        app_row=replicas.app_row[row][order],
        apps=replicas.apps,
        notes=(f"DLRM: {len(row)} GPU replicas, {scale:g} of each in the trace on average.",),
    )


def arxiv_batches(data_dir: Path, plan: batches.Plan, *, seed: int = 0) -> BatchStream:
    """Batches of `plan`, their requests as long as the arXiv summarisation requests."""
    prompt, output = requests.arxiv_lengths(data_dir)
    lengths = batches.Lengths(
        float(prompt.mean()), float(prompt.var()), float(output.mean()), float(output.var())
    )
    return batches.generate(
        plan, lengths, seed=seed, note="lengths are those of the arXiv summarisation trace"
    )

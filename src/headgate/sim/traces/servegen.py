"""ServeGen: request rates and token lengths by client, from a production model service."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from headgate.core.errors import InputError
from headgate.sim.demand import Floats, Ints
from headgate.sim.traces.tables import Column, Table, locate, read

WINDOW_S = 600.0
LENGTH_WINDOW_S = 6 * 3600.0

_SOURCE = (
    "github.com/alibaba/ServeGen at f891d1189eb32b3868dfc443800c4150548c282a, "
    "data/{language,reason,multimodal}/*/chunk-*"
)
_CITE = (
    "Xiang et al., ServeGen: Workload Characterization and Generation of Large Language Model "
    "Serving in Production, arXiv:2505.09999"
)

RATES = Table(
    name="servegen-rates",
    path="llm/servegen_client_rates.parquet",
    about="requests/s and burstiness of each of 422 clients in windows of 600 s",
    columns=(
        Column("model", "text", "m-large, m-mid, m-small, deepseek-r1 or mm-image"),
        Column("client_id", "whole", "the tenant, unique within a model"),
        Column("t_s", "whole", "start of the window; 0 is midnight of the first day"),
        Column("rate_rps", "number", "requests/s in the window; 0 when idle"),
        Column("cv", "number", "coefficient of variation of the gaps between arrivals"),
    ),
    source=_SOURCE,
    licence="A (Apache-2.0)",
    cite=_CITE,
    rows=332_064,
    sha256="e469cfc7ba3ec18b60bebbe1fbd9847d1d8eec97d93783c1a20b17c1f91c1401",
    quirks="The language models have 7 days, deepseek-r1 and mm-image one. Windows in which no "
    "client of a model asks for anything are gaps in the recording, not valleys: they are filled "
    "by interpolation. The fitted gap laws do not keep the window's mean, so gaps are drawn from "
    "the rate and cv alone.",
)
LENGTHS = Table(
    name="servegen-lengths",
    path="llm/servegen_length_pdfs.parquet",
    about="token length distributions of each client in windows of 6 h",
    columns=(
        Column("model", "text"),
        Column("client_id", "whole"),
        Column("field", "text", "input_tokens, output_tokens and the parts of mm-image"),
        Column("window_start_s", "whole"),
        Column("value", "wholes", "lengths, rising"),
        Column("prob", "numbers", "share of requests of each length; sums to 1"),
    ),
    source=_SOURCE,
    licence="A (Apache-2.0)",
    cite=_CITE,
    rows=15_990,
    sha256="58e9cabc9194619a361a95d915ff355d00dbaa1895fdf114caaed1a6394a6445",
    quirks="Missing for 55 clients, mostly the busiest, and for many windows of others: a missing "
    "distribution is borrowed, from the client's nearest window or else from another client.",
)
REASON = Table(
    name="servegen-reason",
    path="llm/servegen_deepseek_r1_reason_ratio.csv.gz",
    about="share of reasoning in the output of deepseek-r1, by client and window",
    columns=(
        Column("client_id", "whole"),
        Column("window_start_s", "whole"),
        Column("reason_ratio", "number", "reasoning tokens over output tokens"),
        Column("prob", "number", "share of requests; zeros dropped"),
    ),
    source=_SOURCE,
    licence="A (Apache-2.0)",
    cite=_CITE,
    rows=36_597,
    sha256="a7b41589c8acb372a7eba4440d973d22228f39fefa707951370034d8ad7f2e4c",
)
TABLES = (RATES, LENGTHS, REASON)


@dataclass(frozen=True, slots=True)
class ClientRates:
    """One model's clients, [window, client]; window i starts at `start_s + i * WINDOW_S`."""

    model: str
    clients: tuple[int, ...]
    start_s: float
    rate_per_s: Floats
    cv: Floats
    gap_windows: Ints  # windows in which the recording holds nothing at all

    @property
    def span_s(self) -> float:
        return len(self.rate_per_s) * WINDOW_S


@dataclass(frozen=True, slots=True)
class LengthMoments:
    """Mean and variance of token lengths, [window, client]; NaN where not recorded.

    Window i starts at `start_s + i * LENGTH_WINDOW_S`.
    """

    clients: tuple[int, ...]
    start_s: float
    mean: Floats
    variance: Floats


def models(data_dir: Path) -> list[str]:
    frame = pl.read_parquet(locate(data_dir, RATES), columns=["model"])
    return sorted(frame["model"].cast(pl.String).unique())


def client_rates(data_dir: Path, model: str) -> ClientRates:
    """Rates and burstiness of every client of `model`, as recorded: gaps are still zeros."""
    frame = read(data_dir, RATES, pl.col("model").cast(pl.String) == model)
    path = locate(data_dir, RATES)
    if frame.is_empty():
        raise InputError(f"{path} has no model {model}; it has {', '.join(models(data_dir))}.")
    clients = frame["client_id"].unique().sort()
    first_s, last_s = int(frame["t_s"].min()), int(frame["t_s"].max())  # type: ignore[arg-type]
    windows = (last_s - first_s) // int(WINDOW_S) + 1
    row = (frame["t_s"].to_numpy() - first_s) / WINDOW_S
    column = clients.search_sorted(frame["client_id"]).to_numpy()
    cell = row.astype(np.int64) * len(clients) + column
    seen = np.bincount(cell, minlength=windows * len(clients))
    if (row % 1).any() or (seen != 1).any():
        odd = int(np.flatnonzero(seen != 1)[0]) if (seen != 1).any() else int(cell[row % 1 > 0][0])
        raise InputError(
            f"{path}: client {clients[odd % len(clients)]} of {model} has "
            f"{seen[odd]} rows for the window at t_s "
            f"{first_s + odd // len(clients) * int(WINDOW_S)}; every client needs exactly one row "
            f"for each {WINDOW_S:g} s, with a rate_rps of 0 when it is idle."
        )
    rate, cv = np.zeros(len(seen)), np.zeros(len(seen))
    rate[cell], cv[cell] = frame["rate_rps"].to_numpy(), frame["cv"].to_numpy()
    shape = (windows, len(clients))
    return ClientRates(
        model=model,
        clients=tuple(clients.to_list()),
        start_s=float(first_s),
        rate_per_s=rate.reshape(shape),
        cv=cv.reshape(shape),
        gap_windows=np.flatnonzero(rate.reshape(shape).sum(axis=1) == 0),
    )


def length_moments(data_dir: Path, model: str, field: str) -> LengthMoments:
    """Mean and variance of `field` (such as `input_tokens`) for every client and 6 h window."""
    path = locate(data_dir, LENGTHS)
    frame = _all_moments(data_dir, path.stat().st_mtime_ns).filter(model=model, field=field)
    if frame.is_empty():
        raise InputError(f"{path} has no {field} of model {model}; servegen-lengths needs both.")
    first_s = int(frame["window_start_s"].min())  # type: ignore[arg-type]
    clients = frame["client_id"].unique().sort()
    row = ((frame["window_start_s"].to_numpy() - first_s) // LENGTH_WINDOW_S).astype(np.int64)
    column = clients.search_sorted(frame["client_id"]).to_numpy()
    mean = np.full((row.max() + 1, len(clients)), np.nan)
    variance = mean.copy()
    mean[row, column] = frame["mean"].to_numpy()
    variance[row, column] = frame["variance"].to_numpy()
    return LengthMoments(tuple(clients.to_list()), float(first_s), mean, variance)


@lru_cache(maxsize=2)
def _all_moments(data_dir: Path, changed_ns: int) -> pl.DataFrame:
    """Mean and variance of every distribution; kept, as the file holds 7 million numbers."""
    frame = read(data_dir, LENGTHS)
    odd = frame["value"].list.len() != frame["prob"].list.len()
    odd = odd | (frame["value"].list.len() == 0)
    odd = odd | ((frame["prob"].list.sum() - 1).abs() > 1e-3)
    if odd.any():
        model, client, field, at_s = frame.filter(odd).row(0)[:4]
        raise InputError(
            f"{locate(data_dir, LENGTHS)}: {field} of client {client} of {model} at "
            f"window_start_s {at_s} is not a distribution; it needs as many prob as value, adding "
            f"up to 1."
        )
    length = frame["value"].list.len().to_numpy().astype(np.int64)
    start = np.cumsum(length) - length
    value = frame["value"].explode(empty_as_null=False).to_numpy().astype(np.float64)
    prob = frame["prob"].explode(empty_as_null=False).to_numpy()
    whole = np.add.reduceat(prob, start)
    mean = np.add.reduceat(prob * value, start) / whole
    square = np.add.reduceat(prob * value**2, start) / whole
    return frame.select("model", "client_id", "field", "window_start_s").with_columns(
        mean=mean, variance=np.maximum(square - mean**2, 0.0)
    )


def reason_ratio(data_dir: Path) -> float:
    """Mean share of reasoning in the output of deepseek-r1, each client's window counting alike."""
    frame = read(data_dir, REASON)
    means = frame.group_by("client_id", "window_start_s").agg(
        (pl.col("reason_ratio") * pl.col("prob")).sum() / pl.col("prob").sum()
    )
    return float(means["reason_ratio"].mean())  # type: ignore[arg-type]

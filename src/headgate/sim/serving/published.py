"""A model's published demand: how many requests come in each window, and how long they are.

ServeGen publishes, for each client of a model, its rate by 10 minutes and the distributions of its
input and output lengths. Clients without lengths borrow those of the others, as its page advises.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.sim.dice import stream
from headgate.sim.serving.week import Lengths

WINDOW_S = 600.0
DRAWS = 1 << 17  # requests to draw lengths from, again and again
FIELDS = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Demand:
    """A model's rate in each window, requests/s of all its clients, and its lengths."""

    rates_per_s: NDArray[np.float64]
    lengths: Lengths

    @property
    def requests(self) -> float:
        """How many requests the windows expect."""
        return float(self.rates_per_s.sum()) * WINDOW_S

    def scaled_to(self, requests: float) -> "Demand":
        """The same shape with another number of requests."""
        return Demand(self.rates_per_s * (requests / self.requests), self.lengths)


def language_models(folder: Path) -> list[str]:
    """The models of ServeGen's language category."""
    return sorted(_read(folder, "client_rates", "language")["model"].unique().to_list())


def load_demand(folder: Path, model: str, days: int, most_tokens: int) -> Demand:
    """What a model's clients asked for in its first days, each request of at most `most_tokens`."""
    of_model = (pl.col("model") == model) & (pl.col("t_s") < days * 86_400)
    rates = _read(folder, "client_rates", "language").filter(of_model)
    windows = rates.group_by("t_s").agg(pl.col("rate_rps").sum()).sort("t_s")
    pdfs = _read(folder, "length_pdfs", "language").filter(pl.col("model") == model)
    return Demand(windows["rate_rps"].to_numpy(), _lengths(pdfs, rates, model, most_tokens))


def _lengths(pdfs: pl.DataFrame, rates: pl.DataFrame, model: str, most_tokens: int) -> Lengths:
    """Requests of the clients in proportion to their rates, each with an input and an output of the
    same client."""
    dice = stream(1, "published-lengths", model)
    weight = dict(rates.group_by("client_id").agg(pl.col("rate_rps").sum()).iter_rows())
    known = {
        client
        for client in weight
        if all(len(_of(pdfs, client, field)) for field in FIELDS) and weight[client] > 0
    }
    clients = sorted(known)
    share = np.array([weight[client] for client in clients])
    counts = dice.multinomial(DRAWS, share / share.sum())
    columns: list[list[NDArray[np.int64]]] = [[], []]
    for client, count in zip(clients, counts, strict=True):
        for column, field in zip(columns, FIELDS, strict=True):
            column.append(_draw(dice, _of(pdfs, client, field), int(count)))
    prefill, decode = (np.maximum(1, np.concatenate(column)) for column in columns)
    prefill = np.minimum(prefill, most_tokens - 1)
    return Lengths(prefill, np.minimum(decode, most_tokens - prefill))


def _of(pdfs: pl.DataFrame, client: int, field: str) -> pl.DataFrame:
    return pdfs.filter((pl.col("client_id") == client) & (pl.col("field") == field))


def _draw(dice: np.random.Generator, rows: pl.DataFrame, count: int) -> NDArray[np.int64]:
    """Lengths from a client's distributions, one for each six hours, evenly."""
    drawn = [
        dice.choice(value.to_numpy(), part, p=prob.to_numpy() / prob.to_numpy().sum())
        for value, prob, part in zip(
            rows["value"],
            rows["prob"].cast(pl.List(pl.Float64)),
            dice.multinomial(count, np.full(len(rows), 1.0 / len(rows))),
            strict=True,
        )
    ]
    return dice.permutation(np.concatenate(drawn)).astype(np.int64)


def _read(folder: Path, name: str, category: str) -> pl.DataFrame:
    path = folder / "llm" / f"servegen_{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such file; --data names the folder that holds llm/.")
    frame = pl.read_parquet(path)
    return frame.filter(pl.col("category").cast(pl.String) == category).with_columns(
        pl.col("model").cast(pl.String)
    )

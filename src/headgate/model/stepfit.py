"""Step times from a layer profile: as tables, and as a formula fitted on a designed grid.

A layer profile is three tables in microseconds: `dense` (layer, tokens), `per_sequence` (layer,
sequences) and `attention` (prefill_chunk, kv_prefill, n_decode, kv_decode), and for mixtures of
experts `moe` (tokens, activated_experts).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.model.steptime import Floats, StepModel

# Run once a step; every other dense layer runs once in each transformer layer.
ONCE = ("embedding", "final_layernorm")
# Run twice in each transformer layer: before attention and before the MLP.
TWICE = ("layernorm",)
BUCKET = 64
US = 1e-6


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """Measured layers of one model on one accelerator, times in microseconds.

    `dense[layer]` and `per_sequence[layer]` are (size, time) columns; `attention` has the rows
    (prefill_chunk, kv_prefill, n_decode, kv_decode, time); `moe` the rows (tokens,
    activated_experts, time) and may be empty.
    """

    source: str
    dense: dict[str, Floats]
    per_sequence: dict[str, Floats]
    attention: Floats
    moe: Floats


def tables_of(profile: LayerProfile, layers: int, chunk: int, cap: int) -> StepModel:
    """Step times of a model of `layers` layers as tables, interpolated between what was measured.

    Beside a prompt's chunk, decoding costs what the attention of both together took beyond that
    of the chunk alone, for the chunk sizes that were measured with both.
    """
    if layers < 1:
        raise InputError(f"layers is {layers}, which must be at least 1; see the model's config.")
    tokens = np.arange(max(chunk, cap) + 1)
    attention = Attention(profile.attention)
    kv_most = int(attention.kv_most)
    buckets = kv_most // BUCKET + 1
    middles = np.maximum(0.0, (np.arange(buckets) - 0.5) * BUCKET)
    batch = np.arange(cap + 1)
    scale = layers * US
    decode = attention.decode(batch, middles) * scale
    chunks = attention.mixed_chunks(chunk)
    mixed = np.stack([attention.beside(c, batch, middles) * scale for c in chunks])
    measured_tokens = max(column[-1, 0] for column in profile.dense.values())
    return StepModel(
        name="layer profile",
        source=profile.source,
        linear_s=_linear_s(profile, layers, tokens),
        sequence_s=_sequence_s(profile, np.arange(2 * cap + 2)),
        decode_s=decode,
        mixed_s=mixed,
        mixed_chunks=_lower_bounds(chunks),
        prefill_s=attention.prefill(np.arange(chunk + 1), middles) * scale,
        bucket=BUCKET,
        reach_tokens=int(measured_tokens),
        reach_kv=kv_most,
        reach_context=int(attention.context_most),
    )


def _lower_bounds(chunks: list[int]) -> tuple[int, ...]:
    """From which chunk on each measured size is the nearest on a logarithmic scale."""
    return (0, *(int(np.sqrt(a * b)) for a, b in zip(chunks, chunks[1:], strict=False)))


def _linear_s(profile: LayerProfile, layers: int, tokens: NDArray[np.int64]) -> Floats:
    seconds = np.zeros(len(tokens))
    for layer, column in profile.dense.items():
        times = 1 if layer in ONCE else 2 * layers if layer in TWICE else layers
        seconds += times * US * _along(tokens, column[:, 0], column[:, 1])
    if profile.moe.size:
        seconds += layers * US * _experts(profile.moe, tokens)
    seconds[0] = 0.0
    return seconds


def _sequence_s(profile: LayerProfile, sequences: NDArray[np.int64]) -> Floats:
    seconds = np.zeros(len(sequences))
    for column in profile.per_sequence.values():
        seconds += US * _along(sequences, column[:, 0], column[:, 1])
    seconds[0] = 0.0
    return seconds


def _experts(moe: Floats, tokens: NDArray[np.int64]) -> Floats:
    """Time of the experts' block when n tokens choose theirs evenly.

    Of E experts, each token choosing k, n tokens touch E (1 - (1 - k / E)^n); E and k are the most
    and the fewest experts that the profile saw touched.
    """
    experts, chosen = moe[:, 1].max(), moe[:, 1].min()
    touched = experts * (1.0 - (1.0 - chosen / experts) ** tokens)
    sizes = np.unique(moe[:, 0])
    at_size = np.empty((len(sizes), len(tokens)))
    for i, size in enumerate(sizes):
        rows = moe[moe[:, 0] == size]
        order = np.argsort(rows[:, 1])
        at_size[i] = np.interp(touched, rows[order, 1], rows[order, 2])
    found = [_along(np.array([n]), sizes, at_size[:, j])[0] for j, n in enumerate(tokens)]
    return np.array(found)


def _along(x: NDArray, known: Floats, values: Floats) -> Floats:  # type: ignore[type-arg]
    """Linear interpolation; beyond the last known point along the line of the last two."""
    found: Floats = np.interp(x, known, values)
    beyond = np.asarray(x) > known[-1]
    if beyond.any() and len(known) > 1:
        slope = max(0.0, (values[-1] - values[-2]) / (known[-1] - known[-2]))
        found[beyond] = values[-1] + slope * (np.asarray(x)[beyond] - known[-1])
    return found


class Attention:
    """The attention of one layer in microseconds, interpolated on the grid that was measured."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        alone = rows[(rows[:, 0] == 0) & (rows[:, 2] > 0)]
        self.prompts = rows[(rows[:, 0] > 0) & (rows[:, 2] == 0)]
        self.both = rows[(rows[:, 0] > 0) & (rows[:, 2] > 0)]
        if len(alone) == 0 or len(self.prompts) == 0:
            raise InputError(
                "attention: has no rows of decoding alone or of prompts alone; a profile needs "
                "both, with prefill_chunk 0 and with n_decode 0."
            )
        self.alone = alone
        self.kv_most = alone[:, 3].max()
        self.context_most = self.prompts[:, 1].max()

    def decode(self, batch: NDArray[np.int64], kv: Floats) -> Floats:
        """[batch, kv] of sequences decoding alone; 0 for none."""
        found = grid(self.alone[:, [2, 3, 4]], batch, kv)
        found[np.asarray(batch) == 0] = 0.0
        return found

    def prefill(self, chunk: NDArray[np.int64], context: Floats) -> Floats:
        """[context, chunk] of a prompt alone; 0 for no chunk."""
        found = grid(self.prompts[:, [1, 0, 4]], context, chunk)
        found[:, np.asarray(chunk) == 0] = 0.0
        return found

    def mixed_chunks(self, most: int) -> list[int]:
        """Chunk sizes that were measured beside decoding, up to the first of at least `most`."""
        sizes = [int(c) for c in np.unique(self.both[:, 0])]
        past = [c for c in sizes if c >= most]
        return [c for c in sizes if c < most] + past[:1] or [0]

    def beside(self, chunk: int, batch: NDArray[np.int64], kv: Floats) -> Floats:
        """[batch, kv] that decoding adds to a prompt's chunk; no less than half of decoding alone.

        It hardly depends on the context of the chunk, so it is the median over the contexts.
        """
        rows = self.both[self.both[:, 0] == chunk]
        alone = self.decode(batch, kv)
        if len(rows) == 0:
            return alone
        prompts = self.prompts[self.prompts[:, 0] == chunk]
        own = dict(zip(prompts[:, 1], prompts[:, 4], strict=True))
        extra: dict[tuple[float, float], list[float]] = {}
        for _, context, n, kv_at, time in rows:
            if context in own:
                extra.setdefault((n, kv_at), []).append(time - own[context])
        points = np.array([(n, k, float(np.median(x))) for (n, k), x in extra.items()])
        if len(points) == 0:
            return alone
        found = np.maximum(grid(points, batch, kv), 0.5 * alone)
        found[np.asarray(batch) == 0] = 0.0
        return found


def grid(rows: Floats, first: NDArray, second: Floats | NDArray) -> Floats:  # type: ignore[type-arg]
    """Bilinear interpolation of scattered rows (a, b, value) that form, for each a, a line in b."""
    a_known = np.unique(rows[:, 0])
    lines = np.empty((len(a_known), len(second)))
    for i, a in enumerate(a_known):
        line = rows[rows[:, 0] == a]
        order = np.argsort(line[:, 1])
        lines[i] = _along(np.asarray(second), line[order, 1], line[order, 2])
    found = np.empty((len(first), len(second)))
    for j in range(len(second)):
        found[:, j] = _along(np.asarray(first), a_known, lines[:, j])
    return found

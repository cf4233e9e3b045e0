"""Step times from a layer profile: as tables, and as a formula fitted on a designed grid.

A layer profile is three tables in microseconds: `dense` (layer, tokens), `per_sequence` (layer,
sequences) and `attention` (prefill_chunk, kv_prefill, n_decode, kv_decode), and for mixtures of
experts `moe` (tokens, activated_experts).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

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
# What vLLM takes for a step outside its layers (scheduling, launching, sampling, bookkeeping) where
# no profile says: an assumption, of the size its own step traces show on current servers. A
# calibration on a real run scales it with the rest.
ENGINE_S = 1e-3
CHECKED = 2000  # measured points, at most, that tables are held against for their error


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
    model = StepModel(
        name="layer profile",
        source=profile.source,
        linear_s=np.where(tokens > 0, _linear_s(profile, layers, tokens) + ENGINE_S, 0.0),
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
    return replace(model, error_percent=_error_percent(model, profile.attention, layers))


def _error_percent(model: StepModel, attention: Floats, layers: int) -> float | None:
    """Mean absolute error of the tables' steps, in percent, where their attention was measured."""
    tokens = attention[:, 0] + attention[:, 2]
    fits = (tokens > 0) & (tokens < len(model.linear_s))
    rows = attention[fits & (attention[:, 2] < len(model.decode_s))]
    off = []
    for chunk, context, b, mean, time_us in rows[:: max(1, len(rows) // CHECKED)]:
        b, chunk = int(b), int(chunk)
        measured = float(model.linear_s[b + chunk] + model.sequence_s[b + (chunk > 0)])
        measured += layers * US * time_us
        off.append(abs(step_s(model, b, int(mean), chunk, int(context)) / measured - 1.0))
    return 100.0 * float(np.mean(off)) if off else None


def _lower_bounds(chunks: list[int]) -> tuple[int, ...]:
    """From which chunk on each measured size is the nearest on a logarithmic scale."""
    return (0, *(int(np.sqrt(a * b)) for a, b in pairwise(chunks)))


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


@dataclass(frozen=True, slots=True)
class Formula:
    """max(c0 + c4 n, c5 + c1 n) + c7 q + c2 kv + c3 sum(chunk (context + chunk / 2)), in seconds.

    n is the tokens of a step, q its sequences and kv the context of those that decode, which costs
    c6 instead of c2 a token beside a prompt. `error_percent` is the mean absolute error of a step
    over the grid it was fitted on.
    """

    c0: float
    c4: float
    c5: float
    c1: float
    c2: float
    c6: float
    c3: float
    c7: float = 0.0
    error_percent: float = 0.0

    def model(self, name: str, source: str, tokens: int, like: StepModel | None) -> StepModel:
        """Step times up to a number of tokens, with the range of the model it was fitted to."""
        n = np.arange(tokens + 1)
        linear = np.maximum(self.c0 + self.c4 * n, self.c5 + self.c1 * n)
        linear[0] = 0.0
        return StepModel(
            name=name,
            source=source,
            linear_s=linear,
            sequence_s=self.c7 * np.arange(tokens + 2, dtype=np.float64),
            kv_s=self.c2,
            mixed_kv_s=self.c6,
            chunk_s=self.c3,
            reach_tokens=like.reach_tokens if like else 1 << 40,
            reach_kv=like.reach_kv if like else 1 << 40,
            reach_context=like.reach_context if like else 1 << 40,
            error_percent=self.error_percent,
        )

    def step_s(self, steps: "Steps") -> Floats:
        """What the formula gives for each step."""
        n = steps.tokens
        slope = np.where(steps.chunk > 0, self.c6, self.c2)
        line = np.maximum(self.c0 + self.c4 * n, self.c5 + self.c1 * n)
        line = line + self.c7 * steps.sequences
        return np.asarray(line + slope * steps.kv + self.c3 * steps.area)


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps and what each took: columns of one length.

    `prompts` is how many prompts share the step's `chunk` tokens, `context` their mean context.
    """

    decodes: Floats
    kv: Floats
    chunk: Floats
    context: Floats
    prompts: Floats
    seconds: Floats

    @property
    def tokens(self) -> Floats:
        return self.decodes + self.chunk

    @property
    def sequences(self) -> Floats:
        return self.decodes + self.prompts

    @property
    def area(self) -> Floats:
        return self.chunk * (self.context + 0.5 * self.chunk)


# The designed grid: sizes an engine works at, about evenly spread on a logarithmic scale.
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CHUNKS = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)


def designed_steps(model: StepModel, chunk: int, cap: int) -> Steps:
    """A grid of steps priced by tables: decoding alone, one prompt alone, and both.

    Designed, not visited: fitting on the steps that a run happened to make gives a smaller error a
    step and a far larger one in a simulation near saturation.
    """
    batches = [b for b in BATCHES if b <= cap]
    contexts = [64 * 2**i for i in range(8) if 64 * 2**i <= min(model.reach_kv, 4096)]
    chunks = [c for c in CHUNKS if c <= chunk]
    rows = [(b, m, 0, 0) for b in batches for m in contexts]
    rows += [(0, 0, c, k) for c in chunks for k in (0, *contexts)]
    rows += [
        (b, m, c, k)
        for b in batches[::2]
        for m in contexts[::2]
        for c in chunks
        for k in (0, 512, 2048)
        if b + c <= chunk
    ]
    seconds = [step_s(model, *row) for row in rows]
    columns = np.array(rows, np.float64).T
    b, mean, chunks, context = columns
    return Steps(b, b * mean, chunks, context, np.minimum(chunks, 1.0), np.array(seconds))


def step_s(model: StepModel, b: int, mean: int, chunk: int, context: int) -> float:
    """Seconds of one step by a model's own tables: b sequences of `mean` context, one chunk."""
    tokens = min(b + chunk, len(model.linear_s) - 1)
    sequences = min(b + (chunk > 0), len(model.sequence_s) - 1)
    seconds = float(model.linear_s[tokens] + model.sequence_s[sequences])
    seconds += (model.mixed_kv_s if chunk else model.kv_s) * b * mean
    seconds += model.chunk_s * chunk * (context + 0.5 * chunk)
    k = -(-mean // model.bucket)
    if b and model.decode_s.size:
        k = min(k, model.decode_s.shape[1] - 1)
        j = int(np.searchsorted(model.mixed_chunks, chunk, "right")) - 1
        seconds += float(model.mixed_s[j, b, k] if chunk else model.decode_s[b, k])
    if chunk and model.prefill_s.size:
        k = min(-(-context // model.bucket), model.prefill_s.shape[0] - 1)
        seconds += float(model.prefill_s[k, min(chunk, model.prefill_s.shape[1] - 1)])
    return seconds


def fit_formula(steps: Steps) -> Formula:
    """Fit the coefficients to relative errors, none below 0.

    Decoding alone, prompts alone and both weigh the same together, however many steps of each the
    grid has. The two lines of the maximum are told apart in turns: for each place where they may
    cross the rest is linear; the best place wins.
    """
    n, alone = steps.tokens, steps.chunk == 0
    kinds = alone * 1 + (steps.decodes == 0) * 2
    weight = 1.0 / steps.seconds / np.sqrt(np.bincount(kinds, minlength=3)[kinds])
    best, least = None, np.inf
    for cross in np.unique(n):
        past = n > cross
        columns = np.stack(
            [
                ~past,
                ~past * n,
                past,
                past * n,
                alone * steps.kv,
                ~alone * steps.kv,
                steps.area,
                steps.sequences,
            ],
            axis=1,
        )
        found = nonnegative(columns * weight[:, None], steps.seconds * weight)
        formula = Formula(*(float(c) for c in found))
        miss = float(np.sum(((formula.step_s(steps) - steps.seconds) * weight) ** 2))
        if miss < least:
            best, least = formula, miss
    assert best is not None
    error = 100.0 * float(np.mean(np.abs(best.step_s(steps) / steps.seconds - 1.0)))
    return replace(best, error_percent=error)


def nonnegative(columns: Floats, target: Floats) -> Floats:
    """Least squares with no negative coefficient, by dropping columns that would be negative."""
    kept = [c for c in range(columns.shape[1]) if columns[:, c].any()]
    found = np.zeros(columns.shape[1])
    scale = np.linalg.norm(columns, axis=0)
    while kept:
        part, *_ = np.linalg.lstsq(columns[:, kept] / scale[kept], target, rcond=None)
        if (part >= 0).all():
            found[kept] = part / scale[kept]
            break
        kept.pop(int(np.argmin(part)))
    return found

"""How long one iteration of a replica takes, and within which range that was measured.

One shape serves every source: times by number of tokens, by number of sequences and by context,
as tables and two slopes. Fitted models fill the slopes, measured ones the tables.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError
from headgate.kernels.serving.layout import Tables

Floats = NDArray[np.float64]

NOTHING: Floats = np.zeros((0, 0))
ROUNDING = 1e-9  # far more than a long sum of times can lose


@dataclass(frozen=True, slots=True)
class StepModel:
    """Step times of one model on one kind of replica, in seconds.

    A step of b decoding sequences holding `kv` tokens of context and of prompts' chunks takes
    linear_s[tokens] + sequence_s[sequences] + kv_s x kv + chunk_s x sum(chunk x (context +
    chunk / 2)) + decode attention + prompt attention. Attention is looked up at decode_s[b, k] for
    a mean context of k buckets (rounded up) and at prefill_s[k, chunk] for prompts; beside prompts
    decoding takes mixed_s[j, b, k] instead, with j the last for which mixed_chunks[j] is not above
    the prompts' tokens. Tables of size 0 mean none. Several prompts in a step: contexts
    add up, the chunk is the root of the sum of squares, times `several`. A model has either a
    decode table or a slope kv_s, never both.
    """

    name: str
    source: str
    linear_s: Floats
    sequence_s: Floats
    kv_s: float = 0.0
    mixed_kv_s: float = 0.0  # the same in a step with prompts
    chunk_s: float = 0.0
    decode_s: Floats = field(default_factory=lambda: NOTHING)
    mixed_s: Floats = field(default_factory=lambda: np.zeros((1, 0, 0)))
    mixed_chunks: tuple[int, ...] = (0,)
    prefill_s: Floats = field(default_factory=lambda: NOTHING)
    bucket: int = 64
    several: float = 1.0
    reach_tokens: int = 1 << 40  # most tokens in a step, mean context of decoding sequences and
    reach_kv: int = 1 << 40  # context of prompts that were measured
    reach_context: int = 1 << 40
    error_percent: float | None = None  # mean absolute error of a step against what was measured

    def __post_init__(self) -> None:
        assert self.bucket & (self.bucket - 1) == 0
        assert self.kv_s == 0.0 or self.decode_s.size == 0
        for column in (self.linear_s, self.sequence_s, self.decode_s, self.prefill_s):
            if not np.all(np.isfinite(column)) or (column.size and column.min() < 0):
                raise InputError(
                    f"step times {self.name}: a time is negative or not a number; "
                    "give finite times of at least 0."
                )

    def scaled(self, factor: float) -> "StepModel":
        """The same model with every time multiplied, as a calibration does."""
        return replace(
            self,
            linear_s=self.linear_s * factor,
            sequence_s=self.sequence_s * factor,
            kv_s=self.kv_s * factor,
            mixed_kv_s=self.mixed_kv_s * factor,
            chunk_s=self.chunk_s * factor,
            decode_s=self.decode_s * factor,
            mixed_s=self.mixed_s * factor,
            prefill_s=self.prefill_s * factor,
        )


def stack(models: list[StepModel], chunk: int, cap: int) -> Tables:
    """The kernel's tables for replicas of these models, `chunk` tokens and `cap` sequences a step.

    Tables are cut to what a step can reach; beyond their last number of tokens or sequences they
    are continued in a straight line, and beyond the last context they stay at its value (the
    kernel counts those steps).
    """
    tokens = max(chunk, cap) + 1
    linear = np.stack([_reach(model.linear_s, tokens) for model in models])
    sequence = np.stack([_reach(model.sequence_s, 2 * cap + 2) for model in models])
    if len({model.bucket for model in models}) > 1 or len({_shape(m) for m in models}) > 1:
        raise InputError(
            "step times: the replicas of one run have tables of different layouts; "
            "fit all their models in the same way."
        )
    decode = np.stack([_rows(model.decode_s, cap + 1) for model in models])
    if all(len(m.mixed_s) == 1 and np.array_equal(m.mixed_s[0], m.decode_s) for m in models):
        mixed = decode[:, None]  # the same memory, so half the cache
    else:
        mixed = np.stack(
            [np.stack([_rows(part, cap + 1) for part in model.mixed_s]) for model in models]
        )
    mixed_at = np.stack(
        [
            np.maximum(np.searchsorted(model.mixed_chunks, np.arange(tokens), "right") - 1, 0)
            for model in models
        ]
    )
    prefill = np.stack([_columns(model.prefill_s, chunk + 1) for model in models])
    base = linear[:, : cap + 1] + sequence[:, : cap + 1]
    return Tables(
        linear_s=linear,
        base_s=np.ascontiguousarray(base),
        sequence_s=sequence,
        kv_s=np.array([model.kv_s for model in models]),
        mixed_kv_s=np.array([model.mixed_kv_s for model in models]),
        chunk_s=np.array([model.chunk_s for model in models]),
        decode_s=decode,
        mixed_s=mixed,
        mixed_at=mixed_at.astype(np.int64),
        prefill_s=prefill,
        several=np.array([model.several for model in models]),
        token_s=np.stack(
            [linear[:, chunk] / chunk, base[:, max(1, cap // 2)] / max(1, cap // 2)], axis=1
        ),
        least_s=(linear[:, 1:].min(axis=1) + sequence[:, 1:].min(axis=1)) * (1.0 - ROUNDING),
        reach=np.array([[m.reach_tokens, m.reach_kv, m.reach_context] for m in models]),
        bucket=models[0].bucket,
        shift=models[0].bucket.bit_length() - 1,
    )


def _shape(model: StepModel) -> tuple[int, int, int]:
    """Numbers of context buckets and of mixed tables, which must agree where models are stacked."""
    return model.decode_s.shape[1], model.prefill_s.shape[0], model.mixed_s.shape[0]


def _reach(times: Floats, length: int) -> Floats:
    """The first `length` times, continued along the slope of the last eighth if too short."""
    if len(times) >= length:
        return times[:length].copy()
    n = len(times)
    back = max(1, n // 8)
    slope = max(0.0, (times[-1] - times[-1 - back]) / back) if n > 1 else 0.0
    more = times[-1] + slope * np.arange(1, length - n + 1)
    return np.concatenate([times, more])


def _rows(table: Floats, rows: int) -> Floats:
    """A decode table with `rows` batch sizes."""
    if table.size == 0:
        return np.zeros((rows, 0))
    return np.ascontiguousarray(np.stack([_reach(c, rows) for c in table.T], axis=1))


def _columns(table: Floats, columns: int) -> Floats:
    """A prefill table with `columns` chunk sizes."""
    if table.size == 0:
        return np.zeros((0, columns))
    return np.stack([_reach(row, columns) for row in table])

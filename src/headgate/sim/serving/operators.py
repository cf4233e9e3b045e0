"""A layer profile put together from published operator timings (the `perf/aic_op_*` tables).

What a transformer layer runs is known from the model's config; what each operator takes on an
accelerator is measured in the tables, in bfloat16. Between measured sizes times are interpolated on
logarithmic axes; layers that the tables do not have (norms, rotary embedding, activation, sampling)
are left out and belong to the calibration.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from headgate.core.errors import InputError
from headgate.model.stepfit import LayerProfile
from headgate.model.steptime import Floats

MS_TO_US = 1e3
TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
CONTEXTS = (0, 256, 512, 1024, 2048, 4096, 8192)


class Architecture(msgspec.Struct):
    """The fields of a model's `config.json` that decide what its layers run."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True)
class Operators:
    """Tables of one system: GEMM, attention of prompts and of decoding, experts, all-reduce."""

    system: str
    gemm: pl.DataFrame
    context: pl.DataFrame
    generation: pl.DataFrame
    moe: pl.DataFrame
    nccl: pl.DataFrame


def load_architecture(path: Path) -> Architecture:
    """A Hugging Face `config.json`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the model's config.json.")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Architecture)
    except msgspec.MsgspecError as error:
        raise InputError(f"{path.name}: is not a model's config ({error}).") from None


def load_operators(data: Path, system: str) -> Operators:
    """The tables of a system, such as h100_sxm, from a folder of traces."""
    frames: dict[str, pl.DataFrame] = {}
    for name in ("gemm", "context_attention", "generation_attention", "moe", "nccl"):
        path = data / "perf" / f"aic_op_{name}.parquet"
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the folder of traces as --data.")
        frame = pl.read_parquet(path)
        known = sorted(str(x) for x in frame["system"].unique())
        if system not in known:
            raise InputError(f"system is {system!r}; {path.name} has {', '.join(known)}.")
        frames[name] = frame.filter(pl.col("system").cast(pl.String) == system)
    return Operators(
        system,
        frames["gemm"].filter(pl.col("gemm_dtype").cast(pl.String) == "bfloat16"),
        _plain(frames["context_attention"]),
        _plain(frames["generation_attention"]),
        frames["moe"].filter(pl.col("moe_dtype").cast(pl.String) == "bfloat16"),
        frames["nccl"],
    )


def _plain(attention: pl.DataFrame) -> pl.DataFrame:
    """Attention without a window, in bfloat16 throughout."""
    return attention.filter(
        (pl.col("kv_cache_dtype").cast(pl.String) == "bfloat16")
        & (pl.col("window_size").fill_null(0.0) == 0.0)
    )


def layer_profile(model: Architecture, operators: Operators, tp: int) -> LayerProfile:
    """The layers of one of `tp` accelerators that share the model."""
    if tp < 1 or model.num_attention_heads % tp:
        raise InputError(
            f"tp is {tp}, which must divide the {model.num_attention_heads} attention heads."
        )
    heads, kv_heads = model.num_attention_heads // tp, max(1, model.kv_heads // tp)
    head, hidden = model.head, model.hidden_size
    gemm = Gemm(operators.gemm)
    dense = {
        "qkv_proj": gemm.over((heads + 2 * kv_heads) * head, hidden),
        "o_proj": gemm.over(hidden, heads * head),
    }
    if model.num_experts:
        dense["experts"] = _experts(model, operators.moe, tp)
    else:
        dense["gate_up_proj"] = gemm.over(2 * model.intermediate_size // tp, hidden)
        dense["down_proj"] = gemm.over(hidden, model.intermediate_size // tp)
    if tp > 1:  # once after attention and once after the MLP
        dense["layernorm"] = _all_reduce(operators.nccl, tp, hidden)
    source = f"operator tables of {operators.system}, tp {tp}"
    return LayerProfile(
        source,
        dense,
        {"lm_head": gemm.over(model.vocab_size // tp, hidden)},
        _attention(operators, heads, kv_heads, head),
        np.zeros((0, 3)),
    )


class Gemm:
    """Times of matrix products, interpolated over the two dimensions of the weights."""

    def __init__(self, rows: pl.DataFrame) -> None:
        best = rows.group_by("m", "n", "k").agg(pl.col("latency").min())
        self.by_m: dict[int, tuple[Floats, Floats]] = {}
        for (m,), part in best.group_by("m"):
            sizes = np.log(part.select("n", "k").to_numpy().astype(np.float64))
            self.by_m[int(str(m))] = sizes, part["latency"].to_numpy().astype(np.float64)

    def over(self, n: int, k: int) -> Floats:
        """(tokens, microseconds) of a weight of n x k."""
        rows = [(m, self._at(m, n, k) * MS_TO_US) for m in sorted(self.by_m) if m <= max(TOKENS)]
        return np.array(rows, np.float64)

    def _at(self, m: int, n: int, k: int) -> float:
        """The nearest four measured sizes, weighed by nearness and by how much larger they are."""
        sizes, times = self.by_m[m]
        apart = np.abs(sizes - np.log([n, k])).sum(axis=1)
        near = np.argsort(apart)[:4]
        if apart[near[0]] < 1e-9:
            return float(times[near[0]])
        grown = np.exp(np.log(n * k) - sizes[near].sum(axis=1))
        # Small products are bound by their launch: only what lies above it grows with the size.
        floor = float(times.min())
        guesses = floor + (times[near] - floor) * grown
        return float(np.average(guesses, weights=1.0 / apart[near]))


def _experts(model: Architecture, rows: pl.DataFrame, tp: int) -> Floats:
    """(tokens, microseconds) of the experts' block, its tokens spread evenly."""
    wanted = {
        "hidden_size": model.hidden_size,
        "inter_size": model.moe_intermediate_size or model.intermediate_size,
        "topk": model.num_experts_per_tok or 1,
        "num_experts": model.num_experts,
        "moe_tp_size": tp,
        "moe_ep_size": 1,
    }
    found = rows.filter(
        pl.all_horizontal(pl.col(name) == value for name, value in wanted.items())
        & (pl.col("distribution").cast(pl.String) == "balanced")
    )
    if found.is_empty():
        raise InputError(f"experts: the operator tables have no row for {wanted}.")
    best = found.group_by("num_tokens").agg(pl.col("latency").min()).sort("num_tokens")
    return _columns(best, "num_tokens")


def _all_reduce(rows: pl.DataFrame, tp: int, hidden: int) -> Floats:
    found = rows.filter(
        (pl.col("op_name").cast(pl.String) == "all_reduce") & (pl.col("num_gpus") == tp)
    )
    if found.is_empty():
        raise InputError(f"tp is {tp}, for which the operator tables have no all-reduce.")
    best = found.group_by("message_size").agg(pl.col("latency").min()).sort("message_size")
    sizes = best["message_size"].to_numpy().astype(np.float64)
    times = best["latency"].to_numpy().astype(np.float64)
    tokens = np.array(TOKENS, np.float64)
    return np.stack([tokens, np.interp(tokens * hidden, sizes, times) * MS_TO_US], axis=1)


def _attention(operators: Operators, heads: int, kv_heads: int, head: int) -> Floats:
    """Attention rows of a layer profile: decoding alone, and chunks of prompts on a context.

    The tables time whole prompts; a chunk on a context is what the longer prompt takes more than
    the shorter.
    """
    wanted = (
        (pl.col("num_heads") == heads)
        & (pl.col("num_key_value_heads").is_in([kv_heads, 0]))
        & (pl.col("head_dim") == head)
    )
    decode = operators.generation.filter(wanted)
    prompt = operators.context.filter(wanted & (pl.col("batch_size") == 1))
    if decode.is_empty() or prompt.is_empty():
        raise InputError(
            f"attention: the tables of {operators.system} have no {heads} heads on {kv_heads} "
            f"of dimension {head}; give another tp."
        )
    best = decode.group_by("batch_size", "step").agg(pl.col("latency").min())
    rows = [
        (0.0, 0.0, float(b), float(step + 1), float(ms) * MS_TO_US)
        for b, step, ms in best.iter_rows()
    ]
    whole = _columns(prompt.group_by("isl").agg(pl.col("latency").min()).sort("isl"), "isl")
    for chunk in (16, *(t for t in TOKENS if t >= 32)):
        for context in CONTEXTS:
            if context + chunk > whole[-1, 0]:
                continue
            longer, shorter = np.interp([context + chunk, context], whole[:, 0], whole[:, 1])
            least = float(np.interp(chunk, whole[:, 0], whole[:, 1]))
            took = least if context == 0 else max(least, float(longer - shorter))
            rows.append((float(chunk), float(context), 0.0, 0.0, took))
    return np.array(sorted(rows))


def _columns(best: pl.DataFrame, size: str) -> Floats:
    sizes: Any = best[size].to_numpy().astype(np.float64)
    return np.stack([sizes, best["latency"].to_numpy().astype(np.float64) * MS_TO_US], axis=1)

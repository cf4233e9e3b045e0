"""Step times from files: measured tables (NPZ) and fitted models (JSON)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headgate.core.errors import InputError
from headgate.model.stepfit import Formula
from headgate.model.steptime import Floats, StepModel

TABLES = ("linear_s", "sequence_s", "decode_s", "mixed_s", "prefill_s")
COEFFICIENTS = ("c0", "c4", "c5", "c1", "c2", "c6", "c3", "c7")


class TableFacts(msgspec.Struct):
    """What a table file says beside its tables."""

    name: str
    source: str
    kv_s: float
    mixed_kv_s: float
    chunk_s: float
    mixed_chunks: tuple[int, ...]
    bucket: int
    several: float
    reach_tokens: int
    reach_kv: int
    reach_context: int
    error_percent: float | None


FACTS = TableFacts.__struct_fields__


class FormulaFile(msgspec.Struct):
    """A fitted formula with its source, range and error; `scale` multiplies every time."""

    name: str
    source: str
    error_percent: float
    scale: float
    reach_tokens: int
    reach_kv: int
    reach_context: int
    coefficients: dict[str, float]


# Vidur takes a tenth more for the attention of several prompts in one step
# (attention_prefill_batching_overhead_fraction); its decode tables have theirs already.
SEVERAL_PROMPTS = 1.1
ROUNDED_TOKENS = 8  # Vidur rounds the tokens of a step up to a multiple of 8
BUCKET = 64


def load_step_tables(path: Path) -> StepModel:
    """Step times from an NPZ of `linear_s`, `decode_attention_s` and `prefill_attention_s`, in
    seconds and laid out as Vidur's predictor gives them."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the NPZ of a predictor's step tables.")
    try:
        with np.load(path, allow_pickle=False) as held:
            tables = {name: np.asarray(held[name], np.float64) for name in held.files}
    except (ValueError, OSError, EOFError):
        raise InputError(f"{path.name}: is no NPZ of numbers; check that it is whole.") from None
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read ({error}); check it is whole.") from None
    for name, axes in (("linear_s", 1), ("decode_attention_s", 2), ("prefill_attention_s", 2)):
        if name not in tables:
            raise InputError(
                f"{path.name}: has no array {name}; it needs linear_s[tokens], "
                "decode_attention_s[batch, bucket] and prefill_attention_s[bucket, chunk]."
            )
        if tables[name].ndim != axes or tables[name].size == 0:
            raise InputError(
                f"{path.name}: array {name} has the shape {tables[name].shape}; it needs "
                f"{axes} axes that are not empty."
            )
    linear = _at_every_token(tables["linear_s"])
    decode, prefill = tables["decode_attention_s"], tables["prefill_attention_s"]
    return StepModel(
        name=path.name.split(".")[0],
        source=f"step tables {path.name}",
        linear_s=linear,
        sequence_s=np.zeros(1),
        decode_s=decode,
        mixed_s=decode[None],
        prefill_s=prefill,
        bucket=BUCKET,
        several=SEVERAL_PROMPTS,
        reach_tokens=len(linear) - 1,
        reach_kv=(decode.shape[1] - 1) * BUCKET,
        reach_context=(prefill.shape[0] - 1) * BUCKET,
    )


def _at_every_token(linear: Floats) -> Floats:
    """The time of each number of tokens, looked up at the next multiple of eight."""
    last = (len(linear) - 1) // ROUNDED_TOKENS * ROUNDED_TOKENS
    up = -(-np.arange(last + 1) // ROUNDED_TOKENS) * ROUNDED_TOKENS
    full: Floats = linear[up].copy()
    measured = np.flatnonzero(full > 0)
    return full[: measured[-1] + 1] if len(measured) else full


def save_tables(model: StepModel, path: Path) -> None:
    """Write step times as an NPZ that `load_step_model` reads back."""
    columns = {name: getattr(model, name) for name in TABLES}
    facts = {name: getattr(model, name) for name in FACTS}
    np.savez_compressed(path, facts=np.frombuffer(msgspec.json.encode(facts), np.uint8), **columns)


def save_formula(formula: Formula, model: StepModel, path: Path, scale: float = 1.0) -> None:
    """Write a fitted formula as JSON, with its source, range and error."""
    held = FormulaFile(
        name=model.name,
        source=model.source,
        error_percent=formula.error_percent,
        scale=scale,
        reach_tokens=model.reach_tokens,
        reach_kv=model.reach_kv,
        reach_context=model.reach_context,
        coefficients={name: getattr(formula, name) for name in COEFFICIENTS},
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(held)) + b"\n")


def load_step_model(path: Path, tokens: int = 8192) -> StepModel:
    """A fitted model, as `headgate profile fit` writes it: a formula (JSON) or tables (NPZ)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; write one with headgate profile fit.")
    if path.suffix == ".npz":
        return _load_tables(path)
    held = load_formula(path)
    values = {name: held.coefficients[name] for name in COEFFICIENTS}
    formula = Formula(**values, error_percent=held.error_percent)
    model = formula.model(held.name, held.source, tokens, None)
    model = replace(
        model,
        reach_tokens=held.reach_tokens,
        reach_kv=held.reach_kv,
        reach_context=held.reach_context,
    )
    return model.scaled(held.scale)


def load_formula(path: Path) -> "FormulaFile":
    """The formula file itself, its coefficients checked."""
    try:
        held = msgspec.json.decode(path.read_bytes(), type=FormulaFile)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path.name}: is no fitted model ({error}); write one with headgate profile fit."
        ) from None
    for name in COEFFICIENTS:
        value = held.coefficients.get(name, float("nan"))
        if not 0.0 <= value < float("inf"):
            raise InputError(
                f"{path.name}: coefficient {name} is {value:g}; all of {', '.join(COEFFICIENTS)} "
                "must be there, finite and at least 0."
            )
    if not 0.0 < held.scale < float("inf"):
        raise InputError(f"{path.name}: scale is {held.scale:g}, which must be above 0.")
    return held


def _load_tables(path: Path) -> StepModel:
    try:
        with np.load(path, allow_pickle=False) as held:
            columns = {name: np.asarray(held[name], np.float64) for name in TABLES}
            facts = msgspec.json.decode(held["facts"].tobytes(), type=TableFacts)
    except Exception:
        raise InputError(
            f"{path.name}: holds no fitted step times; write one with headgate profile fit, or "
            "give a predictor's tables as --step-tables."
        ) from None
    known: dict[str, Any] = {**columns, **msgspec.structs.asdict(facts)}
    return StepModel(**known)

"""Step times from files: measured tables (NPZ) and fitted models (JSON)."""

from pathlib import Path

import numpy as np

from headgate.core.errors import InputError
from headgate.model.steptime import Floats, StepModel

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


def load_step_model(path: Path) -> StepModel:
    """A fitted model, as `headgate profile fit` writes it."""
    raise InputError(f"{path.name}: fitted models cannot be read yet; give --step-tables.")

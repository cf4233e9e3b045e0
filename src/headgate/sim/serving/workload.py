"""Requests as columns, read from CSV, Parquet, NPZ or JSON lines."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What the columns are called in the public traces; the first name is ours. Factor to seconds.
ARRIVED = {
    "arrived_at": 1.0,
    "queued_ts": 1.0,
    "arrival_time": 1.0,
    "timestamp_s": 1.0,
    "timestamp_ms": 1e-3,
}
PREFILL = ("num_prefill_tokens", "prefill", "input_toks", "input_length", "input_tokens")
DECODE = ("num_decode_tokens", "decode", "output_toks", "output_length", "output_tokens")


def _none() -> Ints:
    return np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, one row each.

    `group` is the row of the request's class and `priority` its level, 0 the most urgent; both
    have one entry where all requests share it. `cancelled_s` is when its caller gives up, infinite
    or empty where nobody does. Prompt blocks, where known: request i has the hashes
    blocks[block_starts[i]:block_starts[i + 1]], each of `block_tokens` tokens.
    """

    arrived_s: Floats
    prefill: Ints
    decode: Ints
    group: Ints = field(default_factory=_none)
    priority: Ints = field(default_factory=_none)
    cancelled_s: Floats = field(default_factory=lambda: np.zeros(0))
    blocks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    block_starts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    block_tokens: int = 512
    groups: tuple[str, ...] = ("all",)

    def __len__(self) -> int:
        return len(self.arrived_s)


def load_workload(path: Path) -> Workload:
    """Read a workload; every request is checked, so that nothing past this can be out of order,
    empty or not a number.

    Columns: `arrived_at` (s), `num_prefill_tokens`, `num_decode_tokens`, or the names of the
    public traces; optional `class` (a name), `priority` (0 first), `cancelled_at` (s) and
    `hash_ids` (Parquet: prompt block hashes).
    """
    from headgate.sim.serving.tables import read_table

    table = read_table(path)
    arrived_name = _name(table, tuple(ARRIVED), path)
    arrived = _numbers(table[arrived_name], arrived_name, path) * ARRIVED[arrived_name]
    if len(arrived) == 0:
        raise InputError(f"{path.name}: has no requests; give at least one row.")
    workload = Workload(
        arrived_s=arrived,
        prefill=_tokens(table, PREFILL, path),
        decode=_tokens(table, DECODE, path),
    )
    _check_order(arrived, arrived_name, path)
    return _with_options(workload, table, path)


def _with_options(workload: Workload, table: dict[str, NDArray], path: Path) -> Workload:  # type: ignore[type-arg]
    """Add the columns that a workload may have."""
    from dataclasses import replace

    if "class" in table:
        names, rows = np.unique(table["class"].astype(str), return_inverse=True)
        if len(names) > 255:
            raise InputError(
                f"{path.name}: column class names {len(names)} classes; 255 are the most."
            )
        workload = replace(
            workload, group=rows.astype(np.int64), groups=tuple(str(n) for n in names)
        )
    if "priority" in table:
        priority = _numbers(table["priority"], "priority", path)
        levels, rows = np.unique(priority, return_inverse=True)
        if len(levels) > 64:
            raise InputError(
                f"{path.name}: column priority has {len(levels)} values; 64 levels are the most."
            )
        workload = replace(workload, priority=rows.astype(np.int64))
    if "cancelled_at" in table:
        given = table["cancelled_at"].astype(np.float64)
        cancelled = np.where(np.isnan(given), np.inf, given)
        if np.any(cancelled < workload.arrived_s):
            row = int(np.argmax(cancelled < workload.arrived_s))
            raise InputError(
                f"{path.name}: row {row + 1}: cancelled_at {cancelled[row]:g} lies before the "
                "arrival; leave it empty where nobody cancels."
            )
        workload = replace(workload, cancelled_s=cancelled)
    if "hash_ids" in table:
        lists = table["hash_ids"]
        lengths = np.array([len(x) for x in lists], np.int64)
        blocks = np.concatenate([np.asarray(x, np.int64) for x in lists])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        _, dense = np.unique(blocks, return_inverse=True)
        workload = replace(workload, blocks=dense.astype(np.int64), block_starts=starts)
    return workload


def _name(table: dict[str, NDArray], names: tuple[str, ...], path: Path) -> str:  # type: ignore[type-arg]
    for name in names:
        if name in table:
            return name
    raise InputError(
        f"{path.name}: has none of the columns {', '.join(names)} "
        f"(it has {', '.join(table) or 'none'}); rename the one that holds them to {names[0]}."
    )


def _numbers(column: NDArray, name: str, path: Path) -> Floats:  # type: ignore[type-arg]
    try:
        numbers = np.asarray(column, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{path.name}: column {name} is not made of numbers; give plain decimal numbers."
        ) from None
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path.name}: row {row + 1}: {name} is {numbers[row]}; every request needs a "
            "finite number."
        )
    return np.ascontiguousarray(numbers)


def _tokens(table: dict[str, NDArray], names: tuple[str, ...], path: Path) -> Ints:  # type: ignore[type-arg]
    name = _name(table, names, path)
    numbers = _numbers(table[name], name, path)
    wrong = (numbers < 1) | (numbers > 1 << 30) | (numbers != np.floor(numbers))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path.name}: row {row + 1}: {name} is {numbers[row]:g}; tokens are whole numbers "
            "of at least 1, so drop the request or give its length."
        )
    return numbers.astype(np.int64)


def _check_order(arrived: Floats, name: str, path: Path) -> None:
    back = np.diff(arrived) < 0
    if back.any():
        row = int(np.argmax(back)) + 1
        raise InputError(
            f"{path.name}: row {row + 1}: {name} is {arrived[row]:g}, before the "
            f"{arrived[row - 1]:g} of the row above; sort the requests by arrival."
        )

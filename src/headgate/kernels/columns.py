"""All of the round's tables as one argument.

Handing eighteen arrays over from Python costs 8 us a call and triples the compile time of what
takes them; one `Columns` costs 1 us and is a single pointer inside compiled code.
"""

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.experimental import structref

OPTIONS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def widened(kind: Any) -> Any:
    """The one type of its sort that compiled code hands on: int64 for every integer."""
    if isinstance(kind, types.Integer):
        return types.int64
    return types.boolean if isinstance(kind, types.Boolean) else kind


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that compiled code alone calls, once.

    It has no wrapper for Python, which would take a third of the compile time. And it is not
    compiled anew for every mix of int16, int32, int64 and constants that callers hand over, which
    took three times as long: whoever calls it widens what it hands over.
    """
    compiled = njit(cache=True, **OPTIONS)(function)
    resolve = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: resolve(tuple(map(widened, args)), kws)
    return compiled


# The tables of headgate.kernels.layout, then the scratch of the search for victims: GPUs taken
# from each claim, the victims (works), the nodes picked.
NAMES = (
    "works", "lanes", "nodes", "gpus", "pools", "hist", "domain_hist", "shapes", "claims",
    "levels", "exposed", "ready", "tally", "flags", "wishes", "meta",
    "taken", "victims", "picked",
)  # fmt: skip


@structref.register
class ColumnsType(types.StructRef):
    """numba's type of `Columns`."""

    def preprocess_fields(self, fields: Any) -> Any:
        return tuple((name, types.unliteral(kind)) for name, kind in fields)


class Columns(structref.StructRefProxy):
    """The tables, by name. Python makes one and hands it over; only compiled code looks inside."""

    def __new__(cls, *tables: Any) -> "Columns":
        return structref.StructRefProxy.__new__(cls, *tables)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: Python reads headgate.core.tables.Tables, not Columns")


structref.define_proxy(Columns, ColumnsType, list(NAMES))

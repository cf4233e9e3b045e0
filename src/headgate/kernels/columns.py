"""All of the round's tables as one argument.

Handing eighteen arrays over from Python costs 8 us a call and triples the compile time of what
takes them; one `Columns` costs 1 us and is a single pointer inside compiled code.
"""

from typing import Any

from numba import njit, types
from numba.experimental import structref

# For functions that compiled code alone calls: no wrapper for Python, which would take a third of
# the compile time.
OPTIONS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = njit(cache=True, **OPTIONS)

# The tables of headgate.kernels.layout, then the scratch of the search for victims: GPUs taken
# from each claim, the victims (works), the nodes picked.
NAMES = (
    "works", "lanes", "nodes", "gpus", "pools", "hist", "shapes", "claims", "levels", "exposed",
    "ready", "tally", "flags", "wishes", "meta",
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

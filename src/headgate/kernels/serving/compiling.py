"""How the kernel's functions are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

# No reference counting: nothing here allocates, and counting the arrays of a tuple each time one
# is named cost six times the work itself. Division by zero cannot happen and is not checked.
PLAIN: dict[str, Any] = {"cache": True, "error_model": "numpy", "nogil": True, "_nrt": False}


def compiled(function: Function) -> Function:
    """Compile a function on its own: what runs seldom."""
    made: Function = njit(**PLAIN)(function)
    return made


def inlined(function: Function) -> Function:
    """Compile a function into each of its callers: what runs for every request."""
    made: Function = njit(forceinline=True, **PLAIN)(function)
    return made

"""Measured figures as a table: what was measured, of whom or what, how much."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(figures: Mapping[str, Any]) -> None:
    """Print figures, some of which are several by name; None is left out."""
    table = Table("figure", "of", "value")
    for name, value in figures.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            if figure is not None:
                table.add_row(name, part, shown(figure))
    Console().print(table)


def shown(figure: object) -> str:
    """A figure to three digits, or to the unit where it is large."""
    if isinstance(figure, tuple):
        return " to ".join(shown(one) for one in figure)
    if isinstance(figure, float):
        return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"
    if isinstance(figure, int) and not isinstance(figure, bool):
        return f"{figure:,}"
    return str(figure)

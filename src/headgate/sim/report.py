"""The report: one HTML file that opens in a browser without a network."""

from pathlib import Path
from typing import Any


def write_report(path: Path, outcome: dict[str, Any]) -> None:
    """Write the report of a comparison."""
    raise NotImplementedError

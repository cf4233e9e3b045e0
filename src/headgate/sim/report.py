"""The report: one HTML file that opens in a browser without a network."""

import json
from pathlib import Path
from typing import Any


def write_report(path: Path, outcome: dict[str, Any]) -> None:
    """Write the report of a comparison."""
    path.write_text(f"<pre>{json.dumps(outcome, indent=1)}</pre>", encoding="utf-8")

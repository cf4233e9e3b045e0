"""Where the public traces lie, for tests that read them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def data_dir() -> Path:
    """The folder of traces: what HEADGATE_DATA names, else `shared/data` beside the checkout."""
    return Path(os.environ.get("HEADGATE_DATA", ROOT.parent / "shared" / "data"))


needs_data = pytest.mark.skipif(
    not data_dir().is_dir(),
    reason=f"no traces at {data_dir()}; set HEADGATE_DATA to the folder that holds them",
)

"""Compiled loops over primitive arrays; imports nothing of ours."""

import hashlib
import os
from pathlib import Path

from numba import config


def _compile_into_a_folder_of_these_sources() -> None:
    """Keep compiled kernels in the user's cache, one folder for each state of the sources.

    numba compares a cached function with the file it stands in, not with the files whose functions
    it calls, so that a change in one kernel file would leave another's compiled code stale. It
    also spares an installation whose folder cannot be written. NUMBA_CACHE_DIR goes first.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    sources = hashlib.sha256()
    here = Path(__file__).parent
    for file in sorted(here.rglob("*.py")):
        sources.update(file.relative_to(here).as_posix().encode() + b"\0" + file.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = caches / "headgate" / "kernels" / sources.hexdigest()[:16]
    config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


_compile_into_a_folder_of_these_sources()

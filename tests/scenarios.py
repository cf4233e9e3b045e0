"""A small scenario as text, and ways to break it."""

from pathlib import Path

SMALL = (Path(__file__).parent / "small.toml").read_text(encoding="utf-8")


def broken(old: str, new: str) -> str:
    """The small scenario with one passage replaced, which must be there once."""
    assert SMALL.count(old) == 1, old
    return SMALL.replace(old, new)

"""The `headgate` command; the only room that wires rooms together."""

from headgate.cli.main import main

__all__ = ["main"]

"""Files, batches and administration: an ordinary web application in a process of its own."""

from headgate.gateway.admin.process import run

__all__ = ["run"]

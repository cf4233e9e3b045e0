"""Headgate: one shared pool of accelerators under one policy, live and in simulation."""

__version__ = "0.1.0"

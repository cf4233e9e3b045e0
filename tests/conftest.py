"""Fixtures of the whole suite; each family has a module of its own."""

pytest_plugins = ["tests.engines", "tests.node"]

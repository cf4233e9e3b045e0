"""The gateway on its feet: a scripted engine and a door in front of it, one pair a module."""

from collections.abc import Iterator

import pytest
from tests.acceptance.gateway.running import Door, running
from tests.acceptance.gateway.scripted import ScriptedEngine, scripted_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def door(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """With tenants `acme`, without limits, and `small`, which may ask three times a minute."""
    tenants = """
        [[tenants]]
        name = "acme"
        [[tenants]]
        name = "small"
        limits = {"*" = {requests_per_min = 3}}
    """
    door = Door(tmp_path_factory.mktemp("door"), {"scripted": engine.url}, tenants=tenants)
    with running(door):
        yield door

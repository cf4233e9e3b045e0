"""Every test of this folder runs on each store: they keep one contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres import Cluster, cluster

from headgate.store.database import Database
from headgate.store.open import open_database


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with cluster() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.engine)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/headgate.db"
    server: Cluster = request.getfixturevalue("postgres")
    return server.new_url()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url)
    yield database
    database.close()

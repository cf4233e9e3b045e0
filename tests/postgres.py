"""A private PostgreSQL for tests: a cluster in a temporary folder, on a Unix socket alone."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
MISSING = "PostgreSQL's server is not installed; install the package postgresql"


class Cluster:
    """A PostgreSQL server that can be stopped and started again."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self._binaries = binaries
        self._count = 0
        # initdb refuses to run as root.
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-U", "headgate", "-A", "trust", "-N")

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._ctl("start", "-l", str(self.folder / "log"), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        self._ctl("stop", "-m", mode)

    def new_url(self) -> str:
        """The url of a fresh, empty database."""
        self._count += 1
        name = f"test{self._count}"
        self._run("createdb", "-h", self.folder, "-U", "headgate", name)
        return f"postgresql://headgate@/{name}?host={self.folder}"

    def _ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-w", *arguments)

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [*self._as_user, str(self._binaries / program), *map(str, arguments)],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running server; skips the test where PostgreSQL is not installed."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    binaries = [folder for folder in BINARIES if (folder / "initdb").exists()]
    found = shutil.which("initdb")
    if found:
        binaries.append(Path(found).parent)
    if not binaries:
        pytest.skip(MISSING)
    with tempfile.TemporaryDirectory(prefix="headgate-pg-") as folder:
        os.chmod(folder, 0o755)
        server = Cluster(Path(folder), binaries[0])
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")

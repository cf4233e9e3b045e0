"""The rooms' contracts bite: a planted violation is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.data import ROOT

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources and their rules, to plant something in."""
    where = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "src", where / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", where)
    return where


def ruff(copy: Path, room: str, lines: str) -> str:
    """What the linter says of one more file in a room."""
    planted = copy / "src" / "headgate" / room / "planted.py"
    planted.write_text(f'"""Planted."""\n\n{lines}\n')
    try:
        found = subprocess.run(
            [BIN / "ruff", "check", "--no-cache", "--select", "TID251", planted],
            cwd=copy, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        planted.unlink()
    assert (found.returncode != 0) == ("TID251" in found.stdout), found.stderr
    return found.stdout


FORBIDDEN = (
    "import time",
    "from datetime import datetime",
    "import random",
    "import numpy.random",
    "import socket",
    "from asyncio import sleep",
    "import threading",
    "from concurrent.futures import ThreadPoolExecutor",
    "import multiprocessing",
    "import subprocess",
    "import logging",
    "import sqlite3",
    "import ray",
)


@pytest.mark.parametrize("room", ["kernels", "core", "model", "policy", "control", "ledger"])
def test_the_core_may_not_use_clock_dice_sockets_threads_logs_or_databases(
    copy: Path, room: str
) -> None:
    found = ruff(copy, room, "\n".join(FORBIDDEN))
    for number, line in enumerate(FORBIDDEN, start=3):
        assert f"planted.py:{number}:" in found, line


def test_the_simulator_may_throw_dice(copy: Path) -> None:
    assert "TID251" not in ruff(
        copy, "sim", "import numpy as np\n\nDICE = np.random.default_rng(0)"
    )


def contracts(copy: Path, plants: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What import-linter says with some more files."""
    planted = [copy / "src" / "headgate" / name for name in plants]
    for path, line in zip(planted, plants.values(), strict=True):
        path.write_text(f'"""Planted."""\n\n{line}\n')
    try:
        return subprocess.run(
            [BIN / "lint-imports", "--no-cache"],
            cwd=copy, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(copy / "src")},
        )  # fmt: skip
    finally:
        for path in planted:
            path.unlink()


def test_contracts_hold_as_the_house_stands(copy: Path) -> None:
    assert contracts(copy, {}).returncode == 0


def test_looking_up_and_taking_a_clock_are_found_by_the_contracts(copy: Path) -> None:
    found = contracts(
        copy,
        {
            "kernels/planted.py": "from headgate.core import errors",
            "control/planted.py": "from headgate.sim import driver",
            "core/planted.py": "import time",
        },
    )
    assert found.returncode != 0
    for broken in (
        "headgate.kernels.planted -> headgate.core.errors",
        "headgate.control.planted -> headgate.sim.driver",
        "headgate.core.planted -> time",
    ):
        assert broken in found.stdout

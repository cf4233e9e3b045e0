"""OpenAI's Node SDK, installed once into the user's cache."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tools.vllm_cpu.environment import cache_dir

from tests.engines import skip_or_fail

OPENAI = "6.49.0"


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """What NODE_PATH must be for `require("openai")` to work."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("node and npm are not installed")
    folder = cache_dir() / "node" / f"openai-{OPENAI}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").is_file():
            _install(folder)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
    done = subprocess.run(
        [*command, f"openai@{OPENAI}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"npm_config_update_notifier": "false"},
    )
    if done.returncode:
        skip_or_fail(f"OpenAI's Node SDK cannot be installed: {done.stderr.strip()[-500:]}")
    (folder / "installed").touch()

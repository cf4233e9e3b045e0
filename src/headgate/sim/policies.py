"""Policies by name: the bundled ones, and a user's own class."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headgate.control.factlog import Head
from headgate.core.errors import InputError
from headgate.core.tables import Ints
from headgate.policy.baselines import Fifo, Priority, Silos
from headgate.policy.headgate import Headgate, strict
from headgate.policy.order import Preset
from headgate.policy.rules import Policy
from headgate.sim.story import Story


def silo_sizes(story: Story) -> Ints:
    """[class + 1, pool] GPUs: each pool cut in proportion to the classes' own peaks.

    Whole nodes; the last row is batch. What rounding leaves over goes to the largest silo.
    """
    peaks = np.array([story.peak_gpus[name] for name in (*story.fleet.classes, "batch")])
    caps = np.zeros(peaks.shape, np.int64)
    for p, pool in enumerate(story.fleet.pools):
        total = peaks[:, p].sum()
        if total <= 0:
            continue
        nodes = np.floor(peaks[:, p] / total * pool.nodes).astype(np.int64)
        nodes[int(np.argmax(peaks[:, p]))] += pool.nodes - int(nodes.sum())
        caps[:, p] = nodes * pool.gpus_per_node
    return caps


def _silos(story: Story) -> Policy:
    peaks = np.quantile(story.arrived, 0.999, axis=0) if story.arrived.size else np.zeros(0)
    return Silos(silo_sizes(story), peaks / story.scenario.window_s)


Made = Callable[[tuple[str, ...], Preset], Policy]

# What needs nothing but the classes and their order; silos need the demand's peaks too.
BUNDLED: dict[str, Made] = {
    "fifo": lambda classes, preset: Fifo(),
    "priority": Priority,
    "headgate": Headgate,
    "headgate-strict": strict,
}


def make(name: str, story: Story) -> Policy:
    """The policy of that name for a story."""
    if name == "silos":
        return _silos(story)
    return named(name, story.fleet.classes, story.scenario.order.preset)


def named(name: str, classes: tuple[str, ...], preset: Preset) -> Policy:
    """The policy of that name; `module:Class` or `file.py:Class` for a class of one's own.

    Such a class is called with the fleet's class names and the preset, as `Headgate` is.
    """
    if name in BUNDLED:
        return BUNDLED[name](classes, preset)
    where, _, attribute = name.rpartition(":")
    if not where:
        raise InputError(
            f"policy {name!r} is not known; bundled are silos, {', '.join(BUNDLED)}; give one of "
            f"them, or your own as module:Class or file.py:Class."
        )
    made = _attribute(name, where, attribute)
    try:
        policy = made(classes, preset)
    except TypeError as error:
        raise InputError(
            f"policy {name} cannot be made ({error}); its class is called with the class names "
            f"and the preset of their order."
        ) from None
    for method in ("rules", "rank", "plan"):
        if not callable(getattr(policy, method, None)):
            raise InputError(
                f"policy {name} has no method {method}; a policy answers rules, rank and plan "
                f"(headgate.policy.rules.Policy)."
            )
    return policy  # type: ignore[no-any-return]


def from_head(head: Head) -> Policy:
    """The policy that a fact log was made with."""
    if head.policy == "silos":
        return Silos(np.array(head.caps, np.int64), np.array(head.peaks))
    return named(head.policy, head.fleet.classes, head.preset)  # type: ignore[arg-type]


def _attribute(name: str, where: str, attribute: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a module beside the caller is meant, as for `python -m`
    try:
        module = (
            _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
    except Exception as error:  # whatever the user's own file may raise
        raise InputError(
            f"policy {name}: {where} cannot be imported ({error}); give an importable module or "
            f"the path of a .py file before the colon."
        ) from None
    if not hasattr(module, attribute):
        raise InputError(
            f"policy {name}: {where} has no {attribute}; mend the name after the colon."
        )
    return getattr(module, attribute)


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"headgate_policy_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError("no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

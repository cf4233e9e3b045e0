"""The order of classes, and standing inside a class."""

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import InputError

Preset = Literal["internal_first", "external_first", "together"]

# The strategic order; nothing says whether internal or external comes first, so that is a preset.
FIRST = ("training", "maas")
# Ten years: a better standing comes before any earlier submission inside a class.
STANDING_S = 10 * 365 * 86_400.0


@cache
def class_levels(classes: tuple[str, ...], preset: Preset) -> tuple[int, ...]:
    """The level of each class in the strategic order; equal levels take turns by time.

    A class that the order does not name comes after those it names, in the order given.
    """
    if preset not in get_args(Preset):
        raise InputError(
            f"order is {preset!r}; allowed are {', '.join(get_args(Preset))}; choose one."
        )
    ranked = [name for name in FIRST if name in classes]
    levels = {name: level for level, name in enumerate(ranked)}
    pair = {"internal_first": (0, 1), "external_first": (1, 0), "together": (0, 0)}[preset]
    base = len(ranked)
    for name, offset in zip(("internal", "external"), pair, strict=True):
        if name in classes:
            levels[name] = base + offset
    for name in classes:
        levels.setdefault(name, max(levels.values(), default=-1) + 1)
    used = sorted(set(levels.values()))
    return tuple(used.index(levels[name]) for name in classes)


def standing(families: tuple[str, ...], weights: dict[str, float]) -> float:
    """A tenant's rank inside its class: the weights of the product families it uses beside GPUs.

    A family that the weights do not name counts 1; a GPU-only tenant has 0.
    """
    return sum(weights.get(family, 1.0) for family in set(families))


@cache
def ladder(classes: tuple[str, ...], preset: Preset) -> int:
    """Levels in all: two for each rung of the order, and one below for filling work."""
    return 2 * (max(class_levels(classes, preset)) + 1) + 1


@cache
def rung(classes: tuple[str, ...], preset: Preset, class_: int, priority: int) -> int:
    """The level of a class's work; its works of priority 1 stand before the rest of it."""
    return 2 * class_levels(classes, preset)[class_] + (0 if priority else 1)


def lower_levels(levels: int) -> NDArray[np.int8]:
    """Each level may take from every level below it."""
    return np.triu(np.ones((levels, levels), np.int8), 1)

"""The tables at one moment, as the laws see them."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.core.lifecycle import HOLDS
from headgate.core.tables import Ints, Table, Tables
from headgate.kernels import layout as k

Bools = NDArray[np.bool_]


class View:
    """The tables at one moment, and what several laws ask of them."""

    def __init__(self, tables: Tables, rows: int, now_s: float) -> None:
        self.tables = tables
        self.all_works: Table = tables.works[:rows]
        self.now_s = now_s
        # Ended works hold nothing and never change, so all laws but the sums pass them over.
        self.rows: Ints = np.flatnonzero(self.all_works["state"] < k.DONE)
        self.works: Table = self.all_works[self.rows]
        self.state: Ints = self.works["state"].astype(np.int64)
        self.holding: Bools = np.isin(self.state, HOLDS)

    @cached_property
    def lanes(self) -> Table:
        lanes: Table = self.tables.lanes[: self.tables.meta[k.N_LANES]]
        return lanes

    @cached_property
    def owned(self) -> Ints:
        """Accelerators that somebody holds."""
        return np.flatnonzero(self.tables.gpus["owner"] >= 0)

    @cached_property
    def node_size(self) -> Ints:
        """[pool] accelerators of each of its nodes."""
        return np.asarray(self.tables.nodes["size"][self.tables.pools["first_node"]], np.int64)

    @cached_property
    def claimants(self) -> Ints:
        """Works that wait for nodes reserved for them."""
        return np.array(self.tables.claimants(), np.int64)

    @cached_property
    def askers(self) -> Ints:
        """Works that the round tries to start: claimants, and the heads of lanes."""
        return np.concatenate([self.claimants, self.busy_lanes["head"]])

    @cached_property
    def lined_up(self) -> Ints:
        """Works that wait in lanes."""
        return np.asarray(self.rows[(self.state == k.WAITING) & (self.works["claiming"] == 0)])

    @cached_property
    def busy_lanes(self) -> Table:
        """Lanes somebody waits in."""
        return self.lanes[self.lanes["count"] > 0]

    def by(self, chosen: Bools, weights: Any, *columns: tuple[str, int]) -> Ints:
        """Sums of weights over live works, by the columns named with their lengths."""
        lengths = tuple(length for _, length in columns)
        sums = np.zeros(lengths, np.int64)
        places = tuple(self.works[name][chosen].astype(np.int64) for name, _ in columns)
        np.add.at(sums, places, weights[chosen])
        return sums


Law = Callable[[View], str]
Debt = Callable[[View], Ints]


def named(what: str, rows: Any) -> str:
    """The first few rows of those that break a law."""
    rows = np.atleast_1d(rows)
    if not len(rows):
        return ""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{what} {', '.join(str(row) for row in rows[:5].tolist())}{more}"


def differs(what: str, told: Any, counted: Any) -> str:
    """Where a table's sums are not what the works and accelerators say."""
    wrong = np.argwhere(np.asarray(told) != np.asarray(counted))
    if not len(wrong):
        return ""
    place = tuple(wrong[0].tolist())
    return f"{what}{list(place)} is {told[place]}, counted {counted[place]}"

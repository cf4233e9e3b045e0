"""What would admit a waiting work: changes tried on a copy of the machine.

Nothing is estimated: a stated change has been tried, and one step less has been tried and failed.
The copy is planned and decided upon at once, as at the next close of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from headgate.control.machine import Machine
from headgate.control.snapshot import Arrays, capture, rebuild
from headgate.core.facts import NodeJoined, Wish
from headgate.core.fleet import Fleet
from headgate.core.tables import Ints, Tables
from headgate.kernels import layout as k

# Most whole nodes and the highest multiple of the bid that are tried.
NODES_AT_MOST = 512
BID_AT_MOST = 64.0
BID_STEP = 1.02  # bids are told apart by about so much
SCRATCH = ("victims", "picked", "wishes")


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest change of one kind that admits the work."""

    pool: int | None = None  # where nodes are added
    nodes: int = 0
    bid: float = 0.0  # worth of a GPU-second at which it is admitted, else 0

    @property
    def nothing(self) -> bool:
        """It is admitted at the next plan anyway."""
        return self.pool is None and self.bid == 0.0


def copy_of(machine: Machine) -> Machine:
    """A machine that knows the same and may be told otherwise."""
    rest, arrays = capture(machine)
    return rebuild(rest, {name: array.copy() for name, array in arrays.items()}, machine.policy)


def with_nodes(machine: Machine, pool: int, count: int) -> tuple[Machine, list[Wish]]:
    """A copy in which so many empty nodes of the pool have just joined, and what it wished then."""
    rest, arrays = capture(machine)
    old = machine.fleet
    pools = list(old.pools)
    pools[pool] = msgspec.structs.replace(pools[pool], nodes=pools[pool].nodes + count)
    fleet = msgspec.structs.replace(old, pools=tuple(pools))
    rest = msgspec.structs.replace(rest, fleet=fleet)
    grown = rebuild(rest, _moved(arrays, old, fleet, machine.ground.rules.levels), machine.policy)
    first = int(grown.ground.tables.pools["first_node"][pool]) + old.pools[pool].nodes
    wishes: list[Wish] = []
    for node in range(first, first + count):
        wishes += grown.handle(NodeJoined(machine.now_s, node))
    return grown, wishes


def _moved(arrays: Arrays, old: Fleet, fleet: Fleet, levels: int) -> Arrays:
    """The tables with room for more nodes in one pool: rows behind them move up."""
    tables = Tables(fleet, levels)
    nodes = rows_of_nodes(old, tables.pools["first_node"].tolist())
    gpus: Ints = np.concatenate(
        [tables.nodes["first"][n] + np.arange(tables.nodes["size"][n]) for n in nodes]
    ).astype(np.int64)
    moved = {name: array.copy() for name, array in arrays.items() if name not in SCRATCH}
    moved |= {name: getattr(tables, name) for name in SCRATCH}
    for name, rows, own in (("nodes", nodes, ["first", "domain"]), ("gpus", gpus, ["node"])):
        moved[name] = getattr(tables, name)
        first = moved[name].copy()
        moved[name][rows] = arrays[name]
        for column in own:
            moved[name][column] = first[column]
    for column in ("first_node", "nodes", "first_domain", "domains", "domain_nodes"):
        moved["pools"][column] = tables.pools[column]
    moved["shapes"][:, :, k.WITHIN] = tables.shapes[:, :, k.WITHIN]
    moved["domain_hist"] = tables.domain_hist
    open_ = (tables.nodes["state"] == k.UP) & (tables.nodes["reserved"] < 0)
    there = (tables.nodes["domain"][open_], tables.nodes["free"][open_])
    np.add.at(moved["domain_hist"], there, 1)
    _follow(moved["gpus"]["next"], gpus)
    _follow(moved["works"]["head"], gpus)
    _follow(moved["works"]["reserved_node"], nodes)
    return moved


def rows_of_nodes(old: Fleet, first: list[int]) -> Ints:
    """[node] where the nodes of a fleet stand when its pools begin at other rows."""
    pools = zip(old.pools, first, strict=True)
    return np.concatenate([np.arange(pool.nodes) + at for pool, at in pools])


def _follow(column: Ints, rows: Ints) -> None:
    """Point a column of old rows, or -1, to the new ones."""
    there = column >= 0
    column[there] = rows[column[there]]


def with_bid(machine: Machine, row: int, bid: float) -> Machine:
    """A copy in which the work bids otherwise."""
    other = copy_of(machine)
    work = other.ground.tables.works[row]
    work["bid"] = bid
    if other.prices is not None:
        kind = "lease" if work["kind"] == k.LEASE else "gang"
        work["use"] = other.prices.use(
            kind, int(work["class_"]), int(work["priority"]), int(work["shape"]), bid,
            float(work["checkpoint_s"]), float(work["restart_s"]),
        )  # fmt: skip
    return other


def admits(machine: Machine, row: int) -> bool:
    """Whether the work starts, or nodes are cleared for it, when all is planned anew now."""
    machine.plan_now()
    work = machine.ground.tables.works[row]
    if work["state"] != k.WAITING:
        return True
    return bool(work["claiming"] and work["rule"] == k.WAITS_FOR_RECLAIM)


def smallest_nodes(machine: Machine, row: int, pool: int) -> Change | None:
    """The fewest whole nodes more of the pool that admit the work; None when none would do."""
    least = _smallest(lambda n: admits(with_nodes(machine, pool, n)[0], row), NODES_AT_MOST)
    return None if least is None else Change(pool=pool, nodes=least)


def smallest_bid(machine: Machine, row: int) -> Change | None:
    """The lowest bid that admits the work; None without prices, or when none would do."""
    now = float(machine.ground.tables.works[row]["bid"])
    if machine.prices is None or now <= 0.0:
        return None
    steps = int(np.log(BID_AT_MOST) / np.log(BID_STEP))

    def bid(step: int) -> float:
        # As precise as bids are told apart, so that what is stated is what was tried.
        return float(f"{now * BID_STEP**step:.3g}")

    least = _smallest(lambda step: admits(with_bid(machine, row, bid(step)), row), steps)
    return None if least is None else Change(bid=bid(least))


def _smallest(works: Callable[[int], bool], most: int) -> int | None:
    """The least n from 1 that works, by doubling and halving; None when `most` does not."""
    high = 1
    while not works(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2  # did not work, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def changes(machine: Machine, row: int, pools: tuple[int, ...]) -> tuple[Change, ...]:
    """What would admit a waiting work: nothing but time for the next plan, else the smallest
    number of nodes more in each of some pools and the lowest bid, as far as they would do."""
    if admits(copy_of(machine), row):
        return (Change(),)
    found = [smallest_nodes(machine, row, pool) for pool in pools]
    nodes = sorted((change for change in found if change is not None), key=lambda c: c.nodes)
    bid = smallest_bid(machine, row)
    return (*nodes, bid) if bid is not None else tuple(nodes)

"""The round's tables: how they are laid out for a fleet, and how they grow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.core.fleet import Fleet
from headgate.kernels import layout as k
from headgate.kernels.columns import NAMES, Columns

Table = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Works known at the start; the table doubles when they are used up.
WORKS_AT_FIRST = 4096
# Room for wishes of one pass beyond what one search for victims may add.
WISHES = 16384


class Tables:
    """Every column the round reads or writes; see headgate.kernels.layout for their meaning."""

    def __init__(self, fleet: Fleet, levels: int) -> None:
        pools, classes = len(fleet.pools), len(fleet.classes)
        self.works = np.zeros(WORKS_AT_FIRST, k.WORK)
        self.lanes = np.zeros(64, k.LANE)
        self.pools = np.zeros(pools, k.POOL)
        self.pools["reserved_by"] = -1
        self.nodes = _nodes(fleet, self.pools)
        self.gpus = _gpus(self.nodes)
        largest = max(pool.gpus_per_node for pool in fleet.pools)
        self.hist = np.zeros((pools, largest + 1), np.int64)
        self.domain_hist = np.zeros((int(self.pools["domains"].sum()), largest + 1), np.int64)
        self.shapes = _shapes(fleet)
        self.claims = np.zeros((classes + 1, pools, 5), np.int64)
        self.claims[:, :, k.CAP] = np.iinfo(np.int64).max // 4
        self.levels = np.zeros((levels, levels), np.int8)
        self.exposed = np.zeros((levels, pools), np.int64)
        self.ready = np.zeros((max(1, len(fleet.services)), 2, pools), np.int64)
        self.tally = np.zeros((classes, 4, 7, pools), np.int64)
        self.flags = np.zeros(k.FLAGS_SIZE, np.float64)
        self.taken = np.zeros(classes + 1, np.int64)
        self.victims = np.zeros(fleet.gpus, np.int32)
        self.picked = np.zeros(len(self.nodes) + 1, np.int32)
        self.wishes = np.zeros(WISHES + fleet.gpus, k.WISH)
        self.meta = np.zeros(k.META_SIZE, np.int64)
        self.meta[k.FILL_CLAIM] = classes
        self.meta[k.CLAIMANTS] = -1

    def grow_works(self) -> None:
        self.works = np.concatenate([self.works, np.zeros(len(self.works), k.WORK)])

    def grow_lanes(self) -> None:
        self.lanes = np.concatenate([self.lanes, np.zeros(len(self.lanes), k.LANE)])

    def claimants(self) -> list[int]:
        """Rows of the works for which nodes are reserved."""
        rows, at = [], int(self.meta[k.CLAIMANTS])
        while at >= 0:
            rows.append(at)
            at = int(self.works[at]["behind"])
        return rows

    def columns(self) -> Columns:
        """The tables as the kernels take them; made anew after a table has grown."""
        return Columns(*(getattr(self, name) for name in NAMES))


def _nodes(fleet: Fleet, pools: Table) -> Table:
    nodes = np.zeros(sum(pool.nodes for pool in fleet.pools), k.NODE)
    first_node = first_gpu = first_domain = 0
    for row, pool in enumerate(fleet.pools):
        mine = nodes[first_node : first_node + pool.nodes]
        mine["pool"] = row
        mine["size"] = mine["free"] = pool.gpus_per_node
        mine["first"] = first_gpu + pool.gpus_per_node * np.arange(pool.nodes)
        mine["domain"] = first_domain + np.arange(pool.nodes) // pool.nodes_per_domain
        pools["first_node"][row], pools["nodes"][row] = first_node, pool.nodes
        pools["first_domain"][row], pools["domains"][row] = first_domain, pool.domains
        pools["domain_nodes"][row] = pool.nodes_per_domain
        first_node += pool.nodes
        first_domain += pool.domains
        first_gpu += pool.gpus
    nodes["reserved"] = -1
    return nodes


def _gpus(nodes: Table) -> Table:
    gpus = np.zeros(int(nodes["size"].sum()), k.GPU)
    gpus["owner"] = gpus["next"] = -1
    gpus["node"] = np.repeat(np.arange(len(nodes)), nodes["size"])
    return gpus


def _shapes(fleet: Fleet) -> NDArray[np.int32]:
    """GPUs by pool; the order of preference is the policy's and starts as the fleet's order."""
    shapes = np.full((len(fleet.shapes), len(fleet.pools), 3), -1, np.int32)
    for row, shape in enumerate(fleet.shapes):
        shapes[row, :, k.GPUS] = shape.gpus
        order = [p for p, gpus in enumerate(shape.gpus) if 0 < gpus <= fleet.pools[p].gpus]
        shapes[row, : len(order), k.PREFERENCE] = order
        shapes[row, :, k.WITHIN] = [shape.within_domain and p.domains > 1 for p in fleet.pools]
    return shapes

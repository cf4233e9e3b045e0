"""Nodes and accelerators: what is free where, taking them for a work and giving them back."""

from headgate.kernels.columns import Columns, inner
from headgate.kernels.layout import ALL_LANES, COMING, DIRTY, GPUS, UP


@inner
def settle(t: Columns, p: int, now_s: float) -> None:
    """Bring the pool's GPU-second sums up to now; call before any of its counts change."""
    pool = t.pools[p]
    lapse_s = now_s - pool.at_s
    if lapse_s > 0.0:
        live = pool.up + pool.down
        pool.live_gpu_s += live * lapse_s
        pool.down_gpu_s += (live - pool.free - pool.held) * lapse_s
        pool.free_gpu_s += (pool.free - pool.reserved_free) * lapse_s
        pool.reserved_gpu_s += pool.reserved_free * lapse_s
    pool.at_s = now_s


@inner
def take_off_books(t: Columns, n: int) -> None:
    """Forget the node's free accelerators in the pool's sums, before they change."""
    node = t.nodes[n]
    if node.state == UP:
        t.pools[node.pool].free -= node.free
        if node.reserved >= 0:
            t.pools[node.pool].reserved_free -= node.free
        else:
            t.hist[node.pool, node.free] -= 1
            t.domain_hist[node.domain, node.free] -= 1


@inner
def put_on_books(t: Columns, n: int) -> None:
    """Count the node's free accelerators in the pool's sums again."""
    node = t.nodes[n]
    if node.state == UP:
        t.pools[node.pool].free += node.free
        if node.reserved >= 0:
            t.pools[node.pool].reserved_free += node.free
        else:
            t.hist[node.pool, node.free] += 1
            t.domain_hist[node.domain, node.free] += 1


@inner
def node_size(t: Columns, p: int) -> int:
    """Accelerators of each of the pool's nodes (a pool is of one kind of node)."""
    return t.nodes[t.pools[p].first_node].size


@inner
def seize(t: Columns, n: int, row: int, count: int) -> None:
    """Give `count` free accelerators of the node to the work."""
    take_off_books(t, n)
    left = count
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        if left == 0:
            break
        if t.gpus[g].owner < 0:
            t.gpus[g].owner = row
            t.gpus[g].next = t.works[row].head
            t.works[row].head = g
            left -= 1
    t.nodes[n].free -= count
    put_on_books(t, n)


@inner
def give_back(t: Columns, row: int) -> None:
    """Free every accelerator of the work."""
    g = t.works[row].head
    while g >= 0:
        n = t.gpus[g].node
        following = t.gpus[g].next
        take_off_books(t, n)
        t.gpus[g].owner = -1
        t.gpus[g].next = -1
        t.nodes[n].free += 1
        put_on_books(t, n)
        g = following
    t.works[row].head = -1
    t.works[row].gpus = 0
    t.works[row].pool = -1


@inner
def reserve(t: Columns, n: int, row: int) -> None:
    """Keep the node for one work: nobody else starts there."""
    take_off_books(t, n)
    t.nodes[n].reserved = row
    t.works[row].reserved += 1
    t.works[row].reserved_node = n
    put_on_books(t, n)


@inner
def unreserve(t: Columns, row: int, now_s: float) -> None:
    """Drop every reservation of the work; others may have what it leaves."""
    if t.works[row].reserved == 0:
        return
    p = t.works[row].reserved_pool
    settle(t, p, now_s)
    if t.pools[p].reserved_by == row:
        t.pools[p].reserved_by = -1
    t.claims[t.works[row].claim, p, COMING] -= t.shapes[t.works[row].shape, p, GPUS]
    first, last = t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes
    if t.works[row].reserved == 1:
        first = t.works[row].reserved_node
        last = first + 1
    for n in range(first, last):
        if t.nodes[n].reserved == row:
            take_off_books(t, n)
            t.nodes[n].reserved = -1
            put_on_books(t, n)
    t.works[row].reserved = 0
    t.meta[DIRTY] = ALL_LANES

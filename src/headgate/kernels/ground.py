"""Nodes and accelerators: what is free where, taking them for a gang and giving them back."""

from typing import Any

from numba import njit

from headgate.kernels.layout import UP

Table = Any  # a structured array of headgate.kernels.layout


@njit(cache=True)
def settle(pools: Table, p: int, now_s: float) -> None:
    """Bring the pool's GPU-second sums up to now; call before any of its counts change."""
    pool = pools[p]
    lapse_s = now_s - pool.at_s
    if lapse_s > 0.0:
        pool.up_gpu_s += pool.up * lapse_s
        pool.down_gpu_s += pool.down * lapse_s
        pool.free_gpu_s += (pool.free - pool.reserved_free) * lapse_s
        pool.reserved_gpu_s += pool.reserved_free * lapse_s
    pool.at_s = now_s


@njit(cache=True)
def take_off_books(nodes: Table, pools: Table, hist: Table, n: int) -> None:
    """Forget the node's free accelerators in the pool's sums, before they change."""
    node = nodes[n]
    if node.state == UP:
        pools[node.pool].free -= node.free
        if node.reserved >= 0:
            pools[node.pool].reserved_free -= node.free
        else:
            hist[node.pool, node.free] -= 1


@njit(cache=True)
def put_on_books(nodes: Table, pools: Table, hist: Table, n: int) -> None:
    """Count the node's free accelerators in the pool's sums again."""
    node = nodes[n]
    if node.state == UP:
        pools[node.pool].free += node.free
        if node.reserved >= 0:
            pools[node.pool].reserved_free += node.free
        else:
            hist[node.pool, node.free] += 1


@njit(cache=True)
def node_size(nodes: Table, pools: Table, p: int) -> int:
    """Accelerators of each of the pool's nodes (a pool is of one kind of node)."""
    return nodes[pools[p].first_node].size


@njit(cache=True)
def fits(nodes: Table, pools: Table, hist: Table, p: int, gpus: int) -> bool:
    """Whether a gang fits on nodes nobody has reserved: whole nodes, and the rest on one more."""
    size = node_size(nodes, pools, p)
    whole = gpus // size
    rest = gpus - whole * size
    if hist[p, size] < whole:
        return False
    if rest == 0:
        return True
    if hist[p, size] > whole:
        return True
    for free in range(rest, size):
        if hist[p, free] > 0:
            return True
    return False


@njit(cache=True)
def usable(nodes: Table, n: int, row: int) -> bool:
    return nodes[n].state == UP and (nodes[n].reserved < 0 or nodes[n].reserved == row)


@njit(cache=True)
def fits_reserved(nodes: Table, pools: Table, p: int, gpus: int, row: int) -> bool:
    """As `fits`, on nodes that nobody or this very work has reserved."""
    size = node_size(nodes, pools, p)
    whole = gpus // size
    rest = gpus - whole * size
    rest_fits = rest == 0
    for n in range(pools[p].first_node, pools[p].first_node + pools[p].nodes):
        if not usable(nodes, n, row):
            continue
        if nodes[n].free == size and whole > 0:
            whole -= 1
        elif rest > 0 and nodes[n].free >= rest:
            rest_fits = True
        if whole == 0 and rest_fits:
            return True
    return False


@njit(cache=True)
def seize(
    works: Table, nodes: Table, gpus: Table, pools: Table, hist: Table, n: int, row: int, count: int
) -> None:
    """Give `count` free accelerators of the node to the work."""
    take_off_books(nodes, pools, hist, n)
    left = count
    for g in range(nodes[n].first, nodes[n].first + nodes[n].size):
        if left == 0:
            break
        if gpus[g].owner < 0:
            gpus[g].owner = row
            gpus[g].next = works[row].head
            works[row].head = g
            left -= 1
    nodes[n].free -= count
    put_on_books(nodes, pools, hist, n)


@njit(cache=True)
def best_fit(nodes: Table, pools: Table, p: int, row: int, count: int) -> int:
    """The usable node with the fewest free accelerators that still has `count`; the work's own
    reserved nodes come first. -1 if there is none."""
    best = -1
    best_free = 1 << 30
    for n in range(pools[p].first_node, pools[p].first_node + pools[p].nodes):
        if not usable(nodes, n, row) or nodes[n].free < count:
            continue
        if nodes[n].reserved == row:
            return n
        if nodes[n].free < best_free:
            best, best_free = n, nodes[n].free
            if best_free == count and nodes[n].reserved < 0 and row < 0:
                break
    return best


@njit(cache=True)
def best_open_fit(nodes: Table, pools: Table, hist: Table, p: int, count: int) -> int:
    """As `best_fit` among unreserved nodes; stops at the first node of the best size."""
    size = node_size(nodes, pools, p)
    target = -1
    for free in range(count, size + 1):
        if hist[p, free] > 0:
            target = free
            break
    if target < 0:
        return -1
    for n in range(pools[p].first_node, pools[p].first_node + pools[p].nodes):
        if nodes[n].free == target and nodes[n].state == UP and nodes[n].reserved < 0:
            return n
    return -1


@njit(cache=True)
def place(
    works: Table, nodes: Table, gpus: Table, pools: Table, hist: Table, p: int, row: int, count: int
) -> None:
    """Give the work `count` accelerators of pool p: whole nodes, the rest where it fits best.

    The caller has asked `fits` or `fits_reserved`; a gang takes all or nothing.
    """
    size = node_size(nodes, pools, p)
    whole = count // size
    rest = count - whole * size
    works[row].head = -1
    first, last = pools[p].first_node, pools[p].first_node + pools[p].nodes
    if works[row].reserved > 0 and whole > 0:
        for n in range(first, last):
            if whole > 0 and nodes[n].reserved == row and usable(nodes, n, row):
                if nodes[n].free == size:
                    seize(works, nodes, gpus, pools, hist, n, row, size)
                    whole -= 1
    if whole > 0:
        for n in range(first, last):
            if whole == 0:
                break
            if nodes[n].free == size and usable(nodes, n, row):
                seize(works, nodes, gpus, pools, hist, n, row, size)
                whole -= 1
    if rest > 0:
        if works[row].reserved > 0:
            n = best_fit(nodes, pools, p, row, rest)
        else:
            n = best_open_fit(nodes, pools, hist, p, rest)
        seize(works, nodes, gpus, pools, hist, n, row, rest)
    works[row].gpus = count
    works[row].pool = p


@njit(cache=True)
def give_back(works: Table, nodes: Table, gpus: Table, pools: Table, hist: Table, row: int) -> None:
    """Free every accelerator of the work."""
    g = works[row].head
    while g >= 0:
        n = gpus[g].node
        following = gpus[g].next
        take_off_books(nodes, pools, hist, n)
        gpus[g].owner = -1
        gpus[g].next = -1
        nodes[n].free += 1
        put_on_books(nodes, pools, hist, n)
        g = following
    works[row].head = -1
    works[row].gpus = 0
    works[row].pool = -1


@njit(cache=True)
def reserve(works: Table, nodes: Table, pools: Table, hist: Table, n: int, row: int) -> None:
    """Keep the node for one work: nobody else starts there."""
    take_off_books(nodes, pools, hist, n)
    nodes[n].reserved = row
    works[row].reserved += 1
    put_on_books(nodes, pools, hist, n)


@njit(cache=True)
def unreserve(works: Table, nodes: Table, pools: Table, hist: Table, row: int) -> None:
    """Drop every reservation of the work."""
    for p in range(len(pools)):
        if pools[p].reserved_by == row:
            pools[p].reserved_by = -1
    if works[row].reserved == 0:
        return
    for n in range(len(nodes)):
        if nodes[n].reserved == row:
            take_off_books(nodes, pools, hist, n)
            nodes[n].reserved = -1
            put_on_books(nodes, pools, hist, n)
    works[row].reserved = 0

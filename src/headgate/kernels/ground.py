"""Nodes and accelerators: what is free where, taking them for a gang and giving them back."""

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


@inner
def node_size(t: Columns, p: int) -> int:
    """Accelerators of each of the pool's nodes (a pool is of one kind of node)."""
    return t.nodes[t.pools[p].first_node].size


@inner
def fits(t: Columns, p: int, count: int) -> bool:
    """Whether a gang fits on nodes nobody has reserved: whole nodes, and the rest on one more."""
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    if t.hist[p, size] < whole:
        return False
    if rest == 0:
        return True
    if t.hist[p, size] > whole:
        return True
    partly = 0
    for free in range(rest, size):
        partly += t.hist[p, free]
    return partly > 0


@inner
def usable(t: Columns, n: int, row: int) -> bool:
    return t.nodes[n].state == UP and (t.nodes[n].reserved < 0 or t.nodes[n].reserved == row)


@inner
def fits_reserved(t: Columns, p: int, count: int, row: int) -> bool:
    """As `fits`, on nodes that nobody or this very work has reserved."""
    size = node_size(t, p)
    if t.works[row].reserved == 1 and count <= size:
        return t.nodes[t.works[row].reserved_node].free >= count
    whole = count // size
    rest = count - whole * size
    rest_fits = rest == 0
    for n in range(t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes):
        if not usable(t, n, row):
            continue
        if t.nodes[n].free == size and whole > 0:
            whole -= 1
        elif rest > 0 and t.nodes[n].free >= rest:
            rest_fits = True
        if whole == 0 and rest_fits:
            return True
    return False


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
def best_fit(t: Columns, p: int, row: int, count: int) -> int:
    """The usable node with the fewest free accelerators that still has `count`; the work's own
    reserved nodes come first. -1 if there is none."""
    best = -1
    best_free = 1 << 30
    for n in range(t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes):
        if not usable(t, n, row) or t.nodes[n].free < count:
            continue
        if t.nodes[n].reserved == row:
            return n
        if t.nodes[n].free < best_free:
            best, best_free = n, t.nodes[n].free
            if best_free == count and t.nodes[n].reserved < 0 and row < 0:
                break
    return best


@inner
def best_open_fit(t: Columns, p: int, count: int) -> int:
    """As `best_fit` among unreserved nodes; stops at the first node of the best size."""
    size = node_size(t, p)
    target = -1
    for free in range(count, size + 1):
        if t.hist[p, free] > 0:
            target = free
            break
    if target < 0:
        return -1
    for n in range(t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes):
        if t.nodes[n].free == target and t.nodes[n].state == UP and t.nodes[n].reserved < 0:
            return n
    return -1


@inner
def place(t: Columns, p: int, row: int, count: int) -> None:
    """Give the work `count` accelerators of pool p: whole nodes, the rest where it fits best.

    The caller has asked `fits` or `fits_reserved`; a gang takes all or nothing.
    """
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    t.works[row].head = -1
    t.works[row].gpus = count
    t.works[row].pool = p
    if t.works[row].reserved == 1 and count <= size and t.works[row].reserved_pool == p:
        kept_node = t.works[row].reserved_node
        if t.nodes[kept_node].free >= count:
            seize(t, kept_node, row, count)
            return
    first, last = t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes
    if t.works[row].reserved > 0 and whole > 0:
        for n in range(first, last):
            mine = t.nodes[n].reserved == row and usable(t, n, row)
            if whole > 0 and mine and t.nodes[n].free == size:
                seize(t, n, row, size)
                whole -= 1
    if whole > 0:
        for n in range(first, last):
            if whole == 0:
                break
            if t.nodes[n].free == size and usable(t, n, row):
                seize(t, n, row, size)
                whole -= 1
    if rest > 0:
        kept = t.works[row].reserved > 0
        seize(t, best_fit(t, p, row, rest) if kept else best_open_fit(t, p, rest), row, rest)


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

"""Where a work lands in a pool: whole nodes and the rest on one more, in few topology domains.

A domain is a run of consecutive nodes; a pool without domains is one. What is taken is what leaves
the largest pieces whole: a rest goes to the node with the fewest accelerators free that has enough,
whole nodes to the domain with the fewest empty nodes that has enough, and so do equals.
"""

from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import node_size, seize
from headgate.kernels.layout import UP, WITHIN


@inner
def domain_nodes(t: Columns, p: int, d: int) -> tuple[int, int]:
    """The first node of a pool's domain, and the one after its last."""
    pool = t.pools[p]
    first = pool.first_node + (d - pool.first_domain) * pool.domain_nodes
    return first, min(first + pool.domain_nodes, pool.first_node + pool.nodes)


@inner
def holds(t: Columns, p: int, d: int, whole: int, rest: int) -> bool:
    """Whether open nodes of domain d, or of the whole pool for d = -1, have so much room."""
    hist, i = (t.hist, p) if d < 0 else (t.domain_hist, d)
    size = node_size(t, p)
    if hist[i, size] < whole:
        return False
    partly = 0
    for free in range(rest, size):
        partly += hist[i, free]
    return rest == 0 or hist[i, size] > whole or partly > 0


@inner
def tightest(t: Columns, d: int, rest: int) -> int:
    """The fewest accelerators free on an open node of domain d that are enough; there is one."""
    free = rest
    while t.domain_hist[d, free] == 0:
        free += 1
    return free


@inner
def best_domain(t: Columns, p: int, whole: int, rest: int) -> int:
    """The domain of pool p whose open nodes hold whole nodes and a rest best; -1 for none."""
    size = node_size(t, p)
    best = -1
    fewest = 0
    for d in range(t.pools[p].first_domain, t.pools[p].first_domain + t.pools[p].domains):
        if not holds(t, p, d, whole, rest):
            continue
        order = t.domain_hist[d, size]
        if whole == 0:
            order += tightest(t, d, rest) * (t.pools[p].nodes + 1)
        if best < 0 or order < fewest:
            best, fewest = d, order
    return best


@inner
def emptiest_domain(t: Columns, p: int) -> int:
    """The domain of pool p with most empty open nodes."""
    size = node_size(t, p)
    best = t.pools[p].first_domain
    for d in range(best, best + t.pools[p].domains):
        if t.domain_hist[d, size] > t.domain_hist[best, size]:
            best = d
    return int(best)


@inner
def fits(t: Columns, p: int, shape: int, count: int) -> bool:
    """Whether a work fits on nodes nobody has reserved: whole nodes, and the rest on one more."""
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    if not holds(t, p, -1, whole, rest):
        return False
    return t.shapes[shape, p, WITHIN] == 0 or best_domain(t, p, whole, rest) >= 0


@inner
def parts(t: Columns, p: int, shape: int) -> int:
    """Of how many parts of pool p a work of the shape must lie in one: its domains, or the pool."""
    return int(t.pools[p].domains) if t.shapes[shape, p, WITHIN] > 0 else 1


@inner
def part_nodes(t: Columns, p: int, shape: int, part: int) -> tuple[int, int]:
    """The first node of such a part, and the one after its last."""
    pool = t.pools[p]
    if t.shapes[shape, p, WITHIN] > 0:
        return domain_nodes(t, p, pool.first_domain + part)
    return pool.first_node, pool.first_node + pool.nodes


@inner
def within_reach(t: Columns, p: int, row: int) -> tuple[int, int]:
    """The nodes, first and one after the last, that a work may add to those reserved for it."""
    part = t.nodes[t.works[row].reserved_node].domain - t.pools[p].first_domain
    return part_nodes(t, p, t.works[row].shape, part)


@inner
def usable(t: Columns, n: int, row: int) -> bool:
    return t.nodes[n].state == UP and (t.nodes[n].reserved < 0 or t.nodes[n].reserved == row)


@inner
def fits_kept(t: Columns, p: int, row: int, count: int) -> bool:
    """As `fits`, on the nodes reserved for this very work and open ones beside them."""
    size = node_size(t, p)
    if t.works[row].reserved == 1 and count <= size:
        return t.nodes[t.works[row].reserved_node].free >= count
    whole = count // size
    rest = count - whole * size
    rest_fits = rest == 0
    first, last = within_reach(t, p, row)
    for n in range(first, last):
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
def take_empty(t: Columns, first: int, last: int, reserved: int, row: int, wanted: int) -> int:
    """Give the work empty nodes of a range, reserved for `reserved` (-1: open); how many."""
    size = t.nodes[first].size
    taken = 0
    for n in range(first, last):
        if taken == wanted:
            break
        node = t.nodes[n]
        if node.reserved == reserved and node.free == size and node.state == UP:
            seize(t, n, row, size)
            taken += 1
    return taken


@inner
def take_rest(
    t: Columns, first: int, last: int, reserved: int, row: int, rest: int, fewest: int
) -> bool:
    """As `take_empty`, part of the node with the fewest accelerators free that has enough.

    No node is known to have enough and less than `fewest`.
    """
    best = -1
    for n in range(first, last):
        node = t.nodes[n]
        if node.reserved != reserved or node.state != UP or node.free < rest:
            continue
        if best < 0 or node.free < t.nodes[best].free:
            best = n
        if node.free == fewest:
            break
    if best >= 0:
        seize(t, best, row, rest)
    return best >= 0


@inner
def place(t: Columns, p: int, row: int, count: int, kept: bool) -> None:
    """Give the work `count` accelerators of pool p; a gang takes all or nothing.

    The caller has asked `fits`, or `fits_kept` for `kept`: then what is reserved comes first.
    Where no domain holds it all, those with most empty nodes do together.
    """
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    t.works[row].head = -1
    t.works[row].gpus = count
    t.works[row].pool = p
    if kept:
        first, last = within_reach(t, p, row)
        whole -= take_empty(t, first, last, row, row, whole)
        whole -= take_empty(t, first, last, -1, row, whole)
        if rest > 0 and not take_rest(t, first, last, row, row, rest, rest):
            take_rest(t, first, last, -1, row, rest, rest)
        return
    while whole + rest > 0:
        d = best_domain(t, p, whole, rest)
        all_of_it = d >= 0
        if d < 0:
            d = emptiest_domain(t, p)
        first, last = domain_nodes(t, p, d)
        whole -= take_empty(t, first, last, -1, row, whole)
        if all_of_it and rest > 0:
            take_rest(t, first, last, -1, row, rest, tightest(t, d, rest))
            rest = 0

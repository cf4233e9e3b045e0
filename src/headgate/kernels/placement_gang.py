"""Gangs: all members or none, over nodes and topology domains.

Plain arrays in, nodes out; nothing here is written but the outputs. `free[node]` counts whole
GPUs; `domain[node]` is the node's rack, pod or site, 0 to `domains` - 1, or -1 where the gang may
not go. `sizes` are the GPUs of each member on one node, largest first; each must be a multiple of
the next smaller (8, 8, 4: a gang of 20 on nodes of 8). Then seating a member takes the same number
of seats from those after it wherever it sits, so that largest first, one by one, finds a seating
whenever there is one: the answers here are exact, but for the sum of losses over several members.
"""

import numpy as np
from numba import njit

from headgate.kernels.placement import Floats, Ints


@njit(cache=True)
def histogram(free: Ints, domain: Ints, domains: int, most: int) -> Ints:
    """[domain, f]: nodes with f GPUs free, for f up to `most`."""
    count = np.zeros((domains, most + 1), dtype=np.int64)
    for node in range(len(free)):
        if domain[node] >= 0:
            count[domain[node], free[node]] += 1
    return count


@njit(cache=True)
def holds(count: Ints, sizes: Ints) -> bool:
    """Whether nodes, `count[f]` of them with f GPUs free, hold the gang."""
    left = count.copy()
    for size in sizes:
        free = size
        while free < len(left) and left[free] == 0:
            free += 1
        if free >= len(left):
            return False
        left[free] -= 1
        left[free - size] += 1
    return True


@njit(cache=True)
def seat(free: Ints, allowed: Ints, sizes: Ints, nodes: Ints) -> bool:
    """Put each member on the tightest node whose `allowed` is not 0; fills `nodes` [member]."""
    left = free.copy()
    for member in range(len(sizes)):
        best = -1
        for node in range(len(left)):
            if allowed[node] != 0 and left[node] >= sizes[member]:
                if best < 0 or left[node] < left[best]:
                    best = node
                if left[node] == sizes[member]:
                    break
        if best < 0:
            return False
        left[best] -= sizes[member]
        nodes[member] = best
    return True


@njit(cache=True)
def place_gang(free: Ints, domain: Ints, domains: int, sizes: Ints, span: int, nodes: Ints) -> int:
    """Place a gang in one domain if any holds it, else over at most `span`; 0 where it fits none.

    Of the domains that hold it alone, the one with the fewest GPUs free, so that large domains
    stay whole for large gangs; else the domains with the most free, as few as hold it together.
    `nodes` [member] receives the node of each member. Returns the number of domains used.
    """
    count = histogram(free, domain, domains, max(free.max(), sizes[0]))
    weight = np.arange(count.shape[1])
    total = np.empty(domains, dtype=np.int64)
    best = -1
    for d in range(domains):
        total[d] = (count[d] * weight).sum()
        enough = total[d] >= sizes.sum() and (best < 0 or total[d] < total[best])
        if enough and holds(count[d], sizes):
            best = d
    used = np.zeros(domains, dtype=np.int64)
    if best >= 0:
        used[best] = 1
        seat(free, _inside(domain, used), sizes, nodes)
        return 1
    together = np.zeros_like(count[0])
    order = np.argsort(-total, kind="mergesort")
    for i in range(min(span, domains)):
        used[order[i]] = 1
        together += count[order[i]]
        if holds(together, sizes):
            seat(free, _inside(domain, used), sizes, nodes)
            return i + 1
    return 0


@njit(cache=True)
def _inside(domain: Ints, used: Ints) -> Ints:
    """[node] 1 where the node's domain is one of those used."""
    allowed = np.zeros(len(domain), dtype=np.int64)
    for node in range(len(domain)):
        if domain[node] >= 0:
            allowed[node] = used[domain[node]]
    return allowed


@njit(cache=True)
def clear_node(
    room: int, size: int, first: int, end: int, gpus: Ints, work: Ints, loss: Floats, stop: Ints
) -> float:
    """Least loss that leaves `size` GPUs free on a node with `room` free and these pieces on it.

    The pieces are `first` to `end` - 1 of `gpus` and `work`, at most one for each work; works
    with `stop[work]` 1 stop anyway. Exact: the cheapest cover, by how much it frees.
    """
    need = size - room
    for piece in range(first, end):
        need -= gpus[piece] * stop[work[piece]]
    if need <= 0:
        return 0.0
    cost = np.full(need + 1, np.inf)
    cost[0] = 0.0
    for piece in range(first, end):
        if stop[work[piece]] == 0:
            for freed in range(need, 0, -1):
                without = cost[max(0, freed - gpus[piece])]
                cost[freed] = min(cost[freed], without + loss[work[piece]])
    return float(cost[need])


@njit(cache=True)
def stop_for(
    room: int, size: int, first: int, end: int, gpus: Ints, work: Ints, loss: Floats, stop: Ints
) -> None:
    """Mark in `stop` the works of the cover that `clear_node` prices."""
    price = clear_node(room, size, first, end, gpus, work, loss, stop)
    for piece in range(first, end):
        if price == 0.0:
            return
        if stop[work[piece]] == 0 and loss[work[piece]] < np.inf:
            stop[work[piece]] = 1
            rest = clear_node(room, size, first, end, gpus, work, loss, stop)
            if rest + loss[work[piece]] <= price * (1 + 1e-12):
                price = rest
            else:
                stop[work[piece]] = 0


@njit(cache=True)
def make_room(
    free: Ints,
    domain: Ints,
    domains: int,
    sizes: Ints,
    start: Ints,
    gpus: Ints,
    work: Ints,
    loss: Floats,
    stop: Ints,
    nodes: Ints,
) -> float:
    """Victims and nodes, in the one domain where the gang loses others least; infinite: nowhere.

    Pieces that may be stopped stand by node: those of node n are `start[n]` to `start[n + 1]` - 1
    of `gpus` and `work`, one for each work; stopping a work frees all its pieces and loses
    `loss[work]` once (infinite: never). Fills `stop` [work] with 1 for the victims and `nodes`
    [member]. The victims make the gang fit on exactly those nodes, and none could be spared.
    """
    least = np.inf
    for d in range(domains):
        victims = np.zeros(len(loss), dtype=np.int64)
        seats = np.full(len(sizes), -1, dtype=np.int64)
        lost = _room_in(free, domain, d, sizes, start, gpus, work, loss, victims, seats)
        if lost < least:
            least = lost
            stop[:] = victims
            nodes[:] = seats
    return least


@njit(cache=True)
def _room_in(
    free: Ints,
    domain: Ints,
    d: int,
    sizes: Ints,
    start: Ints,
    gpus: Ints,
    work: Ints,
    loss: Floats,
    stop: Ints,
    nodes: Ints,
) -> float:
    """As `make_room` in one domain: member by member, the node that is cheapest to clear."""
    taken = np.zeros(len(free), dtype=np.int64)
    for member in range(len(sizes)):
        best, cheapest, tightest = -1, np.inf, 0
        for node in range(len(free)):
            if domain[node] != d:
                continue
            first, end = start[node], start[node + 1]
            room = free[node] - taken[node]
            cost = clear_node(room, sizes[member], first, end, gpus, work, loss, stop)
            if cost < cheapest or (cost == cheapest and cost < np.inf and room < tightest):
                best, cheapest, tightest = node, cost, room
        if best < 0:
            return np.inf
        first, end = start[best], start[best + 1]
        room = free[best] - taken[best]
        stop_for(room, sizes[member], first, end, gpus, work, loss, stop)
        taken[best] += sizes[member]
        nodes[member] = best
    _spare(free, taken, start, gpus, work, loss, stop)
    lost = 0.0
    for victim in range(len(stop)):
        if stop[victim] == 1:
            lost += loss[victim]
    return lost


@njit(cache=True)
def _spare(
    free: Ints, taken: Ints, start: Ints, gpus: Ints, work: Ints, loss: Floats, stop: Ints
) -> None:
    """Let go, dearest first, of every victim without whom the members still have their room."""
    room = free - taken
    for node in range(len(free)):
        for piece in range(start[node], start[node + 1]):
            room[node] += gpus[piece] * stop[work[piece]]
    for victim in np.argsort(-loss):
        if stop[victim] == 0:
            continue
        spared = True
        for node in range(len(free)):
            left = room[node]
            for piece in range(start[node], start[node + 1]):
                if work[piece] == victim:
                    left -= gpus[piece]
            if left < 0:
                spared = False
                break
        if spared:
            stop[victim] = 0
            for node in range(len(free)):
                for piece in range(start[node], start[node + 1]):
                    if work[piece] == victim:
                        room[node] -= gpus[piece]


@njit(cache=True)
def earliest_start(
    free: Ints,
    domain: Ints,
    domains: int,
    sizes: Ints,
    now_s: float,
    end_s: Floats,
    node_of: Ints,
    gpus: Ints,
    nodes: Ints,
) -> float:
    """When one domain is sure to hold the gang, if every running piece ends by its `end_s`.

    Piece i holds `gpus[i]` GPUs of `node_of[i]`; infinite `end_s` is a piece with no known end.
    Fills `nodes` [member] with what to reserve from now on; infinite: no domain is sure to.
    Members share no more than they can hold: reserve `sizes[member]` GPUs of `nodes[member]`.
    """
    room = free.copy()
    order = np.argsort(end_s, kind="mergesort")
    if place_gang(room, domain, domains, sizes, 1, nodes) > 0:
        return now_s
    i = 0
    while i < len(order) and end_s[order[i]] < np.inf:
        at_s = end_s[order[i]]
        while i < len(order) and end_s[order[i]] == at_s:
            room[node_of[order[i]]] += gpus[order[i]]
            i += 1
        if place_gang(room, domain, domains, sizes, 1, nodes) > 0:
            return max(now_s, at_s)
    return np.inf


@njit(cache=True)
def may_backfill(
    free_now: int, free_then: int, reserved: int, gpus: int, end_s: float, start_s: float
) -> bool:
    """Whether work of `gpus` on a node, sure to end by `end_s`, leaves a reservation whole.

    The gang starts at `start_s` and wants `reserved` GPUs of the node; `free_then` are those free
    there by then if nothing more starts. What ends in time may use all that is free now.
    """
    if gpus > free_now:
        return False
    return end_s <= start_s or free_then - gpus >= reserved

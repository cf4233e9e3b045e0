"""Room for a waiting work: free now, taken back for it, or kept empty until it fits."""

from typing import Any

import numpy as np

from headgate.kernels import layout as k
from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import node_size, settle, unreserve
from headgate.kernels.lanes import step_aside
from headgate.kernels.moves import give_up_claim, start, stop
from headgate.kernels.placing import fits, fits_kept, part_nodes, parts, usable
from headgate.kernels.reclaim import (
    could_come_back,
    promised,
    reserve_picked,
    search,
    within_guarantee,
)

# A failed search for victims is not repeated for the same lane sooner than this.
SEARCH_AGAIN_S = 60.0


@inner
def firm_fits(t: Columns, claim: int, p: int, count: int) -> bool:
    """Work that cannot be taken back must leave what others are guaranteed or hold as firmly."""
    others = 0
    for c in range(len(t.claims)):
        if c != claim:
            others += max(t.claims[c, p, k.GUARANTEE], t.claims[c, p, k.FIRM])
    own = max(t.claims[claim, p, k.FIRM] + count, t.claims[claim, p, k.GUARANTEE])
    return own + others <= t.pools[p].up


@inner
def allowed(t: Columns, row: Any, p: int, count: int) -> int:
    """The rule that forbids the work this pool whatever is free there, or NO_ROOM for none."""
    if promised(t, row, p) + count > t.claims[row.claim, p, k.CAP]:
        return k.CLASS_CAP
    given = row.firm > 0 and t.flags[k.USE_GUARANTEES] > 0
    if given and not firm_fits(t, row.claim, p, count):
        return k.LENT_NOT_GIVEN
    return k.NO_ROOM


@inner
def find_room(t: Columns, row: int) -> tuple[int, bool]:
    """The first pool in the work's order with room for it now, and whether that is on the nodes
    reserved for it; -1 for none, with works.rule set."""
    work = t.works[row]
    for i in range(t.shapes.shape[1]):
        p = t.shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = t.shapes[work.shape, p, k.GPUS]
        verdict = allowed(t, work, p, count)
        if verdict != k.NO_ROOM:
            work.rule = verdict
            continue
        if work.reserved > 0 and work.reserved_pool == p and fits_kept(t, p, row, count):
            return p, True
        if fits(t, p, work.shape, count):
            return p, False
        work.rule = k.NO_ROOM
    return -1, False


@inner
def cheapest_part(
    t: Columns, row: int, p: int, spares: bool, now_s: float
) -> tuple[float, int, int]:
    """`search` in the part of pool p, of those that the work may lie in, where it loses least."""
    shape = t.works[row].shape
    count = t.shapes[shape, p, k.GPUS]
    best = last_part = -1
    least = np.inf
    n_picked = found = 0
    for part in range(parts(t, p, shape)):
        first, last = part_nodes(t, p, shape, part)
        total, n_picked, found = search(t, row, p, first, last, count, spares, now_s)
        last_part = part
        if total < least:
            best, least = part, total
    if best >= 0 and best != last_part:  # what it found has been written over
        first, last = part_nodes(t, p, shape, best)
        _, n_picked, found = search(t, row, p, first, last, count, spares, now_s)
    return least, n_picked, found


@inner
def find_victims(t: Columns, row: int, now_s: float) -> tuple[int, int, int]:
    """The pool in which accelerators should come back for the work, or -1; how many nodes are
    picked there and how many victims, as `search` left them.

    Work that straddles its class's guarantee is looked at only when sparing it does not do.
    """
    work = t.works[row]
    for spares in (True, False):
        best = last = -1
        best_loss = np.inf
        n_picked = found = 0
        for i in range(t.shapes.shape[1]):
            p = t.shapes[work.shape, i, k.PREFERENCE]
            if p < 0:
                break
            count = t.shapes[work.shape, p, k.GPUS]
            if allowed(t, work, p, count) != k.NO_ROOM:
                continue
            if not could_come_back(t, work, p, count, spares):
                continue
            last = p
            total, n_picked, found = cheapest_part(t, row, p, spares, now_s)
            if total < best_loss:
                best, best_loss = p, total
                if t.flags[k.CHEAPEST_POOL] == 0:
                    break
        if best >= 0:
            if last != best:
                _, n_picked, found = cheapest_part(t, row, best, spares, now_s)
            return best, n_picked, found
        if t.flags[k.USE_GUARANTEES] == 0:
            break
    return -1, 0, 0


@inner
def keeps(t: Columns, row: int) -> bool:
    """Whether nodes are kept empty for the work."""
    work = t.works[row]
    return work.reserved > 0 and t.pools[work.reserved_pool].reserved_by == row


@inner
def searched_s(t: Columns, row: int) -> float:
    """When a search for victims last failed: for who keeps nodes his own, else his lane's. Were
    it one time for both, the head of the lane could look first every time, and the keeper never.
    """
    work = t.works[row]
    return (
        t.pools[work.reserved_pool].searched_s if keeps(t, row) else t.lanes[work.lane].searched_s
    )


@inner
def note_search(t: Columns, row: int, now_s: float) -> None:
    """Note that a search for victims has just failed."""
    if keeps(t, row):
        t.pools[t.works[row].reserved_pool].searched_s = now_s
    else:
        t.lanes[t.works[row].lane].searched_s = now_s


@inner
def take_back(t: Columns, row: int, now_s: float) -> bool:
    """Reserve the cheapest nodes for the work and wish stopped whoever is on them; False when
    none will do, or when it is too soon to look again."""
    if t.flags[k.USE_LEVELS] + t.flags[k.USE_GUARANTEES] == 0:
        return False
    if now_s - searched_s(t, row) < SEARCH_AGAIN_S:
        return False
    p, n_picked, found = find_victims(t, row, now_s)
    if p < 0:
        note_search(t, row, now_s)
        return False
    inside = within_guarantee(t, t.works[row], p, t.shapes[t.works[row].shape, p, k.GPUS])
    rule = k.RECLAIM_GUARANTEE if inside else k.RECLAIM_ORDER
    settle(t, p, now_s)
    unreserve(t, row, now_s)
    for i in range(n_picked):
        keeper = t.nodes[t.picked[i]].reserved
        if keeper >= 0:
            give_up_claim(t, keeper, now_s)
    reserve_picked(t, n_picked, row, p)
    for i in range(found):
        stop(t, t.victims[i], rule, row, now_s)
    t.works[row].rule = k.WAITS_FOR_RECLAIM
    return True


@inner
def will_end(t: Columns, n: int) -> bool:
    """Whether everybody on the node ends by himself: a replica may not."""
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v >= 0 and t.works[v].kind == k.REPLICA and t.works[v].state != k.STOPPING:
            return False
    return True


@inner
def emptiest_nodes(t: Columns, row: int, first: int, last: int, wanted: int) -> int:
    """Pick the nodes of a range with most free accelerators whose holders end by themselves.

    Returns the accelerators free there, or -1 when there are not so many such nodes.
    """
    for n in range(first, last):
        good = usable(t, n, row) and will_end(t, n)
        t.nodes[n].cost = t.nodes[n].free if good else -1.0
    free = 0
    for i in range(wanted):
        best = first
        for n in range(first, last):
            if t.nodes[n].cost > t.nodes[best].cost:
                best = n
        if t.nodes[best].cost < 0.0:
            return -1
        t.nodes[best].cost = -1.0
        t.picked[i] = best
        free += t.nodes[best].free
    return free


@inner
def keep_nodes(t: Columns, row: int, now_s: float) -> bool:
    """Keep nodes of the first possible pool empty for a work that has waited long enough.

    One work at a time in each pool: who comes first and asked while another had nodes kept is not
    passed by when they become open in the same pass. Nodes with most free accelerators first, and
    only those whose holders end by themselves. Others go on being placed around them, so nobody
    else is blocked. A work of one accelerator needs none: whatever comes free is enough for it.
    """
    work = t.works[row]
    if now_s - work.since_s < t.flags[k.RESERVE_AFTER_S]:
        return False
    for i in range(t.shapes.shape[1]):
        p = t.shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = t.shapes[work.shape, p, k.GPUS]
        if count == 1 or allowed(t, work, p, count) != k.NO_ROOM:
            continue
        if t.pools[p].reserved_by >= 0:
            t.pools[p].asked = t.meta[k.PASS]
        if t.pools[p].asked == t.meta[k.PASS]:
            continue
        wanted = (count + node_size(t, p) - 1) // node_size(t, p)
        best, most = -1, -1
        for part in range(parts(t, p, work.shape)):
            first, last = part_nodes(t, p, work.shape, part)
            free = emptiest_nodes(t, row, first, last, wanted)
            if free > most:
                best, most = part, free
        if best < 0:
            continue
        first, last = part_nodes(t, p, work.shape, best)
        emptiest_nodes(t, row, first, last, wanted)
        settle(t, p, now_s)
        reserve_picked(t, wanted, row, p)
        work.rule = k.HELD_FOR_LARGE_GANG
        t.pools[p].reserved_by = row
        t.pools[p].searched_s = t.lanes[work.lane].searched_s  # it was he who looked
        return True
    return False


@inner
def may_start(t: Columns, row: int, p: int) -> bool:
    """Whether the work may start in the pool at all: its class may, and it is in its order."""
    work = t.works[row]
    listed = False
    for i in range(t.shapes.shape[1]):
        listed |= t.shapes[work.shape, i, k.PREFERENCE] == p
    return listed and allowed(t, work, p, t.shapes[work.shape, p, k.GPUS]) == k.NO_ROOM


@inner
def serve_claimant(t: Columns, row: int, now_s: float) -> None:
    """Start a work whose reserved nodes are free by now, or that finds room elsewhere."""
    p, on_kept = find_room(t, row)
    if p >= 0:
        rule = k.RESERVED_NODES if on_kept else k.FREE_CAPACITY
        start(t, row, p, t.shapes[t.works[row].shape, p, k.GPUS], rule, now_s)
        return
    kept = t.works[row].reserved_pool
    if not may_start(t, row, kept):
        give_up_claim(t, row, now_s)
    elif not keeps(t, row):
        t.works[row].rule = k.WAITS_FOR_RECLAIM
    elif not take_back(t, row, now_s):
        t.works[row].rule = k.HELD_FOR_LARGE_GANG


@inner
def claim_nodes(t: Columns, row: int, now_s: float) -> bool:
    """Reserve nodes for the head of a lane: by taking back what it is owed, or by keeping nodes
    empty. False when neither can be done now."""
    keeping = t.flags[k.RESERVE_AFTER_S] >= 0.0
    if take_back(t, row, now_s) or (keeping and keep_nodes(t, row, now_s)):
        step_aside(t, row)
        return True
    return False

"""One turn of the machine: learn a fact, decide what to start and stop, check the sums.

Everything a turn reads or writes is an array of `headgate.kernels.layout`; the caller is
`headgate.control.machine`. A turn allocates nothing and its cost does not grow with the number of
waiting works, only with the number of lanes they wait in.
"""

from typing import Any

import numpy as np
from numba import njit

from headgate.kernels import layout as k
from headgate.kernels.ground import (
    fits,
    fits_reserved,
    give_back,
    node_size,
    place,
    put_on_books,
    reserve,
    settle,
    take_off_books,
    unreserve,
    usable,
)
from headgate.kernels.lanes import first_open, join, leave
from headgate.kernels.reclaim import could_come_back, reserve_picked, search, within_guarantee

Table = Any

# A failed search for victims is not repeated for the same lane sooner than this.
SEARCH_AGAIN_S = 15.0


@njit(cache=True)
def wish(wishes: Table, meta: Any, what: int, row: int, p: int, rule: int, by: int) -> None:
    at = meta[k.N_WISHES]
    wishes[at].wish = what
    wishes[at].work = row
    wishes[at].pool = p
    wishes[at].rule = rule
    wishes[at].by = by
    meta[k.N_WISHES] = at + 1


@njit(cache=True)
def enter(works: Table, row: int, state: int, now_s: float) -> None:
    """Move a work to a state, summing what it spent in the last one."""
    work = works[row]
    lapse_s = now_s - work.since_s
    if work.state == k.WAITING:
        work.waited_s += lapse_s
    elif work.state == k.STARTING:
        work.starting_gpu_s += lapse_s * work.gpus
    elif work.state == k.RUNNING:
        work.running_gpu_s += lapse_s * work.gpus
    elif work.state == k.STOPPING:
        work.stopping_gpu_s += lapse_s * work.gpus
    work.state = state
    work.since_s = now_s


@njit(cache=True)
def start(
    works: Table,
    lanes: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    claims: Any,
    exposed: Any,
    wishes: Table,
    meta: Any,
    row: int,
    p: int,
    count: int,
    rule: int,
    now_s: float,
) -> None:
    """Give a waiting work its accelerators and wish it started."""
    settle(pools, p, now_s)
    leave(works, lanes, row)
    place(works, nodes, gpus, pools, hist, p, row, count)
    unreserve(works, nodes, pools, hist, row)
    work = works[row]
    claims[work.claim, p, k.HELD] += count
    if work.firm > 0:
        claims[work.claim, p, k.FIRM] += count
    else:
        exposed[work.level, p] += count
    pools[p].held += count
    work.held_from_s = now_s
    work.starts += 1
    work.rule = rule
    enter(works, row, k.STARTING, now_s)
    wish(wishes, meta, k.START, row, p, rule, -1)


@njit(cache=True)
def stop(
    works: Table,
    pools: Table,
    exposed: Any,
    ready: Any,
    wishes: Table,
    meta: Any,
    row: int,
    rule: int,
    by: int,
    now_s: float,
) -> None:
    """Wish a work stopped that starts or runs; it holds its accelerators until it answers."""
    work = works[row]
    p = work.pool
    if work.firm == 0:
        exposed[work.level, p] -= work.gpus
    if work.state == k.RUNNING and work.service >= 0:
        ready[work.service, work.mode, p] -= 1
    pools[p].stopping += work.gpus
    work.rule = rule
    work.by = by
    enter(works, row, k.STOPPING, now_s)
    wish(wishes, meta, k.STOP, row, p, rule, by)


@njit(cache=True)
def release(
    works: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    claims: Any,
    exposed: Any,
    ready: Any,
    meta: Any,
    row: int,
    state: int,
    now_s: float,
) -> None:
    """Take a work's accelerators back and move it to a state that holds none."""
    work = works[row]
    p, count = work.pool, work.gpus
    settle(pools, p, now_s)
    if work.state == k.STOPPING:
        pools[p].stopping -= count
    else:
        if work.firm == 0:
            exposed[work.level, p] -= count
        if work.state == k.RUNNING and work.service >= 0:
            ready[work.service, work.mode, p] -= 1
    claims[work.claim, p, k.HELD] -= count
    if work.firm > 0:
        claims[work.claim, p, k.FIRM] -= count
    pools[p].held -= count
    enter(works, row, state, now_s)
    give_back(works, nodes, gpus, pools, hist, row)
    meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def line_up(works: Table, lanes: Table, meta: Any, row: int) -> None:
    """Put a waiting work into its lane; only a new head gives the round something to try."""
    if join(works, lanes, row):
        lanes[works[row].lane].fresh = 1
        if meta[k.DIRTY] == k.CLEAN:
            meta[k.DIRTY] = k.FRESH_HEADS


@njit(cache=True)
def node_up(nodes: Table, pools: Table, hist: Any, meta: Any, n: int, now_s: float) -> None:
    p = nodes[n].pool
    if nodes[n].state == k.UP:
        meta[k.BROKEN] = k.ILLEGAL_MOVE
        return
    settle(pools, p, now_s)
    if nodes[n].state == k.DOWN:
        pools[p].down -= nodes[n].size
    nodes[n].state = k.UP
    pools[p].up += nodes[n].size
    put_on_books(nodes, pools, hist, n)
    meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def node_down(
    works: Table, nodes: Table, pools: Table, hist: Any, meta: Any, n: int, now_s: float
) -> None:
    """A node is lost: nothing starts there; who holds it answers with a stop of its own."""
    p = nodes[n].pool
    if nodes[n].state != k.UP:
        meta[k.BROKEN] = k.ILLEGAL_MOVE
        return
    settle(pools, p, now_s)
    if nodes[n].reserved >= 0:
        unreserve(works, nodes, pools, hist, nodes[n].reserved)
    take_off_books(nodes, pools, hist, n)
    nodes[n].state = k.DOWN
    pools[p].up -= nodes[n].size
    pools[p].down += nodes[n].size
    meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def leave_line(
    works: Table,
    lanes: Table,
    nodes: Table,
    pools: Table,
    hist: Any,
    meta: Any,
    row: int,
    now_s: float,
) -> None:
    """Take a waiting work out of its lane and drop what was reserved for it."""
    if works[row].reserved > 0:
        for p in range(len(pools)):
            settle(pools, p, now_s)
        unreserve(works, nodes, pools, hist, row)
        meta[k.DIRTY] = k.ALL_LANES
    lane = lanes[works[row].lane]
    was_head = lane.head == row
    leave(works, lanes, row)
    if was_head and lane.head >= 0:
        lane.fresh = 1
        if meta[k.DIRTY] == k.CLEAN:
            meta[k.DIRTY] = k.FRESH_HEADS


@njit(cache=True)
def learn(
    works: Table,
    lanes: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    claims: Any,
    exposed: Any,
    ready: Any,
    wishes: Table,
    meta: Any,
    code: int,
    row: int,
    rule: int,
    lost_gpu_s: float,
    now_s: float,
) -> None:
    """Take one fact into the tables. A move that the lifecycle forbids sets meta[BROKEN]."""
    if code == k.TIME_PASSED:
        meta[k.DIRTY] = k.ALL_LANES
        return
    if code == k.NODE_UP:
        node_up(nodes, pools, hist, meta, row, now_s)
        return
    if code == k.NODE_DOWN:
        node_down(works, nodes, pools, hist, meta, row, now_s)
        return
    if code == k.WORK_SUBMITTED:
        line_up(works, lanes, meta, row)
        return
    state = works[row].state
    if code == k.WORK_STARTED:
        if state == k.STARTING:
            enter(works, row, k.RUNNING, now_s)
            works[row].running_s = now_s
            if works[row].service >= 0:
                ready[works[row].service, works[row].mode, works[row].pool] += 1
        elif state != k.STOPPING:  # a stop may cross a start on the way
            meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_FINISHED:
        if state == k.RUNNING or state == k.STOPPING:
            release(
                works, nodes, gpus, pools, hist, claims, exposed, ready, meta, row, k.DONE, now_s
            )
            works[row].rule = rule
        else:
            meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_STOPPED:
        if state == k.STARTING or state == k.RUNNING or state == k.STOPPING:
            works[row].lost_gpu_s += lost_gpu_s
            gone = works[row].leaving > 0
            after = k.CANCELLED if gone else k.WAITING
            release(
                works, nodes, gpus, pools, hist, claims, exposed, ready, meta, row, after, now_s
            )
            if state != k.STOPPING:
                works[row].rule = rule
            if not gone:
                works[row].evictions += 1
                line_up(works, lanes, meta, row)
        else:
            meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_CANCELLED or code == k.WORK_REFUSED or code == k.STOP_WANTED:
        if state == k.WAITING:
            leave_line(works, lanes, nodes, pools, hist, meta, row, now_s)
            works[row].rule = rule
            enter(works, row, k.REFUSED if code == k.WORK_REFUSED else k.CANCELLED, now_s)
        elif state == k.STARTING or state == k.RUNNING:
            works[row].leaving = 1
            settle(pools, works[row].pool, now_s)
            stop(works, pools, exposed, ready, wishes, meta, row, rule, -1, now_s)
        elif state == k.STOPPING:
            works[row].leaving = 1
        else:
            meta[k.BROKEN] = k.ILLEGAL_MOVE


@njit(cache=True)
def firm_fits(pools: Table, claims: Any, claim: int, p: int, count: int) -> bool:
    """Work that cannot be taken back must leave what others are guaranteed or hold as firmly."""
    others = 0
    for c in range(len(claims)):
        if c != claim:
            others += max(claims[c, p, k.GUARANTEE], claims[c, p, k.FIRM])
    own = max(claims[claim, p, k.FIRM] + count, claims[claim, p, k.GUARANTEE])
    return own + others <= pools[p].up


@njit(cache=True)
def allowed(pools: Table, claims: Any, flags: Any, row: Any, p: int, count: int) -> int:
    """The rule that forbids the work this pool whatever is free there, or NO_ROOM for none."""
    if claims[row.claim, p, k.HELD] + count > claims[row.claim, p, k.CAP]:
        return k.CLASS_CAP
    if row.firm > 0 and flags[k.USE_GUARANTEES] > 0:
        if not firm_fits(pools, claims, row.claim, p, count):
            return k.LENT_NOT_GIVEN
    return k.NO_ROOM


@njit(cache=True)
def find_room(
    works: Table,
    nodes: Table,
    pools: Table,
    hist: Any,
    shapes: Any,
    claims: Any,
    flags: Any,
    row: int,
) -> int:
    """The first pool in the work's order with room for it now, or -1 with works.rule set."""
    work = works[row]
    for i in range(shapes.shape[1]):
        p = shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = shapes[work.shape, p, k.GPUS]
        verdict = allowed(pools, claims, flags, work, p, count)
        if verdict != k.NO_ROOM:
            work.rule = verdict
            continue
        if fits(nodes, pools, hist, p, count):
            return p
        kept_here = work.reserved > 0 and work.reserved_pool == p
        if kept_here and fits_reserved(nodes, pools, p, count, row):
            return p
        work.rule = k.NO_ROOM
    return -1


@njit(cache=True)
def find_victims(
    works: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    shapes: Any,
    claims: Any,
    levels: Any,
    exposed: Any,
    flags: Any,
    taken: Any,
    victims: Any,
    picked: Any,
    meta: Any,
    row: int,
    now_s: float,
) -> int:
    """The pool in which accelerators should come back for the work, or -1."""
    best = -1
    best_loss = np.inf
    work = works[row]
    for i in range(shapes.shape[1]):
        p = shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = shapes[work.shape, p, k.GPUS]
        if allowed(pools, claims, flags, work, p, count) != k.NO_ROOM:
            continue
        if not could_come_back(pools, claims, levels, exposed, flags, work, p, count):
            continue
        meta[k.STAMP] += 1
        total, _, _ = search(
            works, nodes, gpus, pools, claims, levels, flags, taken, victims, picked,
            row, p, count, meta[k.STAMP], now_s,
        )  # fmt: skip
        if total < best_loss:
            best, best_loss = p, total
            if flags[k.CHEAPEST_POOL] == 0:
                break
    return best


@njit(cache=True)
def take_back(
    works: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    shapes: Any,
    claims: Any,
    levels: Any,
    exposed: Any,
    ready: Any,
    flags: Any,
    taken: Any,
    victims: Any,
    picked: Any,
    wishes: Table,
    meta: Any,
    row: int,
    p: int,
    now_s: float,
) -> None:
    """Reserve the cheapest nodes of pool p for the work and wish stopped whoever is on them."""
    count = shapes[works[row].shape, p, k.GPUS]
    inside = within_guarantee(claims, flags, works[row].claim, p, count)
    rule = k.RECLAIM_GUARANTEE if inside else k.RECLAIM_ORDER
    settle(pools, p, now_s)
    meta[k.STAMP] += 1
    _, n_picked, found = search(
        works, nodes, gpus, pools, claims, levels, flags, taken, victims, picked,
        row, p, count, meta[k.STAMP], now_s,
    )  # fmt: skip
    reserve_picked(works, nodes, pools, hist, picked, n_picked, row, p)
    for i in range(found):
        stop(works, pools, exposed, ready, wishes, meta, victims[i], rule, row, now_s)
    works[row].rule = k.WAITS_FOR_RECLAIM


@njit(cache=True)
def will_end(works: Table, nodes: Table, gpus: Table, n: int) -> bool:
    """Whether everybody on the node ends by himself: a replica or a firm lease may not."""
    for g in range(nodes[n].first, nodes[n].first + nodes[n].size):
        v = gpus[g].owner
        if v >= 0 and works[v].kind == k.REPLICA and works[v].state != k.STOPPING:
            return False
    return True


@njit(cache=True)
def keep_nodes(
    works: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    shapes: Any,
    claims: Any,
    flags: Any,
    row: int,
    now_s: float,
) -> None:
    """Keep nodes of the first possible pool empty for a work that has waited long enough.

    One work at a time in each pool; nodes with most free accelerators first, and only nodes whose
    holders end by themselves. Others go on being placed around it, so nobody else is blocked.
    """
    work = works[row]
    if work.reserved > 0 or now_s - work.since_s < flags[k.RESERVE_AFTER_S]:
        return
    for i in range(shapes.shape[1]):
        p = shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = shapes[work.shape, p, k.GPUS]
        if pools[p].reserved_by >= 0:
            continue
        if allowed(pools, claims, flags, work, p, count) != k.NO_ROOM:
            continue
        size = node_size(nodes, pools, p)
        wanted = (count + size - 1) // size
        first, last = pools[p].first_node, pools[p].first_node + pools[p].nodes
        possible = 0
        for n in range(first, last):
            good = usable(nodes, n, row) and will_end(works, nodes, gpus, n)
            nodes[n].cost = nodes[n].free if good else -1.0
            possible += 1 if good else 0
        if possible < wanted:
            continue
        settle(pools, p, now_s)
        for _ in range(wanted):
            best = first
            for n in range(first, last):
                if nodes[n].cost > nodes[best].cost:
                    best = n
            nodes[best].cost = -1.0
            reserve(works, nodes, pools, hist, best, row)
        work.reserved_pool = p
        work.rule = k.HELD_FOR_LARGE_GANG
        pools[p].reserved_by = row
        return


@njit(cache=True)
def decide(
    works: Table,
    lanes: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    shapes: Any,
    claims: Any,
    levels: Any,
    exposed: Any,
    ready: Any,
    flags: Any,
    taken: Any,
    victims: Any,
    picked: Any,
    wishes: Table,
    meta: Any,
    now_s: float,
) -> None:
    """Serve the waiting by (level, key): start what fits, take back what is owed."""
    meta[k.STAMP] += 1
    stamp = meta[k.STAMP]
    everything = meta[k.DIRTY] == k.ALL_LANES
    n_lanes = meta[k.N_LANES]
    for i in range(n_lanes):
        if not everything and lanes[i].fresh == 0:
            lanes[i].closed = stamp
        lanes[i].fresh = 0
    meta[k.DIRTY] = k.CLEAN
    room = len(wishes) - len(victims)
    while meta[k.N_WISHES] < room:
        i = first_open(works, lanes, n_lanes, stamp)
        if i < 0:
            return
        row = lanes[i].head
        p = find_room(works, nodes, pools, hist, shapes, claims, flags, row)
        if p >= 0:
            kept = works[row].reserved > 0 and works[row].reserved_pool == p
            rule = k.RESERVED_NODES if kept else k.FREE_CAPACITY
            count = shapes[works[row].shape, p, k.GPUS]
            start(
                works, lanes, nodes, gpus, pools, hist, claims, exposed, wishes, meta,
                row, p, count, rule, now_s,
            )  # fmt: skip
            continue
        lanes[i].closed = stamp
        if works[row].reserved > 0:
            reclaiming = pools[works[row].reserved_pool].reserved_by != row
            works[row].rule = k.WAITS_FOR_RECLAIM if reclaiming else k.HELD_FOR_LARGE_GANG
            continue
        if flags[k.USE_LEVELS] + flags[k.USE_GUARANTEES] > 0:
            if now_s - lanes[i].searched_s >= SEARCH_AGAIN_S:
                p = find_victims(
                    works, nodes, gpus, pools, shapes, claims, levels, exposed, flags,
                    taken, victims, picked, meta, row, now_s,
                )  # fmt: skip
                if p >= 0:
                    take_back(
                        works, nodes, gpus, pools, hist, shapes, claims, levels, exposed, ready,
                        flags, taken, victims, picked, wishes, meta, row, p, now_s,
                    )  # fmt: skip
                    continue
                lanes[i].searched_s = now_s
        if flags[k.RESERVE_AFTER_S] >= 0.0:
            keep_nodes(works, nodes, gpus, pools, hist, shapes, claims, flags, row, now_s)
    meta[k.DIRTY] = k.ALL_LANES  # the wishes are full: go on in another pass


@njit(cache=True)
def check(works: Table, gpus: Table, pools: Table, claims: Any, meta: Any, row: int) -> None:
    """The laws that cost nothing, after every fact: sums of each pool, and the gang at hand."""
    for p in range(len(pools)):
        held = 0
        for c in range(len(claims)):
            held += claims[c, p, k.HELD]
        pool = pools[p]
        if held != pool.held:
            meta[k.BROKEN] = k.POOL_SUM
        if pool.free < 0 or pool.held < 0 or pool.stopping < 0 or pool.reserved_free < 0:
            meta[k.BROKEN] = k.NEGATIVE
        if pool.free + pool.held > pool.up + pool.down:
            meta[k.BROKEN] = k.POOL_SUM
    if row >= 0:
        count = 0
        g = works[row].head
        while g >= 0:
            if gpus[g].owner != row:
                meta[k.BROKEN] = k.GANG_PARTIAL
            count += 1
            g = gpus[g].next
        if count != works[row].gpus:
            meta[k.BROKEN] = k.GANG_PARTIAL


@njit(cache=True)
def turn(
    works: Table,
    lanes: Table,
    nodes: Table,
    gpus: Table,
    pools: Table,
    hist: Any,
    shapes: Any,
    claims: Any,
    levels: Any,
    exposed: Any,
    ready: Any,
    flags: Any,
    taken: Any,
    victims: Any,
    picked: Any,
    wishes: Table,
    meta: Any,
    code: int,
    row: int,
    rule: int,
    lost_gpu_s: float,
    now_s: float,
) -> int:
    """Learn one fact, decide, check; returns the number of wishes written."""
    meta[k.N_WISHES] = 0
    learn(
        works, lanes, nodes, gpus, pools, hist, claims, exposed, ready, wishes, meta,
        code, row, rule, lost_gpu_s, now_s,
    )  # fmt: skip
    if meta[k.DIRTY] != k.CLEAN:
        decide(
            works, lanes, nodes, gpus, pools, hist, shapes, claims, levels, exposed, ready,
            flags, taken, victims, picked, wishes, meta, now_s,
        )  # fmt: skip
    check(works, gpus, pools, claims, meta, row if code >= k.WORK_SUBMITTED else -1)
    return int(meta[k.N_WISHES])


@njit(cache=True)
def relevel(
    works: Table,
    pools: Table,
    claims: Any,
    exposed: Any,
    ready: Any,
    meta: Any,
    row: int,
    lane: int,
    level: int,
    claim: int,
    mode: int,
    key: float,
    now_s: float,
) -> None:
    """Give a starting or running work another level, claim and mode where it stands."""
    work = works[row]
    p = work.pool
    settle(pools, p, now_s)
    if work.firm == 0:
        exposed[work.level, p] -= work.gpus
        exposed[level, p] += work.gpus
    else:
        claims[work.claim, p, k.FIRM] -= work.gpus
        claims[claim, p, k.FIRM] += work.gpus
    claims[work.claim, p, k.HELD] -= work.gpus
    claims[claim, p, k.HELD] += work.gpus
    if work.state == k.RUNNING and work.service >= 0:
        ready[work.service, work.mode, p] -= 1
        ready[work.service, mode, p] += 1
    # What it spent so far belongs to the mode it had; the caller has read it already.
    work.level, work.claim, work.mode, work.lane, work.key = level, claim, mode, lane, key
    meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def requeue(
    works: Table, lanes: Table, meta: Any, row: int, lane: int, level: int, key: float
) -> None:
    """Move a waiting work to another place in line."""
    leave(works, lanes, row)
    works[row].lane, works[row].level, works[row].key = lane, level, key
    line_up(works, lanes, meta, row)
    meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def enlist(
    works: Table,
    row: int,
    kind: int,
    class_: int,
    claim: int,
    tenant: int,
    service: int,
    mode: int,
    shape: int,
    lane: int,
    level: int,
    key: float,
    firm: int,
    bid: float,
    deadline_s: float,
    patience_s: float,
    checkpoint_s: float,
    restart_s: float,
    ref: int,
    now_s: float,
) -> None:
    """Write a new work's row; it waits."""
    work = works[row]
    work.kind, work.class_, work.claim, work.tenant = kind, class_, claim, tenant
    work.service, work.mode, work.shape, work.lane = service, mode, shape, lane
    work.level, work.key, work.firm, work.bid = level, key, firm, bid
    work.deadline_s, work.patience_s = deadline_s, patience_s
    work.checkpoint_s, work.restart_s, work.ref = checkpoint_s, restart_s, ref
    work.submitted_s = work.since_s = now_s
    work.head = work.pool = work.behind = work.by = -1
    work.state = k.WAITING

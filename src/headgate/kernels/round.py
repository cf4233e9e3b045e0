"""One turn of the machine: learn a fact, decide what to start and stop, check the sums.

Everything a turn reads or writes is an array of `headgate.kernels.layout`; the caller is
`headgate.control.machine`. A turn allocates nothing and its cost does not grow with the number of
waiting works, only with the number of lanes they wait in.
"""

from typing import Any

import numpy as np
from numba import njit

from headgate.kernels import layout as k
from headgate.kernels.columns import Columns, inner
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
from headgate.kernels.lanes import comes_first, first_open, join, leave, step_aside, step_back
from headgate.kernels.reclaim import could_come_back, reserve_picked, search, within_guarantee

# A failed search for victims is not repeated for the same lane sooner than this.
SEARCH_AGAIN_S = 60.0
# A start or a claim given up may open nodes to lanes that the same pass went by, so another pass
# follows; what is left after so many waits for the next fact.
PASSES = 16


@inner
def wish(t: Columns, what: int, row: int, p: int, rule: int, by: int) -> None:
    at = t.meta[k.N_WISHES]
    t.wishes[at].wish = what
    t.wishes[at].work = row
    t.wishes[at].pool = p
    t.wishes[at].rule = rule
    t.wishes[at].by = by
    t.meta[k.N_WISHES] = at + 1


@inner
def enter(t: Columns, row: int, state: int, now_s: float) -> None:
    """Move a work to a state, summing what it spent in the last one."""
    work = t.works[row]
    lapse_s = now_s - work.since_s
    if work.state == k.WAITING:
        work.waited_s += lapse_s
    elif work.state == k.STARTING:
        work.starting_gpu_s += lapse_s * work.gpus
    elif work.state == k.RUNNING:
        work.running_gpu_s += lapse_s * work.gpus
    elif work.state == k.STOPPING:
        work.stopping_gpu_s += lapse_s * work.gpus
    if k.STARTING <= work.state <= k.STOPPING:
        t.tally[work.class_, work.kind, work.state, work.pool] -= work.gpus
    if k.STARTING <= state <= k.STOPPING:
        t.tally[work.class_, work.kind, state, work.pool] += work.gpus
    work.state = state
    work.since_s = now_s


@inner
def start(t: Columns, row: int, p: int, count: int, rule: int, now_s: float) -> None:
    """Give a waiting work its accelerators and wish it started."""
    settle(t, p, now_s)
    if t.works[row].claiming > 0:
        step_back(t, row)
    else:
        leave(t, row)
    place(t, p, row, count)
    unreserve(t, row, now_s)
    work = t.works[row]
    t.claims[work.claim, p, k.HELD] += count
    if work.firm > 0:
        t.claims[work.claim, p, k.FIRM] += count
    else:
        t.exposed[work.level, p] += count
    t.pools[p].held += count
    work.held_from_s = now_s
    work.starts += 1
    work.rule = rule
    enter(t, row, k.STARTING, now_s)
    wish(t, k.START, row, p, rule, -1)


@inner
def stop(t: Columns, row: int, rule: int, by: int, now_s: float) -> None:
    """Wish a work stopped that starts or runs; it holds its accelerators until it answers."""
    work = t.works[row]
    p = work.pool
    if work.firm == 0:
        t.exposed[work.level, p] -= work.gpus
    if work.state == k.RUNNING and work.service >= 0:
        t.ready[work.service, work.mode, p] -= 1
    t.pools[p].stopping += work.gpus
    work.rule = rule
    work.by = by
    enter(t, row, k.STOPPING, now_s)
    wish(t, k.STOP, row, p, rule, by)


@inner
def release(t: Columns, row: int, state: int, now_s: float) -> None:
    """Take a work's accelerators back and move it to a state that holds none."""
    work = t.works[row]
    p, count = work.pool, work.gpus
    settle(t, p, now_s)
    if work.state == k.STOPPING:
        t.pools[p].stopping -= count
    else:
        if work.firm == 0:
            t.exposed[work.level, p] -= count
        if work.state == k.RUNNING and work.service >= 0:
            t.ready[work.service, work.mode, p] -= 1
    t.claims[work.claim, p, k.HELD] -= count
    if work.firm > 0:
        t.claims[work.claim, p, k.FIRM] -= count
    t.pools[p].held -= count
    enter(t, row, state, now_s)
    give_back(t, row)
    t.meta[k.DIRTY] = k.ALL_LANES


@inner
def line_up(t: Columns, row: int) -> None:
    """Put a waiting work into its lane; only a new head gives the round something to try."""
    if join(t, row):
        t.lanes[t.works[row].lane].fresh = 1
        if t.meta[k.DIRTY] == k.CLEAN:
            t.meta[k.DIRTY] = k.FRESH_HEADS


@inner
def search_again(t: Columns) -> None:
    """Let every lane search for victims at once: nodes have come open that it could not have."""
    for i in range(t.meta[k.N_LANES]):
        t.lanes[i].searched_s = -np.inf


@inner
def give_up_claim(t: Columns, row: int, now_s: float) -> None:
    """Let a claimant wait in its lane again."""
    unreserve(t, row, now_s)
    step_back(t, row)
    line_up(t, row)


@inner
def node_up(t: Columns, n: int, now_s: float) -> None:
    p = t.nodes[n].pool
    if t.nodes[n].state == k.UP:
        t.meta[k.BROKEN] = k.ILLEGAL_MOVE
        return
    settle(t, p, now_s)
    if t.nodes[n].state == k.DOWN:
        t.pools[p].down -= t.nodes[n].size
    t.nodes[n].state = k.UP
    t.pools[p].up += t.nodes[n].size
    put_on_books(t, n)
    t.meta[k.DIRTY] = k.ALL_LANES


@inner
def node_down(t: Columns, n: int, now_s: float) -> None:
    """A node is lost: nothing starts there; who holds it answers with a stop of its own."""
    p = t.nodes[n].pool
    if t.nodes[n].state != k.UP:
        t.meta[k.BROKEN] = k.ILLEGAL_MOVE
        return
    settle(t, p, now_s)
    claimant = t.nodes[n].reserved
    if claimant >= 0:
        give_up_claim(t, claimant, now_s)
    take_off_books(t, n)
    t.nodes[n].state = k.DOWN
    t.pools[p].up -= t.nodes[n].size
    t.pools[p].down += t.nodes[n].size
    t.meta[k.DIRTY] = k.ALL_LANES


@inner
def leave_line(t: Columns, row: int, now_s: float) -> None:
    """Take a waiting work out of its lane and drop what was reserved for it."""
    if t.works[row].claiming > 0:
        unreserve(t, row, now_s)
        step_back(t, row)
        search_again(t)
        return
    lane = t.lanes[t.works[row].lane]
    was_head = lane.head == row
    leave(t, row)
    if was_head and lane.head >= 0:
        lane.fresh = 1
        if t.meta[k.DIRTY] == k.CLEAN:
            t.meta[k.DIRTY] = k.FRESH_HEADS


@inner
def learn(t: Columns, code: int, row: int, rule: int, lost_gpu_s: float, now_s: float) -> None:
    """Take one fact into the tables. A move that the lifecycle forbids sets meta[BROKEN]."""
    if code == k.TIME_PASSED:
        t.meta[k.DIRTY] = k.ALL_LANES
        return
    if code == k.NODE_UP:
        node_up(t, row, now_s)
        return
    if code == k.NODE_DOWN:
        node_down(t, row, now_s)
        return
    if code == k.WORK_SUBMITTED:
        line_up(t, row)
        return
    state = t.works[row].state
    if code == k.WORK_STARTED:
        if state == k.STARTING:
            enter(t, row, k.RUNNING, now_s)
            t.works[row].running_s = now_s
            if t.works[row].service >= 0:
                t.ready[t.works[row].service, t.works[row].mode, t.works[row].pool] += 1
        elif state != k.STOPPING:  # a stop may cross a start on the way
            t.meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_FINISHED:
        if state == k.RUNNING or state == k.STOPPING:
            release(t, row, k.DONE, now_s)
            t.works[row].rule = rule
        else:
            t.meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_STOPPED:
        if state == k.STARTING or state == k.RUNNING or state == k.STOPPING:
            t.works[row].lost_gpu_s += lost_gpu_s
            gone = t.works[row].leaving > 0
            after = k.CANCELLED if gone else k.WAITING
            release(t, row, after, now_s)
            if state != k.STOPPING:
                t.works[row].rule = rule
            if not gone:
                t.works[row].evictions += 1
                line_up(t, row)
        else:
            t.meta[k.BROKEN] = k.ILLEGAL_MOVE
    elif code == k.WORK_CANCELLED or code == k.WORK_REFUSED or code == k.STOP_WANTED:
        if state == k.WAITING:
            leave_line(t, row, now_s)
            t.works[row].rule = rule
            enter(t, row, k.REFUSED if code == k.WORK_REFUSED else k.CANCELLED, now_s)
        elif state == k.STARTING or state == k.RUNNING:
            t.works[row].leaving = 1
            settle(t, t.works[row].pool, now_s)
            stop(t, row, rule, -1, now_s)
        elif state == k.STOPPING:
            t.works[row].leaving = 1
        else:
            t.meta[k.BROKEN] = k.ILLEGAL_MOVE


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
    claims = t.claims[row.claim, p]
    coming = claims[k.COMING]
    if row.claiming > 0 and row.reserved_pool == p:
        coming -= count
    if claims[k.HELD] + coming + count > claims[k.CAP]:
        return k.CLASS_CAP
    given = row.firm > 0 and t.flags[k.USE_GUARANTEES] > 0
    if given and not firm_fits(t, row.claim, p, count):
        return k.LENT_NOT_GIVEN
    return k.NO_ROOM


@inner
def find_room(t: Columns, row: int) -> int:
    """The first pool in the work's order with room for it now, or -1 with works.rule set."""
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
        if fits(t, p, count):
            return p
        kept_here = work.reserved > 0 and work.reserved_pool == p
        if kept_here and fits_reserved(t, p, count, row):
            return p
        work.rule = k.NO_ROOM
    return -1


@inner
def find_victims(t: Columns, row: int, now_s: float) -> int:
    """The pool in which accelerators should come back for the work, or -1."""
    best = -1
    best_loss = np.inf
    work = t.works[row]
    for i in range(t.shapes.shape[1]):
        p = t.shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = t.shapes[work.shape, p, k.GPUS]
        if allowed(t, work, p, count) != k.NO_ROOM:
            continue
        if not could_come_back(t, work, p, count):
            continue
        t.meta[k.STAMP] += 1
        total, _, _ = search(
            t, row, p, count, t.meta[k.STAMP], now_s,
        )  # fmt: skip
        if total < best_loss:
            best, best_loss = p, total
            if t.flags[k.CHEAPEST_POOL] == 0:
                break
    return best


@inner
def take_back(t: Columns, row: int, p: int, now_s: float) -> None:
    """Reserve the cheapest nodes of pool p for the work and wish stopped whoever is on them."""
    count = t.shapes[t.works[row].shape, p, k.GPUS]
    inside = within_guarantee(t, t.works[row].claim, p, count)
    rule = k.RECLAIM_GUARANTEE if inside else k.RECLAIM_ORDER
    settle(t, p, now_s)
    t.meta[k.STAMP] += 1
    _, n_picked, found = search(
        t, row, p, count, t.meta[k.STAMP], now_s,
    )  # fmt: skip
    reserve_picked(t, n_picked, row, p)
    for i in range(found):
        stop(t, t.victims[i], rule, row, now_s)
    t.works[row].rule = k.WAITS_FOR_RECLAIM


@inner
def will_end(t: Columns, n: int) -> bool:
    """Whether everybody on the node ends by himself: a replica or a firm lease may not."""
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v >= 0 and t.works[v].kind == k.REPLICA and t.works[v].state != k.STOPPING:
            return False
    return True


@inner
def keep_nodes(t: Columns, row: int, now_s: float) -> bool:
    """Keep nodes of the first possible pool empty for a work that has waited long enough.

    One work at a time in each pool; nodes with most free accelerators first, and only nodes whose
    holders end by themselves. Others go on being placed around it, so nobody else is blocked.
    """
    work = t.works[row]
    if now_s - work.since_s < t.flags[k.RESERVE_AFTER_S]:
        return False
    for i in range(t.shapes.shape[1]):
        p = t.shapes[work.shape, i, k.PREFERENCE]
        if p < 0:
            break
        count = t.shapes[work.shape, p, k.GPUS]
        if t.pools[p].reserved_by >= 0:
            continue
        if allowed(t, work, p, count) != k.NO_ROOM:
            continue
        size = node_size(t, p)
        wanted = (count + size - 1) // size
        first, last = t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes
        possible = 0
        for n in range(first, last):
            good = usable(t, n, row) and will_end(t, n)
            t.nodes[n].cost = t.nodes[n].free if good else -1.0
            possible += 1 if good else 0
        if possible < wanted:
            continue
        settle(t, p, now_s)
        for _ in range(wanted):
            best = first
            for n in range(first, last):
                if t.nodes[n].cost > t.nodes[best].cost:
                    best = n
            t.nodes[best].cost = -1.0
            reserve(t, best, row)
        work.reserved_pool = p
        t.claims[work.claim, p, k.COMING] += count
        work.rule = k.HELD_FOR_LARGE_GANG
        t.pools[p].reserved_by = row
        return True
    return False


@inner
def serve_claimant(t: Columns, row: int, now_s: float) -> None:
    """Start a work whose reserved nodes are free by now, or that finds room elsewhere."""
    p = find_room(t, row)
    if p >= 0:
        rule = k.RESERVED_NODES if t.works[row].reserved_pool == p else k.FREE_CAPACITY
        start(t, row, p, t.shapes[t.works[row].shape, p, k.GPUS], rule, now_s)
        return
    kept = t.works[row].reserved_pool
    if allowed(t, t.works[row], kept, t.shapes[t.works[row].shape, kept, k.GPUS]) != k.NO_ROOM:
        give_up_claim(t, row, now_s)
        return
    reclaiming = t.pools[kept].reserved_by != row
    t.works[row].rule = k.WAITS_FOR_RECLAIM if reclaiming else k.HELD_FOR_LARGE_GANG


@inner
def claim_nodes(t: Columns, row: int, now_s: float) -> bool:
    """Reserve nodes for the head of a lane: by taking back what it is owed, or by keeping nodes
    empty. False when neither can be done now."""
    lane = t.lanes[t.works[row].lane]
    takes_back = t.flags[k.USE_LEVELS] + t.flags[k.USE_GUARANTEES] > 0
    if takes_back and now_s - lane.searched_s >= SEARCH_AGAIN_S:
        p = find_victims(t, row, now_s)
        if p >= 0:
            take_back(t, row, p, now_s)
            step_aside(t, row)
            return True
        lane.searched_s = now_s
    if t.flags[k.RESERVE_AFTER_S] >= 0.0 and keep_nodes(t, row, now_s):
        step_aside(t, row)
        return True
    return False


@inner
def decide(t: Columns, now_s: float) -> None:
    """Serve the waiting by (level, key): start what fits, take back what is owed."""
    t.meta[k.STAMP] += 1
    stamp = t.meta[k.STAMP]
    everything = t.meta[k.DIRTY] == k.ALL_LANES
    n_lanes = t.meta[k.N_LANES]
    for i in range(n_lanes):
        if not everything and t.lanes[i].fresh == 0:
            t.lanes[i].closed = stamp
        t.lanes[i].fresh = 0
    t.meta[k.DIRTY] = k.CLEAN
    room = len(t.wishes) - len(t.victims)
    claimant = t.meta[k.CLAIMANTS] if everything else -1
    while t.meta[k.N_WISHES] < room:
        i = first_open(t, n_lanes, stamp)
        if claimant >= 0 and (i < 0 or comes_first(t, claimant, t.lanes[i].head)):
            following = t.works[claimant].behind
            serve_claimant(t, claimant, now_s)
            claimant = following
            continue
        if i < 0:
            return
        row = t.lanes[i].head
        p = find_room(t, row)
        if p >= 0:
            start(t, row, p, t.shapes[t.works[row].shape, p, k.GPUS], k.FREE_CAPACITY, now_s)
        elif not claim_nodes(t, row, now_s):
            t.lanes[i].closed = stamp
    t.meta[k.DIRTY] = k.ALL_LANES  # the wishes are full: go on in another pass


@inner
def check(t: Columns, row: int) -> None:
    """The laws that cost nothing, after every fact: sums of each pool, and the gang at hand."""
    for p in range(len(t.pools)):
        held = 0
        for c in range(len(t.claims)):
            held += t.claims[c, p, k.HELD]
        pool = t.pools[p]
        if held != pool.held:
            t.meta[k.BROKEN] = k.POOL_SUM
        if pool.free < 0 or pool.held < 0 or pool.stopping < 0 or pool.reserved_free < 0:
            t.meta[k.BROKEN] = k.NEGATIVE
        if pool.free + pool.held > pool.up + pool.down:
            t.meta[k.BROKEN] = k.POOL_SUM
    if row >= 0:
        count = 0
        g = t.works[row].head
        while g >= 0:
            if t.gpus[g].owner != row:
                t.meta[k.BROKEN] = k.GANG_PARTIAL
            count += 1
            g = t.gpus[g].next
        if count != t.works[row].gpus:
            t.meta[k.BROKEN] = k.GANG_PARTIAL


@njit(cache=True)
def turn(
    t: Columns, code: int, row: int, rule: int, lost_gpu_s: float, now_s: float
) -> tuple[int, int]:
    """Learn one fact, decide, check; returns wishes written and the law that broke (0: none).

    When the wishes do not fit, meta[DIRTY] says that another pass must follow.
    """
    t.meta[k.N_WISHES] = 0
    learn(t, code, row, rule, lost_gpu_s, now_s)
    room = len(t.wishes) - len(t.victims)
    for _ in range(PASSES):
        if t.meta[k.DIRTY] == k.CLEAN or t.meta[k.N_WISHES] >= room:
            break
        decide(t, now_s)
    check(t, row if code >= k.WORK_SUBMITTED else -1)
    return t.meta[k.N_WISHES], t.meta[k.BROKEN]


@njit(cache=True)
def relevel(
    t: Columns, row: int, lane: int, level: int, claim: int, mode: int, key: float, now_s: float
) -> None:
    """Give a work that holds accelerators another level, claim and mode where it stands."""
    work = t.works[row]
    p = work.pool
    settle(t, p, now_s)
    if work.firm == 0 and work.state != k.STOPPING:
        t.exposed[work.level, p] -= work.gpus
        t.exposed[level, p] += work.gpus
    if work.firm > 0:
        t.claims[work.claim, p, k.FIRM] -= work.gpus
        t.claims[claim, p, k.FIRM] += work.gpus
    t.claims[work.claim, p, k.HELD] -= work.gpus
    t.claims[claim, p, k.HELD] += work.gpus
    if work.state == k.RUNNING and work.service >= 0:
        t.ready[work.service, work.mode, p] -= 1
        t.ready[work.service, mode, p] += 1
    # What it spent so far belongs to the mode it had; the caller has read it already.
    work.level, work.claim, work.mode, work.lane, work.key = level, claim, mode, lane, key
    t.meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def requeue(
    t: Columns, row: int, lane: int, level: int, claim: int, mode: int, key: float, now_s: float
) -> None:
    """Move a waiting work to another place in line; nodes reserved for it are others' again."""
    if t.works[row].claiming > 0:
        unreserve(t, row, now_s)
        step_back(t, row)
    else:
        leave(t, row)
    work = t.works[row]
    work.lane, work.level, work.claim, work.mode, work.key = lane, level, claim, mode, key
    line_up(t, row)
    t.meta[k.DIRTY] = k.ALL_LANES


@njit(cache=True)
def enlist(
    t: Columns,
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
    priority: int,
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
    work = t.works[row]
    work.kind, work.class_, work.claim, work.tenant = kind, class_, claim, tenant
    work.service, work.mode, work.shape, work.lane = service, mode, shape, lane
    work.level, work.key, work.firm, work.bid = level, key, firm, bid
    work.priority = priority
    work.deadline_s, work.patience_s = deadline_s, patience_s
    work.checkpoint_s, work.restart_s, work.ref = checkpoint_s, restart_s, ref
    work.submitted_s = work.since_s = now_s
    work.head = work.pool = work.behind = work.by = -1
    work.state = k.WAITING

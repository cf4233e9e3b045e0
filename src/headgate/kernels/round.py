"""One turn of the machine: learn a fact, decide what to start and stop, check the sums.

Everything a turn reads or writes is an array of `headgate.kernels.layout`; the caller is
`headgate.control.machine`. A turn allocates nothing and its cost does not grow with the number of
waiting works, only with the number of lanes they wait in.
"""

from numba import njit

from headgate.kernels import layout as k
from headgate.kernels.claiming import claim_nodes, find_room, serve_claimant
from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import settle, unreserve
from headgate.kernels.lanes import comes_first, first_open, first_unserved, leave, step_back
from headgate.kernels.learning import learn
from headgate.kernels.moves import line_up, start

# A start or a claim given up may open nodes to lanes that the same pass went by, so another pass
# follows; what is left after so many waits for the next fact.
PASSES = 16


@inner
def decide(t: Columns, now_s: float) -> None:
    """Serve the waiting by (level, key): start what fits, take back what is owed."""
    t.meta[k.STAMP] += 1
    stamp = t.meta[k.PASS] = t.meta[k.STAMP]
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
        if claimant >= 0 and (t.works[claimant].claiming == 0 or t.works[claimant].mark == stamp):
            claimant = first_unserved(t, stamp)  # it had to leave its nodes to another
            continue
        if claimant >= 0 and (i < 0 or comes_first(t, claimant, t.lanes[i].head)):
            following = t.works[claimant].behind
            t.works[claimant].mark = stamp
            serve_claimant(t, claimant, now_s)
            claimant = following
            continue
        if i < 0:
            return
        row = t.lanes[i].head
        p, _ = find_room(t, row)
        if p >= 0:
            start(t, row, p, t.shapes[t.works[row].shape, p, k.GPUS], k.FREE_CAPACITY, now_s)
        elif claim_nodes(t, row, now_s):
            t.works[row].mark = stamp
        else:
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

"""Whose accelerators come back: the nodes that cost least to clear for a waiting work.

A work may be taken from when its level stands below the claimant's, or when the claimant is inside
its class's guarantee and the holder's class borrows. The price of a victim is either its age
(newest first, as quota schedulers do) or what stopping it loses. Nodes kept empty for a work that
would have to yield count as free.
"""

from typing import Any

import numpy as np

from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import node_size, reserve
from headgate.kernels.layout import (
    COMING,
    FIRM,
    GPUS,
    GUARANTEE,
    HELD,
    LEAST_LOSS,
    RUNNING,
    STAMP,
    STARTING,
    STOPPING,
    UP,
    USE_GUARANTEES,
    USE_LEVELS,
)

# Scratch in nodes.cost: the node is among those picked already.
PICKED = -1.0


@inner
def promised(t: Columns, work: Any, p: int) -> int:
    """What the work's class holds of the pool and has on its way there, but for this work."""
    total = t.claims[work.claim, p, HELD] + t.claims[work.claim, p, COMING]
    if work.claiming > 0 and work.reserved_pool == p:
        total -= t.shapes[work.shape, p, GPUS]
    return int(total)


@inner
def within_guarantee(t: Columns, work: Any, p: int, count: int) -> bool:
    """Whether the work's class is guaranteed so much beyond what it holds and has on its way."""
    guarantee = t.claims[work.claim, p, GUARANTEE]
    return t.flags[USE_GUARANTEES] > 0 and promised(t, work, p) + count <= guarantee


@inner
def yielding(t: Columns, work: Any, p: int, inside: bool) -> int:
    """The work that nodes of pool p are kept empty for, if it must leave them; -1 if not."""
    row = t.pools[p].reserved_by
    if row < 0:
        return -1
    keeper = t.works[row]
    yields = t.flags[USE_LEVELS] > 0 and t.levels[work.level, keeper.level] > 0
    if t.flags[USE_GUARANTEES] > 0 and keeper.claim != work.claim:
        claims = t.claims[keeper.claim, p]
        borrows = claims[HELD] + claims[COMING] > claims[GUARANTEE]
        yields = borrows and (inside or yields)
    return row if yields else -1


@inner
def could_come_back(t: Columns, work: Any, p: int, count: int, spares: bool) -> bool:
    """A bound that costs nothing: could `count` accelerators of pool p come free for this work?

    `spares` as in `takeable`.
    """
    inside = within_guarantee(t, work, p, count)
    pool = t.pools[p]
    kept = pool.reserved_free if yielding(t, work, p, inside) >= 0 else 0
    own = pool.reserved_free if work.claiming > 0 and work.reserved_pool == p else 0
    total = pool.free - pool.reserved_free + pool.stopping + kept + own
    by_order = 0
    if t.flags[USE_LEVELS] > 0:
        for level in range(len(t.exposed)):
            if t.levels[work.level, level] > 0:
                by_order += t.exposed[level, p]
    # What other classes hold beyond their guarantees, or its own class at lower levels: nobody
    # else can be taken from.
    beyond = t.claims[work.claim, p, HELD] - t.claims[work.claim, p, FIRM]
    borrowed = 0
    for c in range(len(t.claims)):
        if c == work.claim:
            continue
        held, firm = t.claims[c, p, HELD], t.claims[c, p, FIRM]
        if t.flags[USE_GUARANTEES] == 0:
            borrowed += held - firm
        elif held > t.claims[c, p, GUARANTEE]:
            borrowed += held - (max(firm, t.claims[c, p, GUARANTEE]) if spares else firm)
    found = min(by_order, beyond + borrowed)
    if inside:
        found = max(found, min(by_order, beyond) + borrowed)
    return total + found >= count and found + pool.stopping + kept > 0


@inner
def loss(t: Columns, v: int, now_s: float) -> float:
    """What stopping v loses: money for work since its checkpoint and its restart, or its age."""
    victim = t.works[v]
    if t.flags[LEAST_LOSS] == 0:
        return now_s - victim.held_from_s + 1.0
    at_risk_s = 0.0
    if victim.state == STARTING:
        at_risk_s = now_s - victim.since_s
    elif victim.checkpoint_s > 0.0:
        at_risk_s = (now_s - victim.running_s) % victim.checkpoint_s
    return (at_risk_s + victim.restart_s) * victim.gpus * victim.bid


@inner
def takeable(t: Columns, row: int, v: int, inside: bool, spares: bool) -> bool:
    """Whether v may be stopped for `row`; `taken[c]` is what this search takes from claim c.

    With `spares` a class is left its guarantee whole. Without, a work that straddles it, part
    inside and part borrowed, may go too: for a claimant inside its own guarantee, or when the work
    is larger than the guarantee, which then could not have asked for it.
    """
    claimant, victim = t.works[row], t.works[v]
    if victim.firm > 0 or (victim.state != RUNNING and victim.state != STARTING):
        return False
    p, b = victim.pool, victim.claim
    if t.flags[USE_GUARANTEES] > 0 and b != claimant.claim:
        held, guarantee = t.claims[b, p, HELD] - t.taken[b], t.claims[b, p, GUARANTEE]
        if held - victim.gpus < guarantee:
            straddles = held > guarantee and (inside or victim.gpus > guarantee)
            if spares or not straddles:
                return False
        if inside:
            return True
    return t.flags[USE_LEVELS] > 0 and t.levels[claimant.level, victim.level] > 0


@inner
def forget_trial(t: Columns, n: int, trial: int) -> None:
    """Take back a trial's marks on a node, and what it counted as taken."""
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v >= 0 and t.works[v].mark == trial:
            t.works[v].mark = 0
            t.taken[t.works[v].claim] -= t.works[v].gpus


@inner
def clearing_cost(
    t: Columns, row: int, n: int, stamp: int, now_s: float, inside: bool, spares: bool
) -> float:
    """What clearing the whole node loses; infinite when somebody on it cannot be taken from."""
    total = 0.0
    # Marks of this trial are negative stamps, so they never count as marks of the search itself;
    # what is taken from one victim guards the next of its class.
    trial = -stamp
    marked = False
    last_seen = -1
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v < 0 or v == last_seen:
            continue
        last_seen = v
        if t.works[v].state == STOPPING:
            continue
        if t.works[v].mark == stamp or t.works[v].mark == trial:
            continue
        if not takeable(t, row, v, inside, spares):
            total = np.inf
            break
        t.works[v].mark = trial
        t.taken[t.works[v].claim] += t.works[v].gpus
        total += loss(t, v, now_s)
        marked = True
    if marked:
        forget_trial(t, n, trial)
    return total


@inner
def open_to(t: Columns, n: int, row: int, keeper: int) -> bool:
    """Whether the node is up and kept for nobody, for the work itself, or for `keeper`."""
    reserved = t.nodes[n].reserved
    return t.nodes[n].state == UP and (reserved < 0 or reserved in (row, keeper))


@inner
def better(t: Columns, n: int, cost: float, best: int, least: float, row: int) -> bool:
    """Whether a node is to be picked before the best so far: for less, or for not being kept."""
    if cost < least:
        return True
    kept = best >= 0 and t.nodes[best].reserved >= 0 and t.nodes[best].reserved != row
    return cost == least and kept and (t.nodes[n].reserved < 0 or t.nodes[n].reserved == row)


@inner
def take_victim(t: Columns, v: int, found: int, stamp: int) -> None:
    t.works[v].mark = stamp
    t.taken[t.works[v].claim] += t.works[v].gpus
    t.victims[found] = v


@inner
def take_node(
    t: Columns, row: int, n: int, keeper: int, found: int, stamp: int, now_s: float, inside: bool,
    spares: bool,
) -> int:  # fmt: skip
    """Mark everybody on the node as a victim of this search; returns how many are found by now.

    Other nodes that the victims lie on cost less from now on.
    """
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v < 0 or t.works[v].state == STOPPING or t.works[v].mark == stamp:
            continue
        take_victim(t, v, found, stamp)
        found += 1
        priced = n
        at = t.works[v].head
        while at >= 0:
            m = t.gpus[at].node
            if m != priced and t.nodes[m].cost != PICKED and open_to(t, m, row, keeper):
                t.nodes[m].cost = clearing_cost(t, row, m, stamp, now_s, inside, spares)
            priced = m
            at = t.gpus[at].next
    return found


@inner
def free_soon(t: Columns, n: int, stamp: int) -> int:
    """Accelerators of the node that are free, being freed, or marked for it."""
    count = 0
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v < 0 or t.works[v].state == STOPPING or t.works[v].mark == stamp:
            count += 1
    return count


@inner
def held_on(t: Columns, n: int, v: int) -> int:
    """Accelerators of the node that v holds."""
    count = 0
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        count += 1 if t.gpus[g].owner == v else 0
    return count


@inner
def cheapest_on_node(
    t: Columns, row: int, n: int, stamp: int, now_s: float, inside: bool, spares: bool
) -> tuple[int, float]:
    """The takeable work on the node, not yet marked, that loses least, and that; -1 for none."""
    best = last_seen = -1
    best_loss = np.inf
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v < 0 or v == last_seen:
            continue
        last_seen = v
        if t.works[v].mark == stamp or t.works[v].mark == -stamp:
            continue
        if takeable(t, row, v, inside, spares):
            cost = loss(t, v, now_s)
            if cost < best_loss:
                best, best_loss = v, cost
    return best, best_loss


@inner
def free_rest(
    t: Columns, row: int, n: int, rest: int, found: int, stamp: int, now_s: float, inside: bool,
    spares: bool, most: float,
) -> tuple[float, int]:  # fmt: skip
    """What freeing `rest` accelerators on the node loses; infinite when it cannot be done, or
    not for `most`.

    Writes the victims behind the first `found` ones; returns also how many they are. They are
    taken as they lose least, and then, dearest first, who is not needed after all is let go.
    """
    lacking = rest - free_soon(t, n, stamp)
    count = 0
    while lacking > 0:
        v, cost = cheapest_on_node(t, row, n, stamp, now_s, inside, spares)
        if v < 0 or cost > most:  # without the last one taken it would not do
            forget_trial(t, n, -stamp)
            return np.inf, 0
        take_victim(t, v, found + count, -stamp)
        lacking -= held_on(t, n, v)
        count += 1
    forget_trial(t, n, -stamp)
    for i in range(count - 1, -1, -1):
        held = held_on(t, n, t.victims[found + i])
        if lacking + held <= 0:
            lacking += held
            t.victims[found + i] = -1
    total = 0.0
    needed = 0
    for i in range(count):
        v = t.victims[found + i]
        if v >= 0:
            t.victims[found + needed] = v
            total += loss(t, v, now_s)
            needed += 1
    return total, needed


@inner
def search(
    t: Columns, row: int, p: int, first: int, last: int, count: int, spares: bool, now_s: float
) -> tuple[float, int, int]:
    """Nodes and victims that make `count` accelerators of pool p come free for `row`, on nodes
    `first` to `last` - 1.

    Fills `picked` (nodes) and `victims` (works); returns the total loss and how many of each. The
    loss is infinite when it cannot be done. `spares` as in `takeable`.
    """
    t.meta[STAMP] += 1
    stamp = t.meta[STAMP]
    t.taken[:] = 0
    inside = within_guarantee(t, t.works[row], p, count)
    keeper = yielding(t, t.works[row], p, inside)
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    found = 0
    n_picked = 0
    total = 0.0
    for n in range(first, last):
        t.nodes[n].cost = np.inf
        if whole > 0 and open_to(t, n, row, keeper):
            t.nodes[n].cost = clearing_cost(t, row, n, stamp, now_s, inside, spares)
    while n_picked < whole:
        best = -1
        least = np.inf
        for n in range(first, last):
            cost = t.nodes[n].cost
            if cost != PICKED and better(t, n, cost, best, least, row):
                best, least = n, cost
        if best < 0:
            return np.inf, 0, 0
        # A cost is right but for guards: a class that has lost too much since yields no more.
        cost = clearing_cost(t, row, best, stamp, now_s, inside, spares)
        if cost != least:
            t.nodes[best].cost = cost
            continue
        total += cost
        t.nodes[best].cost = PICKED
        t.picked[n_picked] = best
        n_picked += 1
        found = take_node(t, row, best, keeper, found, stamp, now_s, inside, spares)
    if rest > 0:
        best = -1
        least = np.inf
        for n in range(first, last):
            if t.nodes[n].cost == PICKED or not open_to(t, n, row, keeper):
                continue
            cost, _ = free_rest(t, row, n, rest, found, stamp, now_s, inside, spares, least)
            if better(t, n, cost, best, least, row):
                best, least = n, cost
        if best < 0:
            return np.inf, 0, 0
        _, needed = free_rest(t, row, best, rest, found, stamp, now_s, inside, spares, least)
        total += least
        t.picked[n_picked] = best
        n_picked += 1
        found += needed
    return total, n_picked, found


@inner
def reserve_picked(t: Columns, n_picked: int, row: int, p: int) -> None:
    """Keep the picked nodes for the claimant until it starts."""
    for i in range(n_picked):
        reserve(t, t.picked[i], row)
    t.works[row].reserved_pool = p
    t.claims[t.works[row].claim, p, COMING] += t.shapes[t.works[row].shape, p, GPUS]

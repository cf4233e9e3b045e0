"""Whose accelerators come back: the nodes that cost least to clear for a waiting work.

A work may be taken from when its level stands below the claimant's, or when the claimant is inside
its class's guarantee and the holder's class borrows. The price of a victim is either its age
(newest first, as quota schedulers do) or what stopping it loses.
"""

from typing import Any

import numpy as np

from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import node_size, reserve, usable
from headgate.kernels.layout import (
    COMING,
    FIRM,
    GPUS,
    GUARANTEE,
    HELD,
    LEAST_LOSS,
    RUNNING,
    STARTING,
    STOPPING,
    USE_GUARANTEES,
    USE_LEVELS,
)


@inner
def within_guarantee(t: Columns, claim: int, p: int, count: int) -> bool:
    """Whether the class is guaranteed so much beyond what it holds and has on its way."""
    claims = t.claims[claim, p]
    return (
        t.flags[USE_GUARANTEES] > 0 and claims[HELD] + claims[COMING] + count <= claims[GUARANTEE]
    )


@inner
def could_come_back(t: Columns, work: Any, p: int, count: int) -> bool:
    """A bound that costs nothing: could `count` accelerators of pool p come free for this work?"""
    total = t.pools[p].free - t.pools[p].reserved_free + t.pools[p].stopping
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
        if c != work.claim:
            own = t.claims[c, p, FIRM]
            if t.flags[USE_GUARANTEES] > 0:
                own = max(own, t.claims[c, p, GUARANTEE])
            borrowed += max(0, t.claims[c, p, HELD] - own)
    found = min(by_order, beyond + borrowed)
    if within_guarantee(t, work.claim, p, count):
        found = max(found, min(by_order, beyond) + borrowed)
    return total + found >= count and found + t.pools[p].stopping > 0


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
def takeable(t: Columns, row: int, v: int, inside: bool) -> bool:
    """Whether v may be stopped for `row`; `taken[c]` is what this search takes from claim c."""
    claimant, victim = t.works[row], t.works[v]
    if victim.firm > 0 or (victim.state != RUNNING and victim.state != STARTING):
        return False
    p, b = victim.pool, victim.claim
    if t.flags[USE_GUARANTEES] > 0 and b != claimant.claim:
        left = t.claims[b, p, HELD] - t.taken[b] - victim.gpus
        if left < t.claims[b, p, GUARANTEE]:
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
def clearing_cost(t: Columns, row: int, n: int, stamp: int, now_s: float, inside: bool) -> float:
    """What clearing the whole node loses; infinite when somebody on it cannot be taken from."""
    total = 0.0
    # Marks of this trial are negative stamps, so they never count as marks of the search itself;
    # what is taken from one victim guards the next of its class.
    trial = -stamp
    marked = False
    first, last = t.nodes[n].first, t.nodes[n].first + t.nodes[n].size
    for g in range(first, last):
        v = t.gpus[g].owner
        if v < 0 or t.works[v].state == STOPPING:
            continue
        if t.works[v].mark == stamp or t.works[v].mark == trial:
            continue
        if not takeable(t, row, v, inside):
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
def mark_owners(t: Columns, found: int, n: int, stamp: int) -> int:
    """Mark everybody on the node as a victim of this search; returns how many are found by now."""
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v >= 0 and t.works[v].state != STOPPING and t.works[v].mark != stamp:
            t.works[v].mark = stamp
            t.taken[t.works[v].claim] += t.works[v].gpus
            t.victims[found] = v
            found += 1
    return found


@inner
def cheapest_on_node(t: Columns, row: int, n: int, stamp: int, now_s: float, inside: bool) -> int:
    """The takeable work on the node that loses least, or -1."""
    best = -1
    best_loss = np.inf
    for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
        v = t.gpus[g].owner
        if v < 0 or t.works[v].state == STOPPING or t.works[v].mark == stamp or v == best:
            continue
        if takeable(t, row, v, inside):
            cost = loss(t, v, now_s)
            if cost < best_loss:
                best, best_loss = v, cost
    return best


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
def search(
    t: Columns, row: int, p: int, count: int, stamp: int, now_s: float
) -> tuple[float, int, int]:
    """Nodes and victims that make `count` accelerators of pool p come free for `row`.

    Fills `picked` (nodes) and `victims` (works, marked with `stamp`); returns the total loss and
    how many of each. The loss is infinite when it cannot be done; then the marks mean nothing.
    """
    t.taken[:] = 0
    inside = within_guarantee(t, t.works[row].claim, p, count)
    size = node_size(t, p)
    whole = count // size
    rest = count - whole * size
    first, last = t.pools[p].first_node, t.pools[p].first_node + t.pools[p].nodes
    found = 0
    n_picked = 0
    total = 0.0
    for n in range(first, last):
        t.nodes[n].cost = 0.0 if usable(t, n, row) else np.inf
    while n_picked < whole:
        best = -1
        best_cost = np.inf
        for n in range(first, last):
            if t.nodes[n].cost == np.inf:
                continue
            cost = clearing_cost(t, row, n, stamp, now_s, inside)
            if cost < best_cost:
                best, best_cost = n, cost
                if cost == 0.0:
                    break
        if best < 0:
            return np.inf, 0, 0
        total += best_cost
        t.nodes[best].cost = np.inf
        t.picked[n_picked] = best
        n_picked += 1
        found = mark_owners(t, found, best, stamp)
    if rest > 0:
        best = -1
        best_cost = np.inf
        for n in range(first, last):
            if t.nodes[n].cost == np.inf:
                continue
            cost = rest_cost(t, row, n, rest, stamp, now_s, inside)
            if cost < best_cost:
                best, best_cost = n, cost
        if best < 0:
            return np.inf, 0, 0
        total += best_cost
        t.picked[n_picked] = best
        n_picked += 1
        while free_soon(t, best, stamp) < rest:
            v = cheapest_on_node(t, row, best, stamp, now_s, inside)
            t.works[v].mark = stamp
            t.taken[t.works[v].claim] += t.works[v].gpus
            t.victims[found] = v
            found += 1
    return total, n_picked, found


@inner
def rest_cost(
    t: Columns, row: int, n: int, rest: int, stamp: int, now_s: float, inside: bool
) -> float:
    """What freeing `rest` accelerators on the node loses; infinite when it cannot be done."""
    lacking = rest - free_soon(t, n, stamp)
    total = 0.0
    trial = -stamp
    while lacking > 0:
        best = -1
        best_loss = np.inf
        for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
            v = t.gpus[g].owner
            if v < 0 or t.works[v].state == STOPPING or v == best:
                continue
            if t.works[v].mark == stamp or t.works[v].mark == trial:
                continue
            if takeable(t, row, v, inside):
                cost = loss(t, v, now_s)
                if cost < best_loss:
                    best, best_loss = v, cost
        if best < 0:
            total = np.inf
            break
        on_node = 0
        for g in range(t.nodes[n].first, t.nodes[n].first + t.nodes[n].size):
            if t.gpus[g].owner == best:
                on_node += 1
        t.works[best].mark = trial
        t.taken[t.works[best].claim] += t.works[best].gpus
        total += best_loss
        lacking -= on_node
    forget_trial(t, n, trial)
    return total


@inner
def reserve_picked(t: Columns, n_picked: int, row: int, p: int) -> None:
    """Keep the picked nodes for the claimant until it starts."""
    for i in range(n_picked):
        if t.nodes[t.picked[i]].reserved != row:
            reserve(t, t.picked[i], row)
    t.works[row].reserved_pool = p
    t.claims[t.works[row].claim, p, COMING] += t.shapes[t.works[row].shape, p, GPUS]

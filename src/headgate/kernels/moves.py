"""The moves of a work between its states, with every sum that changes by them."""

import numpy as np

from headgate.kernels import layout as k
from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import give_back, settle, unreserve
from headgate.kernels.lanes import join, leave, step_back
from headgate.kernels.placing import place


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
    """Give a waiting work its accelerators, by its rule those reserved, and wish it started."""
    settle(t, p, now_s)
    if t.works[row].claiming > 0:
        step_back(t, row)
    else:
        leave(t, row)
    place(t, p, row, count, rule == k.RESERVED_NODES)
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
    """Let everybody search for victims at once: nodes have come open that he could not have."""
    for i in range(t.meta[k.N_LANES]):
        t.lanes[i].searched_s = -np.inf
    for p in range(len(t.pools)):
        t.pools[p].searched_s = -np.inf


@inner
def give_up_claim(t: Columns, row: int, now_s: float) -> None:
    """Let a claimant wait in its lane again."""
    unreserve(t, row, now_s)
    step_back(t, row)
    line_up(t, row)


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

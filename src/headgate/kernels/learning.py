"""Facts into the tables: what each does to works and nodes."""

from headgate.kernels import layout as k
from headgate.kernels.columns import Columns, inner
from headgate.kernels.ground import put_on_books, settle, take_off_books
from headgate.kernels.moves import enter, give_up_claim, leave_line, line_up, release, stop


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

"""Callers that hang up and replicas that are lost: rare, and in no hot loop."""

from headgate.kernels.serving.books import window_of
from headgate.kernels.serving.compiling import compiled
from headgate.kernels.serving.layout import (
    ASKED,
    BACKLOG,
    BELOW,
    CACHED,
    DECODE,
    DECODING,
    ENDS,
    ENTERING,
    FIRST,
    FREED,
    GONE,
    HELD,
    ID,
    KIND,
    KV,
    LEAVING,
    LEAVING_BLOCKS,
    LEFT,
    LEVEL_SHIFT,
    LOW_BITS,
    MARK,
    NEXT,
    OUTSTANDING,
    PARTIAL,
    PREFILL,
    REPLICA_SHIFT,
    ROW_MASK,
    RUN,
    SMALL,
    STATE,
    UP,
    USED,
    W_CANCELLED,
    W_FAILED,
    W_REFUSED,
    W_REROUTED,
    WAITING,
    Books,
    Fleet,
    Rules,
    Tables,
    heap_at,
    lines_at,
)
from headgate.kernels.serving.replica import (
    INFINITY,
    advance,
    cut,
    drop_row,
    look_again,
    work_s,
)
from headgate.kernels.serving.waiting import first_waiting, put_back


@compiled
def find(fleet: Fleet, request: int) -> int:
    """The row of a request in flight, or -1 if it has ended."""
    for row in range(fleet.req.shape[0]):
        if fleet.req[row, ID] == request:
            return row
    return -1


@compiled
def cancel(
    fleet: Fleet, rules: Rules, tables: Tables, books: Books, request: int, at_s: float
) -> None:
    """A caller hangs up: a waiting request leaves at once, a running one with its iteration."""
    row = find(fleet, request)
    if row < 0:
        return
    r = (fleet.req[row, KIND] >> REPLICA_SHIFT) & SMALL
    advance(fleet, rules, tables, books, r, at_s)
    if fleet.req[row, ID] != request or fleet.req[row, KIND] & GONE:
        return
    group = fleet.req[row, KIND] & LOW_BITS
    books.windows[window_of(books, at_s), group, W_CANCELLED] += 1
    if unlink(fleet, rules, r, row):
        fleet.rep[r, OUTSTANDING] -= 1
        fleet.repf[r, BACKLOG] -= work_s(fleet, rules, tables, r, row)
        drop_row(fleet, row)
        first = first_waiting(fleet, rules, r, at_s)
        if first >= 0:
            look_again(fleet, rules, tables, r, first, at_s)
        return
    fleet.req[row, KIND] |= GONE
    fleet.rep[r, LEFT] += 1
    if fleet.rep[r, RUN] > 1:
        cut(fleet, rules, tables, r, at_s)


@compiled
def unlink(fleet: Fleet, rules: Rules, r: int, row: int) -> bool:
    """Take a request out of its waiting line; false if it is in none."""
    rep, req = fleet.rep, fleet.req
    head = lines_at(rules) + ((req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS)
    before, at = -1, rep[r, head]
    while at >= 0 and at != row:
        before, at = at, req[at, NEXT]
    if at < 0:
        return False
    if before < 0:
        rep[r, head] = req[row, NEXT]
    else:
        req[before, NEXT] = req[row, NEXT]
        if rep[r, head + rules.levels] == row:
            rep[r, head + rules.levels] = before
    rep[r, WAITING] -= 1
    return True


@compiled
def lose(fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, at_s: float) -> None:
    """A replica is gone with all it held, in the middle of its iteration.

    Requests without a first token go to the replica with the fewest outstanding; the others have
    failed in their callers' hands. The replica must not be UP any more.
    """
    rep, req = fleet.rep, fleet.req
    advance(fleet, rules, tables, books, r, at_s)
    orphans = -1
    first = heap_at(rules)
    for i in range(rep[r, DECODING]):
        row = rep[r, first + i] & ROW_MASK
        req[row, NEXT] = orphans
        orphans = row
    if rep[r, PARTIAL] >= 0:
        req[rep[r, PARTIAL], NEXT] = orphans
        orphans = rep[r, PARTIAL]
    lines = lines_at(rules)
    for line in range(rules.levels + 1):
        at = ENTERING if line == rules.levels else lines + line
        row = rep[r, at]
        while row >= 0:
            following = req[row, NEXT]
            req[row, NEXT] = orphans
            orphans = row
            row = following
        rep[r, at] = -1
    forget(fleet, rules, r)
    while orphans >= 0:
        row = orphans
        orphans = req[row, NEXT]
        settle(fleet, rules, tables, books, row, at_s)


@compiled
def forget(fleet: Fleet, rules: Rules, r: int) -> None:
    """Make a replica empty and idle."""
    rep = fleet.rep
    for column in (DECODING, KV, USED, RUN, HELD, WAITING, OUTSTANDING, LEAVING, LEAVING_BLOCKS):
        rep[r, column] = 0
    rep[r, LEFT] = 0
    rep[r, FREED] = 0
    rep[r, PARTIAL] = -1
    for j in range(rules.block + 1):
        rep[r, BELOW + j] = 0
    fleet.repf[r, BACKLOG] = 0.0
    fleet.repf[r, ENDS] = INFINITY


@compiled
def settle(fleet: Fleet, rules: Rules, tables: Tables, books: Books, row: int, at_s: float) -> None:
    """Send a request whose replica is lost elsewhere, or count it as failed."""
    rep, req, reqf = fleet.rep, fleet.req, fleet.reqf
    group = req[row, KIND] & LOW_BITS
    w = window_of(books, at_s)
    total = req[row, PREFILL] + req[row, DECODE]
    target = -1
    for r in range(rep.shape[0]):
        if rep[r, STATE] == UP and (target < 0 or rep[r, OUTSTANDING] < rep[target, OUTSTANDING]):
            target = r
    if req[row, KIND] & GONE or reqf[row, FIRST] >= 0.0 or target < 0:
        column = W_FAILED if reqf[row, FIRST] >= 0.0 else W_REFUSED
        if req[row, KIND] & GONE == 0:
            books.windows[w, group, column] += 1
        drop_row(fleet, row)
        return
    books.windows[w, group, W_REROUTED] += 1
    req[row, DECODE] = int(reqf[row, ASKED])
    req[row, PREFILL] = total - req[row, DECODE]
    req[row, CACHED] = 0
    reqf[row, MARK] = -1.0
    req[row, KIND] &= (1 << REPLICA_SHIFT) - 1
    req[row, KIND] |= target << REPLICA_SHIFT
    advance(fleet, rules, tables, books, target, at_s)
    put_back(fleet, rules, target, row)
    rep[target, OUTSTANDING] += 1
    fleet.repf[target, BACKLOG] += work_s(fleet, rules, tables, target, row)
    look_again(fleet, rules, tables, target, row, at_s)

"""The waiting lines of a replica: one list for each priority level, in order of arrival."""

from headgate.kernels.serving.compiling import compiled, inlined
from headgate.kernels.serving.layout import (
    ARRIVED,
    ID,
    KIND,
    LEVEL_SHIFT,
    LOW_BITS,
    NEXT,
    WAITING,
    At,
    Fleet,
    Rules,
    lines_at,
)


@inlined
def first_waiting(fleet: Fleet, rules: Rules, r: int, known_s: float) -> int:
    """The request to admit next, or -1: the first of the most urgent line, among those that had
    arrived by known_s."""
    at = lines_at(rules)
    for level in range(rules.levels):
        row = fleet.rep[r, At(at + level)]
        if row >= 0 and fleet.reqf[row, ARRIVED] <= known_s:
            return row
    return -1


@inlined
def push_waiting(fleet: Fleet, rules: Rules, r: int, row: int) -> None:
    """Put a new request at the end of its line."""
    rep, req = fleet.rep, fleet.req
    head = lines_at(rules) + ((req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS)
    tail = head + rules.levels
    req[row, NEXT] = -1
    if rep[r, At(head)] < 0:
        rep[r, At(head)] = row
    else:
        req[rep[r, At(tail)], NEXT] = row
    rep[r, At(tail)] = row
    rep[r, WAITING] += 1


@inlined
def pop_waiting(fleet: Fleet, rules: Rules, r: int, level: int) -> None:
    """Take the first request off a line."""
    head = lines_at(rules) + level
    fleet.rep[r, At(head)] = fleet.req[fleet.rep[r, At(head)], NEXT]
    fleet.rep[r, WAITING] -= 1


@compiled
def put_back(fleet: Fleet, rules: Rules, r: int, row: int) -> None:
    """Return a preempted or moved request to its line: they stand in order of arrival."""
    rep, req, reqf = fleet.rep, fleet.req, fleet.reqf
    head = lines_at(rules) + ((req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS)
    before, after = -1, rep[r, At(head)]
    at_s, serial = reqf[row, ARRIVED], req[row, ID]
    while after >= 0 and (
        reqf[after, ARRIVED] < at_s or (reqf[after, ARRIVED] == at_s and req[after, ID] < serial)
    ):
        before, after = after, req[after, NEXT]
    req[row, NEXT] = after
    if before < 0:
        rep[r, At(head)] = row
    else:
        req[before, NEXT] = row
    if after < 0:
        rep[r, head + rules.levels] = row
    rep[r, WAITING] += 1

"""Waiting lines. Works of one level, class, shape and firmness wait in one lane, by key.

When the head of a lane finds no room, nobody behind it would, so a round looks at heads only and
a long queue costs nothing. A work for which nodes are reserved waits apart, among the claimants,
so that whoever stood behind it may claim nodes too.
"""

from headgate.kernels.columns import Columns, inner
from headgate.kernels.layout import CLAIMANTS


@inner
def join(t: Columns, row: int) -> bool:
    """Put a work into its lane in order of key; True when it is the new head."""
    lane = t.lanes[t.works[row].lane]
    lane.count += 1
    key = t.works[row].key
    if lane.head < 0:
        lane.head = lane.tail = row
        t.works[row].behind = -1
        return True
    if key >= t.works[lane.tail].key:
        t.works[lane.tail].behind = row
        t.works[row].behind = -1
        lane.tail = row
        return False
    if key < t.works[lane.head].key:
        t.works[row].behind = lane.head
        lane.head = row
        return True
    at = lane.head
    while t.works[t.works[at].behind].key <= key:
        at = t.works[at].behind
    t.works[row].behind = t.works[at].behind
    t.works[at].behind = row
    return False


@inner
def leave(t: Columns, row: int) -> None:
    """Take a work out of its lane."""
    lane = t.lanes[t.works[row].lane]
    lane.count -= 1
    following = t.works[row].behind
    if lane.head == row:
        lane.head = following
        if following < 0:
            lane.tail = -1
    else:
        at = lane.head
        while t.works[at].behind != row:
            at = t.works[at].behind
        t.works[at].behind = following
        if lane.tail == row:
            lane.tail = at
    t.works[row].behind = -1


@inner
def comes_first(t: Columns, row: int, other: int) -> bool:
    """Whether a work is served before another: by level, key, and submission."""
    one, two = t.works[row], t.works[other]
    if one.level != two.level:
        return one.level < two.level
    return one.key < two.key or (one.key == two.key and row < other)


@inner
def first_open(t: Columns, n_lanes: int, stamp: int) -> int:
    """The lane, not closed in this round, whose head comes first by (level, key); -1 for none."""
    best = -1
    for i in range(n_lanes):
        lane = t.lanes[i]
        if lane.head < 0 or lane.closed == stamp:
            continue
        if best < 0 or comes_first(t, lane.head, t.lanes[best].head):
            best = i
    return best


@inner
def first_unserved(t: Columns, stamp: int) -> int:
    """The first claimant that this round has not served yet (works.mark tells); -1 for none."""
    at = t.meta[CLAIMANTS]
    while at >= 0 and t.works[at].mark == stamp:
        at = t.works[at].behind
    return int(at)


@inner
def step_aside(t: Columns, row: int) -> None:
    """Take a work out of its lane and put it among the claimants, in order of (level, key)."""
    leave(t, row)
    t.works[row].claiming = 1
    first = t.meta[CLAIMANTS]
    if first < 0 or comes_first(t, row, first):
        t.works[row].behind = first
        t.meta[CLAIMANTS] = row
        return
    at = first
    while t.works[at].behind >= 0 and comes_first(t, t.works[at].behind, row):
        at = t.works[at].behind
    t.works[row].behind = t.works[at].behind
    t.works[at].behind = row


@inner
def step_back(t: Columns, row: int) -> None:
    """Take a work from among the claimants; it stands nowhere."""
    following = t.works[row].behind
    if t.meta[CLAIMANTS] == row:
        t.meta[CLAIMANTS] = following
    else:
        at = t.meta[CLAIMANTS]
        while t.works[at].behind != row:
            at = t.works[at].behind
        t.works[at].behind = following
    t.works[row].claiming = 0
    t.works[row].behind = -1

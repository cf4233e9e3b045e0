"""Waiting lines. Works of one level, class, shape and firmness wait in one lane, by key.

When the head of a lane finds no room, nobody behind it would, so a round looks at heads only and
a long queue costs nothing.
"""

from typing import Any

from numba import njit

Table = Any


@njit(cache=True)
def join(works: Table, lanes: Table, row: int) -> bool:
    """Put a work into its lane in order of key; True when it is the new head."""
    lane = lanes[works[row].lane]
    lane.count += 1
    key = works[row].key
    if lane.head < 0:
        lane.head = lane.tail = row
        works[row].behind = -1
        return True
    if key >= works[lane.tail].key:
        works[lane.tail].behind = row
        works[row].behind = -1
        lane.tail = row
        return False
    if key < works[lane.head].key:
        works[row].behind = lane.head
        lane.head = row
        return True
    at = lane.head
    while works[works[at].behind].key <= key:
        at = works[at].behind
    works[row].behind = works[at].behind
    works[at].behind = row
    return False


@njit(cache=True)
def leave(works: Table, lanes: Table, row: int) -> None:
    """Take a work out of its lane."""
    lane = lanes[works[row].lane]
    lane.count -= 1
    following = works[row].behind
    if lane.head == row:
        lane.head = following
        if following < 0:
            lane.tail = -1
    else:
        at = lane.head
        while works[at].behind != row:
            at = works[at].behind
        works[at].behind = following
        if lane.tail == row:
            lane.tail = at
    works[row].behind = -1


@njit(cache=True)
def first_open(works: Table, lanes: Table, n_lanes: int, stamp: int) -> int:
    """The lane, not closed in this round, whose head comes first by (level, key); -1 for none."""
    best = -1
    for i in range(n_lanes):
        lane = lanes[i]
        if lane.head < 0 or lane.closed == stamp:
            continue
        if best < 0 or lane.level < lanes[best].level:
            best = i
        elif lane.level == lanes[best].level:
            key, best_key = works[lane.head].key, works[lanes[best].head].key
            if key < best_key or (key == best_key and lane.head < lanes[best].head):
                best = i
    return best

"""Whole workloads: requests in order of arrival meet replicas chosen by a routing rule.

Each function takes the fleet's state, plays the arrivals of [start, stop) and returns how far it
came: less than `stop` only when the table of requests in flight is full, so that the caller can
enlarge it and go on.
"""

from typing import NamedTuple

from headgate.kernels.serving.books import window_of
from headgate.kernels.serving.compiling import compiled, inlined
from headgate.kernels.serving.heap import tree_first, tree_set
from headgate.kernels.serving.layout import (
    ARRIVED,
    ASKED,
    BACKLOG,
    BLOCKS,
    CACHED,
    DECODE,
    ENDS,
    FIRST,
    ID,
    KIND,
    LEVEL_SHIFT,
    MARK,
    OUTSTANDING,
    PREFILL,
    RESERVE,
    SMALL,
    STATE,
    UP,
    W_ARRIVED,
    W_REFUSED,
    Books,
    Fleet,
    Floats,
    Ints,
    Rules,
    Tables,
)
from headgate.kernels.serving.replica import advance, arrive, blocks_for, commit, plan

INFINITY = float("inf")


class Arrivals(NamedTuple):
    """Requests in order of arrival; group and level have one entry, or one for each request."""

    at_s: Floats
    prefill: Ints
    decode: Ints
    group: Ints
    level: Ints


@inlined
def take_row(fleet: Fleet, books: Books, coming: Arrivals, i: int) -> int:
    """A row of the table of requests in flight, filled for arrival i."""
    height = fleet.free[-1] - 1
    row = fleet.free[height] & SMALL
    fleet.free[-1] = height
    req, reqf = fleet.req, fleet.reqf
    group = coming.group[i if coming.group.size > 1 else 0]
    level = coming.level[i if coming.level.size > 1 else 0]
    req[row, PREFILL] = coming.prefill[i]
    req[row, DECODE] = coming.decode[i]
    req[row, ID] = books.first_id + i
    req[row, KIND] = group | (level << LEVEL_SHIFT)
    req[row, CACHED] = 0
    reqf[row, ARRIVED] = coming.at_s[i]
    reqf[row, FIRST] = -1.0
    reqf[row, ASKED] = coming.decode[i]
    reqf[row, MARK] = -1.0
    return row


@inlined
def fits(fleet: Fleet, rules: Rules, coming: Arrivals, r: int, i: int) -> bool:
    """Whether replica r could ever hold arrival i to its last token."""
    blocks = fleet.rep[r, BLOCKS]
    prompt = blocks_for(rules, coming.prefill[i]) + fleet.rep[r, RESERVE]
    whole = blocks_for(rules, coming.prefill[i] + coming.decode[i] - 1) + rules.spare
    return max(prompt, whole) <= blocks


@inlined
def note(books: Books, coming: Arrivals, i: int, column: int) -> None:
    """Count arrival i in a column of its window."""
    group = coming.group[i if coming.group.size > 1 else 0]
    books.windows[window_of(books, coming.at_s[i]), group, column] += 1


@compiled
def run_in_turn(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    coming: Arrivals,
    start: int,
    stop: int,
    turn: int,
) -> tuple[int, int]:
    """Round robin: arrival after arrival to the next replica that is up.

    No choice depends on the load, so a replica is advanced only when a request reaches it.
    """
    replicas = fleet.rep.shape[0]
    for i in range(start, stop):
        if fleet.free[-1] == 0:
            return i, turn
        note(books, coming, i, W_ARRIVED)
        r = turn
        for _ in range(replicas):
            if fleet.rep[r, STATE] == UP:
                break
            r = r + 1 if r + 1 < replicas else 0
        turn = r + 1 if r + 1 < replicas else 0
        r &= SMALL
        if fleet.rep[r, STATE] != UP or not fits(fleet, rules, coming, r, i):
            note(books, coming, i, W_REFUSED)
            continue
        advance(fleet, rules, tables, books, r, coming.at_s[i])
        arrive(fleet, rules, tables, r, take_row(fleet, books, coming, i))
    return stop, turn


@compiled
def run_until(fleet: Fleet, rules: Rules, tables: Tables, books: Books, until_s: float) -> None:
    """Let every replica run on, with no more arrivals, until what it does ends at until_s."""
    for r in range(fleet.rep.shape[0]):
        advance(fleet, rules, tables, books, r, until_s)


@inlined
def load_of(fleet: Fleet, r: int, by_backlog: bool) -> float:
    """What least-loaded routing compares: outstanding requests, or their expected work in s."""
    if fleet.rep[r, STATE] != UP:
        return INFINITY
    return fleet.repf[r, BACKLOG] if by_backlog else float(fleet.rep[r, OUTSTANDING])


@compiled
def run_by_load(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    coming: Arrivals,
    start: int,
    stop: int,
    soonest: Floats,
    lightest: Floats,
    by_backlog: bool,
) -> int:
    """Each arrival to the replica with the least load when it arrives, the first among equals.

    `soonest` and `lightest` are trees over the replicas: the end of what each is doing, its load.
    """
    for r in range(fleet.rep.shape[0]):
        tree_set(soonest, r, fleet.repf[r, ENDS])
        tree_set(lightest, r, load_of(fleet, r, by_backlog))
    for i in range(start, stop):
        if fleet.free[-1] == 0:
            return i
        at_s = coming.at_s[i]
        while soonest[1] < at_s:
            r = tree_first(soonest) & SMALL
            before = fleet.rep[r, OUTSTANDING]
            commit(fleet, rules, tables, books, r)
            plan(fleet, rules, tables, books, r)
            tree_set(soonest, r, fleet.repf[r, ENDS])
            if fleet.rep[r, OUTSTANDING] != before:
                tree_set(lightest, r, load_of(fleet, r, by_backlog))
        note(books, coming, i, W_ARRIVED)
        r = tree_first(lightest) & SMALL
        if lightest[1] == INFINITY or not fits(fleet, rules, coming, r, i):
            note(books, coming, i, W_REFUSED)
            continue
        arrive(fleet, rules, tables, r, take_row(fleet, books, coming, i))
        tree_set(soonest, r, fleet.repf[r, ENDS])
        tree_set(lightest, r, load_of(fleet, r, by_backlog))
    return stop

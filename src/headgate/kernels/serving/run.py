"""Whole workloads: requests in order of arrival meet replicas chosen by a routing rule.

Each function takes the fleet's state, plays the arrivals of [start, stop) and returns how far it
came: less than `stop` only when the table of requests in flight is full, so that the caller can
enlarge it and go on.
"""

from collections.abc import Callable
from typing import NamedTuple

from numba import types

from headgate.kernels.serving.blocks import blocks_for
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
    MODEL,
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
from headgate.kernels.serving.replica import advance, arrive, lighter_s

INFINITY = float("inf")
# Tokens in a KV block and in a bucket of the tables, as they usually are.
PLAIN_BLOCK, PLAIN_SHIFT = 16, 4
PLAIN_BUCKET, PLAIN_BUCKET_SHIFT = 64, 6


# A routing rule of the caller's: (prefill, decode, outstanding, backlog_s, memory) to a replica.
Rule = Callable[[int, int, Ints, Floats, Ints], int]
RULE_TYPE = types.int64(
    types.int64, types.int64, types.int64[::1], types.float64[::1], types.int64[::1]
)


class Arrivals(NamedTuple):
    """Requests in order of arrival; group and level have one entry, or one for each request."""

    at_s: Floats
    prefill: Ints
    decode: Ints
    group: Ints
    level: Ints
    blocks: Ints  # hashes of all prompts' blocks, numbered from 0
    block_starts: Ints  # where each request's begin; empty where prompts are not known
    block_tokens: int


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
def plain(rules: Rules, tables: Tables) -> bool:
    """Whether these are the rules of sarathi or vidur as they usually are.

    Kernels are compiled for them apart: with most rules known, a seventh of the time is saved.
    """
    usual = rules.block == PLAIN_BLOCK and rules.levels == 1 and rules.spare == 1
    usual = usual and rules.whole_prompt == 1 and tables.bucket == PLAIN_BUCKET
    rare = rules.keep_prefix + rules.calm + rules.yields + rules.weigh + rules.walk + rules.ahead
    return usual and rare == 0


@inlined
def plain_rules(rules: Rules) -> Rules:
    """The same rules, known to the compiler where they are plain."""
    return Rules(
        rules.chunk, rules.cap, PLAIN_BLOCK, PLAIN_SHIFT, 1, 1, 1, rules.truncate, 0, 0, 0, 0, 0, 0
    )


@inlined
def plain_tables(tables: Tables) -> Tables:
    """The same tables, their buckets known to the compiler."""
    return Tables(
        tables.linear_s,
        tables.base_s,
        tables.sequence_s,
        tables.kv_s,
        tables.mixed_kv_s,
        tables.chunk_s,
        tables.decode_s,
        tables.mixed_s,
        tables.mixed_at,
        tables.prefill_s,
        tables.several,
        tables.token_s,
        tables.least_s,
        tables.reach,
        PLAIN_BUCKET,
        PLAIN_BUCKET_SHIFT,
    )


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
    if plain(rules, tables):
        known, times = plain_rules(rules), plain_tables(tables)
        return in_turn(fleet, known, times, books, coming, start, stop, turn)
    return in_turn(fleet, rules, tables, books, coming, start, stop, turn)


@inlined
def in_turn(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    coming: Arrivals,
    start: int,
    stop: int,
    turn: int,
) -> tuple[int, int]:
    """What `run_in_turn` does, compiled for the rules it is given."""
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
        at_s = coming.at_s[i]
        advance(fleet, rules, tables, books, r, at_s, at_s)
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

    `soonest` and `lightest` are trees over the replicas: when its load may next fall, its load.
    """
    if plain(rules, tables) and not by_backlog:
        known, times = plain_rules(rules), plain_tables(tables)
        return by_load(fleet, known, times, books, coming, start, stop, soonest, lightest, False)
    return by_load(fleet, rules, tables, books, coming, start, stop, soonest, lightest, by_backlog)


@inlined
def by_load(
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
    """What `run_by_load` does, compiled for the rules it is given.

    Replicas that catch up and the one that is chosen go one way through the loop: `advance` is most
    of what is compiled here, and is so only once.
    """
    for r in range(fleet.rep.shape[0]):
        tree_set(soonest, r, fleet.repf[r, ENDS])
        tree_set(lightest, r, load_of(fleet, r, by_backlog))
    i = start
    while i < stop:
        if fleet.free[-1] == 0:
            return i
        at_s = coming.at_s[i]
        catching_up = soonest[1] < at_s
        r = tree_first(soonest if catching_up else lightest) & SMALL
        before = load_of(fleet, r, by_backlog)
        if not catching_up:
            i += 1
            note(books, coming, i - 1, W_ARRIVED)
            if lightest[1] == INFINITY or not fits(fleet, rules, coming, r, i - 1):
                note(books, coming, i - 1, W_REFUSED)
                continue
        advance(fleet, rules, tables, books, r, at_s, INFINITY if catching_up else at_s)
        if not catching_up:
            arrive(fleet, rules, tables, r, take_row(fleet, books, coming, i - 1))
        tree_set(soonest, r, lighter_s(fleet, rules, tables, r))
        load = load_of(fleet, r, by_backlog)
        if load != before:
            tree_set(lightest, r, load)
    return stop


@compiled
def run_by_prefix(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    coming: Arrivals,
    start: int,
    stop: int,
    soonest: Floats,
    touched: Ints,
    clocks: Ints,
    room: int,
) -> int:
    """Each arrival to the replica that is expected to be done with it first, counting the prompt's
    leading blocks that the replica still has as done.

    touched[r, block] is the replica's clock when it last used a prompt block, clocks[r] counts the
    uses, and a block is still there while fewer than `room` uses have passed: LRU, but for blocks
    used more than once meanwhile.
    """
    replicas = fleet.rep.shape[0]
    for r in range(replicas):
        tree_set(soonest, r, fleet.repf[r, ENDS])
    for i in range(start, stop):
        if fleet.free[-1] == 0:
            return i
        catch_up(fleet, rules, tables, books, soonest, coming.at_s[i])
        note(books, coming, i, W_ARRIVED)
        chosen, found = -1, 0
        least = INFINITY
        first, last = coming.block_starts[i], coming.block_starts[i + 1]
        for r in range(replicas):
            if fleet.rep[r, STATE] != UP:
                continue
            hits = 0
            while first + hits < last:
                at = touched[r, coming.blocks[first + hits]]
                if at == 0 or clocks[r] - at >= room:
                    break
                hits += 1
            tokens = min(hits * coming.block_tokens, coming.prefill[i] - 1)
            m = fleet.rep[r, MODEL] & SMALL
            saved_s = tokens * tables.token_s[m, 0]
            if fleet.repf[r, BACKLOG] - saved_s < least:
                chosen, found, least = r, tokens, fleet.repf[r, BACKLOG] - saved_s
        r = chosen & SMALL
        if chosen < 0 or not fits(fleet, rules, coming, r, i):
            note(books, coming, i, W_REFUSED)
            continue
        for at in range(first, last):
            clocks[r] += 1
            touched[r, coming.blocks[at]] = clocks[r]
        advance(fleet, rules, tables, books, r, coming.at_s[i], coming.at_s[i])
        row = take_row(fleet, books, coming, i)
        fleet.req[row, CACHED] = found
        arrive(fleet, rules, tables, r, row)
        tree_set(soonest, r, lighter_s(fleet, rules, tables, r))
    return stop


@compiled
def run_by_rule(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    coming: Arrivals,
    start: int,
    stop: int,
    soonest: Floats,
    choose: Rule,
    outstanding: Ints,
    backlog_s: Floats,
    memory: Ints,
) -> int:
    """Each arrival to the replica that a caller's own compiled rule chooses.

    `choose(prefill, decode, outstanding, backlog_s, memory)` gives a replica, or -1 to refuse;
    outstanding is -1 and backlog_s infinite for replicas that take no requests; `memory` is the
    rule's own, kept from request to request.
    """
    replicas = fleet.rep.shape[0]
    for r in range(replicas):
        tree_set(soonest, r, fleet.repf[r, ENDS])
    for i in range(start, stop):
        if fleet.free[-1] == 0:
            return i
        catch_up(fleet, rules, tables, books, soonest, coming.at_s[i])
        note(books, coming, i, W_ARRIVED)
        for r in range(replicas):
            up = fleet.rep[r, STATE] == UP
            outstanding[r] = fleet.rep[r, OUTSTANDING] if up else -1
            backlog_s[r] = fleet.repf[r, BACKLOG] if up else INFINITY
        r = choose(coming.prefill[i], coming.decode[i], outstanding, backlog_s, memory)
        if r < 0 or r >= replicas or outstanding[r] < 0 or not fits(fleet, rules, coming, r, i):
            note(books, coming, i, W_REFUSED)
            continue
        r &= SMALL
        advance(fleet, rules, tables, books, r, coming.at_s[i], coming.at_s[i])
        arrive(fleet, rules, tables, r, take_row(fleet, books, coming, i))
        tree_set(soonest, r, lighter_s(fleet, rules, tables, r))
    return stop


@inlined
def catch_up(
    fleet: Fleet, rules: Rules, tables: Tables, books: Books, soonest: Floats, at_s: float
) -> None:
    """Let every replica run up to a moment whose load may have fallen by then."""
    while soonest[1] < at_s:
        r = tree_first(soonest) & SMALL
        advance(fleet, rules, tables, books, r, at_s)
        tree_set(soonest, r, lighter_s(fleet, rules, tables, r))

"""The exact, slow way through an iteration when KV blocks run short: sequence by sequence."""

from headgate.kernels.serving.blocks import blocks_for, count_phase
from headgate.kernels.serving.books import window_of
from headgate.kernels.serving.compiling import compiled
from headgate.kernels.serving.heap import heap_push, sort_ascending
from headgate.kernels.serving.layout import (
    ADMITTED,
    ARRIVED,
    BLOCKS,
    CACHED,
    DECODE,
    DECODING,
    ENDS,
    FREED,
    HELD,
    ITER,
    KIND,
    KNOWN,
    KV,
    LEVEL_SHIFT,
    LOW_BITS,
    MARK,
    OFFSET,
    PARTIAL,
    PARTIAL_DONE,
    PARTIAL_TAKES,
    PREEMPTED_SHIFT,
    PREFILL,
    RESERVE,
    ROW_BITS,
    ROW_MASK,
    USED,
    W_PREEMPTED,
    Books,
    Fleet,
    Rules,
    heap_at,
)
from headgate.kernels.serving.waiting import first_waiting, put_back


@compiled
def preempt(fleet: Fleet, rules: Rules, books: Books, r: int, row: int, grown: int) -> None:
    """Take a sequence's memory and put it back in line; what it produced is prompt from now on.

    `grown` is 1 if it already took its block for the iteration being planned.
    """
    rep, req = fleet.rep, fleet.req
    total = req[row, PREFILL] + req[row, DECODE]
    if row == rep[r, PARTIAL]:
        computed = rep[r, PARTIAL_DONE]
        held = req[row, PREFILL] if rules.whole_prompt else computed
        rep[r, PARTIAL] = -1
        if rules.truncate:
            req[row, PREFILL] = computed
    else:
        context = req[row, OFFSET] + rep[r, ITER]
        computed = context - 1
        held = computed + grown
        count_phase(fleet, rules, r, req[row, OFFSET], -1)
        req[row, PREFILL] = context
    req[row, DECODE] = total - req[row, PREFILL]
    freed = blocks_for(rules, held)
    fleet.reqf[row, MARK] = -1.0
    if rules.keep_prefix:  # the last block is given back first, and may hold nothing yet
        fleet.reqf[row, MARK] = rep[r, FREED] + freed - blocks_for(rules, computed)
    req[row, ADMITTED] = rep[r, FREED]
    req[row, CACHED] = computed if rules.keep_prefix else 0
    rep[r, USED] -= freed
    rep[r, FREED] += freed
    rep[r, HELD] -= 1
    req[row, KIND] += 1 << PREEMPTED_SHIFT
    put_back(fleet, rules, r, row)
    w = window_of(books, fleet.repf[r, ENDS])
    books.windows[w, req[row, KIND] & LOW_BITS, W_PREEMPTED] += 1


@compiled
def worst(fleet: Fleet, rules: Rules, size: int) -> int:
    """Whom to preempt among the `size` sequences in scratch: the last, or the least urgent."""
    if rules.levels == 1:
        return size - 1
    req, reqf, scratch = fleet.req, fleet.reqf, fleet.scratch
    chosen = 0
    for i in range(1, size):
        row, best = scratch[i], scratch[chosen]
        level = (req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS
        least = (req[best, KIND] >> LEVEL_SHIFT) & LOW_BITS
        if level > least or (level == least and reqf[row, ARRIVED] >= reqf[best, ARRIVED]):
            chosen = i
    return chosen


@compiled
def line_up(fleet: Fleet, rules: Rules, r: int) -> int:
    """Write the running sequences into scratch in order of admission; how many there are.

    A prompt under way comes last. In sarathi one that got no tokens in the last iteration has
    moved to the front, where it is out of reach of preemption: it is left out.
    """
    rep, req, scratch = fleet.rep, fleet.req, fleet.scratch
    first = heap_at(rules)
    size = rep[r, DECODING]
    for i in range(size):
        row = rep[r, first + i] & ROW_MASK
        scratch[i] = (req[row, ADMITTED] << ROW_BITS) | row
    sort_ascending(scratch, size)
    for i in range(size):
        scratch[i] &= ROW_MASK
    partial = rep[r, PARTIAL]
    if partial >= 0 and (rep[r, PARTIAL_TAKES] > 0 or not rules.whole_prompt):
        scratch[size] = partial
        size += 1
    return size


@compiled
def rebuild(fleet: Fleet, rules: Rules, r: int, size: int) -> None:
    """Make the sequences left in scratch the decoding ones: heap, count and context."""
    rep, req, scratch = fleet.rep, fleet.req, fleet.scratch
    first = heap_at(rules)
    rep[r, DECODING] = 0
    rep[r, KV] = 0
    for i in range(size):
        row = scratch[i]
        if row == rep[r, PARTIAL]:
            continue
        finish_at = req[row, PREFILL] + req[row, DECODE] - req[row, OFFSET]
        heap_push(rep[r], first, rep[r, DECODING], (finish_at << ROW_BITS) | row)
        rep[r, DECODING] += 1
        rep[r, KV] += req[row, OFFSET] + rep[r, ITER]


@compiled
def squeeze(fleet: Fleet, rules: Rules, books: Books, r: int) -> int:
    """Give the running sequences their blocks for one iteration, one by one, preempting others
    where none is free; how many were preempted."""
    rep, req, scratch = fleet.rep, fleet.req, fleet.scratch
    size = line_up(fleet, rules, r)
    preempted = 0
    i = 0
    while i < size:
        row = scratch[i]
        if row == rep[r, PARTIAL]:
            done = rep[r, PARTIAL_DONE]
            takes = min(req[row, PREFILL] - done, rules.chunk - i)
            rep[r, PARTIAL_TAKES] = takes  # no more, though others may yet give way to it
            need = blocks_for(rules, done + takes) - blocks_for(rules, done)
            wanted = 0 if rules.whole_prompt else need
            need = 0  # taken when the chunk is planned
        else:
            need = 1 if ((req[row, OFFSET] + rep[r, ITER] - 1) & (rules.block - 1)) == 0 else 0
            wanted = max(need, rules.spare)
        here = True
        while here and rep[r, BLOCKS] - rep[r, USED] < wanted:
            v = worst(fleet, rules, size)
            here = v != i
            preempt(fleet, rules, books, r, scratch[v], 1 if v < i else 0)
            preempted += 1
            size -= 1
            for j in range(v, size):
                scratch[j] = scratch[j + 1]
            if v < i:
                i -= 1
        if here:
            rep[r, USED] += need
            i += 1
    rebuild(fleet, rules, r, size)
    return preempted


@compiled
def make_room(fleet: Fleet, rules: Rules, books: Books, r: int) -> bool:
    """Preempt sequences less urgent than the first in line until it can be admitted; whether the
    next iteration may have to do so again, as the memory is taken by others as they grow.

    Called between iterations, when no sequence has taken its next block yet.
    """
    rep, req, scratch = fleet.rep, fleet.req, fleet.scratch
    row = first_waiting(fleet, rules, r, fleet.repf[r, KNOWN])
    if row < 0:
        return False
    urgent = (req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS
    need = blocks_for(rules, req[row, PREFILL])
    preempted = False
    size = line_up(fleet, rules, r)
    again = size > 0
    while size > 0:
        free = rep[r, BLOCKS] - rep[r, USED] - rep[r, RESERVE]
        if rep[r, HELD] < rules.cap and free >= need:
            break
        v = worst(fleet, rules, size)
        if (req[scratch[v], KIND] >> LEVEL_SHIFT) & LOW_BITS <= urgent:
            again = preempted
            break
        preempt(fleet, rules, books, r, scratch[v], 0)
        preempted = True
        size -= 1
        for j in range(v, size):
            scratch[j] = scratch[j + 1]
    if preempted:
        rebuild(fleet, rules, r, size)
    return again

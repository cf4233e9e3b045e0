"""One replica between two changes of its batch: commit what ran, plan what runs next.

The life of a request here: 1. `arrive` puts it at the end of its waiting line and, if it could be
admitted, cuts the run in flight at its next iteration. 2. `plan` admits it and gives it blocks.
3. Its prompt passes in one or more iterations, each an event. 4. `enter` makes it a decoding
sequence with its finishing iteration on the heap. 5. `commit` ends it there.
"""

from headgate.kernels.serving.blocks import blocks_for, count_phase, growth
from headgate.kernels.serving.books import record, window_of
from headgate.kernels.serving.compiling import compiled, inlined
from headgate.kernels.serving.heap import heap_pop, heap_push
from headgate.kernels.serving.layout import (
    ADMITTED,
    AIMED,
    ARRIVED,
    ASKED,
    BACKLOG,
    BLOCKS,
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
    ITER,
    ITERATIONS_BEYOND,
    KIND,
    KNOWN,
    KV,
    LEAVING,
    LEAVING_BLOCKS,
    LEFT,
    LEVEL_SHIFT,
    LOW_BITS,
    MARK,
    MODEL,
    NEXT,
    OFFSET,
    OUTSTANDING,
    PARTIAL,
    PARTIAL_DONE,
    PARTIAL_TAKES,
    PREEMPTED_BITS,
    PREEMPTED_SHIFT,
    PREFILL,
    PURE,
    REPLICA_SHIFT,
    RESERVE,
    ROW_BITS,
    ROW_MASK,
    RUN,
    SERIAL,
    SMALL,
    STARTED,
    USED,
    W_REFUSED,
    WAITING,
    At,
    Books,
    Fleet,
    Rules,
    Tables,
    heap_at,
    lines_at,
)
from headgate.kernels.serving.preempt import line_up, make_room, rebuild, squeeze
from headgate.kernels.serving.steptime import decode_run, mixed_step_s
from headgate.kernels.serving.waiting import first_waiting, pop_waiting, push_waiting

INFINITY = float("inf")


@inlined
def drop_row(fleet: Fleet, row: int) -> None:
    """Give a row of the table of requests in flight back."""
    fleet.req[row, ID] = -1
    height = fleet.free[-1]
    fleet.free[height] = row
    fleet.free[-1] = height + 1


@inlined
def work_s(fleet: Fleet, rules: Rules, tables: Tables, r: int, row: int) -> float:
    """What a request is expected to take of replica r, in seconds of a busy replica's time; 0 where
    no routing asks."""
    if rules.weigh == 0:
        return 0.0
    m = fleet.rep[r, MODEL] & SMALL
    asked = fleet.reqf[row, ASKED]
    prompt = fleet.req[row, PREFILL] + fleet.req[row, DECODE] - asked
    return prompt * tables.token_s[m, 0] + asked * tables.token_s[m, 1]


@inlined
def finish(
    fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, row: int, now_s: float
) -> None:
    """End a request that holds its last block: free it, write it down, give back its row."""
    rep, req = fleet.rep, fleet.req
    freed = blocks_for(rules, req[row, PREFILL] + req[row, DECODE] - 1)
    if rules.ahead:
        rep[r, LEAVING] += 1
        rep[r, LEAVING_BLOCKS] += freed
    else:
        rep[r, USED] -= freed
        rep[r, FREED] += freed
        rep[r, HELD] -= 1
    rep[r, OUTSTANDING] -= 1
    fleet.repf[r, BACKLOG] -= work_s(fleet, rules, tables, r, row)
    if rep[r, LEFT] > 0 and req[row, KIND] & GONE:  # nobody was there for its last token
        rep[r, LEFT] -= 1
    else:
        record(fleet, books, r, row, now_s)
    drop_row(fleet, row)


@inlined
def enter(
    fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, row: int, now_s: float
) -> None:
    """A prompt is done: its last chunk gave the first token; decode from the next iteration on."""
    rep, req = fleet.rep, fleet.req
    if fleet.reqf[row, FIRST] < 0.0:
        fleet.reqf[row, FIRST] = now_s
    if req[row, DECODE] == 1:
        finish(fleet, rules, tables, books, r, row, now_s)
        return
    context = req[row, PREFILL] + 1
    offset = context - rep[r, ITER]
    req[row, OFFSET] = offset
    rep[r, KV] += context
    count_phase(fleet, rules, r, offset, 1)
    key = ((rep[r, ITER] + req[row, DECODE] - 1) << ROW_BITS) | row
    heap_push(rep[r], heap_at(rules), rep[r, DECODING], key)
    rep[r, DECODING] += 1


@compiled
def sweep(fleet: Fleet, rules: Rules, tables: Tables, r: int) -> None:
    """Remove the running sequences whose callers have gone: their memory is free at once."""
    rep, req = fleet.rep, fleet.req
    size = line_up(fleet, rules, r)
    kept = 0
    for i in range(size):
        row = fleet.scratch[i]
        if req[row, KIND] & GONE == 0:
            fleet.scratch[kept] = row
            kept += 1
            continue
        if row == rep[r, PARTIAL]:
            done = rep[r, PARTIAL_DONE]
            freed = blocks_for(rules, req[row, PREFILL] if rules.whole_prompt else done)
            rep[r, PARTIAL] = -1
        else:
            freed = blocks_for(rules, req[row, OFFSET] + rep[r, ITER] - 1)
            count_phase(fleet, rules, r, req[row, OFFSET], -1)
        rep[r, USED] -= freed
        rep[r, FREED] += freed
        rep[r, HELD] -= 1
        rep[r, OUTSTANDING] -= 1
        fleet.repf[r, BACKLOG] -= work_s(fleet, rules, tables, r, row)
        drop_row(fleet, row)
    rebuild(fleet, rules, r, kept)
    rep[r, LEFT] = 0


@inlined
def commit(fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int) -> None:
    """Make the iterations in flight history: tokens, blocks, prompts done, requests finished."""
    rep, repf, req = fleet.rep, fleet.repf, fleet.req
    n = rep[r, RUN]
    now_s = repf[r, ENDS]
    repf[r, KNOWN] = now_s
    if n == 0:
        return
    if rules.ahead and rep[r, WAITING] > 0:  # the last iteration's start
        repf[r, KNOWN] = repf[r, STARTED]
        if n > 1:
            m, b = rep[r, MODEL] & SMALL, rep[r, DECODING] & SMALL
            repf[r, KNOWN] += decode_run(tables, m, b, rep[r, KV], n - 1, INFINITY)[1]
    if rep[r, DECODING] > 0:
        if n > 1:  # the first iteration's blocks were taken when it was planned
            rep[r, USED] += growth(fleet, rules, r, rep[r, ITER] + 1, n - 1)
        rep[r, KV] += n * rep[r, DECODING]
    rep[r, ITER] += n
    first = heap_at(rules)
    while rep[r, DECODING] > 0 and rep[r, At(first)] >> ROW_BITS == rep[r, ITER]:
        row = rep[r, At(first)] & ROW_MASK
        heap_pop(rep[r], first, rep[r, DECODING])
        rep[r, DECODING] -= 1
        rep[r, KV] -= req[row, OFFSET] + rep[r, ITER]
        count_phase(fleet, rules, r, req[row, OFFSET], -1)
        finish(fleet, rules, tables, books, r, row, now_s)
    if rep[r, PURE] == 0:
        row = rep[r, ENTERING]
        rep[r, ENTERING] = -1
        while row >= 0:
            following = req[row, NEXT]
            enter(fleet, rules, tables, books, r, row, now_s)
            row = following
    if rep[r, LEFT] > 0:
        sweep(fleet, rules, tables, r)


@compiled
def refuse(
    fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, row: int, now_s: float
) -> None:
    """Turn away a waiting request that an empty replica cannot hold."""
    rep, req = fleet.rep, fleet.req
    pop_waiting(fleet, rules, r, (req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS)
    rep[r, OUTSTANDING] -= 1
    books.windows[window_of(books, now_s), req[row, KIND] & LOW_BITS, W_REFUSED] += 1
    fleet.repf[r, BACKLOG] -= work_s(fleet, rules, tables, r, row)
    drop_row(fleet, row)


@compiled
def recall(fleet: Fleet, rules: Rules, r: int, row: int) -> None:
    """Find what is left of the blocks that a preempted request gave back.

    The free list is a queue: blocks leave at its head, are given back at its tail, the last block
    of a sequence first. So the leading blocks survive longest, and how many do follows from how
    many blocks have left since.
    """
    rep, req, reqf = fleet.rep, fleet.req, fleet.reqf
    kept = blocks_for(rules, req[row, CACHED])
    taken = rep[r, USED] + rep[r, FREED] - rep[r, BLOCKS]
    left = int(reqf[row, MARK]) + kept - taken
    left = min(max(left, 0), kept, req[row, CACHED] >> rules.shift)
    left = min(left, (req[row, PREFILL] - 1) >> rules.shift)
    given_back = req[row, ADMITTED]
    req[row, CACHED] = left * rules.block
    reqf[row, MARK] = -1.0
    if left > 0:  # blocks pulled out of the queue: those behind the earlier marks come no sooner
        for level in range(rules.levels):
            other = rep[r, At(lines_at(rules) + level)]
            while other >= 0 and (req[other, KIND] >> PREEMPTED_SHIFT) & PREEMPTED_BITS > 0:
                if reqf[other, MARK] >= 0.0 and req[other, ADMITTED] < given_back:
                    reqf[other, MARK] += left
                other = req[other, NEXT]


@inlined
def run_length(fleet: Fleet, rules: Rules, r: int) -> int:
    """Iterations until a sequence finishes or KV blocks may run short, whichever is first.

    The first iteration's blocks are already taken; later ones take theirs here.
    """
    rep = fleet.rep
    b = rep[r, DECODING]
    n = (rep[r, At(heap_at(rules))] >> ROW_BITS) - rep[r, ITER]
    room = rep[r, BLOCKS] - rep[r, USED] - rules.spare
    if (((n - 2) >> rules.shift) + 1) * b <= room:
        return n
    cycles = max(room, 0) // b
    room -= cycles * b
    safe = 1 + cycles * rules.block
    start = rep[r, ITER] + safe
    while safe < n and growth(fleet, rules, r, start, safe + 1 - start + rep[r, ITER]) <= room:
        safe += 1
    return min(n, safe)


@inlined
def plan(fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, next_s: float) -> None:
    """Choose the next iterations from the rules: running sequences, prompts, admissions.

    next_s is when the next request will come here, where that is known: decoding that it could
    join is planned to there and no further.
    """
    rep, repf, req = fleet.rep, fleet.repf, fleet.req
    now_s = repf[r, ENDS]
    slow = rules.yields == 1 and rep[r, WAITING] > 0 and make_room(fleet, rules, books, r)
    calm = False
    most = rules.chunk
    b = rep[r, DECODING] & SMALL
    if b > 0 or rep[r, PARTIAL] >= 0:
        grows = growth(fleet, rules, r, rep[r, ITER], 1)
        wanted = grows
        if b > 0:
            wanted += rules.spare
        partial = rep[r, PARTIAL]
        if partial >= 0 and not rules.whole_prompt:
            done = rep[r, PARTIAL_DONE]
            takes = min(req[partial, PREFILL] - done, rules.chunk - b)
            wanted += blocks_for(rules, done + takes) - blocks_for(rules, done)
        if rep[r, USED] + wanted > rep[r, BLOCKS]:
            slow = True
            calm = squeeze(fleet, rules, books, r) > 0 and rules.calm == 1
            b = rep[r, DECODING] & SMALL
            if not rules.whole_prompt:
                most = rep[r, PARTIAL_TAKES]
        else:
            rep[r, USED] += grows
    budget = rules.chunk - b
    prompts = 0
    squares = 0
    context = 0
    area = 0.0
    row = rep[r, PARTIAL]
    if row >= 0:
        done = rep[r, PARTIAL_DONE]
        takes = max(0, min(req[row, PREFILL] - done, budget, most))
        rep[r, PARTIAL_TAKES] = takes
        if takes > 0:
            if not rules.whole_prompt:
                rep[r, USED] += blocks_for(rules, done + takes) - blocks_for(rules, done)
            budget -= takes
            prompts = 1
            squares = takes * takes
            context = (done + tables.bucket - 1) >> tables.shift
            area = takes * (done + 0.5 * takes)
            rep[r, PARTIAL_DONE] = done + takes
            if done + takes == req[row, PREFILL]:
                rep[r, PARTIAL] = -1
                req[row, NEXT] = rep[r, ENTERING]
                rep[r, ENTERING] = row
    while rep[r, WAITING] > 0 and rep[r, HELD] < rules.cap and budget > 0 and not calm:
        row = first_waiting(fleet, rules, r, repf[r, KNOWN])
        if row < 0:
            break
        need = blocks_for(rules, req[row, PREFILL])
        if rep[r, BLOCKS] - rep[r, USED] - need < rep[r, RESERVE]:
            if rep[r, HELD] > 0:
                break
            refuse(fleet, rules, tables, books, r, row, now_s)
            continue
        pop_waiting(fleet, rules, r, (req[row, KIND] >> LEVEL_SHIFT) & LOW_BITS)
        if fleet.reqf[row, MARK] >= 0.0:
            recall(fleet, rules, r, row)
        done = req[row, CACHED]
        takes = min(req[row, PREFILL] - done, budget)
        rep[r, USED] += need if rules.whole_prompt else blocks_for(rules, done + takes)
        rep[r, HELD] += 1
        req[row, ADMITTED] = rep[r, SERIAL]
        rep[r, SERIAL] += 1
        budget -= takes
        prompts += 1
        squares += takes * takes
        context += (done + tables.bucket - 1) >> tables.shift
        area += takes * (done + 0.5 * takes)
        if done + takes == req[row, PREFILL]:
            req[row, NEXT] = rep[r, ENTERING]
            rep[r, ENTERING] = row
        else:
            rep[r, PARTIAL] = row
            rep[r, PARTIAL_DONE] = done + takes
            rep[r, PARTIAL_TAKES] = takes
    if rules.ahead:  # what has just arrived or left counts from the next plan on
        slow = slow or (rep[r, WAITING] > 0 and repf[r, KNOWN] < now_s)
        slow = slow or (rep[r, WAITING] > 0 and rep[r, LEAVING] > 0)
        rep[r, HELD] -= rep[r, LEAVING]
        rep[r, USED] -= rep[r, LEAVING_BLOCKS]
        rep[r, FREED] += rep[r, LEAVING_BLOCKS]
        rep[r, LEAVING] = 0
        rep[r, LEAVING_BLOCKS] = 0
    m = rep[r, MODEL] & SMALL
    repf[r, STARTED] = now_s
    if prompts > 0:
        rep[r, RUN] = 1
        rep[r, PURE] = 0
        tokens = rules.chunk - budget
        repf[r, ENDS] = now_s + mixed_step_s(
            tables, m, b, rep[r, KV], tokens, prompts, squares, context, area
        )
        if tokens > tables.reach[m, 0] or context * tables.bucket > tables.reach[m, 2]:
            rep[r, ITERATIONS_BEYOND] += 1
    elif b > 0:
        n = 1 if slow or rules.walk else run_length(fleet, rules, r)
        rep[r, PURE] = 1
        open_to = rep[r, HELD] < rules.cap and b < rules.chunk
        need_s = next_s - now_s if open_to else INFINITY
        j, lasts_s = decode_run(tables, m, b, rep[r, KV], n, need_s)
        if rules.ahead and j < n:
            j += 1
            lasts_s = decode_run(tables, m, b, rep[r, KV], j, INFINITY)[1]
        n = j
        rep[r, RUN] = n
        repf[r, AIMED] = next_s if open_to else INFINITY
        repf[r, ENDS] = now_s + lasts_s
        if rep[r, KV] + n * b > tables.reach[m, 1] * b:
            rep[r, ITERATIONS_BEYOND] += n
    else:  # idle, unless everything was preempted and may come back at once
        rep[r, RUN] = 0
        repf[r, ENDS] = now_s if rep[r, WAITING] > 0 else INFINITY


@inlined
def carry_on(fleet: Fleet, rules: Rules, tables: Tables, r: int) -> bool:
    """Where nothing can change but the prompt under way, commit its chunk and plan the next; false,
    and nothing done, where something may. What `commit` and `plan` would do, at half the work."""
    rep, repf, req = fleet.rep, fleet.repf, fleet.req
    row = rep[r, PARTIAL]
    if row < 0 or rep[r, ENTERING] >= 0 or rep[r, LEFT] > 0 or rep[r, LEAVING] > 0 or rules.yields:
        return False
    b = rep[r, DECODING] & SMALL
    now = rep[r, ITER] + 1
    done = rep[r, PARTIAL_DONE]
    budget = rules.chunk - b
    takes = min(req[row, PREFILL] - done, budget)
    if takes <= 0 or (takes < budget and rep[r, WAITING] > 0):
        return False  # another could be admitted beside its last chunk
    grows = 0
    if b > 0:
        if rep[r, At(heap_at(rules))] >> ROW_BITS == now:
            return False
        grows = growth(fleet, rules, r, now, 1)
    wanted = grows
    if not rules.whole_prompt:
        wanted += blocks_for(rules, done + takes) - blocks_for(rules, done)
    used = rep[r, USED] + wanted
    if used + rules.spare > rep[r, BLOCKS]:
        return False
    m = rep[r, MODEL] & SMALL
    began_s = repf[r, STARTED]
    now_s = repf[r, ENDS]
    context = (done + tables.bucket - 1) >> tables.shift
    area = takes * (done + 0.5 * takes)
    kv = rep[r, KV] + b
    lasts_s = mixed_step_s(tables, m, b, kv, b + takes, 1, takes * takes, context, area)
    rep[r, ITER] = now
    rep[r, KV] = kv
    rep[r, USED] = used
    rep[r, PARTIAL_DONE] = done + takes
    rep[r, PARTIAL_TAKES] = takes
    if done + takes == req[row, PREFILL]:
        rep[r, PARTIAL] = -1
        req[row, NEXT] = -1
        rep[r, ENTERING] = row
    repf[r, KNOWN] = began_s if rules.ahead and rep[r, WAITING] > 0 else now_s
    repf[r, STARTED] = now_s
    repf[r, ENDS] = now_s + lasts_s
    if b + takes > tables.reach[m, 0] or context * tables.bucket > tables.reach[m, 2]:
        rep[r, ITERATIONS_BEYOND] += 1
    return True


@inlined
def step(fleet: Fleet, rules: Rules, tables: Tables, books: Books, r: int, next_s: float) -> None:
    """From the end of what is in flight to what is in flight next."""
    if not carry_on(fleet, rules, tables, r):
        commit(fleet, rules, tables, books, r)
        plan(fleet, rules, tables, books, r, next_s)


@inlined
def advance(
    fleet: Fleet,
    rules: Rules,
    tables: Tables,
    books: Books,
    r: int,
    until_s: float,
    next_s: float = INFINITY,
) -> None:
    """Let a replica run until what it does next ends at until_s or later."""
    while fleet.repf[r, ENDS] < until_s:
        step(fleet, rules, tables, books, r, next_s)


@inlined
def lighter_s(fleet: Fleet, rules: Rules, tables: Tables, r: int) -> float:
    """A moment before which no request of replica r ends, if none arrives: when what is in flight
    ends, and after it the fewest iterations to a last token, each as short as any can be."""
    rep, req = fleet.rep, fleet.req
    ends_s = fleet.repf[r, ENDS]
    if rep[r, WAITING] > 0 or rep[r, LEFT] > 0 or rep[r, RUN] == 0:
        return ends_s
    more = 1 << 40
    if rep[r, DECODING] > 0:
        more = (rep[r, At(heap_at(rules))] >> ROW_BITS) - rep[r, ITER] - rep[r, RUN]
    row = rep[r, ENTERING]
    while row >= 0:
        more = min(more, req[row, DECODE] - 1)
        row = req[row, NEXT]
    row = rep[r, PARTIAL]
    if row >= 0:
        more = min(more, req[row, DECODE])
    return ends_s + more * tables.least_s[rep[r, MODEL] & SMALL]


@inlined
def arrive(fleet: Fleet, rules: Rules, tables: Tables, r: int, row: int) -> None:
    """Put a request in line on a replica that has been advanced to the moment of its arrival."""
    fleet.req[row, KIND] |= r << REPLICA_SHIFT
    push_waiting(fleet, rules, r, row)
    fleet.rep[r, OUTSTANDING] += 1
    fleet.repf[r, BACKLOG] += work_s(fleet, rules, tables, r, row)
    look_again(fleet, rules, tables, r, row, fleet.reqf[row, ARRIVED])


@inlined
def look_again(fleet: Fleet, rules: Rules, tables: Tables, r: int, row: int, at_s: float) -> None:
    """Cut the run in flight at at_s if the request in `row`, now first in line, could join."""
    rep, repf = fleet.rep, fleet.repf
    ends_s = repf[r, ENDS]
    if ends_s == INFINITY:
        rep[r, RUN] = 0
        repf[r, STARTED] = at_s
        repf[r, ENDS] = at_s
    elif (
        rep[r, RUN] > 1
        and repf[r, AIMED] != at_s
        and (rep[r, HELD] < rules.cap or rules.yields == 1)
        and rep[r, DECODING] < rules.chunk
        and first_waiting(fleet, rules, r, at_s) == row
    ):
        cut(fleet, rules, tables, r, at_s)


@inlined
def cut(fleet: Fleet, rules: Rules, tables: Tables, r: int, at_s: float) -> None:
    """End the decode run in flight with the iteration under way at at_s (the next, if planned
    ahead)."""
    rep, repf = fleet.rep, fleet.repf
    m, b = rep[r, MODEL] & SMALL, rep[r, DECODING] & SMALL
    kv = rep[r, KV]
    began_s = repf[r, STARTED]
    n, lasts_s = decode_run(tables, m, b, kv, rep[r, RUN], at_s - began_s)
    if rules.ahead:
        n += 1
        lasts_s = decode_run(tables, m, b, kv, n, INFINITY)[1]
    if n < rep[r, RUN]:
        rep[r, RUN] = n
        repf[r, ENDS] = began_s + lasts_s

"""Where things lie in the kernel's arrays: the columns of a replica, of a request, of the books.

Everything the kernel touches is one of a few flat arrays, so that a request costs a handful of
cache lines. A replica is one row of `rep` (integers: scalars, then the phases of its decoding
sequences, then the heads and tails of its waiting lines, then its heap of finishing iterations)
and one row of `repf` (clocks). A request is one row of `req` and `reqf` while it is in flight;
rows are reused, so the table holds what is in flight and never what has passed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headgate.kernels.serving.compiling import inlined

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Columns of `rep`, one row a replica.
ITER = 0  # iterations completed
DECODING = 1  # sequences whose prompt is done
KV = 2  # tokens of context of all decoding sequences at the next iteration
USED = 3  # KV blocks in use
RUN = 4  # iterations in flight; 0 with a finite end is a wake-up
PARTIAL = 5  # request whose prompt is under way, or -1
PARTIAL_DONE = 6  # tokens of its prompt processed when the iteration in flight ends
PARTIAL_TAKES = 7  # tokens it takes in the iteration in flight
ENTERING = 8  # list of requests whose prompt is done when the iteration in flight ends, or -1
HELD = 9  # sequences holding memory
WAITING = 10  # requests in the waiting lines
SERIAL = 11  # next admission number
OUTSTANDING = 12  # requests sent here that have not ended
STATE = 13  # one of the states below
MODEL = 14  # row of the step-time tables
BLOCKS = 15  # KV blocks in all
FREED = 16  # KV blocks ever given back, the clock of the free list
ITERATIONS_BEYOND = 17  # iterations outside the range that the step times were measured in
PURE = 18  # the iterations in flight only decode
RESERVE = 19  # KV blocks that an admission leaves free
LEAVING = 20  # finished sequences that the plan under way still counts
LEAVING_BLOCKS = 21  # KV blocks they hold
LEFT = 22  # running sequences whose callers have gone, to be removed when the iteration ends
BELOW = 24  # + j, j from 0 to the block size: decoding sequences whose phase is below j

# Columns of `repf`.
STARTED = 0  # when the iterations in flight began, s
ENDS = 1  # when they end, s; infinity while idle
BACKLOG = 2  # expected work of the outstanding requests, s
KNOWN = 3  # arrivals up to here may be admitted by the next plan, s
AIMED = 4  # the arrival that the decode run in flight was planned to end with, s; or infinity

# States of a replica.
UP, DRAINING, DOWN = 0, 1, 2

# Columns of `req`, one row a request in flight.
NEXT = 0  # next request in the same list, or -1
PREFILL = 1  # prompt tokens; after a preemption, tokens to recompute
DECODE = 2  # tokens to produce, the first included
OFFSET = 3  # context minus iteration number, constant while decoding
ADMITTED = 4  # admission number; after a preemption, FREED when its blocks were given back
ID = 5  # position in the workload
KIND = 6  # class, priority level and number of preemptions, packed
CACHED = 7  # leading tokens of the prompt that need no computing

# Columns of `reqf`.
ARRIVED = 0
FIRST = 1  # when the first token came, s; negative before
ASKED = 2  # tokens asked for, which a restart does not change
MARK = 3  # place of its blocks in the free list, -1 if nothing of them is kept

# KIND packs class (8 bits), priority level (8), preemptions (16), replica (24), and whether the
# caller has gone.
LOW_BITS, LEVEL_SHIFT, PREEMPTED_SHIFT, REPLICA_SHIFT = 255, 8, 16, 32
PREEMPTED_BITS = (1 << 16) - 1
GONE = 1 << 60

# An index may be negative for all the compiler knows, and is then looked up from the end: a sixth
# of the kernel's time. A mask that changes nothing tells it, and so does an unsigned type.
SMALL = (1 << 24) - 1
At = np.uintp

# A heap entry is the finishing iteration and the request's row.
ROW_BITS = 24
ROW_MASK = (1 << ROW_BITS) - 1

# Histogram bins are log-linear: 256 to an octave (0.4 % or less each) from 2^-20 s to 2^20 s.
BINS_PER_OCTAVE = 256
FIRST_OCTAVE = -20
OCTAVES = 40
BINS = OCTAVES * BINS_PER_OCTAVE

# Measures of `histograms`, and columns of `windows`.
TTFT, TPOT, E2E = 0, 1, 2
(
    W_ARRIVED,
    W_FINISHED,
    W_TOKENS,  # asked for by the finished
    W_GOOD,  # finished within their objective
    W_GOOD_TOKENS,
    W_PREEMPTED,
    W_REFUSED,
    W_CANCELLED,
    W_FAILED,  # lost with their replica after their first token
    W_REROUTED,  # moved from a lost replica before it
) = range(10)
WINDOW_COLUMNS = 10


class Rules(NamedTuple):
    """The scheduler's rules as numbers."""

    chunk: int  # tokens in an iteration
    cap: int  # sequences holding memory at once
    block: int  # tokens in a KV block, a power of two
    shift: int  # its exponent: a division costs more than the rest of a step
    levels: int  # priority levels, 0 first
    spare: int  # free blocks a decoding sequence must see (1 in sarathi, 0 in vllm-v1)
    whole_prompt: int  # 1: a prompt gets all its blocks on admission; 0: chunk by chunk
    truncate: int  # 1: a prompt preempted midway turns its rest into output (Vidur)
    keep_prefix: int  # 1: what is left of a preempted sequence's blocks is found again
    calm: int  # 1: no admission in an iteration that preempted
    yields: int  # 1: less urgent sequences are preempted to admit a more urgent request
    weigh: int  # 1: the replicas' backlogs in seconds are kept, for routing that looks at them
    walk: int  # 1: no iteration is skipped, to be held against skipping
    ahead: int  # 1: an iteration is planned when the one before it starts, not when that ends


class Tables(NamedTuple):
    """Step times of M replica models; a decode-only iteration is `base_s` plus attention.

    linear_s[m, n]: n tokens in the iteration. base_s[m, b]: linear and per-sequence time of b
    decoding sequences. sequence_s[m, q]: time of q sequences. kv_s[m], mixed_kv_s[m]: s per token
    of context of decoding sequences, alone and beside prompts. chunk_s[m]: s per token of chunk and
    token of context it attends to. decode_s[m, b, k]: attention of b sequences whose mean context,
    rounded down, rounded up to `bucket`, is k buckets. mixed_s[m, mixed_at[m, c], b, k]: the same
    beside prompts' chunks of c tokens. prefill_s[m, k, c]: attention of c tokens on k buckets of
    context. several[m]: factor on the last for more than one prompt. token_s[m]: expected seconds
    of a busy replica's time for a token of prompt and of output. least_s[m]: no iteration is
    shorter. reach[m]: tokens, mean context of decoding, context of prompts measured.
    """

    linear_s: NDArray[np.float64]
    base_s: NDArray[np.float64]
    sequence_s: NDArray[np.float64]
    kv_s: NDArray[np.float64]
    mixed_kv_s: NDArray[np.float64]
    chunk_s: NDArray[np.float64]
    decode_s: NDArray[np.float64]
    mixed_s: NDArray[np.float64]
    mixed_at: NDArray[np.int64]
    prefill_s: NDArray[np.float64]
    several: NDArray[np.float64]
    token_s: NDArray[np.float64]
    least_s: NDArray[np.float64]
    reach: NDArray[np.int64]
    bucket: int  # a power of two
    shift: int  # its exponent


class Fleet(NamedTuple):
    """The state of the replicas and of the requests in flight, carried from window to window."""

    rep: NDArray[np.int64]
    repf: NDArray[np.float64]
    req: NDArray[np.int64]
    reqf: NDArray[np.float64]
    free: NDArray[np.int64]  # stack of unused rows; its last entry is the height
    scratch: NDArray[np.int64]
    bits: NDArray[np.float64]  # one number, read as bits by `bits_int`
    bits_int: NDArray[np.int64]


class Books(NamedTuple):
    """What a run writes down.

    windows[window, class, column]; objectives[class] = (TTFT, TPOT) limits in s; per request, where
    wanted, out_s[id] = (TTFT, E2E) and out_i[id] = (replica, preemptions); where not (length 0),
    histograms[class, measure, bin].
    """

    histograms: NDArray[np.int64]
    windows: NDArray[np.int64]
    objectives: NDArray[np.float64]
    out_s: NDArray[np.float64]
    out_i: NDArray[np.int32]
    first_id: int
    windows_per_s: float
    start_s: float


@inlined
def lines_at(rules: Rules) -> int:
    """Where the waiting lines begin in a replica's row: heads by level, then tails."""
    return BELOW + rules.block + 1


@inlined
def heap_at(rules: Rules) -> int:
    """Where the heap begins in a replica's row."""
    return BELOW + rules.block + 1 + 2 * rules.levels

"""What a finished request leaves behind: window totals, and its own row or three
histogram counts."""

from headgate.kernels.serving.compiling import inlined
from headgate.kernels.serving.layout import (
    ARRIVED,
    ASKED,
    BINS,
    BINS_PER_OCTAVE,
    E2E,
    FIRST,
    FIRST_OCTAVE,
    ID,
    KIND,
    LOW_BITS,
    PREEMPTED_BITS,
    PREEMPTED_SHIFT,
    SMALL,
    TPOT,
    TTFT,
    W_FINISHED,
    W_GOOD,
    W_GOOD_TOKENS,
    W_TOKENS,
    At,
    Books,
    Fleet,
)


@inlined
def bin_of(fleet: Fleet, seconds: float) -> int:
    """The log-linear bin of a duration, read off the bits of the number itself."""
    fleet.bits[0] = seconds
    at = (fleet.bits_int[0] >> 44) - (1023 + FIRST_OCTAVE) * BINS_PER_OCTAVE
    return min(max(at, 0), BINS - 1)


@inlined
def window_of(books: Books, at_s: float) -> int:
    """The window that a moment falls into; the last one takes what comes later."""
    at = int((at_s - books.start_s) * books.windows_per_s)
    return min(max(0, at), books.windows.shape[0] - 1) & SMALL


@inlined
def record(fleet: Fleet, books: Books, r: int, row: int, now_s: float) -> None:
    """Write down that the request in `row` ended on replica r with its last token."""
    arrived_s, first_s = fleet.reqf[row, ARRIVED], fleet.reqf[row, FIRST]
    kind = fleet.req[row, KIND]
    group = kind & LOW_BITS
    ttft_s, e2e_s = first_s - arrived_s, now_s - arrived_s
    tokens = int(fleet.reqf[row, ASKED])
    tpot_s = (now_s - first_s) / (tokens - 1) if tokens > 1 else 0.0
    w = window_of(books, now_s)
    books.windows[w, group, W_FINISHED] += 1
    books.windows[w, group, W_TOKENS] += tokens
    if ttft_s <= books.objectives[group, 0] and tpot_s <= books.objectives[group, 1]:
        books.windows[w, group, W_GOOD] += 1
        books.windows[w, group, W_GOOD_TOKENS] += tokens
    if books.out_s.shape[0] > 0:
        at = At(fleet.req[row, ID] - books.first_id)
        books.out_s[at, 0] = ttft_s
        books.out_s[at, 1] = e2e_s
        books.out_i[at, 0] = r
        books.out_i[at, 1] = (kind >> PREEMPTED_SHIFT) & PREEMPTED_BITS
    else:
        books.histograms[group, TTFT, bin_of(fleet, ttft_s)] += 1
        if tokens > 1:
            books.histograms[group, TPOT, bin_of(fleet, tpot_s)] += 1
        books.histograms[group, E2E, bin_of(fleet, e2e_s)] += 1

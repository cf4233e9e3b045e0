"""KV blocks: how many hold some tokens, and how many the decoding sequences take as they grow.

Each decoding sequence grows by one token an iteration and takes a block whenever its last is full:
at the iterations t where (phase + t) is a multiple of the block size. So up to iteration t they
have together taken the sum of (phase + t) // block, which follows from their number and from how
many phases are below each value.
"""

from headgate.kernels.serving.compiling import inlined
from headgate.kernels.serving.layout import BELOW, DECODING, At, Fleet, Rules


@inlined
def blocks_for(rules: Rules, tokens: int) -> int:
    """KV blocks that hold this many tokens."""
    return (tokens + rules.block - 1) >> rules.shift


@inlined
def count_phase(fleet: Fleet, rules: Rules, r: int, offset: int, by: int) -> None:
    """Count a decoding sequence in (by = 1) or out (-1)."""
    phase = (offset - 1) & (rules.block - 1)
    for j in range(1, rules.block + 1):  # the same length each time: no branch to mispredict
        fleet.rep[r, At(BELOW + j)] += by * int(j > phase)


@inlined
def taken(fleet: Fleet, rules: Rules, r: int, t: int) -> int:
    """KV blocks that the decoding sequences take up to iteration t, but for a constant."""
    left = rules.block - (t & (rules.block - 1))
    return ((t >> rules.shift) + 1) * fleet.rep[r, DECODING] - fleet.rep[r, At(BELOW + left)]


@inlined
def growth(fleet: Fleet, rules: Rules, r: int, first: int, n: int) -> int:
    """KV blocks that the decoding sequences take in iterations first to first + n - 1."""
    return taken(fleet, rules, r, first + n - 1) - taken(fleet, rules, r, first - 1)

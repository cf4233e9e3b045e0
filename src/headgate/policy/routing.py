"""Which engine serves a request: where it would be done soonest, given load and cached prefix.

Written over plain sequences so that the gateway runs it as it stands and a kernel can compile
the very same function.
"""

from collections.abc import Sequence


def pick(
    in_flight: Sequence[int],
    room: Sequence[int],
    outstanding_tokens: Sequence[float],
    speed: Sequence[float],
    cached_tokens: Sequence[float],
    input_tokens: float,
) -> int:
    """The engine with the least work before the request's end; -1 if none has room.

    `room` is the number in flight at which an engine is full for this request, `speed` its
    relative tokens per second, `cached_tokens` how much of this prompt it is thought to hold.
    Ties go to the fewest in flight, then to the first.
    """
    best = -1
    best_s = 0.0
    for engine in range(len(in_flight)):
        if in_flight[engine] >= room[engine]:
            continue
        fresh = input_tokens - cached_tokens[engine]
        ahead_s = (outstanding_tokens[engine] + max(fresh, 0.0)) / speed[engine]
        if (
            best < 0
            or ahead_s < best_s
            or (ahead_s == best_s and in_flight[engine] < in_flight[best])
        ):
            best = engine
            best_s = ahead_s
    return best


def next_share(share: float, ceiling: float, late: float) -> float:
    """How much of an engine's cap batch work may fill next.

    `late` is the slowest first token of interactive work since the last look, over its objective;
    0 if there was none. Beyond the objective the share falls at once by 30 %; close to it it
    stays; else it comes back slowly, so that what was learnt is not forgotten in a second.
    """
    if late > 1.0:
        return share * 0.7
    if late > 0.8:
        return share
    return min(ceiling, share + 0.01 * ceiling)


def next_cap(
    cap: float, floor: float, ceiling: float, token_s: float, objective_s: float, used: float
) -> float:
    """How many may be in flight next, from the time between tokens that was measured.

    Beyond the objective it comes down from `used`, the number that made it so: what is in flight
    already finishes late, and must not bring the cap down again and again. Below 90 % of it the
    cap grows while it is what binds, fast as long as the engine is far from its limit. In between
    it stays, so that it settles instead of hunting.
    """
    if token_s > objective_s:
        return max(floor, min(cap, used * max(0.7, objective_s / token_s)))
    if token_s < 0.9 * objective_s and used >= 0.9 * cap:
        step = 0.25 if token_s < 0.5 * objective_s else 0.05
        return min(ceiling, cap + max(1.0, step * cap))
    return cap

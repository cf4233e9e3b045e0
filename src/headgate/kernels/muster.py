"""What the machine asks of many works at once: a service's replicas counted, quotas filled.

These are loops over rows that Python would walk one by one, several hundred rows every window.
"""

import numpy as np
from numba import njit

from headgate.kernels.columns import Columns
from headgate.kernels.layout import CLAIMANTS, DONE, GPUS, N_LANES, STOPPING, WAITING


@njit(cache=True)
def muster(
    t: Columns,
    rows: np.ndarray,
    count: int,
    speed: np.ndarray,
    first: int,
    beyond: int,
    states: np.ndarray,
    capacity: np.ndarray,
) -> tuple[int, float, float, int, int]:
    """Count the replicas in `rows[:count]` and close the gaps of those that have ended.

    Fills `states` and `capacity`, tokens/s of each in the pool where it stands or else in pool
    `first`; one that is stopping has none. Returns how many are left, the capacity of all and of
    those whose place is `beyond`, how many are not stopping and how many wait.
    """
    kept = staying = waiting = 0
    have = lent = 0.0
    for i in range(count):
        work = t.works[rows[i]]
        if work.state >= DONE:
            continue
        rows[kept] = rows[i]
        states[kept] = work.state
        each = 0.0
        if work.state != STOPPING:
            each = speed[first if work.pool < 0 else work.pool]
            staying += 1
        if work.state == WAITING:
            waiting += 1
        if work.place == beyond:
            lent += each
        capacity[kept] = each
        have += each
        kept += 1
    return kept, have, lent, staying, waiting


@njit(cache=True)
def fill_held(
    order: np.ndarray,
    gpus: np.ndarray,
    uses: np.ndarray,
    pools: np.ndarray,
    inside: np.ndarray,
    left: np.ndarray,
    place: np.ndarray,
) -> None:
    """Let works that hold accelerators fill their use's quota `left[use, pool]`, in `order`.

    One that finds at least half of what it holds still unfilled is inside; `place` is set for it.
    """
    for i in order:
        use, pool = uses[i], pools[i]
        if left[use, pool] >= min(gpus[i], max(1.0, gpus[i] * 0.5)):
            place[i] = inside[i]
            left[use, pool] -= gpus[i]


@njit(cache=True)
def fill_waiting(
    order: np.ndarray,
    asks: np.ndarray,
    uses: np.ndarray,
    partial: np.ndarray,
    inside: np.ndarray,
    room: np.ndarray,
    place: np.ndarray,
) -> None:
    """Let works that wait take what room[use] is left, in `order`; a use not cut takes all in."""
    for i in order:
        use = uses[i]
        if not partial[use] or room[use] >= asks[i] * 0.5:
            place[i] = inside[i]
            room[use] -= asks[i]


@njit(cache=True)
def owed(t: Columns, spare: np.ndarray, deep: int, rows: np.ndarray, pools: np.ndarray) -> int:
    """Waiting works that fit, in order, into spare[class, pool] of what their class is promised.

    Looks at the claimants and then at the first `deep` works of every lane, passing over replicas
    in batch mode, which are promised nothing; writes (row, pool) pairs as far as they have room and
    returns how many. `spare` is used up on the way.
    """
    found = 0
    at = t.meta[CLAIMANTS]
    while at >= 0:
        if t.works[at].mode == 0:
            found = ask(t, at, spare, rows, pools, found)
        at = t.works[at].behind
    for i in range(t.meta[N_LANES]):
        at = t.lanes[i].head
        seen = 0
        while at >= 0 and seen < deep:
            if t.works[at].mode == 0:
                found = ask(t, at, spare, rows, pools, found)
            at = t.works[at].behind
            seen += 1
    return found


@njit(cache=True)
def ask(
    t: Columns, row: int, spare: np.ndarray, rows: np.ndarray, pools: np.ndarray, found: int
) -> int:
    """Add the pools in which one work is owed what it wants; how many pairs there are now."""
    work = t.works[row]
    for p in range(spare.shape[1]):
        wanted = t.shapes[work.shape, p, GPUS]
        if 0 < wanted <= spare[work.class_, p] and found < len(rows):
            rows[found] = row
            pools[found] = p
            found += 1
            spare[work.class_, p] -= wanted
    return found

"""Why a work is where it is: the rule, what binds, and the smallest change that would start it."""

from dataclasses import dataclass

import numpy as np

from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.rules import KINDS, MEANINGS, NAMES, STATES
from headgate.kernels import layout as k


@dataclass(frozen=True, slots=True)
class PoolView:
    """What one pool has for the work, in accelerators."""

    pool: str
    wanted: int
    free: int  # on nodes that nobody has reserved
    whole_nodes_free: int
    whole_nodes_wanted: int
    class_held: int
    class_guarantee: int
    class_cap: int | None  # None: no cap
    to_free: int | None  # more that must come free, on the fittest nodes; None: never enough there
    says: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision record of one work at one time."""

    work: str
    at_s: float
    kind: str
    class_: str
    tenant: str
    state: str
    since_s: float
    rule: str
    meaning: str
    by: str | None  # the work that took its accelerators
    pool: str | None
    gpus: int
    ahead: int  # works before it in its own line
    higher: int  # works that wait on a higher level
    pools: tuple[PoolView, ...]
    change: str


def find(machine: Machine, name: str) -> int:
    """The row of the work of that name; InputError when none has been submitted by now."""
    try:
        return machine.ground.names.index(name)
    except ValueError:
        known = machine.ground.names
        near = [other for other in known if name and name in other][:3] or known[:3]
        hint = f"known are for example {', '.join(near)}" if near else "nothing was submitted yet"
        raise InputError(
            f"work {name!r} has not been submitted by {machine.now_s:.0f} s; {hint}; "
            f"give a work's name as it stands in the log."
        ) from None


def explain(machine: Machine, row: int) -> Explanation:
    """Everything that decides about the work now."""
    ground = machine.ground
    work = ground.tables.works[row]
    state = STATES[int(work["state"])]
    rule = NAMES[int(work["rule"])]
    ahead = _ahead(machine, row)
    if state == "waiting" and ahead:
        rule = NAMES[k.BEHIND_IN_LINE]
    waits = state == "waiting"
    pools = tuple(_pool_views(machine, row)) if waits else ()
    by = int(work["by"])
    pool = int(work["pool"])
    return Explanation(
        work=machine.name(row),
        at_s=machine.now_s,
        kind=KINDS[int(work["kind"])],
        class_=machine.fleet.classes[int(work["class_"])],
        tenant=machine.fleet.tenants[int(work["tenant"])].name,
        state=state,
        since_s=float(work["since_s"]),
        rule=rule,
        meaning=MEANINGS[rule],
        by=machine.name(by) if by >= 0 else None,
        pool=machine.fleet.pools[pool].name if pool >= 0 else None,
        gpus=int(work["gpus"]),
        ahead=ahead,
        higher=_higher(machine, row) if waits else 0,
        pools=pools,
        change=_change(state, rule, ahead, pools),
    )


def _ahead(machine: Machine, row: int) -> int:
    """Works before it in its lane."""
    tables = machine.ground.tables
    if tables.works[row]["state"] != k.WAITING or tables.works[row]["claiming"]:
        return 0
    count, at = 0, int(tables.lanes[tables.works[row]["lane"]]["head"])
    while at >= 0 and at != row:
        count, at = count + 1, int(tables.works[at]["behind"])
    return count


def _higher(machine: Machine, row: int) -> int:
    """Works that wait on a higher level for a pool that it may use too."""
    tables = machine.ground.tables
    work = tables.works[row]
    mine = tables.shapes[work["shape"], :, k.GPUS] > 0
    lanes = tables.lanes[: tables.meta[k.N_LANES]]
    shared = (tables.shapes[lanes["shape"], :, k.GPUS] > 0) & mine
    return int(lanes["count"][(lanes["level"] < work["level"]) & shared.any(axis=1)].sum())


def _pool_views(machine: Machine, row: int) -> list[PoolView]:
    tables, fleet = machine.ground.tables, machine.fleet
    work = tables.works[row]
    views = []
    for p in tables.shapes[work["shape"], :, k.PREFERENCE].tolist():
        if p < 0:
            break
        wanted = int(tables.shapes[work["shape"], p, k.GPUS])
        held, _, cap, guarantee, _ = tables.claims[work["claim"], p].tolist()
        pool = tables.pools[p]
        size = fleet.pools[p].gpus_per_node
        to_free = _to_free(machine, row, p, wanted)
        over = held + wanted - cap
        if over > 0:
            says = f"its class would hold {over} more than its cap of {cap} there"
        elif to_free is None:
            says = "the pool's nodes that are up and not kept for others are too few"
        elif to_free > 0:
            says = f"{to_free} more accelerators must come free on the nodes that fit best"
        elif work["firm"]:
            says = "it has room, but what is guaranteed to others may only be lent, and it is firm"
        else:
            says = "it has room there; the next round starts it"
        views.append(
            PoolView(
                pool=fleet.pools[p].name,
                wanted=wanted,
                free=int(pool["free"] - pool["reserved_free"]),
                whole_nodes_free=int(tables.hist[p, size]),
                whole_nodes_wanted=wanted // size,
                class_held=held,
                class_guarantee=guarantee,
                class_cap=cap if cap < np.iinfo(np.int64).max // 8 else None,
                to_free=None if over > 0 else to_free,
                says=says,
            )
        )
    return views


def _to_free(machine: Machine, row: int, p: int, wanted: int) -> int | None:
    """The fewest accelerators whose release would make the work fit in pool p."""
    tables, pool = machine.ground.tables, machine.fleet.pools[p]
    first = int(tables.pools[p]["first_node"])
    nodes = tables.nodes[first : first + pool.nodes]
    open_ = (nodes["state"] == k.UP) & ((nodes["reserved"] < 0) | (nodes["reserved"] == row))
    free = np.sort(nodes["free"][open_].astype(np.int64))[::-1]
    whole, rest = divmod(wanted, pool.gpus_per_node)
    if len(free) < whole + (rest > 0):
        return None
    missing = int((pool.gpus_per_node - free[:whole]).sum())
    if rest:
        missing += max(0, rest - int(free[whole]))
    return missing


def _change(state: str, rule: str, ahead: int, pools: tuple[PoolView, ...]) -> str:
    """One sentence: the smallest change that would start it."""
    if state != "waiting":
        return "nothing: it does not wait."
    if rule == NAMES[k.WAITS_FOR_RECLAIM]:
        return "nothing: it starts when those who must stop have answered."
    possible = [view for view in pools if view.to_free is not None]
    before = f" once the {ahead} before it in line have started" if ahead else ""
    if possible:
        best = min(possible, key=lambda view: view.to_free or 0)
        if best.to_free:
            return f"it starts when {best.to_free} accelerators come free in {best.pool}{before}."
        return f"it starts in {best.pool} in the next round{before}."
    capped = [v for v in pools if v.class_cap is not None]
    if capped:
        best = min(capped, key=lambda v: v.class_held + v.wanted - (v.class_cap or 0))
        over = best.class_held + best.wanted - (best.class_cap or 0)
        return f"a cap of its class in {best.pool} that is {over} higher would admit it{before}."
    return "more nodes: no pool it may use has enough that are up and not kept for others."

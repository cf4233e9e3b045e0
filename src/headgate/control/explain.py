"""Why a work is where it is: the rule, what binds, and the smallest change that would start it."""

from dataclasses import dataclass

import numpy as np

from headgate.control.machine import Machine
from headgate.control.waits import Estimate, Waits
from headgate.control.whatif import NODES_AT_MOST, Change, changes
from headgate.core.errors import InputError
from headgate.core.rules import KINDS, MEANINGS, NAMES, STANDING, STATES
from headgate.kernels import layout as k

# Prices and bids closer than this, relative, are the same: idle capacity keeps a thousandth.
NEAR = 5e-3
UNCAPPED = np.iinfo(np.int64).max // 8


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
    price_per_h: float | None  # of one accelerator now; None: the policy knows no prices
    bid_per_h: float | None  # what the work is worth there on one accelerator
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
    binding: str  # the constraint that holds it, in a few words; empty when it does not wait
    change: str
    back_s: float | None  # the price is expected to be at its bid in so long
    wait: Estimate | None  # how long it will go on waiting


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


def explain(machine: Machine, row: int, waits: Waits | None = None) -> Explanation:
    """Everything that decides about the work now; with the time it will wait if `waits` has
    watched the machine."""
    ground = machine.ground
    work = ground.tables.works[row]
    state = STATES[int(work["state"])]
    rule = NAMES[int(work["rule"])]
    ahead = len(_line(machine, row))
    if state == "waiting" and ahead:
        rule = _rule_in_line(machine, row)
    waits_now = state == "waiting"
    pools = tuple(_pool_views(machine, row)) if waits_now else ()
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
        higher=_higher(machine, row) if waits_now else 0,
        pools=pools,
        binding=_binding(machine, row, rule, ahead, pools) if waits_now else "",
        change=_change(machine, row, state, rule, pools),
        back_s=_back_s(machine, row) if waits_now else None,
        wait=waits.estimate(row) if waits is not None and waits_now else None,
    )


def _line(machine: Machine, row: int) -> list[int]:
    """Works before it in its lane, the first first."""
    tables = machine.ground.tables
    if tables.works[row]["state"] != k.WAITING or tables.works[row]["claiming"]:
        return []
    rows, at = [], int(tables.lanes[tables.works[row]["lane"]]["head"])
    while at >= 0 and at != row:
        rows.append(at)
        at = int(tables.works[at]["behind"])
    return rows


def _rule_in_line(machine: Machine, row: int) -> str:
    """Why the work next before it comes first: it came earlier, or its tenant stands better."""
    works = machine.ground.tables.works
    standings = machine.standings
    before = works[_line(machine, row)[-1]]
    later = before["submitted_s"] > works[row]["submitted_s"]
    better = standings[int(before["tenant"])] > standings[int(works[row]["tenant"])]
    return STANDING if later and better else NAMES[k.BEHIND_IN_LINE]


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
    for p in _pools(machine, row):
        price_per_h, bid_per_h = _price(machine, row, p)
        wanted = int(tables.shapes[work["shape"], p, k.GPUS])
        held, _, cap, guarantee, _ = tables.claims[work["claim"], p].tolist()
        pool = tables.pools[p]
        size = fleet.pools[p].gpus_per_node
        to_free = _to_free(machine, row, p, wanted)
        over = held + wanted - cap
        if over > 0 and int(work["claim"]) == len(fleet.classes):
            says = f"beyond the plan: {over} more than may be lent there"
        elif over > 0:
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
                class_cap=cap if cap < UNCAPPED else None,
                to_free=None if over > 0 else to_free,
                price_per_h=price_per_h,
                bid_per_h=bid_per_h,
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


def _pools(machine: Machine, row: int) -> list[int]:
    """Pools it can run in: those it may start in now, in its order, then the rest."""
    tables, fleet = machine.ground.tables, machine.fleet
    shape = tables.works[row]["shape"]
    listed = [p for p in tables.shapes[shape, :, k.PREFERENCE].tolist() if p >= 0]
    gpus = tables.shapes[shape, :, k.GPUS].tolist()
    fits = [p for p, count in enumerate(gpus) if 0 < count <= fleet.pools[p].gpus]
    return listed + [p for p in fits if p not in listed]


def _price(machine: Machine, row: int, p: int) -> tuple[float | None, float | None]:
    """(price, bid) of one accelerator for an hour in a pool, as the last plan has it."""
    prices = machine.prices
    work = machine.ground.tables.works[row]
    if prices is None or prices.plan is None or work["service"] >= 0:
        return None, None
    use = int(work["use"])
    worth = float(prices.bids[use] * prices.speeds[use][p]) * 3600.0
    return float(prices.plan.price[p, 0]), worth


def _back_s(machine: Machine, row: int) -> float | None:
    work = machine.ground.tables.works[row]
    if machine.prices is None or work["service"] >= 0:
        return None
    return machine.prices.back_s(int(work["use"]))


def _binding(machine: Machine, row: int, rule: str, ahead: int, pools: tuple[PoolView, ...]) -> str:
    """What holds a waiting work: the line, prices, a cap, whole nodes, or capacity."""
    if rule == NAMES[k.WAITS_FOR_RECLAIM]:
        return "accelerators on their way"
    if ahead:
        return "the line before it"
    bids = [view for view in pools if view.price_per_h is not None]
    if bids and all((v.bid_per_h or 0.0) <= (v.price_per_h or 0.0) * (1 + NEAR) for v in bids):
        return "the price: it bids no more than that in any pool"
    if pools and all(view.class_cap is not None and view.to_free is None for view in pools):
        lent = int(machine.ground.tables.works[row]["claim"]) == len(machine.fleet.classes)
        return "what may be lent: it stands beyond the plan" if lent else "a cap of its class"
    if any(view.free >= view.wanted for view in pools):
        return "whole nodes: what is free lies on too many"
    if machine.ground.tables.works[row]["firm"] and rule == NAMES[k.LENT_NOT_GIVEN]:
        return "guarantees of others: the rest may only be lent"
    return "capacity: what it may use is held"


def _change(machine: Machine, row: int, state: str, rule: str, pools: tuple[PoolView, ...]) -> str:
    """One sentence: the smallest change that would start it, each tried on a copy."""
    if state != "waiting":
        return "nothing: it does not wait."
    if rule == NAMES[k.WAITS_FOR_RECLAIM]:
        return "nothing: it starts when those who must stop have answered."
    found = changes(machine, row, tuple(_pools(machine, row)))
    if any(change.nothing for change in found):
        return "nothing: the next plan admits it."
    told = [_told(machine, row, change) for change in found]
    if told:
        return f"it is admitted with {', or with '.join(told)}."
    capped = [v for v in pools if v.class_cap is not None]
    if capped:
        best = min(capped, key=lambda v: v.class_held + v.wanted - (v.class_cap or 0))
        over = max(0, best.class_held + best.wanted - (best.class_cap or 0))
        return f"a cap of its class in {best.pool} that is {over} higher, and room there."
    return f"more than {NODES_AT_MOST} nodes: no smaller change admits it."


def _told(machine: Machine, row: int, change: Change) -> str:
    if change.pool is not None:
        plural = "s" if change.nodes > 1 else ""
        return f"{change.nodes} more node{plural} in {machine.fleet.pools[change.pool].name}"
    now = float(machine.ground.tables.works[row]["bid"])
    return (
        f"a bid of {change.bid * 3600:.3g} an accelerator-hour at best speed "
        f"instead of {now * 3600:.3g}"
    )

"""Laws of the books: the tables' sums are what works and accelerators add up to."""

from typing import Any

import numpy as np

from headgate.core.laws.view import Bools, View, differs, named
from headgate.core.rules import NAMES
from headgate.core.tables import Ints
from headgate.kernels import layout as k

# GPU-seconds are sums of many products; this is far above their rounding, far below one node's
# GPU-second in a year of the largest fleet.
ROUNDING = 1e-9
RULES: Ints = np.array(sorted(NAMES), np.int64)
SPENT = ("starting_gpu_s", "running_gpu_s", "stopping_gpu_s")


def no_accelerator_is_held_twice(view: View) -> str:
    """No accelerator is held twice."""
    gpus, works = view.tables.gpus, view.works
    heads = works["head"][view.holding]
    links = gpus["next"][gpus["next"] >= 0]
    reached = np.concatenate([heads, links])
    twice = np.flatnonzero(np.bincount(reached[reached >= 0], minlength=len(gpus)) > 1)
    if len(twice):
        return named("accelerators", twice)
    if len(reached) != len(view.owned) or np.any(gpus["owner"][reached] < 0):
        return named("accelerators", np.setxor1d(reached, view.owned))
    wrong = gpus["owner"][heads] != view.rows[view.holding]
    if np.any(wrong):
        return named("works", view.rows[view.holding][wrong])
    linked = np.flatnonzero(gpus["next"] >= 0)
    return named(
        "accelerators", linked[gpus["owner"][linked] != gpus["owner"][gpus["next"][linked]]]
    )


def a_gang_is_whole(view: View) -> str:
    """A gang holds all it wants, in one pool, or nothing."""
    works, tables = view.works, view.tables
    held = np.bincount(tables.gpus["owner"][view.owned], minlength=len(view.all_works))
    if int(held.sum()) != int(held[view.rows].sum()):
        return named("ended works that hold", np.setdiff1d(np.flatnonzero(held), view.rows))
    wanted = np.where(view.holding, tables.shapes[works["shape"], works["pool"], k.GPUS], 0)
    placed = np.where(view.holding, works["pool"] >= 0, (works["pool"] < 0) & (works["head"] < 0))
    whole = (held[view.rows] == wanted) & (works["gpus"] == wanted) & placed
    if not np.all(whole):
        return named("works", view.rows[~whole])
    owner = tables.gpus["owner"][view.owned]
    pool = tables.nodes["pool"][tables.gpus["node"][view.owned]]
    return named("works", np.unique(owner[view.all_works["pool"][owner] != pool]))


def a_gang_bound_to_a_domain_lies_in_one(view: View) -> str:
    """A work that must lie within one domain does."""
    t, works, owners = view.tables, view.all_works, view.tables.gpus["owner"][view.owned]
    bound = t.shapes[works["shape"][owners], works["pool"][owners], k.WITHIN] > 0
    domain = t.nodes["domain"][t.gpus["node"]]
    astray = domain[view.owned] != domain[works["head"][owners]]
    return named("works", np.unique(owners[bound & astray]))


def nothing_vanishes(view: View) -> str:
    """What was submitted is waiting, running, done, cancelled or refused with a reason."""
    works = view.all_works
    state = works["state"]
    unknown = (state < k.WAITING) | (state > k.REFUSED)
    silent = (state == k.REFUSED) & (
        (works["rule"] == k.NOT_TRIED) | ~np.isin(works["rule"], RULES)
    )
    return named("works", np.flatnonzero(unknown | silent))


def lanes_hold_exactly_the_waiting(view: View) -> str:
    """Each waiting work stands once, in its lane or among the claimants, and nobody else does."""
    works, lanes = view.all_works, view.lanes
    claiming = view.rows[(view.works["claiming"] > 0) & (view.state == k.WAITING)]
    if not np.array_equal(np.sort(view.claimants), claiming):
        return named("claimants", np.setxor1d(view.claimants, claiming))
    waiting = view.lined_up
    counted = np.bincount(works["lane"][waiting], minlength=len(lanes))
    if wrong := differs("lane count", lanes["count"], counted):
        return wrong
    behind = works["behind"][waiting]
    linked = behind >= 0
    heads = lanes["head"][lanes["head"] >= 0]
    reached = np.sort(np.concatenate([heads, behind[linked]]))
    if not np.array_equal(reached, waiting):
        return named("works", np.setxor1d(reached, waiting))
    astray = works["lane"][waiting[linked]] != works["lane"][behind[linked]]
    if np.any(astray):
        return named("works", waiting[linked][astray])
    wrong_lane = np.flatnonzero(counted > 0)[works["lane"][view.busy_lanes["head"]]
                                             != np.flatnonzero(counted > 0)]  # fmt: skip
    if len(wrong_lane):
        return named("heads of lanes", wrong_lane)
    tails = view.busy_lanes["tail"]
    return named("tails", tails[works["behind"][tails] >= 0])


def pools_add_up(view: View) -> str:
    """What pools and nodes say is free, held, up and down is what their accelerators say."""
    t, pools = view.tables, view.tables.pools
    nodes, count = t.nodes, len(t.pools)
    idle = np.bincount(t.gpus["node"][t.gpus["owner"] < 0], minlength=len(nodes))
    if wrong := differs("node free", nodes["free"], idle):
        return wrong
    up, down, kept = nodes["state"] == k.UP, nodes["state"] == k.DOWN, nodes["reserved"] >= 0

    def total(chosen: Bools, column: Any) -> Ints:
        return np.bincount(nodes["pool"][chosen], column[chosen], count).astype(np.int64)

    sums = {
        "up": total(up, nodes["size"]),
        "down": total(down, nodes["size"]),
        "free": total(up, nodes["free"]),
        "reserved_free": total(up & kept, nodes["free"]),
        "held": view.by(view.holding, view.works["gpus"], ("pool", count)),
        "stopping": view.by(view.state == k.STOPPING, view.works["gpus"], ("pool", count)),
    }
    for name, counted in sums.items():
        if wrong := differs(f"pool {name}", pools[name], counted):
            return wrong
    for told, column in ((t.hist, "pool"), (t.domain_hist, "domain")):
        hist = np.zeros(told.shape, np.int64)
        open_ = up & ~kept
        np.add.at(hist, (nodes[column][open_], nodes["free"][open_]), 1)
        if wrong := differs(f"hist by {column}", told, hist):
            return wrong
    return ""


def classes_add_up(view: View) -> str:
    """What classes, levels and services hold in each pool is what their works hold."""
    t, works = view.tables, view.works
    claims, pools = t.claims.shape[:2]
    gpus, firm = works["gpus"], works["firm"] > 0
    live = (view.state == k.STARTING) | (view.state == k.RUNNING)
    serving = (view.state == k.RUNNING) & (works["service"] >= 0)
    by_claim = (("claim", claims), ("pool", pools))
    coming = np.zeros((claims, pools), np.int64)
    for work in view.all_works[view.claimants]:
        p = work["reserved_pool"]
        coming[work["claim"], p] += t.shapes[work["shape"], p, k.GPUS]
    sums = (
        ("coming", t.claims[:, :, k.COMING], coming),
        ("held", t.claims[:, :, k.HELD], view.by(view.holding, gpus, *by_claim)),
        ("firm", t.claims[:, :, k.FIRM], view.by(view.holding & firm, gpus, *by_claim)),
        (
            "exposed",
            t.exposed,
            view.by(live & ~firm, gpus, ("level", len(t.exposed)), ("pool", pools)),
        ),
        (
            "ready",
            t.ready,
            view.by(
                serving, np.ones_like(gpus), ("service", len(t.ready)), ("mode", 2), ("pool", pools)
            ),
        ),
        (
            "tally",
            t.tally,
            view.by(
                view.holding,
                gpus,
                ("class_", t.tally.shape[0]),
                ("kind", 4),
                ("state", 7),
                ("pool", pools),
            ),
        ),
    )
    for name, told, counted in sums:
        if wrong := differs(name, told, counted):
            return wrong
    return ""


def no_class_holds_more_than_it_may(view: View) -> str:
    """No class holds more of a pool than its cap."""
    claims = view.tables.claims
    return named("claim and pool", np.argwhere(claims[:, :, k.HELD] > claims[:, :, k.CAP]))


def gpu_seconds_add_up(view: View) -> str:
    """GPU-seconds held, free, kept for a gang and down add up to those of the whole fleet."""
    works, pools, now_s = view.all_works, view.tables.pools, view.now_s
    spent = sum(float(works[name].sum()) for name in SPENT)
    spent += float(((now_s - view.works["since_s"]) * view.works["gpus"])[view.holding].sum())
    lapse_s = now_s - pools["at_s"]
    idle = pools["free_gpu_s"] + pools["reserved_gpu_s"] + pools["free"] * lapse_s
    live = pools["up"] + pools["down"]
    down = pools["down_gpu_s"] + (live - pools["free"] - pools["held"]) * lapse_s
    fleet = pools["live_gpu_s"] + live * lapse_s
    residual = float(fleet.sum() - idle.sum() - down.sum()) - spent
    if np.any(works["lost_gpu_s"] < 0) or np.any(idle < 0):
        return "a sum of GPU-seconds is negative"
    if abs(residual) > ROUNDING * max(1.0, float(fleet.sum())):
        return f"{residual} GPU-seconds of {float(fleet.sum())} are nobody's"
    return ""

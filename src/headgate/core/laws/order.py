"""Laws of the order: who waits, who yields, and who is owed what."""

from collections.abc import Callable

import numpy as np

from headgate.core.laws.view import Bools, View, named
from headgate.core.rules import NAMES
from headgate.core.tables import Ints, Table
from headgate.kernels import layout as k


def nobody_overtakes_in_a_lane(view: View) -> str:
    """Works of one lane are alike and stand in the order of their keys."""
    works, waiting = view.all_works, view.lined_up
    lane = view.lanes[works["lane"][waiting]]
    alike = np.ones(len(waiting), np.bool_)
    for name in ("level", "class_", "claim", "firm", "shape"):
        alike &= works[name][waiting] == lane[name]
    if not np.all(alike):
        return named("works", waiting[~alike])
    linked = waiting[works["behind"][waiting] >= 0]
    later = works["behind"][linked]
    return named("works", later[works["key"][later] < works["key"][linked]])


def nodes_are_kept_for_claimants(view: View) -> str:
    """Nodes are kept only for claimants, each in the one pool it was promised."""
    t, works = view.tables, view.all_works
    kept = np.flatnonzero(t.nodes["reserved"] >= 0)
    owners = t.nodes["reserved"][kept]
    counted = np.bincount(owners, minlength=len(works))[view.rows]
    wrong = view.rows[view.works["reserved"] != counted]
    if len(wrong):
        return named("works", wrong)
    if len(stray := np.setxor1d(owners, view.claimants)):
        return named("works", stray)
    if np.any(works["reserved_pool"][owners] != t.nodes["pool"][kept]):
        return named("nodes", kept[works["reserved_pool"][owners] != t.nodes["pool"][kept]])
    by = t.pools["reserved_by"]
    return named("pools", np.flatnonzero((by >= 0) & ~np.isin(by, owners)))


def who_fits_does_not_wait(view: View) -> str:
    """Nobody who comes first in a lane waits while a pool he may use has room for him."""
    t, size = view.tables, view.node_size
    works = view.all_works[view.askers]
    for i in range(t.shapes.shape[1]):
        p = t.shapes[works["shape"], i, k.PREFERENCE].astype(np.int64)
        count = t.shapes[works["shape"], p, k.GPUS].astype(np.int64)
        whole, rest = count // size[p], count % size[p]
        fits = _hold(t.hist[p], size[p], whole, rest)
        bound = fits & (p >= 0) & (t.shapes[works["shape"], p, k.WITHIN] > 0)
        for j in np.flatnonzero(bound).tolist():
            first = int(t.pools["first_domain"][p[j]])
            domains = t.domain_hist[first : first + int(t.pools["domains"][p[j]])]
            each = np.ones(len(domains), np.int64)
            fits[j] = np.any(_hold(domains, size[p[j]] * each, whole[j] * each, rest[j] * each))
        for j in np.flatnonzero((works["reserved"] > 0) & (works["reserved_pool"] == p)).tolist():
            fits[j] |= _fits_kept(view, int(view.askers[j]), int(p[j]), int(count[j]))
        fits &= (p >= 0) & _allowed(view, works, p, count)
        if np.any(fits):
            return named("works", view.askers[fits])
    return ""


def _hold(hist: Ints, size: Ints, whole: Ints, rest: Ints) -> Bools:
    """[row] whether nodes, hist[row, f] of them with f accelerators free, hold so much."""
    empty = np.take_along_axis(hist, size[:, None], axis=1)[:, 0]
    free = np.arange(hist.shape[1])
    partly = (hist > 0) & (free >= rest[:, None]) & (free < size[:, None])
    holds: Bools = (empty >= whole) & ((rest == 0) | (empty > whole) | partly.any(axis=1))
    return holds


def _fits_kept(view: View, row: int, p: int, count: int) -> bool:
    """Whether a claimant fits on open nodes and those kept for it."""
    nodes, work = view.tables.nodes, view.all_works[row]
    usable = (nodes["pool"] == p) & (nodes["state"] == k.UP)
    usable &= (nodes["reserved"] < 0) | (nodes["reserved"] == row)
    if view.tables.shapes[work["shape"], p, k.WITHIN] > 0:
        usable &= nodes["domain"] == nodes["domain"][work["reserved_node"]]
    free = np.sort(nodes["free"][usable])[::-1]
    whole, rest = divmod(count, int(view.node_size[p]))
    fits = np.count_nonzero(free == view.node_size[p]) >= whole
    return bool(fits and (rest == 0 or np.any(free[whole:] >= rest)))


def _allowed(view: View, works: Table, p: Ints, count: Ints) -> Bools:
    """Whether each work's class may hold so much more of its pool, whatever is free there."""
    claims = view.tables.claims
    claim = works["claim"].astype(np.int64)
    own = np.where((works["claiming"] > 0) & (works["reserved_pool"] == p), count, 0)
    coming = claims[claim, p, k.COMING] - own
    allowed: Bools = claims[claim, p, k.HELD] + coming + count <= claims[claim, p, k.CAP]
    if view.tables.flags[k.USE_GUARANTEES] > 0:
        firm = np.maximum(claims[:, :, k.GUARANTEE], claims[:, :, k.FIRM])
        others = firm.sum(axis=0)[p] - firm[claim, p]
        own = np.maximum(claims[claim, p, k.FIRM] + count, claims[claim, p, k.GUARANTEE])
        allowed &= (works["firm"] == 0) | (own + others <= view.tables.pools["up"][p])
    return allowed


def no_lower_level_holds_what_a_higher_could_use(view: View) -> Ints:
    """No lower level holds, past its drain time, what a waiting higher level could use."""
    if view.tables.flags[k.USE_LEVELS] == 0:
        return NOBODY
    levels, level = view.tables.levels, view.all_works["level"]
    return _owed(view, lambda row, owners: levels[level[row], level[owners]] > 0, inside=False)


def a_guarantee_asked_for_is_met(view: View) -> Ints:
    """A guarantee asked for is met within its reclaim time while capacity exists."""
    if view.tables.flags[k.USE_GUARANTEES] == 0:
        return NOBODY
    claim = view.all_works["claim"]
    return _owed(view, lambda row, owners: claim[owners] != claim[row], inside=True)


def _owed(view: View, yields: Callable[[int, Ints], Bools], *, inside: bool) -> Ints:
    """Works that look for victims, for which enough nodes could be cleared though nobody was
    asked to go: heads of lanes, and those that nodes are kept empty for.

    `yields` says who of some owners must make room for a work; with `inside` only works inside
    their guarantee count. Nodes of classes whose guarantee might protect them are left out, unless
    one node is enough; and so is a rest that would fit on part of a node: the law is a little
    weaker than the rule.
    """
    t, works = view.tables, view.all_works
    protected = (t.flags[k.USE_GUARANTEES] > 0) & (t.claims[:, :, k.GUARANTEE] > 0)
    owners = t.gpus["owner"][view.owned]
    going = works["state"][owners] == k.STOPPING
    guarded = protected[works["claim"][owners], works["pool"][owners]]
    firm = works["firm"][owners] > 0
    keepers = t.pools["reserved_by"][t.pools["reserved_by"] >= 0].tolist()
    nodes: dict[tuple[int, int, int], tuple[Bools, Bools]] = {}
    found: list[int] = []
    for row in [*view.busy_lanes["head"].tolist(), *keepers]:
        alike = (int(works["level"][row]), int(works["claim"][row]), row if row in keepers else -1)
        if alike not in nodes:
            goes, stays = yields(row, owners) & ~firm & ~going, ~going
            clear = _clear_nodes(view, row, view.owned[stays & (guarded | ~goes)], yields)
            single = clear
            if inside:
                single = _single_nodes(view, view.owned[stays & ~goes], view.owned[goes])
            nodes[alike] = clear, single
        if _served_by(view, row, *nodes[alike], inside=inside):
            found.append(row)
    return np.array(found, np.int64)


def _clear_nodes(view: View, row: int, stays: Ints, yields: Callable[[int, Ints], Bools]) -> Bools:
    """[node] up, kept for nobody who need not leave it to the work, and free of some GPUs."""
    t = view.tables
    nodes, keepers = t.nodes, t.pools["reserved_by"]
    kept = nodes["reserved"].astype(np.int64)
    empties = (kept >= 0) & (kept == keepers[nodes["pool"]])
    leaves = np.zeros(len(nodes), np.bool_)
    leaves[empties] = yields(row, kept[empties])
    if t.flags[k.USE_GUARANTEES] > 0:
        # A class that holds or is promised no more than its guarantee keeps its nodes.
        claim, pool = view.all_works["claim"][kept], nodes["pool"]
        total = t.claims[claim, pool, k.HELD] + t.claims[claim, pool, k.COMING]
        own = claim == view.all_works["claim"][row]
        leaves &= own | (total > t.claims[claim, pool, k.GUARANTEE])
    clear: Bools = (nodes["state"] == k.UP) & ((kept < 0) | (kept == row) | leaves)
    clear[t.gpus["node"][stays]] = False
    return clear


def _single_nodes(view: View, stays: Ints, goes: Ints) -> Bools:
    """[node] whether all on it may go, whatever the order: each class borrows until the last."""
    t, works = view.tables, view.all_works
    nodes = t.nodes
    possible: Bools = (nodes["state"] == k.UP) & (nodes["reserved"] < 0)
    possible[t.gpus["node"][stays]] = False
    pairs = np.unique(np.stack([t.gpus["node"][goes], t.gpus["owner"][goes]]), axis=1)
    node, owner = pairs.astype(np.int64)
    claim, gpus = works["claim"][owner].astype(np.int64), works["gpus"][owner].astype(np.int64)
    total = np.zeros((len(nodes), len(t.claims)), np.int64)
    least = np.full_like(total, np.iinfo(np.int64).max)
    np.add.at(total, (node, claim), gpus)
    np.minimum.at(least, (node, claim), gpus)
    pool = nodes["pool"]
    held, guarantee = t.claims[:, pool, k.HELD].T, t.claims[:, pool, k.GUARANTEE].T
    fails = (total > 0) & (held - (total - least) <= guarantee)
    return np.asarray(possible & ~fails.any(axis=1))


def _served_by(view: View, row: int, clear: Bools, single: Bools, *, inside: bool) -> bool:
    """Whether the work would fit on clear whole nodes, or on a single one, of a pool it may use."""
    t, work = view.tables, view.all_works[row : row + 1]
    nodes, claim = t.nodes, int(work["claim"][0])
    for p in t.shapes[int(work["shape"][0]), :, k.PREFERENCE].tolist():
        if p < 0:
            break
        count = int(t.shapes[int(work["shape"][0]), p, k.GPUS])
        own = count if work["claiming"][0] and work["reserved_pool"][0] == p else 0
        promised = int(t.claims[claim, p, k.HELD] + t.claims[claim, p, k.COMING]) - own
        if inside and promised + count > t.claims[claim, p, k.GUARANTEE]:
            continue
        here = nodes["pool"] == p
        clear_nodes = np.bincount(nodes["domain"][clear & here], minlength=1)
        alone = t.shapes[int(work["shape"][0]), p, k.WITHIN] > 0
        room = int(clear_nodes.max() if alone else clear_nodes.sum()) * int(view.node_size[p])
        one = count <= view.node_size[p] and bool(np.any(single & here))
        if room < count and not one:
            continue
        if _allowed(view, work, np.array([p]), np.array([count]))[0]:
            return True
    return False


def patience_is_kept(view: View) -> str:
    """Nobody waits for a first start beyond the patience it stated."""
    works = view.works
    over = (view.state == k.WAITING) & (works["starts"] == 0)
    over &= works["submitted_s"] + works["patience_s"] <= view.now_s
    return named("works", view.rows[over])


NOBODY: Ints = np.zeros(0, np.int64)
RULES: Ints = np.array(sorted(NAMES), np.int64)

"""The laws: each is one function and one sentence, over the machine's tables as they stand.

The compiled round checks after every fact what costs nothing; these recompute every sum from the
works and accelerators themselves. Tests run them after every fact, simulations now and then. A law
returns nothing when it holds, else who breaks it; a debt returns the works that are owed now, which
breaks a law only when it lasts.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.core.errors import LawBroken
from headgate.core.lifecycle import HOLDS
from headgate.core.rules import NAMES
from headgate.core.tables import Ints, Table, Tables
from headgate.kernels import layout as k

Bools = NDArray[np.bool_]

# GPU-seconds are sums of many products; this is far above their rounding, far below one node's
# GPU-second in a year of the largest fleet.
ROUNDING = 1e-9


class View:
    """The tables at one moment, and what several laws ask of them."""

    def __init__(self, tables: Tables, rows: int, now_s: float) -> None:
        self.tables = tables
        self.all_works: Table = tables.works[:rows]
        self.now_s = now_s
        # Ended works hold nothing and never change, so all laws but the sums pass them over.
        self.rows: Ints = np.flatnonzero(self.all_works["state"] < k.DONE)
        self.works: Table = self.all_works[self.rows]
        self.state: Ints = self.works["state"].astype(np.int64)
        self.holding: Bools = np.isin(self.state, HOLDS)

    @cached_property
    def lanes(self) -> Table:
        lanes: Table = self.tables.lanes[: self.tables.meta[k.N_LANES]]
        return lanes

    @cached_property
    def owned(self) -> Ints:
        """Accelerators that somebody holds."""
        return np.flatnonzero(self.tables.gpus["owner"] >= 0)

    @cached_property
    def node_size(self) -> Ints:
        """[pool] accelerators of each of its nodes."""
        return np.asarray(self.tables.nodes["size"][self.tables.pools["first_node"]], np.int64)

    @cached_property
    def claimants(self) -> Ints:
        """Works that wait for nodes reserved for them."""
        return np.array(self.tables.claimants(), np.int64)

    @cached_property
    def askers(self) -> Ints:
        """Works that the round tries to start: claimants, and the heads of lanes."""
        return np.concatenate([self.claimants, self.busy_lanes["head"]])

    @cached_property
    def lined_up(self) -> Ints:
        """Works that wait in lanes."""
        return np.asarray(self.rows[(self.state == k.WAITING) & (self.works["claiming"] == 0)])

    @cached_property
    def busy_lanes(self) -> Table:
        """Lanes somebody waits in."""
        return self.lanes[self.lanes["count"] > 0]

    def by(self, chosen: Bools, weights: Any, *columns: tuple[str, int]) -> Ints:
        """Sums of weights over live works, by the columns named with their lengths."""
        lengths = tuple(length for _, length in columns)
        sums = np.zeros(lengths, np.int64)
        places = tuple(self.works[name][chosen].astype(np.int64) for name, _ in columns)
        np.add.at(sums, places, weights[chosen])
        return sums


Law = Callable[[View], str]
Debt = Callable[[View], Ints]


class Laws:
    """Checks every law, and remembers since when somebody is owed what he could have."""

    def __init__(self, reclaim_s: float) -> None:
        self.reclaim_s = reclaim_s
        self.owed_since_s: dict[tuple[str, int], float] = {}  # by law and work

    def check(self, tables: Tables, rows: int, now_s: float, *, looked: bool = False) -> None:
        """Raise LawBroken at the first law that does not hold.

        `rows` works are known. `looked` says that the round has just looked at every lane, as it
        does when a window closes; only then do the laws of who yields to whom bind.
        """
        view = View(tables, rows, now_s)
        for law in (*ALWAYS, patience_is_kept) if looked else ALWAYS:
            if who := law(view):
                self._broken(str(law.__doc__), view, who)
        if looked:
            self._note_debts(view)

    @property
    def anybody_owed(self) -> bool:
        """Whether the next window must be looked at too, to see debts settled in time."""
        return bool(self.owed_since_s)

    def _note_debts(self, view: View) -> None:
        owed = {(debt.__name__, row): debt for debt in DEBTS for row in debt(view).tolist()}
        for place in [place for place in self.owed_since_s if place not in owed]:
            del self.owed_since_s[place]
        for place, debt in owed.items():
            since_s = self.owed_since_s.setdefault(place, view.now_s)
            if view.now_s - since_s > self.reclaim_s:
                who = f"work {place[1]}, owed since {since_s} s"
                self._broken(str(debt.__doc__), view, who)

    def _broken(self, sentence: str, view: View, who: str) -> None:
        raise LawBroken(f"{sentence} Broken at {view.now_s} s: {who}; keep the log and replay it.")


def _named(what: str, rows: Any) -> str:
    """The first few rows of those that break a law."""
    rows = np.atleast_1d(rows)
    if not len(rows):
        return ""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{what} {', '.join(str(row) for row in rows[:5].tolist())}{more}"


def _differs(what: str, told: Any, counted: Any) -> str:
    """Where a table's sums are not what the works and accelerators say."""
    wrong = np.argwhere(np.asarray(told) != np.asarray(counted))
    if not len(wrong):
        return ""
    place = tuple(wrong[0].tolist())
    return f"{what}{list(place)} is {told[place]}, counted {counted[place]}"


def no_accelerator_is_held_twice(view: View) -> str:
    """No accelerator is held twice."""
    gpus, works = view.tables.gpus, view.works
    heads = works["head"][view.holding]
    links = gpus["next"][gpus["next"] >= 0]
    reached = np.concatenate([heads, links])
    twice = np.flatnonzero(np.bincount(reached[reached >= 0], minlength=len(gpus)) > 1)
    if len(twice):
        return _named("accelerators", twice)
    if len(reached) != len(view.owned) or np.any(gpus["owner"][reached] < 0):
        return _named("accelerators", np.setxor1d(reached, view.owned))
    wrong = gpus["owner"][heads] != view.rows[view.holding]
    if np.any(wrong):
        return _named("works", view.rows[view.holding][wrong])
    linked = np.flatnonzero(gpus["next"] >= 0)
    return _named(
        "accelerators", linked[gpus["owner"][linked] != gpus["owner"][gpus["next"][linked]]]
    )


def a_gang_is_whole(view: View) -> str:
    """A gang holds all it wants, in one pool, or nothing."""
    works, tables = view.works, view.tables
    held = np.bincount(tables.gpus["owner"][view.owned], minlength=len(view.all_works))
    if int(held.sum()) != int(held[view.rows].sum()):
        return _named("ended works that hold", np.setdiff1d(np.flatnonzero(held), view.rows))
    wanted = np.where(view.holding, tables.shapes[works["shape"], works["pool"], k.GPUS], 0)
    placed = np.where(view.holding, works["pool"] >= 0, (works["pool"] < 0) & (works["head"] < 0))
    whole = (held[view.rows] == wanted) & (works["gpus"] == wanted) & placed
    if not np.all(whole):
        return _named("works", view.rows[~whole])
    owner = tables.gpus["owner"][view.owned]
    pool = tables.nodes["pool"][tables.gpus["node"][view.owned]]
    return _named("works", np.unique(owner[view.all_works["pool"][owner] != pool]))


def a_gang_bound_to_a_domain_lies_in_one(view: View) -> str:
    """A work that must lie within one domain does."""
    t, works, owners = view.tables, view.all_works, view.tables.gpus["owner"][view.owned]
    bound = t.shapes[works["shape"][owners], works["pool"][owners], k.WITHIN] > 0
    domain = t.nodes["domain"][t.gpus["node"]]
    astray = domain[view.owned] != domain[works["head"][owners]]
    return _named("works", np.unique(owners[bound & astray]))


def nothing_vanishes(view: View) -> str:
    """What was submitted is waiting, running, done, cancelled or refused with a reason."""
    works = view.all_works
    state = works["state"]
    unknown = (state < k.WAITING) | (state > k.REFUSED)
    silent = (state == k.REFUSED) & (
        (works["rule"] == k.NOT_TRIED) | ~np.isin(works["rule"], RULES)
    )
    return _named("works", np.flatnonzero(unknown | silent))


def lanes_hold_exactly_the_waiting(view: View) -> str:
    """Each waiting work stands once, in its lane or among the claimants, and nobody else does."""
    works, lanes = view.all_works, view.lanes
    claiming = view.rows[(view.works["claiming"] > 0) & (view.state == k.WAITING)]
    if not np.array_equal(np.sort(view.claimants), claiming):
        return _named("claimants", np.setxor1d(view.claimants, claiming))
    waiting = view.lined_up
    counted = np.bincount(works["lane"][waiting], minlength=len(lanes))
    if wrong := _differs("lane count", lanes["count"], counted):
        return wrong
    behind = works["behind"][waiting]
    linked = behind >= 0
    heads = lanes["head"][lanes["head"] >= 0]
    reached = np.sort(np.concatenate([heads, behind[linked]]))
    if not np.array_equal(reached, waiting):
        return _named("works", np.setxor1d(reached, waiting))
    astray = works["lane"][waiting[linked]] != works["lane"][behind[linked]]
    if np.any(astray):
        return _named("works", waiting[linked][astray])
    wrong_lane = np.flatnonzero(counted > 0)[works["lane"][view.busy_lanes["head"]]
                                             != np.flatnonzero(counted > 0)]  # fmt: skip
    if len(wrong_lane):
        return _named("heads of lanes", wrong_lane)
    tails = view.busy_lanes["tail"]
    return _named("tails", tails[works["behind"][tails] >= 0])


def nobody_overtakes_in_a_lane(view: View) -> str:
    """Works of one lane are alike and stand in the order of their keys."""
    works, waiting = view.all_works, view.lined_up
    lane = view.lanes[works["lane"][waiting]]
    alike = np.ones(len(waiting), np.bool_)
    for name in ("level", "class_", "claim", "firm", "shape"):
        alike &= works[name][waiting] == lane[name]
    if not np.all(alike):
        return _named("works", waiting[~alike])
    linked = waiting[works["behind"][waiting] >= 0]
    later = works["behind"][linked]
    return _named("works", later[works["key"][later] < works["key"][linked]])


def pools_add_up(view: View) -> str:
    """What pools and nodes say is free, held, up and down is what their accelerators say."""
    t, pools = view.tables, view.tables.pools
    nodes, count = t.nodes, len(t.pools)
    idle = np.bincount(t.gpus["node"][t.gpus["owner"] < 0], minlength=len(nodes))
    if wrong := _differs("node free", nodes["free"], idle):
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
        if wrong := _differs(f"pool {name}", pools[name], counted):
            return wrong
    for told, column in ((t.hist, "pool"), (t.domain_hist, "domain")):
        hist = np.zeros(told.shape, np.int64)
        open_ = up & ~kept
        np.add.at(hist, (nodes[column][open_], nodes["free"][open_]), 1)
        if wrong := _differs(f"hist by {column}", told, hist):
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
        if wrong := _differs(name, told, counted):
            return wrong
    return ""


def no_class_holds_more_than_it_may(view: View) -> str:
    """No class holds more of a pool than its cap."""
    claims = view.tables.claims
    return _named("claim and pool", np.argwhere(claims[:, :, k.HELD] > claims[:, :, k.CAP]))


def nodes_are_kept_for_claimants(view: View) -> str:
    """Nodes are kept only for claimants, each in the one pool it was promised."""
    t, works = view.tables, view.all_works
    kept = np.flatnonzero(t.nodes["reserved"] >= 0)
    owners = t.nodes["reserved"][kept]
    counted = np.bincount(owners, minlength=len(works))[view.rows]
    wrong = view.rows[view.works["reserved"] != counted]
    if len(wrong):
        return _named("works", wrong)
    if len(stray := np.setxor1d(owners, view.claimants)):
        return _named("works", stray)
    if np.any(works["reserved_pool"][owners] != t.nodes["pool"][kept]):
        return _named("nodes", kept[works["reserved_pool"][owners] != t.nodes["pool"][kept]])
    by = t.pools["reserved_by"]
    return _named("pools", np.flatnonzero((by >= 0) & ~np.isin(by, owners)))


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
            return _named("works", view.askers[fits])
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
    return _named("works", view.rows[over])


NOBODY: Ints = np.zeros(0, np.int64)
RULES: Ints = np.array(sorted(NAMES), np.int64)
SPENT = ("starting_gpu_s", "running_gpu_s", "stopping_gpu_s")

ALWAYS: tuple[Law, ...] = (
    no_accelerator_is_held_twice,
    a_gang_is_whole,
    a_gang_bound_to_a_domain_lies_in_one,
    nothing_vanishes,
    lanes_hold_exactly_the_waiting,
    nobody_overtakes_in_a_lane,
    pools_add_up,
    classes_add_up,
    no_class_holds_more_than_it_may,
    nodes_are_kept_for_claimants,
    gpu_seconds_add_up,
    who_fits_does_not_wait,
)
DEBTS: tuple[Debt, ...] = (
    no_lower_level_holds_what_a_higher_could_use,
    a_guarantee_asked_for_is_met,
)

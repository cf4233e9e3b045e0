"""The round again, in plain Python: slow, with nothing kept that could be counted anew.

It has no sums, no histogram and no bounds: every question is answered from the works and the
accelerators themselves. `Twin` stands in for the functions of headgate.kernels.round that the
machine's ground calls, and writes into the tables what the machine reads there.
"""

import bisect
from dataclasses import dataclass, field
from typing import Any

from headgate.control.ground import Ground
from headgate.kernels import layout as k
from headgate.kernels.claiming import SEARCH_AGAIN_S
from headgate.kernels.round import PASSES

FOREVER = float("inf")


@dataclass(eq=False)
class Work:
    row: int
    kind: int
    claim: int
    service: int
    mode: int
    shape: int
    lane: int
    level: int
    key: float
    firm: int
    bid: float
    checkpoint_s: float
    restart_s: float
    since_s: float
    state: int = k.WAITING
    leaving: bool = False
    rule: int = k.NOT_TRIED
    pool: int = -1
    starts: int = 0
    held_from_s: float = 0.0
    running_s: float = 0.0
    kept_pool: int = -1  # where nodes are reserved for it
    empties: bool = False  # they are kept empty; else somebody was asked to go
    searched_s: float = -FOREVER  # when who keeps them looked for victims in vain


@dataclass(eq=False)
class Node:
    row: int
    pool: int
    domain: int
    gpus: list[Work | None]
    up: bool = False
    seen: bool = False
    kept_for: Work | None = None

    @property
    def free(self) -> int:
        return self.gpus.count(None)

    @property
    def size(self) -> int:
        return len(self.gpus)

    def holders(self) -> list[Work]:
        """Who holds it, each once, in the order of the accelerators."""
        return list(dict.fromkeys(work for work in self.gpus if work is not None))


@dataclass
class Lane:
    works: list[Work] = field(default_factory=list)
    fresh: bool = False
    closed: bool = False
    searched_s: float = -FOREVER


def empty(nodes: list[Node], size: int) -> int:
    return [node.free for node in nodes].count(size)


def order(nodes: list[Node], size: int, whole: int, rest: int) -> tuple[int, int]:
    """Domains that can hold so much: a rest alone where least is left, then the fewest empty."""
    left = min(node.free for node in nodes if node.free >= rest)
    return (0 if whole else left, empty(nodes, size))


class BrokenMove(Exception):  # noqa: N818
    """The lifecycle forbids it."""


class Twin:
    """One ground's round."""

    def __init__(self, ground: Ground) -> None:
        self.tables = tables = ground.tables
        self.nodes = self._nodes(ground)
        self.works: list[Work] = []
        self.lanes: dict[int, Lane] = {}
        self.claimants: list[Work] = []
        self.all_lanes = False
        self.fresh_heads = False
        self.asked: set[int] = set()
        self.wishes: list[tuple[int, int, int, int, int]] = []
        self.now_s = 0.0
        flags = tables.flags
        self.by_levels = flags[k.USE_LEVELS] > 0
        self.by_guarantees = flags[k.USE_GUARANTEES] > 0
        self.least_loss = flags[k.LEAST_LOSS] > 0
        self.cheapest_pool = flags[k.CHEAPEST_POOL] > 0
        self.reserve_after_s = float(flags[k.RESERVE_AFTER_S])

    @staticmethod
    def _nodes(ground: Ground) -> list[Node]:
        nodes: list[Node] = []
        for p, pool in enumerate(ground.fleet.pools):
            each = pool.domain_nodes or pool.nodes
            for i in range(pool.nodes):
                nodes.append(Node(len(nodes), p, i // each, [None] * pool.gpus_per_node))
        return nodes

    # What the machine calls.

    def enlist(
        self, _: Any, row: int, kind: int, class_: int, claim: int, tenant: int, service: int,
        mode: int, shape: int, lane: int, level: int, key: float, priority: int, firm: int,
        bid: float, deadline_s: float, patience_s: float, checkpoint_s: float, restart_s: float,
        ref: int, now_s: float,
    ) -> None:  # fmt: skip
        assert row == len(self.works)
        self.works.append(
            Work(
                row, kind, claim, service, mode, shape, lane, level, key, firm, bid, checkpoint_s,
                restart_s, now_s,
            )
        )  # fmt: skip
        told = self.tables.works[row]
        for name, value in (
            ("kind", kind), ("class_", class_), ("claim", claim), ("tenant", tenant),
            ("service", service), ("mode", mode), ("shape", shape), ("priority", priority),
            ("firm", firm), ("bid", bid), ("deadline_s", deadline_s), ("patience_s", patience_s),
            ("submitted_s", now_s), ("ref", ref), ("pool", -1),
        ):  # fmt: skip
            told[name] = value

    def turn(
        self, _: Any, code: int, row: int, rule: int, lost_gpu_s: float, now_s: float
    ) -> tuple[int, int]:
        self.now_s = now_s
        self.wishes = []
        try:
            self._learn(code, row, rule)
        except BrokenMove:
            return 0, k.ILLEGAL_MOVE
        for _pass in range(PASSES):
            if not (self.all_lanes or self.fresh_heads):
                break
            self._decide()
        self._tell()
        for at, wish in enumerate(self.wishes):
            self.tables.wishes[at] = wish
        return len(self.wishes), 0

    def requeue(
        self, _: Any, row: int, lane: int, level: int, claim: int, mode: int, key: float,
        now_s: float,
    ) -> None:  # fmt: skip
        work = self.works[row]
        self.now_s = now_s
        if work in self.claimants:
            self._let_nodes_go(work)
        else:
            self.lanes[work.lane].works.remove(work)
        work.lane, work.level, work.claim, work.mode, work.key = lane, level, claim, mode, key
        self._line_up(work)
        self.all_lanes = True
        self._tell()

    def relevel(
        self, _: Any, row: int, lane: int, level: int, claim: int, mode: int, key: float,
        now_s: float,
    ) -> None:  # fmt: skip
        work = self.works[row]
        work.lane, work.level, work.claim, work.mode, work.key = lane, level, claim, mode, key
        self.all_lanes = True
        self._tell()

    def _tell(self) -> None:
        """Write what Python code reads in the tables."""
        tables = self.tables
        tables.ready[:] = 0
        tables.claims[:, :, k.HELD] = tables.claims[:, :, k.COMING] = 0
        for p, pool in enumerate(tables.pools):
            up = [node for node in self._of(p) if node.up]
            pool["up"] = sum(node.size for node in up)
            pool["free"] = sum(node.free for node in up)
            pool["reserved_free"] = sum(node.free for node in up if node.kept_for is not None)
        for work in self.works:
            told = tables.works[work.row]
            told["state"], told["pool"], told["starts"] = work.state, work.pool, work.starts
            told["claim"], told["mode"], told["gpus"] = work.claim, work.mode, self._held(work)
            told["key"], told["since_s"] = work.key, work.since_s
            if work.state == k.RUNNING and work.service >= 0:
                tables.ready[work.service, work.mode, work.pool] += 1
            if work.pool >= 0:
                tables.claims[work.claim, work.pool, k.HELD] += self._held(work)
            if work in self.claimants:
                coming = self._wanted(work, work.kept_pool)
                tables.claims[work.claim, work.kept_pool, k.COMING] += coming

    # Counting.

    def _wanted(self, work: Work, p: int) -> int:
        return int(self.tables.shapes[work.shape, p, k.GPUS])

    def _held(self, work: Work) -> int:
        return self._wanted(work, work.pool) if work.pool >= 0 else 0

    def _of(self, p: int) -> list[Node]:
        return [node for node in self.nodes if node.pool == p]

    def _class_holds(self, claim: int, p: int) -> int:
        return sum(self._held(w) for w in self.works if w.claim == claim and w.pool == p)

    def _class_holds_firmly(self, claim: int, p: int) -> int:
        return sum(self._held(w) for w in self.works if w.claim == claim and w.pool == p and w.firm)

    def _coming(self, claim: int, p: int, but: Work | None = None) -> int:
        return sum(
            self._wanted(w, p)
            for w in self.claimants
            if w.claim == claim and w.kept_pool == p and w is not but
        )

    def _guaranteed(self, claim: int, p: int) -> int:
        return int(self.tables.claims[claim, p, k.GUARANTEE])

    def _pools(self, work: Work) -> list[int]:
        order = self.tables.shapes[work.shape, :, k.PREFERENCE].tolist()
        return order[: order.index(-1)] if -1 in order else order

    def _order(self, work: Work) -> tuple[int, float, int]:
        return (work.level, work.key, work.row)

    # Learning.

    def _learn(self, code: int, row: int, rule: int) -> None:
        if code == k.TIME_PASSED:
            self.all_lanes = True
        elif code == k.NODE_UP:
            if self.nodes[row].up:
                raise BrokenMove
            self.nodes[row].up = self.all_lanes = True
        elif code == k.NODE_DOWN:
            node = self.nodes[row]
            if not node.up:
                raise BrokenMove
            if node.kept_for is not None:
                self._give_up_claim(node.kept_for)
            node.up = False
            self.all_lanes = True
        elif code == k.WORK_SUBMITTED:
            self._line_up(self.works[row])
        else:
            self._learn_of(self.works[row], code, rule)

    def _learn_of(self, work: Work, code: int, rule: int) -> None:
        state = work.state
        if code == k.WORK_STARTED and state in (k.STARTING, k.STOPPING):
            if state == k.STARTING:
                self._enter(work, k.RUNNING)
                work.running_s = self.now_s
        elif code == k.WORK_FINISHED and state in (k.RUNNING, k.STOPPING):
            self._release(work, k.DONE)
        elif code == k.WORK_STOPPED and state in (k.STARTING, k.RUNNING, k.STOPPING):
            self._release(work, k.CANCELLED if work.leaving else k.WAITING)
            if not work.leaving:
                self._line_up(work)
        elif code in (k.WORK_CANCELLED, k.WORK_REFUSED, k.STOP_WANTED) and state <= k.STOPPING:
            if state == k.WAITING:
                self._leave(work)
                self._enter(work, k.REFUSED if code == k.WORK_REFUSED else k.CANCELLED)
            else:
                work.leaving = True
                if state != k.STOPPING:
                    self._stop(work, rule, -1)
        else:
            raise BrokenMove

    def _enter(self, work: Work, state: int) -> None:
        work.state, work.since_s = state, self.now_s

    def _line_up(self, work: Work) -> None:
        lane = self.lanes.setdefault(work.lane, Lane())
        at = bisect.bisect_right([w.key for w in lane.works], work.key)
        lane.works.insert(at, work)
        if at == 0:
            lane.fresh = self.fresh_heads = True

    def _leave(self, work: Work) -> None:
        """A waiting work goes for good."""
        if work in self.claimants:
            self._let_nodes_go(work)
            for looking in (*self.lanes.values(), *self.claimants):
                looking.searched_s = -FOREVER
            return
        lane = self.lanes[work.lane]
        was_head = lane.works[0] is work
        lane.works.remove(work)
        if was_head and lane.works:
            lane.fresh = self.fresh_heads = True

    def _release(self, work: Work, state: int) -> None:
        for node in self.nodes:
            node.gpus = [None if owner is work else owner for owner in node.gpus]
        work.pool = -1
        self._enter(work, state)
        self.all_lanes = True

    def _let_nodes_go(self, work: Work) -> None:
        for node in self.nodes:
            if node.kept_for is work:
                node.kept_for = None
        if work in self.claimants:
            self.claimants.remove(work)
            self.all_lanes = True
        work.empties = False

    def _give_up_claim(self, work: Work) -> None:
        self._let_nodes_go(work)
        self._line_up(work)

    # Deciding.

    def _decide(self) -> None:
        """One pass over claimants and heads of lanes, in the order of level and key."""
        everything = self.all_lanes
        for lane in self.lanes.values():
            lane.closed = not (everything or lane.fresh)
            lane.fresh = False
        self.all_lanes = self.fresh_heads = False
        self.asked = set()  # pools where somebody would have had nodes kept, but for another
        seen: set[int] = set()
        while True:
            heads = [
                lane.works[0] for lane in self.lanes.values() if lane.works and not lane.closed
            ]
            claimants = [w for w in self.claimants if w.row not in seen] if everything else []
            waiting = sorted([*heads, *claimants], key=self._order)
            if not waiting:
                return
            work = waiting[0]
            if work in self.claimants:
                seen.add(work.row)
                self._serve_claimant(work)
                continue
            room = self._find_room(work)
            if room is not None:
                self._start(work, room[0], on_kept=False)
            elif self._claim_nodes(work):
                seen.add(work.row)
            else:
                self.lanes[work.lane].closed = True

    def _serve_claimant(self, work: Work) -> None:
        room = self._find_room(work)
        if room is not None:
            self._start(work, room[0], on_kept=room[1])
        elif work.kept_pool not in self._pools(work) or not self._allowed(work, work.kept_pool):
            self._give_up_claim(work)
        elif work.empties:
            self._take_back(work)

    def _allowed(self, work: Work, p: int) -> bool:
        """Whether the class may hold so much more there, whatever is free."""
        wanted, claims = self._wanted(work, p), self.tables.claims
        held = self._class_holds(work.claim, p) + self._coming(work.claim, p, work)
        if held + wanted > claims[work.claim, p, k.CAP]:
            return False
        if not (work.firm and self.by_guarantees):
            return True
        owed = 0
        for claim in range(len(claims)):
            firm = self._class_holds_firmly(claim, p) + (wanted if claim == work.claim else 0)
            owed += max(firm, self._guaranteed(claim, p))
        return owed <= sum(node.size for node in self._of(p) if node.up)

    def _fits(self, nodes: list[Node], size: int, wanted: int) -> bool:
        """Whole nodes, and the rest on one more."""
        whole, rest = divmod(wanted, size)
        free = sorted((node.free for node in nodes), reverse=True)
        if free.count(size) < whole:
            return False
        return rest == 0 or any(count >= rest for count in free[whole:])

    def _parts(self, work: Work, p: int) -> list[list[Node]]:
        """Of these parts of a pool the work must lie in one."""
        nodes = [node for node in self._of(p) if node.up]
        if not self.tables.shapes[work.shape, p, k.WITHIN]:
            return [nodes] if nodes else []
        domains = sorted({node.domain for node in nodes})
        return [[node for node in nodes if node.domain == d] for d in domains]

    def _kept_part(self, work: Work, p: int) -> list[Node]:
        """The part of the pool in which nodes are reserved for it, without those of others."""
        for part in self._parts(work, p):
            if any(node.kept_for is work for node in part):
                return [node for node in part if node.kept_for in (None, work)]
        return []

    def _find_room(self, work: Work) -> tuple[int, bool] | None:
        """The pool, and whether it starts on what is reserved for it."""
        for p in self._pools(work):
            if not self._allowed(work, p):
                continue
            size, wanted = self._of(p)[0].size, self._wanted(work, p)
            mine = self._kept_part(work, p)
            own = [node for node in mine if node.kept_for is work]
            if wanted <= size and len(own) == 1:
                mine = own
            if mine and self._fits(mine, size, wanted):
                return p, True
            for part in self._parts(work, p):
                if self._fits([node for node in part if node.kept_for is None], size, wanted):
                    return p, False
        return None

    def _start(self, work: Work, p: int, *, on_kept: bool) -> None:
        if on_kept:
            self._place_on_kept(work, p)
        else:
            self._place(work, p)
        if work in self.claimants:
            self._let_nodes_go(work)
        else:
            self.lanes[work.lane].works.remove(work)
        work.pool = p
        work.held_from_s = self.now_s
        work.starts += 1
        self._enter(work, k.STARTING)
        rule = k.RESERVED_NODES if on_kept else k.FREE_CAPACITY
        self.wishes.append((k.START, work.row, p, rule, -1))

    def _take(self, work: Work, node: Node, count: int) -> None:
        for at, owner in enumerate(node.gpus):
            if owner is None and count > 0:
                node.gpus[at] = work
                count -= 1
        assert count == 0

    def _place_on_kept(self, work: Work, p: int) -> None:
        """Its own nodes first, then open ones beside them; the rest where least is left over."""
        part = self._kept_part(work, p)
        part.sort(key=lambda node: node.kept_for is not work)
        whole, rest = divmod(self._wanted(work, p), part[0].size)
        for node in [node for node in part if node.free == node.size][:whole]:
            self._take(work, node, node.size)
        if rest:
            enough = [node for node in part if node.free >= rest]
            best = min(enough, key=lambda n: (n.kept_for is not work, n.free))
            self._take(work, best, rest)

    def _place(self, work: Work, p: int) -> None:
        """In one domain if any holds it, the one that keeps fewest empty nodes; else in those with
        most of them. A rest alone looks for the node with least left over first."""
        size = self._of(p)[0].size
        whole, rest = divmod(self._wanted(work, p), size)
        nodes = [node for node in self._of(p) if node.up and node.kept_for is None]
        domains = [[n for n in nodes if n.domain == d] for d in sorted({n.domain for n in nodes})]
        while whole + rest > 0:
            able = [d for d in domains if self._fits(d, size, whole * size + rest)]

            domain = (
                min(able, key=lambda nodes: order(nodes, size, whole, rest))
                if able
                else max(domains, key=lambda nodes: empty(nodes, size))
            )
            for node in [node for node in domain if node.free == size][:whole]:
                self._take(work, node, size)
                whole -= 1
            if able and rest:
                self._take(work, min((n for n in domain if n.free >= rest), key=lambda n: n.free),
                           rest)  # fmt: skip
                rest = 0

    def _stop(self, work: Work, rule: int, by: int) -> None:
        self._enter(work, k.STOPPING)
        self.wishes.append((k.STOP, work.row, work.pool, rule, by))

    # Claiming nodes.

    def _claim_nodes(self, work: Work) -> bool:
        return self._take_back(work) or (self.reserve_after_s >= 0.0 and self._keep_nodes(work))

    def _take_back(self, work: Work) -> bool:
        if not (self.by_levels or self.by_guarantees):
            return False
        looking = work if work.empties else self.lanes[work.lane]
        if self.now_s - looking.searched_s < SEARCH_AGAIN_S:
            return False
        found = self._find_victims(work)
        if found is None:
            looking.searched_s = self.now_s
            return False
        p, nodes, victims = found
        inside = self._inside(work, p)
        if work in self.claimants:
            self._let_nodes_go(work)
        for node in nodes:
            if node.kept_for is not None:
                self._give_up_claim(node.kept_for)
        if work in self.lanes[work.lane].works:
            self.lanes[work.lane].works.remove(work)
        self._step_aside(work, p, nodes)
        for victim in victims:
            self._stop(victim, k.RECLAIM_GUARANTEE if inside else k.RECLAIM_ORDER, work.row)
        return True

    def _find_victims(self, work: Work) -> tuple[int, list[Node], list[Work]] | None:
        for spares in (True, False):
            best: tuple[float, int, list[Node], list[Work]] | None = None
            for p in self._pools(work):
                if not self._allowed(work, p):
                    continue
                found = self._search(work, p, spares)
                if found is not None and (best is None or found[0] < best[0]):
                    best = (found[0], p, found[1], found[2])
                    if not self.cheapest_pool:
                        break
            if best is not None:
                return best[1:]
        return None

    def _step_aside(self, work: Work, p: int, nodes: list[Node]) -> None:
        self.claimants.append(work)
        work.kept_pool = p
        for node in nodes:
            node.kept_for = work

    def _inside(self, work: Work, p: int) -> bool:
        held = self._class_holds(work.claim, p) + self._coming(work.claim, p, work)
        within = held + self._wanted(work, p) <= self._guaranteed(work.claim, p)
        return self.by_guarantees and within

    def _loss(self, victim: Work) -> float:
        if not self.least_loss:
            return self.now_s - victim.held_from_s + 1.0
        at_risk_s = 0.0
        if victim.state == k.STARTING:
            at_risk_s = self.now_s - victim.since_s
        elif victim.checkpoint_s > 0.0:
            at_risk_s = (self.now_s - victim.running_s) % victim.checkpoint_s
        return (at_risk_s + victim.restart_s) * self._held(victim) * victim.bid

    def _takeable(
        self, work: Work, victim: Work, taken: list[Work], inside: bool, spares: bool
    ) -> bool:
        if victim.firm or victim.state not in (k.STARTING, k.RUNNING):
            return False
        by_order = self.by_levels and bool(self.tables.levels[work.level, victim.level] > 0)
        p, claim = victim.pool, victim.claim
        if not self.by_guarantees or claim == work.claim:
            return by_order
        gone = sum(self._held(v) for v in taken if v.claim == claim)
        held, guarantee = self._class_holds(claim, p) - gone, self._guaranteed(claim, p)
        size = self._held(victim)
        if held - size >= guarantee:
            return inside or by_order
        if spares or held <= guarantee:
            return False
        return inside or (by_order and size > guarantee)

    def _yields(self, keeper: Work, work: Work, p: int, inside: bool) -> bool:
        """Whether who keeps nodes empty must leave them."""
        by_order = self.by_levels and bool(self.tables.levels[work.level, keeper.level] > 0)
        if not self.by_guarantees or keeper.claim == work.claim:
            return by_order
        held = self._class_holds(keeper.claim, p) + self._coming(keeper.claim, p)
        return held > self._guaranteed(keeper.claim, p) and (inside or by_order)

    def _clearing(
        self, work: Work, node: Node, taken: list[Work], inside: bool, spares: bool
    ) -> tuple[float, list[Work]] | None:
        """Who must go for the whole node to be empty, and what that loses."""
        total, victims = 0.0, []
        for holder in node.holders():
            if holder.state == k.STOPPING or holder in taken:
                continue
            if not self._takeable(work, holder, [*taken, *victims], inside, spares):
                return None
            total += self._loss(holder)
            victims.append(holder)
        return total, victims

    def _freeing(
        self, work: Work, node: Node, rest: int, taken: list[Work], inside: bool, spares: bool
    ) -> tuple[float, list[Work]] | None:
        """As `_clearing`, for some of the node's accelerators: who loses least goes first, and
        whoever is not needed in the end stays."""
        victims: list[Work] = []

        def soon(chosen: list[Work]) -> int:
            gone = [*taken, *chosen]
            return sum(
                owner is None or owner.state == k.STOPPING or owner in gone for owner in node.gpus
            )

        while soon(victims) < rest:
            gone = [*taken, *victims]
            may = [
                holder
                for holder in node.holders()
                if holder not in gone and self._takeable(work, holder, gone, inside, spares)
            ]
            if not may:
                return None
            victims.append(min(may, key=self._loss))
        for victim in reversed(list(victims)):
            others = [other for other in victims if other is not victim]
            if soon(others) >= rest:
                victims = others
        total = 0.0
        for victim in victims:
            total += self._loss(victim)
        return total, victims

    def _search(
        self, work: Work, p: int, spares: bool
    ) -> tuple[float, list[Node], list[Work]] | None:
        """In the part of the pool where least is lost."""
        found = [self._search_in(part, work, p, spares) for part in self._parts(work, p)]
        return min((f for f in found if f is not None), key=lambda f: f[0], default=None)

    def _search_in(
        self, part: list[Node], work: Work, p: int, spares: bool
    ) -> tuple[float, list[Node], list[Work]] | None:
        inside = self._inside(work, p)

        def usable(node: Node) -> bool:
            keeper = node.kept_for
            if not node.up or keeper is None or keeper is work:
                return node.up
            return keeper.empties and self._yields(keeper, work, p, inside)

        may = [node for node in part if usable(node)]
        if not may:
            return None
        whole, rest = divmod(self._wanted(work, p), may[0].size)
        total, picked, taken = 0.0, [], []
        for needed in [0] * whole + ([rest] if rest else []):
            # For the least loss, then nodes that are not kept for another, then in their order.
            best: tuple[tuple[float, bool], Node, list[Work]] | None = None
            for node in may:
                if node in picked:
                    continue
                cost = (
                    self._freeing(work, node, needed, taken, inside, spares)
                    if needed
                    else self._clearing(work, node, taken, inside, spares)
                )
                if cost is None:
                    continue
                rank = (cost[0], node.kept_for not in (None, work))
                if best is None or rank < best[0]:
                    best = (rank, node, cost[1])
            if best is None:
                return None
            total += best[0][0]
            picked.append(best[1])
            taken += best[2]
        return total, picked, taken

    def _keep_nodes(self, work: Work) -> bool:
        if self.now_s - work.since_s < self.reserve_after_s:
            return False
        for p in self._pools(work):
            if self._wanted(work, p) == 1 or not self._allowed(work, p):
                continue
            if any(w.empties and w.kept_pool == p for w in self.claimants):
                self.asked.add(p)
            if p in self.asked:
                continue
            wanted = -(-self._wanted(work, p) // self._of(p)[0].size)
            choices = [
                sorted(
                    (node for node in part if node.kept_for is None and self._will_end(node)),
                    key=lambda node: -node.free,
                )[:wanted]
                for part in self._parts(work, p)
            ]
            choices = [nodes for nodes in choices if len(nodes) == wanted]
            if not choices:
                continue
            good = max(choices, key=lambda nodes: sum(node.free for node in nodes))
            self.lanes[work.lane].works.remove(work)
            self._step_aside(work, p, good)
            work.empties, work.searched_s = True, self.lanes[work.lane].searched_s
            return True
        return False

    def _will_end(self, node: Node) -> bool:
        return not any(w.kind == k.REPLICA and w.state != k.STOPPING for w in node.holders())

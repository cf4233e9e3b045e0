"""The machine's hold on the tables: rows are written, turns are made, wishes are read here."""

import numpy as np

from headgate.core.errors import LawBroken
from headgate.core.facts import RefuseWork, StartWork, StopWork, Wish
from headgate.core.fleet import Fleet
from headgate.core.lifecycle import ENDED
from headgate.core.rules import NAMES
from headgate.core.tables import Tables
from headgate.kernels import layout as k
from headgate.kernels import round as kernel
from headgate.policy.rules import Rank, Rules

BROKEN_LAWS = {
    k.ILLEGAL_MOVE: "a work or node made a move that its lifecycle forbids",
    k.GANG_PARTIAL: "a gang holds all it wants or nothing, each accelerator once",
    k.POOL_SUM: "what classes hold and what is free add up to the pool",
    k.NEGATIVE: "no count is negative",
}
KIND_CODES = {"gang": k.GANG, "replica": k.REPLICA, "batch": k.BATCH, "lease": k.LEASE}


class Ground:
    """Tables, lanes and turns; knows nothing of services or traffic."""

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        self.fleet = fleet
        self.rules = rules
        self.tables = Tables(fleet, rules.levels)
        self.rows = 0
        self.names: list[str] = []
        self.shape_of: list[int] = []  # by work
        self.lane_rows: dict[tuple[int, int, int, int, int], int] = {}
        self.now_s = 0.0
        self.fact = -1  # number of the fact being learned
        self.wishes: list[Wish] = []
        self._say(rules)
        self.refresh()

    def refresh(self) -> None:
        """Hand the kernels the tables anew, after they have grown or been replaced."""
        self.columns = self.tables.columns()

    def _say(self, rules: Rules) -> None:
        """Write into the tables what the policy says once."""
        tables, fleet = self.tables, self.fleet
        tables.levels[:] = rules.may_reclaim
        flags = tables.flags
        flags[k.USE_LEVELS] = float(np.any(rules.may_reclaim))
        flags[k.USE_GUARANTEES] = float(rules.guarantees)
        flags[k.LEAST_LOSS] = float(rules.least_loss)
        flags[k.CHEAPEST_POOL] = float(rules.cheapest_pool)
        flags[k.RESERVE_AFTER_S] = rules.reserve_after_s
        if fleet.guarantees:
            tables.claims[: len(fleet.classes), :, k.GUARANTEE] = fleet.guarantees
        if rules.caps is not None:
            tables.claims[:, :, k.CAP] = rules.caps
        if rules.preference is not None:
            tables.shapes[:, :, k.PREFERENCE] = rules.preference

    def turn(self, code: int, row: int, rule: int = 0, lost_gpu_s: float = 0.0) -> None:
        """Learn one thing, decide, check the sums; wishes are added to the fact's."""
        count, broken = kernel.turn(self.columns, code, row, rule, lost_gpu_s, self.now_s)
        if broken:
            name = self.names[row] if code >= k.WORK_SUBMITTED else f"node {row}"
            raise LawBroken(
                f"{BROKEN_LAWS[broken]}: broken at {self.now_s} s by fact {self.fact} "
                f"({name}); keep the log and replay it."
            )
        if count:
            self._read(count)
            if self.tables.meta[k.DIRTY]:
                self.turn(k.TIME_PASSED, -1)

    def _read(self, count: int) -> None:
        """Make wishes of what the round wrote."""
        for what, work, pool, rule, by in self.tables.wishes[:count].tolist():
            ref = int(self.tables.works[work]["ref"])
            position = len(self.wishes)
            if what == k.START:
                self.wishes.append(StartWork(self.fact, position, work, pool, NAMES[rule], ref))
            else:
                self.wishes.append(StopWork(self.fact, position, work, NAMES[rule], by, ref))

    def refuse(self, row: int, rule: int, back_s: float | None = None) -> None:
        """Refuse a waiting work and tell its submitter, with a time to come back if known."""
        self.turn(k.WORK_REFUSED, row, rule)
        ref = int(self.tables.works[row]["ref"])
        self.wishes.append(RefuseWork(self.fact, len(self.wishes), row, NAMES[rule], ref, back_s))

    def lane(self, rank: Rank, class_: int, claim: int, firm: int, shape: int) -> int:
        """The waiting line of such works; made when the first one comes."""
        place = (rank.level, class_, claim, firm, shape)
        row = self.lane_rows.get(place)
        if row is None:
            row = self.lane_rows[place] = len(self.lane_rows)
            if row >= len(self.tables.lanes):
                self.tables.grow_lanes()
                self.refresh()
            lane = self.tables.lanes[row]
            lane["level"], lane["class_"], lane["claim"], lane["firm"], lane["shape"] = place
            lane["head"] = lane["tail"] = -1
            lane["searched_s"] = -np.inf
            self.tables.meta[k.N_LANES] = row + 1
        return row

    def enlist(
        self,
        name: str,
        kind: str,
        class_: int,
        tenant: int,
        shape: int,
        rank: Rank,
        *,
        fill: bool = False,
        service: int = -1,
        mode: int = 0,
        priority: int = 0,
        firm: bool = False,
        bid: float = 0.0,
        deadline_s: float = np.inf,
        patience_s: float = np.inf,
        checkpoint_s: float = 0.0,
        restart_s: float = 0.0,
        ref: int = -1,
        use: int = -1,
        place: int = 0,
    ) -> int:
        """Add a work, put it in line and let the round look at it; its row."""
        row = self.rows
        self.rows += 1
        self.names.append(name)
        self.shape_of.append(shape)
        if row >= len(self.tables.works):
            self.tables.grow_works()
            self.refresh()
        claim = int(self.tables.meta[k.FILL_CLAIM]) if fill else class_
        lane = self.lane(rank, class_, claim, int(firm), shape)
        self.tables.works[row]["use"], self.tables.works[row]["place"] = use, place
        kernel.enlist(
            self.columns, row, KIND_CODES[kind], class_, claim, tenant, service, mode, shape,
            lane, rank.level, rank.key, priority, int(firm), bid, deadline_s, patience_s,
            checkpoint_s, restart_s, ref, self.now_s,
        )  # fmt: skip
        self.turn(k.WORK_SUBMITTED, row)
        return row

    def move(self, row: int, rank: Rank, *, fill: bool, mode: int) -> bool:
        """Give a live work another place in line or, where it stands, another level and mode.

        False when its new class may not hold so much of the pool where it stands.
        """
        tables = self.tables
        work = tables.works[row]
        class_, firm, shape = int(work["class_"]), int(work["firm"]), int(work["shape"])
        claim = int(tables.meta[k.FILL_CLAIM]) if fill else class_
        lane = self.lane(rank, class_, claim, firm, shape)
        if work["state"] == k.WAITING:
            change = kernel.requeue
        elif work["claim"] == claim or self._may_hold(claim, int(work["pool"]), int(work["gpus"])):
            change = kernel.relevel
        else:
            return False
        change(self.columns, row, lane, rank.level, claim, mode, rank.key, self.now_s)
        return True

    def _may_hold(self, claim: int, pool: int, gpus: int) -> bool:
        claims = self.tables.claims[claim, pool]
        return bool(claims[k.HELD] + claims[k.COMING] + gpus <= claims[k.CAP])

    def stopping(self, row: int) -> bool:
        return int(self.tables.works[row]["state"]) == k.STOPPING

    def ended(self, row: int) -> bool:
        return int(self.tables.works[row]["state"]) in ENDED

"""A plain, slow service: several twins of a replica, routed to, left, booted, drained and lost.

Everything happens in order of time: what a replica does before a moment, then what comes at it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from tests.unit.kernels.serving.twin import Replica, Request
from tests.unit.kernels.serving.vllm_twin import Part, VllmReplica


@dataclass(eq=False)
class Seat:
    """One replica and its clock."""

    replica: Replica | VllmReplica
    up: bool = True
    next_s: float = inf  # when its step ends, or when it wakes
    steps: list[Part] = field(default_factory=list)  # the step under way, of a vLLM
    planned: list[Part] = field(default_factory=list)  # the one after it, where it plans ahead
    mine: list[Request] = field(default_factory=list)  # every request sent here

    @property
    def outstanding(self) -> list[Request]:
        return [
            r for r in self.mine if not (r.finished_at or r.refused or r.failed or self.gone(r))
        ]

    def gone(self, request: Request) -> bool:
        """Whether a request whose caller hung up has left the replica too."""
        held = request in self.replica.running or any(
            part.request is request for part in [*self.steps, *self.planned]
        )
        return request.left and not held

    def run_to(self, until_s: float) -> None:
        while self.next_s < until_s:
            now = self.next_s
            if isinstance(self.replica, Replica):
                if self.replica.step is not None:
                    self.replica.end_step()
                self.replica.start_step(now)
                self.next_s = self.replica.step.ends_at if self.replica.step else inf
                busy = bool(self.replica.waiting)
            else:
                self.replica.end(self.steps, now)
                self.steps = self.planned or self.replica.choose()
                self.planned = []
                if self.replica.plan_ahead and self.steps:
                    self.planned = self.replica.choose()
                self.next_s = now + self.replica.seconds(self.steps) if self.steps else inf
                busy = bool(self.replica.waiting or self.replica.running)
            if self.next_s == inf and busy:
                self.next_s = now  # all were preempted and may come back at once

    def take(self, request: Request, now: float) -> None:
        self.mine.append(request)
        self.replica.arrive(request)
        if self.next_s == inf and not request.refused:
            self.next_s = now

    def lose(self) -> list[Request]:
        """Drop everything; those without a first token, to be sent elsewhere."""
        held = self.outstanding
        fresh = type(self.replica)
        old = self.replica
        names = ("step_s", "blocks", "chunk", "cap", "block", "by_priority", "yields")
        options = {name: getattr(old, name) for name in names}
        if isinstance(old, Replica):
            options["watermark"] = old.watermark
        else:
            options |= {"plan_ahead": old.plan_ahead, "prefix_caching": old.prefix_caching}
        self.replica, self.next_s, self.mine = fresh(**options), inf, []
        self.steps, self.planned = [], []
        moving = [r for r in held if r.first_token_at is None and not r.left]
        for request in held:
            request.failed = request.first_token_at is not None and not request.left
        for request in moving:
            asked, total = request.asked, request.total
            request.prefill, request.decode = total - asked, asked
            request.done, request.found, request.blocks = 0, 0, 0
            request.decoding = False
        return moving


Choice = Callable[[Request, list[Seat]], int]


@dataclass(eq=False)
class Service:
    """Seats and the rule by which a request gets one; a rule says -1 where none is up."""

    seats: list[Seat]
    choose: Choice

    def run_to(self, until_s: float) -> None:
        for seat in self.seats:
            seat.run_to(until_s)

    def arrive(self, request: Request) -> None:
        self.run_to(request.arrived_at)
        chosen = self.choose(request, self.seats)
        if chosen < 0:
            request.refused = True
            return
        self.seats[chosen].take(request, request.arrived_at)

    def hang_up(self, request: Request, at_s: float) -> None:
        self.run_to(at_s)
        for seat in self.seats:
            if request in seat.outstanding:
                seat.replica.leave(request)

    def lose(self, r: int, at_s: float) -> None:
        self.run_to(at_s)
        self.seats[r].up = False
        for request in self.seats[r].lose():
            up = [seat for seat in self.seats if seat.up]
            if not up:
                request.refused = True
                continue
            request.moved += 1
            min(up, key=lambda seat: len(seat.outstanding)).take(request, at_s)

    def play(self, requests: Sequence[Request]) -> None:
        """Every arrival and every hang-up in order of time, then to the end."""
        events = [(r.arrived_at, 0, i) for i, r in enumerate(requests)]
        events += [(r.cancelled_at, 1, i) for i, r in enumerate(requests) if r.cancelled_at < inf]
        for at_s, kind, i in sorted(events):
            if kind == 0:
                self.arrive(requests[i])
            else:
                self.hang_up(requests[i], at_s)
        self.run_to(inf)


def round_robin() -> Choice:
    turn = [0]

    def choose(request: Request, seats: list[Seat]) -> int:
        for step in range(len(seats)):
            r = (turn[0] + step) % len(seats)
            if seats[r].up:
                turn[0] = (r + 1) % len(seats)
                return r
        return -1

    return choose


def least_outstanding(request: Request, seats: list[Seat]) -> int:
    loads = [(len(seat.outstanding), r) for r, seat in enumerate(seats) if seat.up]
    return min(loads)[1] if loads else -1


@dataclass
class PrefixAware:
    """The replica with the least expected work, less what its cache spares of this prompt."""

    prompt_s: float  # expected seconds a prompt token
    output_s: float
    block_tokens: int
    room: int  # prompt blocks that a replica keeps
    blocks_of: dict[int, list[int]]  # prompt blocks of each request, by id; empty: no prefixes
    used: dict[int, list[int]] = field(default_factory=dict)  # each replica's uses, oldest first

    def __call__(self, request: Request, seats: list[Seat]) -> int:
        blocks = self.blocks_of.get(request.id, [])
        best: tuple[float, int, int] | None = None
        for r, seat in enumerate(seats):
            if not seat.up:
                continue
            recent = self.used.setdefault(r, [])[-self.room :]
            hits = 0
            while hits < len(blocks) and blocks[hits] in recent:
                hits += 1
            tokens = min(hits * self.block_tokens, request.prefill - 1)
            work_s = sum(
                (one.total - one.asked) * self.prompt_s + one.asked * self.output_s
                for one in seat.outstanding
            )
            rank = (work_s - tokens * self.prompt_s, r, tokens)
            best = min(best, rank) if best else rank
        if best is None:
            return -1
        _, chosen, request.found = best
        self.used[chosen] += blocks
        return chosen

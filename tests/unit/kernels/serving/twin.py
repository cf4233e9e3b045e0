"""A plain, slow replica: one iteration at a time, lists and attributes, obviously right.

The compiled kernel must agree with it to 1e-8 s. It follows the rules as they are written in the
documentation, with no idea shared with the kernel: it walks every iteration and every sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf


@dataclass(eq=False)
class Request:
    id: int
    arrived_at: float
    prefill: int
    decode: int
    priority: int = 0
    cancelled_at: float = inf
    done: int = 0  # tokens processed, as the scheduler counts them
    cached: int = 0  # tokens of the prompt found in the cache when it was last admitted
    decoding: bool = False
    blocks: int = 0
    preemptions: int = 0
    first_token_at: float | None = None
    finished_at: float | None = None
    refused: bool = False
    group: int = 0  # its class
    found: int = 0  # leading tokens that prefix routing found on its replica
    left: bool = False  # its caller has gone
    failed: bool = False  # lost with its replica after its first token
    moved: int = 0  # times it went to another replica

    def __post_init__(self) -> None:
        self.asked = self.decode  # a restart turns what was produced into prompt

    @property
    def total(self) -> int:
        return self.prefill + self.decode


@dataclass(eq=False)
class Step:
    """What one iteration works on: (sequence, tokens), and the clock it ends at."""

    parts: list[tuple[Request, int]]
    ends_at: float


@dataclass(eq=False)
class Replica:
    """Chunked prefill as Vidur's Sarathi scheduler does it, one list operation after another."""

    step_s: Callable[[list[tuple[int, int]], list[int]], float]
    blocks: int
    chunk: int = 512
    cap: int = 128
    block: int = 16
    watermark: float = 0.01
    truncate_on_restart: bool = False  # Vidur's way with a prompt preempted in mid-prefill
    by_priority: bool = False  # the least urgent gives way, the last to arrive among equals
    yields: bool = False  # less urgent sequences give way to a more urgent one that waits
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    step: Step | None = None

    def __post_init__(self) -> None:
        self.free = self.blocks
        self.skipped: list[Request] = []  # prompts that got nothing in the last iteration
        self.reserve = int(self.watermark * self.blocks)

    # -- the life of a request ---------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        if not self.can_ever_hold(request):
            request.refused = True
            return
        self.queue(request)

    def can_ever_hold(self, request: Request) -> bool:
        prompt = ceil(request.prefill / self.block)
        whole = ceil((request.total - 1) / self.block)
        return prompt + self.reserve <= self.blocks and whole < self.blocks

    def queue(self, request: Request) -> None:
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: (r.priority, r.arrived_at, r.id))

    def restart(self, victim: Request) -> None:
        self.free += victim.blocks
        victim.blocks = 0
        victim.preemptions += 1
        if victim.decoding or self.truncate_on_restart:
            victim.decode = victim.total - victim.done
            victim.prefill = victim.done
        victim.done, victim.decoding, victim.found = 0, False, 0
        if self.by_priority:
            self.queue(victim)
        else:
            self.waiting.insert(0, victim)

    def leave(self, request: Request) -> None:
        """The caller hangs up: gone at once while waiting, with the iteration under way if not."""
        request.left = True
        if request in self.waiting:
            self.waiting.remove(request)

    def give_way(self) -> None:
        """Preempt less urgent sequences until the first in line could be admitted."""
        while self.yields and self.waiting:
            first = self.waiting[0]
            need = ceil(first.prefill / self.block)
            if len(self.running) < self.cap and self.free - self.reserve >= need:
                return
            victim = least_urgent([r for r in self.running if r not in self.skipped])
            if victim is None or victim.priority <= first.priority:
                return
            self.running.remove(victim)
            self.restart(victim)

    # -- one iteration -------------------------------------------------------------------------

    def start_step(self, now: float) -> None:
        parts = self.choose()
        if not parts:
            self.step = None
            return
        prefills = [(r.done, tokens) for r, tokens in parts if not r.decoding]
        decodes = [r.done for r, _ in parts if r.decoding]
        self.step = Step(parts, now + self.step_s(prefills, decodes))

    def choose(self) -> list[tuple[Request, int]]:
        self.give_way()
        parts: list[tuple[Request, int]] = []
        unfinished: list[Request] = []
        todo, self.running = self.running, []
        while todo:
            request = todo.pop(0)
            if not request.decoding:
                unfinished.append(request)
                continue
            while self.free < 1:
                taken = [r for r, _ in parts]
                victim = least_urgent([*taken, request, *todo]) if self.by_priority else None
                victim = victim or (todo[-1] if todo else request)
                if victim in todo:
                    todo.remove(victim)
                if victim in taken:
                    parts.pop(taken.index(victim))
                self.restart(victim)
                if victim is request:
                    break
            else:
                if request.done > request.blocks * self.block:
                    request.blocks += 1
                    self.free -= 1
                parts.append((request, 1))
        budget = self.chunk - len(parts)
        skipped = []
        for request in unfinished:
            tokens = min(request.prefill - request.done, max(0, budget))
            if tokens == 0:
                skipped.append(request)
                continue
            budget -= tokens
            parts.append((request, tokens))
        while self.waiting and len(parts) + len(skipped) < self.cap and budget > 0:
            request = self.waiting[0]
            need = ceil(request.prefill / self.block)
            if self.free - need < self.reserve:
                break
            self.waiting.pop(0)
            request.blocks = need
            self.free -= need
            request.done = request.found
            tokens = min(request.prefill - request.done, budget)
            budget -= tokens
            parts.append((request, tokens))
        self.running = skipped + [request for request, _ in parts]
        self.skipped = skipped
        return parts

    def end_step(self) -> list[Request]:
        """Close the iteration under way; the requests that finished with it."""
        assert self.step is not None
        now, finished = self.step.ends_at, []
        for request, tokens in self.step.parts:
            request.done += tokens
            if not request.decoding and request.done == request.prefill:
                request.decoding = True
                request.done += 1
                if request.first_token_at is None:
                    request.first_token_at = now
            if request.done == request.total or request.left:
                request.finished_at = None if request.left else now
                self.free += request.blocks
                self.running.remove(request)
                finished.append(request)
        for request in [r for r in self.skipped if r.left]:
            self.free += request.blocks
            self.running.remove(request)
            self.skipped.remove(request)
            finished.append(request)
        self.step = None
        return finished


def least_urgent(requests: Sequence[Request]) -> Request | None:
    """Of the highest priority number the last to arrive; the later in the list among equals."""
    ranked = [(r.priority, r.arrived_at, i) for i, r in enumerate(requests)]
    return requests[max(ranked)[2]] if ranked else None


def run_one(replica: Replica, requests: Sequence[Request]) -> None:
    """Play requests, in order of arrival, through one replica until all are done."""
    now, coming = 0.0, list(requests)
    while coming or replica.step or replica.waiting:
        if replica.step is not None:
            now = replica.step.ends_at
            replica_done = replica.end_step
        elif coming:
            now = max(now, coming[0].arrived_at)
            replica_done = None
        else:
            raise AssertionError("requests wait for ever on an idle replica")
        while coming and coming[0].arrived_at <= now:
            replica.arrive(coming.pop(0))
        if replica_done is not None:
            replica_done()
        replica.start_step(now)


def vidur_step_s(
    tables: dict[str, Sequence[Sequence[float]]],
) -> Callable[[list[tuple[int, int]], list[int]], float]:
    """Vidur's predictor from its three tables, looked up the way its documentation says."""
    linear, decode = tables["linear_s"], tables["decode_attention_s"]
    prefill = tables["prefill_attention_s"]

    def step_s(prefills: list[tuple[int, int]], decodes: list[int]) -> float:
        tokens = len(decodes) + sum(chunk for _, chunk in prefills)
        seconds = linear[ceil(tokens / 8) * 8]
        if decodes:
            mean = sum(decodes) // len(decodes)
            seconds += decode[len(decodes)][ceil(mean / 64)]
        if prefills:
            context = sum(ceil(done / 64) for done, _ in prefills)
            chunk = round(sum(chunk**2 for _, chunk in prefills) ** 0.5)
            seconds += prefill[context][chunk] * (1.1 if len(prefills) > 1 else 1.0)
        return seconds

    return step_s

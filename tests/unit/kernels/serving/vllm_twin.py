"""A plain, slow replica that schedules as vLLM's V1 engine does: block by block, step by step.

Each KV block is an entry of a list: what it holds is remembered until it is handed out again, so a
preempted sequence finds what is left of its own. The engine plans a step when the step before it
starts, so what arrives or ends during a step counts from the plan after next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.unit.kernels.serving.twin import Request


@dataclass(eq=False)
class Part:
    """What one request has of a step; what it gives is known when the step is planned."""

    request: Request
    tokens: int
    context: int
    prompt: bool
    gives_token: bool
    last: bool


@dataclass(eq=False)
class VllmReplica:
    step_s: Callable[[list[tuple[int, int]], list[int]], float]
    blocks: int
    chunk: int
    cap: int
    block: int = 16
    plan_ahead: bool = True
    prefix_caching: bool = True
    by_priority: bool = False
    yields: bool = False  # less urgent sequences give way to a more urgent one that waits
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = [f"empty {i}" for i in range(self.blocks)]  # what each free block still holds
        self.held: dict[int, int] = {}  # blocks of each running request, by id
        self.leaving: list[Request] = []

    def order(self, request: Request) -> tuple[int, float, int]:
        return (request.priority if self.by_priority else 0, request.arrived_at, request.id)

    def arrive(self, request: Request) -> None:
        if -(-(request.total - 1) // self.block) > self.blocks:
            request.refused = True
            return
        self.waiting.append(request)
        self.waiting.sort(key=self.order)

    # -- blocks --------------------------------------------------------------------------------

    def take(self, request: Request, tokens: int) -> bool:
        """Hold blocks for `tokens` more tokens; false, and nothing taken, if too few are free."""
        need = -(-(request.done + tokens) // self.block) - self.held.get(request.id, 0)
        if need > len(self.free):
            return False
        del self.free[:need]
        self.held[request.id] = self.held.get(request.id, 0) + need
        return True

    def give_back(self, request: Request) -> None:
        count = self.held.pop(request.id)
        full = request.done // self.block
        names = [f"{request.id}/{i}" if i < full else "partly filled" for i in range(count)]
        self.free += reversed(names)

    def find_kept(self, request: Request) -> int:
        """Leading blocks of a request that are still there, taken out of the free list."""
        if not self.prefix_caching or request.preemptions == 0:
            return 0
        found = 0
        while (found + 1) * self.block <= request.prefill - 1:
            name = f"{request.id}/{found}"
            if name not in self.free:
                break
            self.free.remove(name)
            found += 1
        return found

    def leave(self, request: Request) -> None:
        """The caller hangs up: gone at once while waiting, with the step under way if not."""
        request.left = True
        if request in self.waiting:
            self.waiting.remove(request)

    def give_way(self) -> None:
        """Preempt less urgent sequences until the first in line could be admitted."""
        while self.yields and self.waiting and self.running:
            first = self.waiting[0]
            enough = -(-first.prefill // self.block) <= len(self.free)
            if len(self.running) < self.cap and enough:
                return
            victim = max(self.running, key=self.order)
            if victim.priority <= first.priority:
                return
            self.preempt(victim)

    # -- one step --------------------------------------------------------------------------------

    def preempt(self, victim: Request) -> None:
        self.running.remove(victim)
        self.give_back(victim)
        if victim.decoding:
            victim.decode = victim.total - (victim.done + 1)
            victim.prefill = victim.done + 1
        victim.done, victim.decoding, victim.found = 0, False, 0
        victim.preemptions += 1
        self.waiting.append(victim)
        self.waiting.sort(key=self.order)

    def choose(self) -> list[Part]:
        """The next step."""
        self.give_way()
        parts: dict[Request, int] = {}
        budget = self.chunk
        preempted = False
        at = 0
        while at < len(self.running):
            request = self.running[at]
            tokens = 1 if request.decoding else min(request.prefill - request.done, budget)
            if tokens == 0:
                at += 1
                continue
            while not self.take(request, tokens):
                victim = max(self.running, key=self.order) if self.by_priority else self.running[-1]
                before = self.running.index(victim) < at
                budget += parts.pop(victim, 0)
                self.preempt(victim)
                preempted = True
                at -= before
                if victim is request:
                    break
            else:
                parts[request] = tokens
                budget -= tokens
                at += 1
        while self.waiting and not preempted and budget > 0:
            if len(self.running) + len(self.leaving) >= self.cap:
                break
            request = self.waiting[0]
            if -(-request.prefill // self.block) > len(self.free):
                if not self.running and not self.leaving:
                    self.waiting.pop(0).refused = True
                    continue
                break
            self.waiting.pop(0)
            kept = self.find_kept(request)
            self.held[request.id] = kept
            request.done = max(kept * self.block, request.found)
            tokens = min(request.prefill - request.done, budget)
            assert self.take(request, tokens)
            self.running.append(request)
            parts[request] = tokens
            budget -= tokens
        step = []
        for request, tokens in parts.items():
            prompt = not request.decoding
            context = request.done
            request.done += tokens
            request.decoding = request.done >= request.prefill
            last = request.decoding and request.done == request.total - 1
            step.append(Part(request, tokens, context, prompt, request.decoding, last))
            if last:  # known to end with this step; its memory stays until then
                self.running.remove(request)
                self.leaving.append(request)
        return step

    def seconds(self, step: list[Part]) -> float:
        prefills = [(part.context, part.tokens) for part in step if part.prompt]
        return self.step_s(prefills, [part.context + 1 for part in step if not part.prompt])

    def end(self, step: list[Part], now: float) -> None:
        for part in step:
            request = part.request
            if part.gives_token and request.first_token_at is None:
                request.first_token_at = now
            if part.last:
                self.leaving.remove(request)
                self.give_back(request)
                request.finished_at = None if request.left else now
        for request in [r for r in self.running if r.left]:
            self.running.remove(request)
            self.give_back(request)


def run_vllm(replica: VllmReplica, requests: Sequence[Request]) -> None:
    """Play requests, in order of arrival, until all are done."""
    now, coming = 0.0, list(requests)
    planned: list[Part] = []
    while True:
        while coming and coming[0].arrived_at <= now:
            replica.arrive(coming.pop(0))
        step = planned or replica.choose()
        if not step and (replica.waiting or replica.running):
            continue
        if not step:
            if not coming:
                return
            now = coming[0].arrived_at
            continue
        planned = replica.choose() if replica.plan_ahead else []
        now += replica.seconds(step)
        replica.end(step, now)

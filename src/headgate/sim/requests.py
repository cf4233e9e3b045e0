"""Windows of traffic played request by request, by the serving kernel: `fidelity = "requests"`.

Demand and capacity are those of the fluid windows, so that the two can be compared: a replica's
step time is laid through the capacity that the scenario states for its pool, and what differs is
queueing, batching and the length of each request. Requests of a window arrive at even random times;
lengths are exponential around their tenant's mean in that window (assumption: the scenario's
demand holds sums, not single requests). Memory does not bind; the sequences in flight do.
"""

from dataclasses import dataclass

import numpy as np

from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.tables import Floats, Ints
from headgate.kernels.serving.layout import W_FINISHED, W_GOOD
from headgate.model.scheduling import Scheduler
from headgate.model.steptime import StepModel
from headgate.sim.demand import ServiceDemand
from headgate.sim.dice import stream
from headgate.sim.scenario import ReplicaPart, ServicePart
from headgate.sim.serving.service import DOWN, DRAINING, UP, Settings, SimulatedService
from headgate.sim.serving.workload import Workload
from headgate.sim.traffic import Objectives, Traffic

LEAST_CHUNK_TOKENS, MOST_CHUNK_TOKENS = 256, 2048
KV_BLOCKS = 1 << 22


def step_model(part: ServicePart, replica: ReplicaPart, pool: str) -> StepModel:
    """Steps of c0 + c1 n seconds for n tokens, through the stated capacity.

    With all of `in_flight` sequences decoding, a step makes that many tokens at `tokens_per_s`; a
    prompt token costs `input_weight` of one.
    """
    if replica.in_flight is None:
        raise InputError(
            f'service {part.name} has no in_flight for pool {pool}; fidelity = "requests" needs '
            f"the sequences a replica decodes at once: give replicas.{pool}.in_flight."
        )
    prompt_token_s = part.input_weight / replica.tokens_per_s
    fixed_s = replica.in_flight * (1.0 - part.input_weight) / replica.tokens_per_s
    tokens = np.arange(MOST_CHUNK_TOKENS + 1, dtype=np.float64)
    return StepModel(
        name=f"{part.model} in {pool}",
        source="the scenario's capacity",
        linear_s=fixed_s + prompt_token_s * tokens,
        sequence_s=np.zeros(2),
    )


def chunk_tokens(part: ServicePart, model: StepModel) -> int:
    """The largest step, in tokens, that keeps the time per output token: what an operator tunes."""
    within = int(np.searchsorted(model.linear_s, part.tpot_s, side="right")) - 1
    return min(max(within, LEAST_CHUNK_TOKENS), MOST_CHUNK_TOKENS)


@dataclass(slots=True)
class _Pool:
    """A service's replicas in one pool, alike; slot i is up, draining or down."""

    simulated: SimulatedService
    state: Ints  # [slot]

    def follow(self, count: int, at_s: float) -> None:
        """Bring the number of replicas that take requests to `count`."""
        for slot in np.flatnonzero(self.state == DRAINING).tolist():
            if self.simulated.idle(slot):
                self._set(slot, DOWN, at_s)
        up = np.flatnonzero(self.state == UP)
        for slot in up[count:].tolist():
            self._set(slot, DRAINING, at_s)
        for slot in np.flatnonzero(self.state != UP)[: max(0, count - len(up))].tolist():
            self._set(slot, UP, at_s)

    def _set(self, slot: int, state: int, at_s: float) -> None:
        self.simulated.set_replica(slot, state, at_s)
        self.state[slot] = state


class RequestTraffic(Traffic):
    """As `Traffic`, with every request simulated on the replicas that run."""

    def __init__(
        self,
        window_s: float,
        arrived: Floats,
        objectives: Objectives,
        *,
        parts: tuple[ServicePart, ...],
        demands: list[ServiceDemand],
        pools: dict[str, int],  # accelerators
        seed: int,
    ) -> None:
        super().__init__(window_s, arrived, objectives)
        self.parts = parts
        self.demands = demands
        self.dice = [stream(seed, "requests", part.name) for part in parts]
        self.pools = [
            {row: self._pool(part, name, gpus) for row, (name, gpus) in enumerate(pools.items())}
            for part in parts
        ]

    def _pool(self, part: ServicePart, name: str, gpus: int) -> _Pool | None:
        replica = part.replicas.get(name)
        if replica is None:
            return None
        slots = gpus // replica.gpus
        model = step_model(part, replica, name)
        assert replica.in_flight is not None
        settings = Settings(
            scheduler=Scheduler(chunk=chunk_tokens(part, model), batch_cap=replica.in_flight),
            routing="least-outstanding",
            objectives=((part.wait_s, part.tpot_s),),
            window_s=self.window_s,
        )
        simulated = SimulatedService(settings, [model], slots, KV_BLOCKS)
        for slot in range(slots):
            simulated.set_replica(slot, DOWN, 0.0)
        return _Pool(simulated, np.full(slots, DOWN, np.int64))

    def _serve(self, arrived: Floats, online: Floats, at_s: float, machine: Machine) -> None:
        """Fill `out` by playing the window's requests on each service's replicas."""
        ready = machine.ground.tables.ready
        window = self.window - 1
        for v in range(len(self.parts)):
            self.out[v] = self._serve_one(v, window, ready[v, 0], float(online[v]), at_s)

    def _serve_one(
        self, v: int, window: int, ready: Ints, rate: float, at_s: float
    ) -> tuple[float, float, float, float]:
        begins_s = at_s - self.window_s
        workload = self._requests(v, window, begins_s)
        weight = self.parts[v].input_weight
        tokens = workload.prefill * weight + workload.decode
        each = float(tokens.mean()) if len(tokens) else 1.0
        # Who would wait longer than his patience is refused at the door.
        patience = float(self.objectives.patience_s[v])
        room = max(0.0, rate * (self.window_s + patience) - self.queued[v])
        taken = np.cumsum(tokens) <= room
        refused = float(tokens[~taken].sum())
        served = good = queued = 0.0
        speeds = np.zeros(len(ready)) if self.speeds is None else self.speeds[v]
        shares = ready * speeds
        chosen = self._shared_out(v, shares, int(taken.sum()))
        for p, pool in self.pools[v].items():
            if pool is None:
                continue
            pool.follow(int(ready[p]), begins_s)
            mine = np.flatnonzero(taken)[chosen == p]
            part = Workload(workload.arrived_s[mine], workload.prefill[mine], workload.decode[mine])
            seen = pool.simulated.window(part, at_s)
            served += seen.count(W_FINISHED) * each
            good += seen.count(W_GOOD) * each
            queued += seen.waiting * each
        return served, good, queued, refused

    def _shared_out(self, v: int, shares: Floats, count: int) -> Ints:
        """The pool of each request, by the pools' capacities; -1 when nothing runs."""
        if shares.sum() <= 0:
            return np.full(count, -1)
        return self.dice[v].choice(len(shares), count, p=shares / shares.sum())

    def _requests(self, v: int, window: int, begins_s: float) -> Workload:
        """The window's single requests, in order of arrival."""
        demand, dice = self.demands[v], self.dice[v]
        counts = demand.requests[min(window, len(demand.requests) - 1)]
        row = min(window, len(demand.requests) - 1)
        safe = np.maximum(counts, 1)
        tenant = dice.permutation(np.repeat(np.arange(len(counts)), counts))
        lengths = []
        for sums in (demand.input_tokens[row], demand.output_tokens[row]):
            mean = np.maximum(sums / safe, 1.0)[tenant]
            drawn = np.ceil(dice.exponential(np.maximum(mean - 0.5, 0.5))).astype(np.int64)
            lengths.append(np.maximum(drawn, 1))
        at_s = begins_s + np.sort(dice.random(len(tenant))) * self.window_s
        return Workload(at_s, lengths[0], lengths[1])

"""From a scenario to a story: the fleet, the facts to come, and what nature knows of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headgate.core.facts import BatchOrdered, Fact, WorkSubmitted
from headgate.core.fleet import Fleet, PlannedChange, Pool, Service, Shape
from headgate.core.tables import Floats
from headgate.sim.builder import HOUR_S, Builder
from headgate.sim.demand import BatchStream, JobStream, ServiceDemand
from headgate.sim.nature import Failures, Truth
from headgate.sim.scenario import CLASSES, Scenario, ServicePart
from headgate.sim.workloads import batches, gangs, leases, replayed, replicas, services

DAY_S = 86_400.0
MILLION = 1e6


@dataclass(slots=True)
class Story:
    """All that is the same for every policy: who asks for what when, and how nature behaves."""

    scenario: Scenario
    fleet: Fleet
    facts: list[Fact]
    truth: Truth
    live_s: Floats  # [node] when it goes live
    gone_s: Floats  # [node] when it is taken away for good; infinite: never
    arrived: Floats  # [window, service] output-equivalent tokens
    requests: Floats  # [window, service]
    demands: list[ServiceDemand]
    failures: Failures
    worth_usd_per_gpu_s: list[float]  # by ref: of useful reference GPU-seconds
    group: list[str]  # by ref: foundation, gangs, applications, leases
    peak_gpus: dict[str, Floats]  # by class or "batch": GPUs at its peak, by pool
    notes: list[str] = field(default_factory=list)

    def submitted(self) -> Truth:
        """A truth of its own for one run, since nature writes in it."""
        return Truth(
            list(self.truth.left_s),
            list(self.truth.fixed_term),
            list(self.truth.checkpoint_s),
            list(self.truth.done_gpu_s),
        )


def build(scenario: Scenario, data: Path | None = None, seed: int = 0) -> Story:
    """Everything a scenario asks for, from traces below `data` or generated without them."""
    builder = Builder(scenario, data, seed)
    _foundation(builder)
    _gangs(builder)
    _applications(builder)
    _leases(builder)
    for part in scenario.services:
        _service(builder, part)
    builder.facts.sort(key=lambda fact: fact.at_s)
    fleet = Fleet(
        pools=tuple(
            Pool(
                name=pool.name,
                generation=pool.generation,
                nodes=pool.nodes_in_all,
                gpus_per_node=pool.gpus_per_node,
                domain_nodes=pool.domain_nodes,
            )
            for pool in scenario.pools
        ),
        classes=CLASSES,
        tenants=tuple(builder.tenants.values()),
        shapes=tuple(builder.shape_list),
        services=tuple(builder.services),
        guarantees=tuple(
            tuple(scenario.order.guarantees.get(class_, {}).get(pool, 0) for pool in builder.pools)
            for class_ in CLASSES
        ),
        reclaim_s=scenario.order.reclaim_s,
        planned=_planned(scenario),
    )
    arrived = _arrived(builder)
    failures = scenario.failures
    return Story(
        scenario=scenario,
        fleet=fleet,
        facts=builder.facts,
        truth=builder.truth,
        live_s=_live_s(scenario),
        gone_s=_gone_s(scenario),
        arrived=arrived,
        requests=np.stack(
            [demand.requests.sum(axis=1).astype(np.float64) for demand in builder.demands], axis=1
        )
        if builder.demands
        else np.zeros((len(arrived), 0)),
        demands=builder.demands,
        failures=Failures()
        if failures is None
        else Failures(failures.node_mtbf_days * DAY_S, failures.repair_h * HOUR_S),
        worth_usd_per_gpu_s=builder.worth,
        group=builder.group,
        peak_gpus=_peaks(builder, fleet, arrived),
        notes=builder.notes,
    )


def _live_s(scenario: Scenario) -> Floats:
    """When each node goes live: those of the start at 0, then rack by rack."""
    live: list[float] = []
    for pool in scenario.pools:
        live += [0.0] * pool.nodes
        for rack in pool.racks:
            live += [rack.at_h * HOUR_S] * rack.nodes
    return np.array(live)


def _gone_s(scenario: Scenario) -> Floats:
    """When each node is taken away: of those of the start, the first ones first."""
    gone: list[float] = []
    for pool in scenario.pools:
        drains = sorted(pool.drains, key=lambda drain: drain.at_h)
        away = [drain.at_h * HOUR_S for drain in drains for _ in range(drain.nodes)]
        gone += away + [np.inf] * (pool.nodes_in_all - len(away))
    return np.array(gone)


def _planned(scenario: Scenario) -> tuple[PlannedChange, ...]:
    """Racks and drains to come, as the machine may know them beforehand."""
    found = [
        PlannedChange(at_s=change.at_h * HOUR_S, pool=row, nodes=sign * change.nodes)
        for row, pool in enumerate(scenario.pools)
        for sign, changes in ((1, pool.racks), (-1, pool.drains))
        for change in changes
    ]
    return tuple(sorted(found, key=lambda change: change.at_s))


def _foundation(builder: Builder) -> None:
    training = builder.scenario.training
    for run in training.foundation if training is not None else ():
        assert training is not None
        shape = builder.gang_shape(
            "gang", run.gpus, run.pools, training.start_s, within_domain=run.within_domain
        )
        builder.submit(
            run.submitted_h * HOUR_S,
            run.name,
            "gang",
            builder.tenant(run.tenant, "training"),
            shape,
            run.hours * HOUR_S,
            builder.scenario.worth.foundation_usd_per_gpu_h,
            "foundation",
            priority=1,
            checkpoint_s=training.foundation_checkpoint_s,
            restart_s=training.start_s,
        )


def _gangs(builder: Builder) -> None:
    """Philly's gangs; one larger than the pools it may use is left out and noted."""
    scenario, training = builder.scenario, builder.scenario.training
    if training is None or training.gangs is None:
        return
    part = training.gangs
    jobs = (
        gangs.generate(
            gpus_offered=part.generated.gpus_offered, span_s=scenario.span_s, seed=builder.seed
        )
        if builder.data is None
        else replayed.philly_stream(
            builder.data,
            start_s=part.trace.start_day * DAY_S,
            span_s=scenario.span_s,
            scale=part.trace.scale,
            seed=builder.seed,
        )
    )
    builder.notes += jobs.notes
    _submit_jobs(builder, jobs, part.pools)


def _submit_jobs(builder: Builder, jobs: JobStream, pools: tuple[str, ...]) -> None:
    training = builder.scenario.training
    assert training is not None
    room = builder.room(pools)
    tenants = [builder.tenant(f"research/{name}", "training") for name in jobs.tenants]
    too_large = 0
    for i in range(len(jobs)):
        gpus = int(jobs.gpus[i])
        if gpus > room:
            too_large += 1
            continue
        builder.submit(
            float(jobs.submitted_s[i]),
            f"gang-{i}",
            "gang",
            tenants[int(jobs.tenant_row[i])],
            builder.gang_shape("gang", gpus, pools, training.start_s),
            float(jobs.duration_s[i]),
            builder.scenario.worth.gang_usd_per_gpu_h,
            "gangs",
            checkpoint_s=training.gangs_checkpoint_s,
            restart_s=training.start_s,
        )
    if too_large:
        builder.notes.append(
            f"{too_large} gangs want more accelerators than any pool they may use; left out."
        )


def _applications(builder: Builder) -> None:
    scenario, part = builder.scenario, builder.scenario.applications
    if part is None:
        return
    fixed = (
        replicas.generate(
            gpus=part.generated.gpus, apps=part.generated.apps, span_s=scenario.span_s,
            seed=builder.seed,
        )
        if builder.data is None
        else replayed.dlrm_stream(
            builder.data, start_s=part.trace.start_day * DAY_S, span_s=scenario.span_s,
            scale=part.trace.scale, seed=builder.seed,
        )
    )  # fmt: skip
    builder.notes += fixed.notes
    tenants = [builder.tenant(f"internal/{app}", "internal") for app in fixed.apps]
    for i in range(len(fixed)):
        gpus = int(fixed.gpus[i])
        builder.submit(
            float(fixed.created_s[i]),
            f"application-{i}",
            "lease",
            tenants[int(fixed.app_row[i])],
            builder.gang_shape("lease", gpus, part.pools, part.start_s),
            float(min(fixed.deleted_s[i], 10 * scenario.span_s) - fixed.created_s[i]),
            scenario.worth.application_usd_per_gpu_h,
            "applications",
            restart_s=part.start_s,
        )


def _leases(builder: Builder) -> None:
    scenario, part = builder.scenario, builder.scenario.leases
    if part is None:
        return
    asked = leases.generate(
        gpus_offered=part.gpus_offered,
        tenants=part.tenants,
        span_s=scenario.span_s,
        seed=builder.seed,
    )
    builder.notes += asked.notes
    tenants = [
        builder.tenant(f"external/{name}", "external", families)
        for name, families in zip(asked.tenants, asked.families, strict=True)
    ]
    usd = min(scenario.worth.lease_usd_per_gpu_h[pool] for pool in part.pools)
    room = builder.room(part.pools)
    too_large = 0
    for i in range(len(asked)):
        start_s = float(asked.start_s[i])
        if start_s >= scenario.span_s:
            continue
        if asked.gpus[i] > room:
            too_large += 1
            continue
        builder.submit(
            start_s,
            f"lease-{i}",
            "lease",
            tenants[int(asked.tenant_row[i])],
            builder.gang_shape("lease", int(asked.gpus[i]), part.pools, 60.0),
            float(asked.duration_s[i]),
            usd,
            "leases",
            restart_s=60.0,
            patience_s=part.patience_h * HOUR_S,
            firm=part.firm,
        )
    if too_large:
        builder.notes.append(
            f"{too_large} leases want more accelerators than any pool they may use; left out."
        )


def _service(builder: Builder, part: ServicePart) -> None:
    scenario = builder.scenario
    demand = _demand(builder, part)
    builder.demands.append(demand)
    builder.notes += demand.notes
    for name in demand.tenants:
        builder.tenant(name, part.class_)
    shape = builder.shape(
        f"replica of {part.name}",
        [part.replicas[p].gpus if p in part.replicas else 0 for p in builder.pools],
        [part.replicas[p].tokens_per_s if p in part.replicas else 0.0 for p in builder.pools],
        [part.start_s] * len(builder.pools),
        within_domain=part.within_domain,
    )
    best = max(r.tokens_per_s / r.gpus for r in part.replicas.values()) / MILLION
    row = len(builder.services)
    builder.services.append(
        Service(
            name=part.name,
            class_=CLASSES.index(part.class_),
            tenant=builder.tenant(part.name, part.class_),
            shape=shape,
            bid=best * part.usd_per_million,
            batch_bid=best * part.batch_usd_per_million,
            replicas_min=part.replicas_min,
        )
    )
    if part.batch is not None:
        plan = batches.Plan(
            part.name,
            scenario.span_s,
            part.batch.requests_per_day,
            part.batch.requests_per_batch,
            part.batch.deadline_h * HOUR_S,
            part.batch.tenants,
        )
        _order_batches(builder, _batch_stream(builder, plan), row, part)


def _batch_stream(builder: Builder, plan: batches.Plan) -> BatchStream:
    if builder.data is not None:
        return replayed.arxiv_batches(builder.data, plan, seed=builder.seed)
    return batches.generate(plan, batches.SUMMARIES, seed=builder.seed)


def _order_batches(builder: Builder, orders: BatchStream, service: int, part: ServicePart) -> None:
    builder.notes += orders.notes
    tenants = [builder.tenant(name, part.class_) for name in orders.tenants]
    tokens = orders.input_tokens * part.input_weight + orders.output_tokens
    for i in range(len(orders)):
        builder.facts.append(
            BatchOrdered(
                float(orders.submitted_s[i]),
                f"{part.name}/batch-{i}",
                tenants[int(orders.tenant_row[i])],
                service,
                float(tokens[i]),
                float(orders.deadline_s[i]),
            )
        )


def _demand(builder: Builder, part: ServicePart) -> ServiceDemand:
    scenario = builder.scenario
    trace, made = part.demand.trace, part.demand.generated
    if builder.data is not None and trace is not None:
        return replayed.servegen_demand(
            builder.data,
            trace.model,
            service=part.name,
            window_s=scenario.window_s,
            start_s=trace.start_day * DAY_S,
            span_s=scenario.span_s,
            rate_scale=trace.rate_scale,
            repeat=trace.repeat,
            seed=builder.seed,
        )
    return services.generate(
        part.name,
        services.SHAPES[made.like],
        rate_per_s=made.requests_per_s,
        tenants=made.tenants,
        window_s=scenario.window_s,
        span_s=scenario.span_s,
        seed=builder.seed,
    )


def _arrived(builder: Builder) -> Floats:
    """[window, service] output-equivalent tokens that arrive."""
    scenario = builder.scenario
    windows = round(scenario.span_s / scenario.window_s)
    columns = [
        (demand.input_tokens.sum(axis=1) * part.input_weight + demand.output_tokens.sum(axis=1))
        for demand, part in zip(builder.demands, scenario.services, strict=True)
    ]
    if not columns:
        return np.zeros((windows, 0))
    return np.stack(columns, axis=1)[:windows].astype(np.float64)


def _peaks(builder: Builder, fleet: Fleet, arrived: Floats) -> dict[str, Floats]:
    """GPUs each class would hold at its own peak, by pool: what silos are sized for.

    A class's peak is taken in hindsight, the kindest size a silo can have; it is laid over the
    pools its work may use in proportion to their size.
    """
    gpus = np.array([pool.gpus for pool in fleet.pools], np.float64)
    peaks = {name: np.zeros(len(gpus)) for name in (*CLASSES, "batch")}

    def lay(name: str, total: float, shape: Shape, per_pool: Callable[[int], float]) -> None:
        share = np.where(np.array(shape.gpus) > 0, gpus, 0.0)
        share /= share.sum()
        peaks[name] += [total * share[p] * per_pool(p) for p in range(len(gpus))]

    for class_, shape_row, total in _held_peaks(builder):
        lay(class_, total, fleet.shapes[shape_row], lambda _p: 1.0)
    scenario = builder.scenario
    for v, (service, part) in enumerate(zip(fleet.services, scenario.services, strict=True)):
        shape = fleet.shapes[service.shape]
        peak = float(np.quantile(arrived[:, v], 0.999)) / scenario.window_s

        def cost(p: int, shape: Shape = shape) -> float:
            return shape.gpus[p] / shape.speed[p] if shape.gpus[p] else 0.0

        lay(part.class_, peak, shape, cost)
        ordered = sum(
            f.tokens for f in builder.facts if isinstance(f, BatchOrdered) and f.service == v
        )
        lay("batch", 1.5 * ordered / scenario.span_s, shape, cost)
    return peaks


def _held_peaks(builder: Builder) -> list[tuple[str, int, float]]:
    """(class, shape, GPUs) of the most that gangs, applications and leases would hold at once if
    none waited; the highest moment of each class, shared among its shapes as it is then."""
    found: list[tuple[str, int, float]] = []
    tenants = list(builder.tenants.values())
    for class_row, class_ in enumerate(CLASSES):
        works = [
            fact
            for fact in builder.facts
            if isinstance(fact, WorkSubmitted) and tenants[fact.tenant].class_ == class_row
        ]
        if not works:
            continue
        begin = np.array([fact.at_s for fact in works])
        end = begin + [builder.truth.left_s[fact.ref] for fact in works]
        wide = np.array([max(builder.shape_list[fact.shape].gpus) for fact in works])
        at_s = np.linspace(0, builder.scenario.span_s, 289)[:-1]
        held = [(wide * ((begin <= t) & (end > t))).sum() for t in at_s]
        then = at_s[int(np.argmax(held))]
        there = (begin <= then) & (end > then)
        by_shape: dict[int, float] = {}
        for i in np.flatnonzero(there).tolist():
            by_shape[works[i].shape] = by_shape.get(works[i].shape, 0.0) + float(wide[i])
        found += [(class_, shape, total) for shape, total in by_shape.items()]
    return found

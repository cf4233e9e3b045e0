"""A scenario file: fleet, classes, demand, and what a unit of each work is worth.

Every demand names a trace to replay, used when the data folder is given, and figures to generate
it from, used when it is not. Every scaling of a trace stands in the file.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headgate.core.config import load
from headgate.core.errors import InputError

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
ClassName = Literal["training", "maas", "internal", "external"]
# A record of every window is kept in memory: 1 GB for so many days of minutes.
LONGEST_DAYS = 400
CLASSES: tuple[ClassName, ...] = ("training", "maas", "internal", "external")
Family = str


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: immutable, by keyword, no unknown keys."""


class Rack(_Part, frozen=True, kw_only=True):
    """Nodes that go live together."""

    at_h: NotNegative  # hours after the start
    nodes: AtLeastOne


class Drain(_Part, frozen=True, kw_only=True):
    """Nodes taken away for good: announced, so that who runs there has saved what it did."""

    at_h: Positive  # hours after the start
    nodes: AtLeastOne


class PoolPart(_Part, frozen=True, kw_only=True):
    name: str  # by which the rest of the file names it
    generation: str  # the accelerators' model, for people
    nodes: AtLeastOne  # live from the start
    gpus_per_node: Annotated[int, Meta(ge=1, le=128)] = 8
    racks: tuple[Rack, ...] = ()
    drains: tuple[Drain, ...] = ()  # of the nodes live from the start
    domain_nodes: AtLeastOne | None = None  # of each topology domain; none: the pool is one

    @property
    def nodes_in_all(self) -> int:
        return self.nodes + sum(rack.nodes for rack in self.racks)

    @property
    def gpus_of_domain(self) -> int:
        """Accelerators of its largest topology domain."""
        return min(self.domain_nodes or self.nodes_in_all, self.nodes_in_all) * self.gpus_per_node


class OrderPart(_Part, frozen=True, kw_only=True):
    """What is free in the order of classes: `preset` says who of internal and external is first."""

    preset: Literal["internal_first", "external_first", "together"] = "internal_first"
    standing: dict[Family, NotNegative] = {}  # weight of a product family; 1 where absent
    guarantees: dict[ClassName, dict[str, Count]] = {}  # GPUs by class and pool
    reclaim_s: Positive = 300.0  # a guarantee asked for is met within it


class FoundationPart(_Part, frozen=True, kw_only=True):
    """Large training runs, submitted one by one."""

    name: str
    gpus: AtLeastOne
    pools: tuple[str, ...]  # it may run in any one of them
    hours: Positive  # at speed 1
    submitted_h: NotNegative = 0.0
    within_domain: bool = False  # all its accelerators in one topology domain of the pool
    tenant: str = "foundation"


class PhillyTrace(_Part, frozen=True, kw_only=True):
    start_day: NotNegative = 0.0  # from midnight of the trace's first day
    scale: Positive = 1.0  # copies of each job


class GeneratedGangs(_Part, frozen=True, kw_only=True):
    gpus_offered: Positive  # accelerators they would hold on average if none waited


class GangsPart(_Part, frozen=True, kw_only=True):
    """Philly-shaped gangs: replayed from the trace, or generated from its published figures."""

    trace: PhillyTrace
    generated: GeneratedGangs
    pools: tuple[str, ...]  # a gang runs in one of them


class TrainingPart(_Part, frozen=True, kw_only=True):
    """Training gangs, and how fast each pool trains relative to speed 1."""

    speed: dict[str, Positive]  # by pool; 1 is the reference
    start_s: Positive  # reading the checkpoint and warming up
    foundation: tuple[FoundationPart, ...] = ()
    foundation_checkpoint_s: Positive = 1800.0  # time between checkpoints
    gangs: GangsPart | None = None
    gangs_checkpoint_s: Positive = 1800.0  # time between checkpoints
    speed_source: str
    start_source: str
    checkpoint_source: str


class ReplicaPart(_Part, frozen=True, kw_only=True):
    """One replica of a service in a pool: its GPUs, and what it serves inside the objective."""

    gpus: AtLeastOne
    tokens_per_s: Positive  # output-equivalent
    in_flight: AtLeastOne | None = None  # sequences at that rate; fidelity "requests" needs it


class ServeGenTrace(_Part, frozen=True, kw_only=True):
    model: str  # as the trace names it
    start_day: NotNegative = 0.0  # of the trace
    rate_scale: Positive = 1.0  # requests for each of the trace's
    repeat: bool = False  # play a trace that is too short again


class GeneratedTraffic(_Part, frozen=True, kw_only=True):
    """What generated traffic is like; the shape comes from published statistics."""

    like: Literal["large", "mid", "small", "reasoning"]
    requests_per_s: Positive  # on average
    tenants: AtLeastOne = 50


class DemandPart(_Part, frozen=True, kw_only=True):
    trace: ServeGenTrace | None = None  # played when the data folder is given
    generated: GeneratedTraffic  # played without it, or without a trace


class BatchPart(_Part, frozen=True, kw_only=True):
    """Deferrable work for a service's model."""

    requests_per_day: Positive
    requests_per_batch: Positive
    deadline_h: Positive = 24.0  # after it was ordered
    tenants: AtLeastOne = 20


class ServicePart(_Part, frozen=True, kw_only=True):
    """A model served: demand, replicas, objective, worth."""

    name: str
    class_: ClassName = msgspec.field(name="class")
    model: str  # what stands for it in the profiles
    demand: DemandPart  # of online requests
    replicas: dict[str, ReplicaPart]  # by pool: what one replica is there
    within_domain: bool = False  # each replica in one topology domain of its pool
    input_weight: NotNegative  # output tokens that one input token costs
    start_s: Positive  # weights loaded and engine warm
    tpot_s: Positive = 0.05  # time per output token, within which capacity is stated
    wait_s: Positive = 10.0  # a request that waits longer has missed its objective
    patience_s: Positive = 60.0  # a request that would wait longer is refused
    replicas_min: Count = 1  # never fewer
    batch: BatchPart | None = None  # deferrable work for the same model
    usd_per_million: NotNegative  # goodput output-equivalent tokens
    batch_usd_per_million: NotNegative  # tokens of orders done in time
    batch_miss_usd_per_million: NotNegative = 0.0  # taken off for each token past its deadline
    usd_source: str
    replicas_source: str


class LeasesPart(_Part, frozen=True, kw_only=True):
    """Leases of outside customers; no public trace holds any, so they are always generated."""

    pools: tuple[str, ...]  # a lease runs in one of them
    gpus_offered: Positive  # accelerators they would hold on average if all were granted
    tenants: AtLeastOne = 24
    patience_h: Positive = 2.0  # a lease that has not begun by then is refused
    firm: bool = False  # once begun it cannot be taken back
    source: str


class DlrmTrace(_Part, frozen=True, kw_only=True):
    start_day: NotNegative = 5.0  # of the trace
    scale: Positive = 1.0  # replicas for each of the trace's


class GeneratedReplicas(_Part, frozen=True, kw_only=True):
    gpus: AtLeastOne  # at any time
    apps: AtLeastOne = 40


class ApplicationsPart(_Part, frozen=True, kw_only=True):
    """Internal applications that keep fixed replicas of one accelerator each."""

    pools: tuple[str, ...]  # a replica runs in one of them
    trace: DlrmTrace
    generated: GeneratedReplicas
    start_s: Positive = 120.0
    source: str


class WorthPart(_Part, frozen=True, kw_only=True):
    """US dollars for a unit of work; `source` says where from, or the word assumption."""

    foundation_usd_per_gpu_h: NotNegative  # of progress at speed 1
    gang_usd_per_gpu_h: NotNegative
    lease_usd_per_gpu_h: dict[str, NotNegative]  # by pool
    application_usd_per_gpu_h: NotNegative
    source: str


class FailuresPart(_Part, frozen=True, kw_only=True):
    node_mtbf_days: Positive  # mean time between failures of a node
    repair_h: Positive  # until it is back
    source: str


class Scenario(_Part, frozen=True, kw_only=True):
    name: str
    about: str  # one sentence for the head of the report
    days: Positive
    window_s: Positive = 60.0  # request traffic is served by windows of it
    fidelity: Literal["windows", "requests"] = "windows"  # each window a fluid, or every request
    stop_s: NotNegative  # from the wish to stop until the accelerators are free
    stop_source: str
    pools: tuple[PoolPart, ...]
    order: OrderPart
    training: TrainingPart | None = None
    services: tuple[ServicePart, ...] = ()
    leases: LeasesPart | None = None
    applications: ApplicationsPart | None = None
    worth: WorthPart
    failures: FailuresPart | None = None
    policies: tuple[str, ...] = (
        "silos",
        "fifo",
        "priority",
        "headgate",
    )  # run when the command line names none

    @property
    def span_s(self) -> float:
        return self.days * 86_400.0

    def __post_init__(self) -> None:
        _check_names(self)
        _check_pools(self)
        _check_drains(self)
        _check_values(self)


def read(path: Path) -> Scenario:
    """Read a scenario file; InputError says in one sentence what is wrong with it."""
    return load(path, Scenario)


def _check_names(scenario: Scenario) -> None:
    """Names that must be there once."""
    groups = {
        "pools": [pool.name for pool in scenario.pools],
        "services": [service.name for service in scenario.services],
    }
    for group, names in groups.items():
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(f"{group}[{i}].name is {name!r} a second time; rename one.")
    if not scenario.pools:
        raise InputError("pools is empty; give at least one pool.")


def _check_drains(scenario: Scenario) -> None:
    for i, pool in enumerate(scenario.pools):
        drained = sum(drain.nodes for drain in pool.drains)
        if drained > pool.nodes:
            raise InputError(
                f"pools[{i}].drains takes {drained} nodes away, but pool {pool.name} has "
                f"{pool.nodes} from the start; drain at most those."
            )


def _check_pools(scenario: Scenario) -> None:
    """Every pool that is named exists, and every gang fits into one."""
    pools = {pool.name: pool for pool in scenario.pools}

    def known(field: str, names: object) -> None:
        for name in names:  # type: ignore[attr-defined]
            if name not in pools:
                raise InputError(
                    f"{field} names pool {name!r}; the fleet has {', '.join(pools)}; choose one."
                )

    training = scenario.training
    if training is not None:
        known("training.speed", training.speed)
        for i, run in enumerate(training.foundation):
            field = f"training.foundation[{i}]"
            known(f"{field}.pools", run.pools)
            largest = max(pools[p].nodes_in_all * pools[p].gpus_per_node for p in run.pools)
            if run.gpus > largest:
                raise InputError(
                    f"{field}.gpus is {run.gpus}, more than any pool it may use holds "
                    f"({largest}); ask for at most {largest}."
                )
            domain = max(pools[p].gpus_of_domain for p in run.pools)
            if run.within_domain and run.gpus > domain:
                raise InputError(
                    f"{field}.gpus is {run.gpus}, more than a domain of any pool it may use holds "
                    f"({domain}); ask for at most {domain}, or drop within_domain."
                )
        if training.gangs is not None:
            known("training.gangs.pools", training.gangs.pools)
    for i, service in enumerate(scenario.services):
        known(f"services[{i}].replicas", service.replicas)
        for name, replica in service.replicas.items():
            room = pools[name].nodes_in_all * pools[name].gpus_per_node
            if replica.gpus > room:
                raise InputError(
                    f"services[{i}].replicas.{name}.gpus is {replica.gpus}, but the pool holds "
                    f"{room}; ask for at most {room}."
                )
            domain = pools[name].gpus_of_domain
            if service.within_domain and replica.gpus > domain:
                raise InputError(
                    f"services[{i}].replicas.{name}.gpus is {replica.gpus}, but a domain of the "
                    f"pool holds {domain}; ask for at most {domain}, or drop within_domain."
                )
    if scenario.leases is not None:
        known("leases.pools", scenario.leases.pools)
    if scenario.applications is not None:
        known("applications.pools", scenario.applications.pools)
    for class_, promised in scenario.order.guarantees.items():
        known(f"order.guarantees.{class_}", promised)
    for name, pool in pools.items():
        total = sum(by_pool.get(name, 0) for by_pool in scenario.order.guarantees.values())
        room = pool.nodes * pool.gpus_per_node
        if total > room:
            raise InputError(
                f"order.guarantees for pool {name} add up to {total} GPUs, but {room} are live "
                f"from the start; promise at most {room}."
            )


def _check_values(scenario: Scenario) -> None:
    if scenario.days > LONGEST_DAYS:
        raise InputError(
            f"days is {scenario.days:g}; give at most {LONGEST_DAYS}, or simulate in parts."
        )
    if scenario.span_s < scenario.window_s:
        raise InputError(
            f"days is {scenario.days:g}, shorter than one window of {scenario.window_s:g} s; "
            f"simulate at least one window."
        )
    for i, service in enumerate(scenario.services):
        if service.patience_s < service.wait_s:
            raise InputError(
                f"services[{i}].patience_s is {service.patience_s:g}, but wait_s is "
                f"{service.wait_s:g}; patience must be at least as long."
            )
        if not service.replicas:
            raise InputError(f"services[{i}].replicas is empty; give a replica for one pool.")
    for name in scenario.leases.pools if scenario.leases is not None else ():
        if name not in scenario.worth.lease_usd_per_gpu_h:
            raise InputError(
                f"worth.lease_usd_per_gpu_h has no price for pool {name!r}, which leases use; "
                f"give one."
            )

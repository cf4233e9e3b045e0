"""What a fleet is made of: pools, classes, tenants, services and the shapes of work."""

from typing import Annotated

import msgspec
from msgspec import Meta

from headgate.core.errors import InputError

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
# A node's accelerators bound the histogram of free ones; 72 is the largest coherent domain sold
# today (GB200 NVL72), rounded up.
GpusPerNode = Annotated[int, Meta(ge=1, le=128)]


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accelerators of one generation at one site; all its nodes are alike."""

    name: str
    generation: str
    nodes: Annotated[int, Meta(ge=1)]  # every node it will ever have, racks to come included
    gpus_per_node: GpusPerNode = 8
    site: str = "main"
    # Nodes of one topology domain (a rack, a leaf switch), in order; None: the pool is one domain.
    domain_nodes: Annotated[int, Meta(ge=1)] | None = None

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def nodes_per_domain(self) -> int:
        return min(self.domain_nodes or self.nodes, self.nodes)

    @property
    def domains(self) -> int:
        """How many; the last one has fewer nodes where they do not divide."""
        return -(-self.nodes // self.nodes_per_domain)

    @property
    def domain_gpus(self) -> int:
        """Accelerators of its largest domain."""
        return self.nodes_per_domain * self.gpus_per_node


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that will go live (a rack), or be taken away for good (a drain), at a known time."""

    at_s: NotNegative
    pool: Count  # row in Fleet.pools
    nodes: int  # less than 0: they are drained


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who pays; belongs to one class. `families` are the product families used beside GPUs."""

    name: str
    class_: int = msgspec.field(name="class")  # row in Fleet.classes
    families: tuple[str, ...] = ()


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a kind of work takes and how fast it goes, pool by pool; 0 GPUs: it cannot run there.

    Speeds are relative to one reference for gangs and in output-equivalent tokens/s of one replica
    for services.
    """

    name: str
    gpus: tuple[Count, ...]  # [pool]
    speed: tuple[NotNegative, ...]  # [pool]
    start_s: tuple[NotNegative, ...]  # [pool], boot or restart until it runs
    within_domain: bool = False  # all its accelerators lie in one domain of a pool


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model served by replicas of one shape."""

    name: str
    class_: int = msgspec.field(name="class")
    tenant: int  # who holds its accelerators until the ledger shares them among its users
    shape: int
    bid: NotNegative = 0.0  # worth of one GPU-second of a replica at work
    batch_bid: NotNegative = 0.0
    replicas_min: Count = 0


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a machine must know before the first fact; the head of every log."""

    pools: tuple[Pool, ...]
    classes: tuple[str, ...]
    tenants: tuple[Tenant, ...]
    shapes: tuple[Shape, ...]
    services: tuple[Service, ...] = ()
    guarantees: tuple[tuple[Count, ...], ...] = ()  # [class][pool] GPUs; empty: none
    reclaim_s: NotNegative = 300.0  # a guarantee asked for is met within this time
    planned: tuple[PlannedChange, ...] = ()

    @property
    def gpus(self) -> int:
        return sum(pool.gpus for pool in self.pools)

    def __post_init__(self) -> None:
        for pool_row, pool in enumerate(self.pools):
            promised = sum(row[pool_row] for row in self.guarantees)
            if promised > pool.gpus:
                raise InputError(
                    f"guarantees in pool {pool.name} add up to {promised} GPUs, but it has "
                    f"{pool.gpus}; lower a class's guarantee there."
                )
        for shape in self.shapes:
            self._check_shape(shape)

    def _check_shape(self, shape: Shape) -> None:
        if not any(shape.gpus):
            raise InputError(f"shape {shape.name} runs in no pool; give it GPUs in at least one.")
        room = [
            pool.gpus for pool, wanted in zip(self.pools, shape.gpus, strict=True) if wanted > 0
        ]
        smallest = min(wanted for wanted in shape.gpus if wanted > 0)
        if all(
            wanted == 0 or wanted > pool.gpus
            for pool, wanted in zip(self.pools, shape.gpus, strict=True)
        ):
            raise InputError(
                f"shape {shape.name} wants {smallest} GPUs, but the largest pool it may use has "
                f"{max(room)}; ask for at most {max(room)}."
            )
        for pool, wanted in zip(self.pools, shape.gpus, strict=True):
            if shape.within_domain and pool.domain_gpus < wanted <= pool.gpus:
                raise InputError(
                    f"shape {shape.name} wants {wanted} GPUs within one domain, but a domain of "
                    f"pool {pool.name} has {pool.domain_gpus}; give it 0 GPUs there, or let it "
                    f"span domains."
                )

"""Gathers what a story is made of: tenants, shapes, services, and the facts to come."""

from pathlib import Path

from headgate.core.facts import Fact, Kind, WorkSubmitted
from headgate.core.fleet import Service, Shape, Tenant
from headgate.sim.demand import ServiceDemand
from headgate.sim.nature import Truth
from headgate.sim.scenario import CLASSES, Scenario

HOUR_S = 3600.0


class Builder:
    """Rows of tenants and shapes are given out in the order of asking."""

    def __init__(self, scenario: Scenario, data: Path | None, seed: int) -> None:
        self.scenario = scenario
        self.data = data
        self.seed = seed
        self.pools = [pool.name for pool in scenario.pools]
        self.tenants: dict[str, Tenant] = {}
        self.tenant_rows: dict[str, int] = {}
        self.shapes: dict[str, int] = {}
        self.shape_list: list[Shape] = []
        self.services: list[Service] = []
        self.facts: list[Fact] = []
        self.truth = Truth()
        self.worth: list[float] = []
        self.group: list[str] = []
        self.notes: list[str] = []
        self.demands: list[ServiceDemand] = []

    def tenant(self, name: str, class_: str, families: tuple[str, ...] = ()) -> int:
        """The tenant's row; made when it is first asked for."""
        if name not in self.tenants:
            row = CLASSES.index(class_)
            self.tenant_rows[name] = len(self.tenants)
            self.tenants[name] = Tenant(name=name, class_=row, families=families)
        return self.tenant_rows[name]

    def shape(
        self,
        name: str,
        gpus: list[int],
        speed: list[float],
        start_s: list[float],
        *,
        within_domain: bool = False,
    ) -> int:
        """The shape's row; made when first asked for. It cannot run in pools too narrow for it."""
        if within_domain:
            name += " within a domain"
            for p, pool in enumerate(self.scenario.pools):
                if gpus[p] > pool.gpus_of_domain:
                    gpus[p], speed[p] = 0, 0.0
        if name not in self.shapes:
            self.shapes[name] = len(self.shape_list)
            self.shape_list.append(
                Shape(
                    name=name,
                    gpus=tuple(gpus),
                    speed=tuple(speed),
                    start_s=tuple(start_s),
                    within_domain=within_domain,
                )
            )
        return self.shapes[name]

    def room(self, pools: tuple[str, ...]) -> int:
        """Accelerators live from the start in the largest of some pools."""
        named = [pool for pool in self.scenario.pools if pool.name in pools]
        return max(pool.nodes * pool.gpus_per_node for pool in named)

    def gang_shape(
        self,
        kind: str,
        gpus: int,
        pools: tuple[str, ...],
        start_s: float,
        *,
        within_domain: bool = False,
    ) -> int:
        """The shape of works that take the same number of accelerators wherever they run."""
        training = self.scenario.training
        speed = training.speed if training is not None and kind != "lease" else {}
        return self.shape(
            f"{kind} of {gpus} on {' or '.join(pools)}",
            [gpus if pool in pools else 0 for pool in self.pools],
            [speed.get(pool, 1.0) if pool in pools else 0.0 for pool in self.pools],
            [start_s] * len(self.pools),
            within_domain=within_domain,
        )

    def submit(
        self,
        at_s: float,
        name: str,
        kind: Kind,
        tenant: int,
        shape: int,
        run_s: float,
        worth_usd_per_gpu_h: float,
        group: str,
        *,
        checkpoint_s: float = 0.0,
        restart_s: float = 0.0,
        patience_s: float | None = None,
        priority: int = 0,
        firm: bool = False,
    ) -> None:
        ref = self.truth.add(run_s, checkpoint_s, fixed_term=kind == "lease")
        self.worth.append(worth_usd_per_gpu_h / HOUR_S)
        self.group.append(group)
        self.facts.append(
            WorkSubmitted(
                at_s,
                name,
                kind,
                tenant,
                shape,
                bid=worth_usd_per_gpu_h / HOUR_S,
                checkpoint_s=checkpoint_s,
                restart_s=restart_s,
                priority=priority,
                firm=firm,
                patience_s=patience_s,
                ref=ref,
            )
        )

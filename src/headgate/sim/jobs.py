"""The job simulator alone: gangs on one pool, no services; what the fleet bench times."""

import time
from dataclasses import dataclass

import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import Fact, WorkSubmitted
from headgate.core.fleet import Fleet, Pool, Shape, Tenant
from headgate.policy.baselines import Fifo
from headgate.policy.rules import Policy
from headgate.sim.demand import JobStream
from headgate.sim.driver import run
from headgate.sim.lawful import Lawful
from headgate.sim.nature import Nature, Truth

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of the job simulator."""

    facts: int
    wall_s: float
    finished: int
    mean_wait_s: float
    ledger_gpu_s: float  # held by jobs
    machine: Machine


def simulate_jobs(
    jobs: JobStream, gpus: int, *, policy: Policy | None = None, start_s: float = 30.0
) -> JobRun:
    """Play a stream of gangs on one pool of `gpus` accelerators in nodes of eight, to its end.

    A gang wider than the pool is left out. Only the loop itself is timed.
    """
    wide = sorted({int(g) for g in np.unique(jobs.gpus)})
    shapes = {g: row for row, g in enumerate(g for g in wide if g <= gpus)}
    fleet = Fleet(
        pools=(Pool(name="pool", generation="any", nodes=gpus // 8),),
        classes=("training",),
        tenants=tuple(Tenant(name=name, class_=0) for name in jobs.tenants),
        shapes=tuple(
            Shape(name=f"gang of {g}", gpus=(g,), speed=(1.0,), start_s=(start_s,)) for g in shapes
        ),
    )
    truth = Truth()
    facts: list[Fact] = []
    for i in range(len(jobs)):
        width = int(jobs.gpus[i])
        if width in shapes:
            ref = truth.add(float(jobs.duration_s[i]), 3600.0, fixed_term=False)
            facts.append(
                WorkSubmitted(
                    float(jobs.submitted_s[i]),
                    f"job-{i}",
                    "gang",
                    int(jobs.tenant_row[i]),
                    shapes[width],
                    checkpoint_s=3600.0,
                    ref=ref,
                )
            )
    machine = Machine(fleet, policy or Fifo())
    # Long enough for the longest job to be done after the last has come.
    until_s = float(jobs.submitted_s[-1] + 2 * jobs.duration_s.max()) + 30 * DAY_S
    # Windows carry no traffic here; an hourly one lets long waits be looked at.
    nature = Nature(fleet, iter(facts), truth, until_s=until_s, window_s=3600.0)
    began_s = time.perf_counter()
    count = run(machine, nature, (Lawful(machine, 7 * DAY_S),))
    wall_s = time.perf_counter() - began_s
    machine.check_laws(looked=False)
    works = machine.ground.tables.works[: machine.ground.rows]
    return JobRun(
        count,
        wall_s,
        int(np.count_nonzero(works["state"] == 4)),
        float(works["waited_s"].mean()) if len(works) else 0.0,
        float((works["starting_gpu_s"] + works["running_gpu_s"] + works["stopping_gpu_s"]).sum()),
        machine,
    )


def repeated(jobs: JobStream, span_s: float) -> JobStream:
    """The stream again and again until it fills a span; each time shifted by its own length."""
    length_s = float(np.ceil(jobs.submitted_s[-1] / DAY_S)) * DAY_S
    times = int(np.ceil(span_s / length_s))
    submitted_s = np.concatenate([jobs.submitted_s + i * length_s for i in range(times)])
    inside = submitted_s < span_s
    return JobStream(
        submitted_s[inside],
        np.tile(jobs.duration_s, times)[inside],
        np.tile(jobs.gpus, times)[inside],
        np.tile(jobs.tenant_row, times)[inside],
        jobs.tenants,
    )

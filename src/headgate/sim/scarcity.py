"""Offered load: how much of the fleet a story would just fill, and scenarios scaled to a load."""

from typing import Any

import highspy
import msgspec
import numpy as np

from headgate.policy.price.programme import Programme
from headgate.sim.bound import Row, programme_of
from headgate.sim.scenario import Scenario
from headgate.sim.story import Story


def offered_load(programme: Programme, scale: np.ndarray[Any, Any] | float = 1.0) -> float:
    """The least share of every pool that would serve all demand, were time of no matter.

    min f subject to  sum over pools of rate x hours given = output asked, for each use
                      sum over uses of hours given <= f x the pool's hours
    `scale` multiplies each use's demand.
    """
    u = programme.uses
    pairs = np.argwhere(u.rate > 0)
    uses, pools = u.rate.shape
    asked = u.arrives.sum(axis=1) * scale
    hours = (programme.capacity * programme.hours).sum(axis=1)
    n = len(pairs)
    dense = np.zeros((uses + pools, n + 1))
    dense[pairs[:, 0], np.arange(n)] = u.rate[pairs[:, 0], pairs[:, 1]]
    dense[uses + pairs[:, 1], np.arange(n)] = 1.0
    dense[uses:, n] = -hours
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n + 1, uses + pools
    lp.col_cost_ = np.append(np.zeros(n), 1.0)
    lp.col_lower_ = np.zeros(n + 1)
    lp.col_upper_ = np.full(n + 1, highspy.kHighsInf)
    lp.row_lower_ = np.append(asked, np.full(pools, -highspy.kHighsInf))
    lp.row_upper_ = np.append(asked, np.zeros(pools))
    column, row = np.nonzero(dense.T)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.searchsorted(column, np.arange(n + 2))
    lp.a_matrix_.index_, lp.a_matrix_.value_ = row, dense[row, column]
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.passModel(lp)
    highs.run()
    return float(highs.getInfo().objective_function_value)


def factor_for(story: Story, seed: int, load: float) -> float:
    """What to multiply demand by, the foundation runs excepted, for an offered load."""
    programme, rows = programme_of(story, seed, story.scenario.span_s)
    given = np.array([_given(row) for row in rows])
    low, high = 0.0, 16.0
    for _ in range(40):
        middle = (low + high) / 2
        scale = np.where(given, 1.0, middle)
        low, high = (middle, high) if offered_load(programme, scale) < load else (low, middle)
    return high


def _given(row: Row) -> bool:
    return row.name.startswith("foundation")


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with `factor` times the demand; the foundation runs are orders and stay."""
    change: dict[str, Any] = {"services": tuple(_service(s, factor) for s in scenario.services)}
    training = scenario.training
    if training is not None and training.gangs is not None:
        gangs = training.gangs
        change["training"] = _with(
            training,
            gangs=_with(
                gangs,
                trace=_with(gangs.trace, scale=gangs.trace.scale * factor),
                generated=_with(
                    gangs.generated, gpus_offered=gangs.generated.gpus_offered * factor
                ),
            ),
        )
    if scenario.leases is not None:
        offered = scenario.leases.gpus_offered * factor
        change["leases"] = _with(scenario.leases, gpus_offered=offered)
    if scenario.applications is not None:
        part = scenario.applications
        change["applications"] = _with(
            part,
            trace=_with(part.trace, scale=part.trace.scale * factor),
            generated=_with(part.generated, gpus=max(1, round(part.generated.gpus * factor))),
        )
    return msgspec.structs.replace(scenario, **change)


def enlarged(scenario: Scenario, times: float) -> Scenario:
    """The scenario on a fleet so many times as large, with as many times the demand, promises and
    nodes; a foundation run stays one run, of as many times the GPUs."""
    pools = tuple(
        _with(
            pool,
            nodes=round(pool.nodes * times),
            racks=tuple(_with(rack, nodes=round(rack.nodes * times)) for rack in pool.racks),
            drains=tuple(_with(drain, nodes=round(drain.nodes * times)) for drain in pool.drains),
        )
        for pool in scenario.pools
    )
    order = _with(
        scenario.order,
        guarantees={
            class_: {pool: round(gpus * times) for pool, gpus in promised.items()}
            for class_, promised in scenario.order.guarantees.items()
        },
    )
    grown = msgspec.structs.replace(scaled(scenario, times), pools=pools, order=order)
    if grown.training is None:
        return grown
    runs = tuple(_with(run, gpus=round(run.gpus * times)) for run in grown.training.foundation)
    return msgspec.structs.replace(grown, training=_with(grown.training, foundation=runs))


def _service(part: Any, factor: float) -> Any:
    demand = part.demand
    trace = demand.trace
    if trace is not None:
        trace = _with(trace, rate_scale=trace.rate_scale * factor)
    made = _with(demand.generated, requests_per_s=demand.generated.requests_per_s * factor)
    batch = part.batch
    if batch is not None:
        batch = _with(batch, requests_per_day=batch.requests_per_day * factor)
    return _with(part, demand=_with(demand, trace=trace, generated=made), batch=batch)


def _with(record: Any, **change: Any) -> Any:
    return msgspec.structs.replace(record, **change)

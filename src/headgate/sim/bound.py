"""The hindsight bound: the allocation programme with all of a story's demand and failures known.

No policy can be worth more on the same story than the programme's optimum, because everything a
run must respect is either in the programme or left out of it, never added. In it: capacity as
nodes fail, return and go live; what arrives when; deadlines; speeds by pool; guarantees that were
asked for; the start of every gang and lease, and of replicas beyond those running before.
Left out, to the policies' disadvantage: that GPUs come whole and on nodes (fragmentation), that a
gang holds all it wants or nothing and one job's width when it shares a row with others, work lost
at stops and failures, the time a stop takes, and that demand is not known beforehand.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from headgate.control.machine import Machine
from headgate.core.facts import BatchOrdered, Fact, NodeFailed, NodeJoined, WorkSubmitted
from headgate.core.tables import Floats
from headgate.policy.baselines import Fifo
from headgate.policy.order import rung
from headgate.policy.price.programme import Answer, Programme, Uses
from headgate.policy.price.solver import Solver
from headgate.sim.nature import Nature, Truth
from headgate.sim.story import MILLION, Story

HOUR_S = 3600.0
# Works are put together by how long they run: within a factor of four a row is nearly one job.
LENGTHS_S = (900.0, 3600.0, 4 * 3600.0, 16 * 3600.0, 64 * 3600.0)
# What starts at the story's beginning has been running: its start costs nothing.
ANY = 1e5
BUCKETS_MOST = 336  # longer buckets smooth demand more: the bound only rises


@dataclass(frozen=True, slots=True)
class Row:
    """One use to be: columns by pool and by bucket; output in hours of its best pool."""

    name: str
    class_: int
    tier: int
    value: float
    loss: float
    rate: Floats
    arrives: Floats
    may_wait: Floats
    width: Floats
    family: str
    start_h: float
    online: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """What the best possible run of a story is worth and does."""

    value: float
    harvest: float  # share of what online demand leaves idle that is put to use
    busy_share: float
    answer: Answer
    programme: Programme
    names: tuple[str, ...]


def bound(story: Story, seed: int, mode: str = "value", bucket_s: float | None = None) -> Bound:
    """The optimum of the story in hindsight; `mode` as the programme's."""
    programme, rows = programme_of(story, seed, bucket_s)
    answer = Solver().solve(programme, mode)
    used = (answer.served.sum(axis=1) * programme.hours).sum(axis=1)
    online = float(used[[row.online for row in rows]].sum())
    total = float((programme.capacity * programme.hours).sum())
    valley = total - online
    return Bound(
        answer.worth,
        (float(used.sum()) - online) / valley if valley > 0 else 0.0,
        float(used.sum()) / total,
        answer,
        programme,
        tuple(row.name for row in rows),
    )


def programme_of(
    story: Story, seed: int, bucket_s: float | None = None
) -> tuple[Programme, list[Row]]:
    """The story as a programme in buckets of a quarter of an hour, longer beyond half a week."""
    scenario = story.scenario
    length_s = bucket_s or max(900.0, scenario.span_s / BUCKETS_MOST)
    length_s = max(length_s, scenario.window_s)
    # What is left at the end joins the bucket before it when it is less than a window.
    whole_s = scenario.span_s - scenario.window_s / 2
    ends_s = np.append(np.arange(length_s, whole_s, length_s), scenario.span_s)
    rows = [*_services(story, ends_s), *_works(story, ends_s)]
    families = list(dict.fromkeys(row.family for row in rows))
    pools = len(story.fleet.pools)
    start_h = {row.family: row.start_h for row in rows}
    uses = Uses(
        value=np.array([row.value for row in rows]),
        loss=np.array([row.loss for row in rows]),
        wait=np.zeros(len(rows)),
        rate=np.array([row.rate for row in rows]).reshape(len(rows), pools),
        arrives=np.array([row.arrives for row in rows]).reshape(len(rows), len(ends_s)),
        may_wait=np.array([row.may_wait for row in rows]).reshape(len(rows), len(ends_s)),
        width=np.array([row.width for row in rows]).reshape(len(rows), len(ends_s)),
        class_=np.array([row.class_ for row in rows], np.int64),
        tier=np.array([row.tier for row in rows], np.int64),
        family=np.array([families.index(row.family) for row in rows], np.int64),
        held=np.full((len(families), pools), ANY),
        start_h=np.array([start_h[family] for family in families]),
    )
    hours = np.diff(ends_s, prepend=0.0) / HOUR_S
    # A start may fall into the bucket before or after the one it is seen in.
    programme = Programme(
        hours, uptime(story, seed, ends_s), uses, _floors(story, ends_s), spread=3
    )
    return programme, rows


def uptime(story: Story, seed: int, ends_s: Floats) -> Floats:
    """[pool, bucket] GPUs live on average: nature's own failures, played without any work."""
    fleet = msgspec.structs.replace(story.fleet, services=())
    machine = Machine(fleet, Fifo())
    no_facts: Iterator[Fact] = iter(())
    nature = Nature(
        fleet, no_facts, Truth(), until_s=float(ends_s[-1]), seed=seed, live_s=story.live_s,
        gone_s=story.gone_s, failures=story.failures, window_s=story.scenario.window_s,
    )  # fmt: skip
    pool_of = np.repeat(np.arange(len(fleet.pools)), [pool.nodes for pool in fleet.pools])
    begins_s = np.append(0.0, ends_s[:-1])
    total = np.zeros((len(fleet.pools), len(ends_s)))
    while (fact := nature.next(machine)) is not None:
        machine.handle(fact)
        if isinstance(fact, NodeJoined | NodeFailed):
            p = int(pool_of[fact.node])
            sign = 1.0 if isinstance(fact, NodeJoined) else -1.0
            span_s = ends_s - np.clip(fact.at_s, begins_s, ends_s)
            total[p] += sign * span_s * fleet.pools[p].gpus_per_node
    return np.asarray(total / (ends_s - begins_s))


def _floors(story: Story, ends_s: Floats) -> Floats:
    """[class, pool, bucket] GPUs that honouring a guarantee takes whatever else is decided.

    Only what no choice avoids: work that can go to one pool alone asks there from its submission,
    must be given its place within the reclaim time, and holds it until it ends. Bucket by bucket
    the least of it, so that a floor never says more than the guarantee does.
    """
    fleet, truth = story.fleet, story.truth
    begins_s = np.append(0.0, ends_s[:-1])
    asked = np.zeros((len(fleet.classes), len(fleet.pools), len(ends_s)))
    for fact in story.facts:
        if not isinstance(fact, WorkSubmitted):
            continue
        shape = fleet.shapes[fact.shape]
        possible = [p for p, gpus in enumerate(shape.gpus) if gpus > 0]
        if len(possible) != 1:
            continue
        p = possible[0]
        fixed = truth.fixed_term[fact.ref]
        run_s = truth.left_s[fact.ref] / (1.0 if fixed else shape.speed[p])
        # A start may take as long again as the wait for it; a floor must not ask for more.
        late_s = fact.at_s + (fleet.reclaim_s + shape.start_s[p]) * (fact.at_s > 0)
        whole = (begins_s >= late_s) & (ends_s <= fact.at_s + run_s)
        asked[fleet.tenants[fact.tenant].class_, p] += np.where(whole, shape.gpus[p], 0)
    promised = np.array(fleet.guarantees or np.zeros(asked.shape[:2]), np.float64)
    return np.minimum(asked, promised[:, :, None])


def _services(story: Story, ends_s: Floats) -> Iterator[Row]:
    """Each service's online demand, and its batch orders; they share replicas."""
    scenario, fleet = story.scenario, story.fleet
    at_s = (np.arange(len(story.arrived)) + 0.5) * scenario.window_s
    bucket = np.minimum(np.searchsorted(ends_s, at_s), len(ends_s) - 1)
    last = np.append(np.flatnonzero(np.diff(bucket)), len(bucket) - 1)
    free = np.full(len(ends_s), np.inf)
    for v, (service, part) in enumerate(zip(fleet.services, scenario.services, strict=True)):
        shape = fleet.shapes[service.shape]
        gpus, speed = np.array(shape.gpus, np.float64), np.array(shape.speed)
        per_h = np.divide(speed * HOUR_S, gpus, out=np.zeros_like(speed), where=gpus > 0)
        unit = float(per_h.max())  # tokens of an hour of the best pool
        start_h = max(shape.start_s) / HOUR_S
        tier = rung(fleet.classes, scenario.order.preset, service.class_, 0)
        arrived = np.bincount(bucket, story.arrived[:, v], len(ends_s))
        # Of a bucket's arrivals those of its last moments may be served after it, in objective.
        tail = story.arrived[last, v] * min(1.0, part.wait_s / scenario.window_s)
        yield Row(
            service.name, service.class_, tier, part.usd_per_million / MILLION * unit, 0.0,
            per_h / unit, arrived / unit, tail / unit, free, service.name, start_h, online=True,
        )  # fmt: skip
        orders = [f for f in story.facts if isinstance(f, BatchOrdered) and f.service == v]
        if orders:
            tokens = np.array([order.tokens for order in orders]) / unit
            came = _by(ends_s, np.array([order.at_s for order in orders]), tokens)
            due = _by(ends_s, np.array([order.deadline_s for order in orders]), tokens)
            yield Row(
                f"{service.name} batch", service.class_, tier,
                part.batch_usd_per_million / MILLION * unit,
                part.batch_miss_usd_per_million / MILLION * unit,
                per_h / unit, came, np.cumsum(came) - np.cumsum(due), free,
                service.name, start_h,
            )  # fmt: skip


def _by(ends_s: Floats, at_s: Floats, amount: Floats) -> Floats:
    """Amounts by the bucket they fall into; those beyond the last are left out."""
    inside = at_s <= ends_s[-1]
    bucket = np.searchsorted(ends_s, at_s[inside])
    return np.bincount(bucket, amount[inside], len(ends_s)).astype(np.float64)


def _works(story: Story, ends_s: Floats) -> Iterator[Row]:
    """Gangs and leases, those alike in one row.

    What has become possible by a bucket's end is the sum over works of what each could have done
    by then in its fastest pool; a work of its length starts in every hour it takes.
    """
    fleet, truth = story.fleet, story.truth
    alike: dict[tuple[object, ...], list[WorkSubmitted]] = defaultdict(list)
    for fact in story.facts:
        if isinstance(fact, WorkSubmitted):
            shape = fleet.shapes[fact.shape]
            speed = _speed(story, fact)
            length = int(np.searchsorted(LENGTHS_S, truth.left_s[fact.ref]))
            alike[
                story.group[fact.ref], fleet.tenants[fact.tenant].class_, fact.bid,
                tuple(speed.tolist()), max(shape.start_s), length, fact.at_s <= 0.0, fact.priority,
            ].append(fact)  # fmt: skip
    for number, ((group, *_), works) in enumerate(alike.items()):
        name = f"{group} {number}"
        works_class = fleet.tenants[works[0].tenant].class_
        worth = story.worth_usd_per_gpu_s[works[0].ref] * HOUR_S
        yield _work_row(story, works, name, works_class, worth, ends_s)


def _speed(story: Story, fact: WorkSubmitted) -> Floats:
    shape = story.fleet.shapes[fact.shape]
    can = np.array(shape.gpus) > 0
    return np.where(can, 1.0 if story.truth.fixed_term[fact.ref] else np.array(shape.speed), 0.0)


def _work_row(
    story: Story, works: list[WorkSubmitted], name: str, class_: int, worth: float, ends_s: Floats
) -> Row:
    shape = story.fleet.shapes[works[0].shape]
    order = story.scenario.order
    tier = rung(story.fleet.classes, order.preset, class_, works[0].priority)
    speed = _speed(story, works[0])
    started = works[0].at_s <= 0.0
    start_s = (
        0.0 if started else min(g for g, n in zip(shape.start_s, shape.gpus, strict=True) if n > 0)
    )
    run_s = np.array([story.truth.left_s[work.ref] for work in works])
    at_s = np.array([work.at_s for work in works])
    gpus = np.array([max(story.fleet.shapes[work.shape].gpus) for work in works], np.float64)
    possible = np.zeros(len(ends_s))
    width = np.zeros(len(ends_s))
    for i in range(len(works)):
        lapse_s = np.clip(ends_s - at_s[i] - start_s, 0.0, None)
        possible += gpus[i] * np.minimum(run_s[i], lapse_s * speed.max())
        width += gpus[i] * (ends_s > at_s[i])
    longest_s = float(run_s.max())
    slowed = np.divide(
        speed, 1.0 + speed * start_s / longest_s, out=np.zeros_like(speed), where=speed > 0
    )
    return Row(
        name, class_, tier, worth, 0.0, slowed, np.diff(possible, prepend=0.0) / HOUR_S,
        np.full(len(ends_s), np.inf), width, name, 0.0,
    )  # fmt: skip

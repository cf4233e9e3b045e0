"""The market as a programme, and its answer as a plan: where GPUs meet prices.

Rows of the programme are the market's uses in their order, then one row a service for the margin
that online demand keeps against surprise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.core.tables import Floats, Ints
from headgate.policy.forecast import choose, expected
from headgate.policy.price.programme import Answer, Programme, Uses
from headgate.policy.rules import Market, Plan, Traffic

HOUR_S = 3600.0
CUT = 0.97  # of what it wants: a use that gets less is cut
IDLE = 0.01  # of a pool: what starting and stopping leave free at any moment


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far the plan looks, and what it takes for granted."""

    # A rolling day: quarters of an hour near, hours far.
    hours: tuple[float, ...] = (0.25, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 6.0, 6.0)
    base_windows: int = 15  # online demand is the busiest of so many windows
    margin_worth: float = 0.3  # of the bid: how often the margin is needed, by and large
    reserve: float = 1e-3  # of the mean bid: idle capacity of a sought pool is worth a little
    wait_cost: float = 0.005  # of the bid, an hour: what can be done now at equal price is done now
    late_loss: float = 1.0  # of the bid: what a token past its deadline costs
    fill_horizon_s: float = HOUR_S  # batch asks for what would be done within this time
    urgent_margin: float = 1.25  # and for so much more than its deadlines need

    def batch_per_s(self, traffic: Traffic) -> Floats:
        """[service] tokens/s of replicas that batch asks for, and that a plan may count on."""
        return np.maximum(
            traffic.batch_tokens / self.fill_horizon_s, traffic.batch_due_per_s * self.urgent_margin
        )


def programme_of(m: Market, o: Outlook, tier: Ints) -> Programme:
    """What the market asks of the next day."""
    hours = np.array(o.hours)
    services, uses, pools = len(m.per_gpu_s), len(m.bid), len(m.up)
    rows = uses + services
    owner = np.append(np.arange(uses), np.arange(services))
    value = m.bid[owner] * HOUR_S
    value[uses:] *= o.margin_worth
    asked = _asked(m, o)  # [service, 2] GPU-hours of the best pool in an hour: base, margin
    arrives = np.zeros((rows, len(hours)))
    may_wait = np.zeros((rows, len(hours)))
    width = np.full((rows, len(hours)), np.inf)
    loss, wait = np.zeros(rows), np.zeros(rows)
    change = _change(m, hours)
    arrives[:services] = asked[:, :1] * hours * change
    arrives[uses:] = asked[:, 1:] * hours * change
    ends_s = np.cumsum(hours) * HOUR_S
    for v in range(services):
        tokens = m.due_tokens[v] / m.per_gpu_s[v] / HOUR_S
        row = services + v
        arrives[row] = _taken_up(m, o, v, hours)
        if m.traffic.ordered_per_s is not None:
            # Orders go on coming; beyond the first bucket, which is for what is here.
            coming = m.traffic.ordered_per_s[v] / m.per_gpu_s[v] * hours
            arrives[row, 1:] += coming[1:]
        due = np.array([tokens[m.due_s[v] <= end_s].sum() for end_s in ends_s])
        may_wait[row] = np.maximum(np.cumsum(arrives[row]) - due, 0.0)
        loss[row] = value[row] * o.late_loss
        wait[row] = value[row] * o.wait_cost
    works = slice(2 * services, uses)
    # Works go on: what is here now stands for what will be, as long as anybody waits.
    arrives[works, 0] = m.wanted[works] * hours.sum()
    may_wait[works] = np.inf
    width[works] = m.wanted[works, None]
    family = np.where(owner < 2 * services, owner % max(services, 1), owner - services)
    held = np.zeros((uses - services, pools))
    np.add.at(held, family[:uses], m.held)
    start_h = np.zeros(uses - services)
    start_h[family[:uses]] = (m.restart_s + m.at_risk_s) / HOUR_S
    rate = m.speed[owner]
    capacity = _capacity(m, hours)
    worth = (value[:uses, None] * m.speed).sum(axis=0) / np.maximum((m.speed > 0).sum(axis=0), 1)
    return Programme(
        hours=hours,
        capacity=capacity,
        uses=Uses(
            value, loss, wait, rate, arrives, may_wait, width, m.class_[owner], tier[owner], family,
            held, start_h,
        ),
        floors=_within(np.repeat(_floors(m, services)[:, :, None], len(hours), axis=2), capacity),
        reserve=o.reserve * worth,
    )  # fmt: skip


def _taken_up(m: Market, o: Outlook, v: int, hours: Floats) -> Floats:
    """[bucket] GPU-hours of a service's batch that is here, as replicas are asked for it: a plan
    that had all of it done at once would keep GPUs for replicas that nobody starts."""
    gpus = o.batch_per_s(m.traffic)[v] / m.per_gpu_s[v]
    all_ = m.due_tokens[v].sum() / m.per_gpu_s[v] / HOUR_S
    return np.diff(np.minimum(all_, gpus * np.cumsum(hours)), prepend=0.0)


def _capacity(m: Market, hours: Floats) -> Floats:
    """[pool, bucket] GPUs: what is up now, with racks and drains from their time on."""
    ends_s = np.cumsum(hours) * HOUR_S
    begins_s = ends_s - hours * HOUR_S
    capacity = np.repeat(m.up[:, None].astype(np.float64), len(hours), axis=1)
    for at_s, pool, gpus in m.planned:
        capacity[pool] += gpus * (ends_s - np.clip(at_s, begins_s, ends_s)) / (ends_s - begins_s)
    return np.maximum(capacity, 0.0)


def _within(floors: Floats, capacity: Floats) -> Floats:
    """Floors that a drain leaves room for: all alike by as much less as there is."""
    asked = floors.sum(axis=0)
    return np.asarray(floors * np.minimum(1.0, capacity / np.maximum(asked, 1e-9)))


def _change(m: Market, hours: Floats) -> Floats:
    """[service, bucket] expected online demand relative to now."""
    seen = m.traffic.quarters
    if len(seen) < 2:
        return np.ones((len(m.per_gpu_s), len(hours)))
    middle = np.cumsum(hours) - hours / 2
    steps = tuple(max(1, round(4 * h)) for h in middle.tolist())
    ahead = expected(seen, steps, choose(seen))
    change = np.clip(ahead / np.maximum(seen[-1], 1e-9), 0.2, 5.0).T
    change[:, 0] = 1.0
    return np.asarray(change)


def _asked(m: Market, o: Outlook) -> Floats:
    """[service, base and margin] GPUs of the best pool that online demand needs."""
    if not len(m.per_gpu_s):
        return np.zeros((0, 2))
    seen = m.traffic.arrived[-o.base_windows :].max(axis=0) / m.traffic.window_s
    base = np.minimum(seen, m.online_per_s)
    return np.stack([base, m.online_per_s - base], axis=1) / m.per_gpu_s[:, None]


def _floors(m: Market, services: int) -> Floats:
    """[class, pool] of the guarantees, as far as works ask for them: where they can go, first
    those that can go to one pool alone."""
    left = m.guarantees.astype(np.float64).copy()
    room = m.up.astype(np.float64).copy()
    floors = np.zeros(left.shape)
    choices = (m.speed > 0).sum(axis=1)
    for use in sorted(range(2 * services, len(m.bid)), key=lambda u: int(choices[u])):
        wanted, class_ = m.wanted[use], m.class_[use]
        for pool in np.argsort(-m.speed[use], kind="stable"):
            if m.speed[use, pool] <= 0.0:
                break
            given = max(0.0, min(wanted, left[class_, pool], room[pool]))
            floors[class_, pool] += given
            left[class_, pool] -= given
            room[pool] -= given
            wanted -= given
    return floors


def _spare(m: Market, quota: Floats) -> Floats:
    """[pool] GPUs that are idle and that no use lacks."""
    lacking = np.clip(quota - m.held, 0.0, None).sum(axis=0)
    return np.asarray(np.clip(m.free - lacking - IDLE * m.up, 0.0, None))


def _lent(m: Market, quota: Floats) -> Floats:
    """[pool] GPUs that what stands beyond the plan, and batch, may take on top of what it has."""
    services = len(m.per_gpu_s)
    batch = slice(services, 2 * services)
    lacks = np.clip(quota[batch] - m.held[batch], 0.0, None).sum(axis=0)
    return np.asarray(_spare(m, quota) + lacks)


def _open(m: Market, price: Floats, quota: Floats, profit: Floats) -> NDArray[np.bool_]:
    """[use, pool] where works of a use may start until the next plan.

    A use that lacks part of its quota goes where it lacks it, and nowhere else: room in a pool
    that the plan wants for others would have to be given back. One that lacks nothing may borrow
    wherever its bid is not under the price.
    """
    can = m.speed > 0
    lacks = can & (quota - m.held > 0.5)
    open_ = np.where(lacks.any(axis=1, keepdims=True), lacks, can & (profit >= -0.02 * price))
    # Idle capacity that nobody in the plan waits for is lent to anyone.
    open_ |= can & (_spare(m, quota) > 0.0)
    # What a class is guaranteed and does not hold it may ask for whatever the price.
    services = len(m.per_gpu_s)
    counted = m.held.copy()
    counted[services : 2 * services] = 0
    holds = np.zeros(m.guarantees.shape, np.int64)
    np.add.at(holds, m.class_, counted)
    owed = (holds < m.guarantees)[m.class_] & m.waiting[:, None]
    open_ |= can & owed
    return np.asarray(open_ | (can & ~open_.any(axis=1, keepdims=True)))


def _back_s(m: Market, p: Programme, price: Floats) -> Floats:
    """[use] seconds until the first bucket in which its bid is at the price of some pool."""
    uses = len(m.bid)
    worth = p.uses.value[:uses, None] * p.uses.rate[:uses]
    slack = 1e-9 * (1.0 + worth)[:, :, None]
    paid = (worth[:, :, None] + slack >= price[None, :, :]) & (m.speed > 0)[:, :, None]
    begins_s = np.append(0.0, np.cumsum(p.hours)[:-1]) * HOUR_S
    return np.asarray(np.where(paid.any(axis=1), begins_s, np.inf).min(axis=1))


def plan_of(m: Market, p: Programme, a: Answer) -> Plan:
    """The first bucket is what to do now."""
    services, uses = len(m.per_gpu_s), len(m.bid)
    quota = a.served[:uses, :, 0].copy()
    quota[:services] += a.served[uses:, :, 0]
    made = (a.served[:, :, 0] * p.uses.rate).sum(axis=1) * p.hours[0]
    asked = np.where(p.uses.may_wait[:, 0] == 0.0, p.uses.arrives[:, 0], 0.0)
    got = made[:services] + made[uses:]
    partial = np.ones(uses, np.bool_)
    partial[:services] = got < CUT * (asked[:services] + asked[uses:])
    works = np.arange(2 * services, uses)
    partial[works] = quota[works].sum(axis=1) < CUT * m.wanted[works]
    profit = (
        p.uses.rate * (p.uses.value[:, None] - a.output_price[:, :1])
        - a.price[:, 0]
        - a.width_price[:, :1]
    )[:uses]
    open_ = _open(m, a.price[:, 0], quota, profit)
    # Among pools that are equally good, those of the plan come first.
    share = quota / np.maximum(quota.sum(axis=1, keepdims=True), 1e-9)
    profit = np.where(m.speed > 0, profit + 1e-3 * share, -np.inf)
    lent = _lent(m, quota)
    return Plan(
        p.hours, a.price, np.round(quota, 6), partial, profit, open_, lent, a.floor_price,
        _back_s(m, p, a.price),
    )  # fmt: skip

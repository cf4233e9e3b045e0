"""Replicas follow the policy's targets; batch fills, converts and becomes urgent."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.stories import shape

from headgate.control.batches import Orders
from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.facts import (
    BatchOrdered,
    NodeJoined,
    ServiceWindow,
    StartWork,
    StopWork,
    WindowClosed,
    WorkStarted,
    WorkStopped,
)
from headgate.core.fleet import Fleet, Pool, Service, Tenant
from headgate.kernels import layout as k
from headgate.policy.order import lower_levels
from headgate.policy.rules import Asking, Rank, Rules, Targets, Traffic

EACH = 100.0  # tokens/s of a replica


@dataclass
class Told:
    """A policy that wants what the test says."""

    online: float = 0.0
    batch: float = 0.0
    urgent: bool = False
    converts: bool = False
    seen: list[Traffic] = field(default_factory=list)
    name: str = "told"

    def rules(self, fleet: Fleet) -> Rules:
        return Rules(lower_levels(2), converts_replicas=self.converts)

    def rank(self, asking: Asking) -> Rank:
        return Rank(1 if asking.kind == "batch" and not asking.urgent else 0, asking.submitted_s)

    def plan(self, traffic: Traffic) -> Targets:
        self.seen.append(traffic)
        return Targets(
            np.array([self.online]), np.array([self.batch]), np.array([self.urgent], np.bool_)
        )


class Served:
    """One service on eight nodes of one; every wish is obeyed at once."""

    def __init__(self, policy: Told, *, least: int = 0, answers: bool = True) -> None:
        fleet = Fleet(
            pools=(Pool(name="pool", generation="any", nodes=8, gpus_per_node=1),),
            classes=("maas",),
            tenants=(Tenant(name="t", class_=0),),
            shapes=(shape("replica", [1], [EACH]),),
            services=(
                Service(name="chat", class_=0, tenant=0, shape=0, replicas_min=least, bid=1.0),
            ),
        )
        self.policy, self.answers = policy, answers
        self.machine = Machine(fleet, policy, full_laws=True)
        self.now_s = 0.0
        for node in range(8):
            self.tell(NodeJoined(0.0, node))

    def tell(self, fact) -> None:
        for wish in self.machine.handle(fact):
            if self.answers and isinstance(wish, StartWork):
                self.tell(WorkStarted(self.now_s, wish.work))
            elif self.answers and isinstance(wish, StopWork):
                self.tell(WorkStopped(self.now_s, wish.work))

    def window(self, *, batch_served: float = 0.0, queued: float = 0.0) -> None:
        self.now_s += 60.0
        service = ServiceWindow(6000.0, 6000.0, 6000.0, queued, 0.0, batch_served)
        self.tell(WindowClosed(self.now_s, 60.0, (service,)))

    def order(self, tokens: float, due_s: float = 86_400.0) -> None:
        self.tell(BatchOrdered(self.now_s, "batch", 0, 0, tokens, due_s))

    @property
    def ready(self) -> tuple[int, int]:
        online, batch = self.machine.ready(0)
        return int(online.sum()), int(batch.sum())

    @property
    def starts(self) -> int:
        return int(self.machine.ground.tables.works["starts"].sum())


def test_replicas_grow_to_what_is_wanted_and_shrink_again() -> None:
    served = Served(Told(online=450.0))
    served.window()
    assert served.ready == (5, 0)
    served.policy.online = 200.0
    served.window()
    assert served.ready == (2, 0)


def test_a_service_keeps_its_least_replicas() -> None:
    served = Served(Told(), least=2)
    served.window()
    assert served.ready == (2, 0)


def test_no_more_is_asked_for_while_replicas_still_start() -> None:
    served = Served(Told(online=300.0), answers=False)
    served.window()
    served.window()
    assert served.machine.ground.rows == 3


def test_waiting_replicas_are_given_up_before_running_ones() -> None:
    served = Served(Told(online=1000.0))
    served.window()
    assert served.ready == (8, 0)
    served.policy.online = 800.0
    served.window()
    assert served.ready == (8, 0)
    states = served.machine.ground.tables.works["state"][:10].tolist()
    assert states.count(k.CANCELLED) == 2
    assert served.starts == 8


def test_batch_yields_to_online_when_the_pool_is_full() -> None:
    served = Served(Told(online=200.0, batch=600.0))
    served.order(1e9)
    served.window()
    assert served.ready == (2, 6)
    served.policy.online = 500.0
    served.window()
    assert served.ready == (5, 3)


def test_surplus_replicas_go_on_as_batch_and_come_back_without_a_boot() -> None:
    served = Served(Told(online=600.0, converts=True))
    served.window()
    served.order(1e9)
    served.policy.online, served.policy.batch = 200.0, 400.0
    served.window()
    assert served.ready == (2, 4)
    served.policy.online, served.policy.batch = 500.0, 100.0
    served.window()
    assert served.ready == (5, 1)
    assert served.starts == 6, "nobody started twice"


def test_surplus_replicas_stop_when_no_batch_waits() -> None:
    served = Served(Told(online=600.0, converts=True))
    served.window()
    served.policy.online = 200.0
    served.window()
    assert served.ready == (2, 0)


def test_urgent_batch_stands_at_its_classs_level_and_steps_down_again() -> None:
    served = Served(Told(batch=200.0))
    served.order(1e9)
    served.window()
    works = served.machine.ground.tables.works
    fill = int(served.machine.ground.tables.meta[k.FILL_CLAIM])
    assert set(works["claim"][:2].tolist()) == {fill}
    served.policy.urgent = True
    served.window()
    assert set(works["claim"][:2].tolist()) == {0}
    assert set(works["level"][:2].tolist()) == {0}
    served.policy.urgent = False
    served.window()
    assert set(works["claim"][:2].tolist()) == {fill}
    assert served.ready == (0, 2)


def test_a_replica_on_its_way_out_waits_again_where_it_belongs_then() -> None:
    served = Served(Told(online=800.0), answers=False)
    served.order(1e9)
    served.policy.batch, served.policy.online = 100.0, 0.0
    served.window()
    served.tell(WorkStarted(served.now_s, 0))
    served.policy.online = 800.0
    served.window()  # online takes the node's last GPU from the batch replica
    works = served.machine.ground.tables.works
    assert works["state"][0] == k.STOPPING
    served.policy.urgent = True
    served.window()
    served.tell(WorkStopped(served.now_s, 0))
    assert (works["level"][0], works["claim"][0]) == (0, 0)


def test_the_policy_sees_the_latest_window_last_and_what_queues() -> None:
    served = Served(Told())
    served.order(500.0)
    served.window(queued=70.0)
    served.window(queued=30.0, batch_served=200.0)
    traffic = served.policy.seen[-1]
    assert traffic.arrived.shape == (2, 1)
    assert traffic.queued.tolist() == [30.0]
    assert traffic.batch_tokens.tolist() == [300.0]


def test_a_window_with_too_few_services_is_told() -> None:
    served = Served(Told())
    with pytest.raises(InputError, match="0 services, but the fleet has 1"):
        served.machine.handle(WindowClosed(60.0, 60.0, ()))


def test_orders_are_served_by_deadline_and_done_when_nothing_is_left() -> None:
    orders = Orders()
    orders.add("late", 0, 100.0, 2000.0)
    orders.add("soon", 0, 50.0, 1000.0)
    orders.serve(60.0, 10.0)
    assert orders.done_s == [float("inf"), 10.0]
    assert orders.open["left"].tolist() == [pytest.approx(90.0)]
    assert orders.first_deadline_s() == 2000.0
    orders.serve(1000.0, 20.0)
    assert orders.done_s == [20.0, 10.0]
    assert orders.total == 0.0


def test_a_long_backlog_is_kept_in_order_of_deadline_whatever_comes_and_goes() -> None:
    dice, orders = np.random.default_rng(3), Orders()
    plain: dict[int, float] = {}
    for number in range(400):
        due_s = float(dice.integers(1, 50))
        orders.add(f"order-{number}", 0, 10.0, due_s)
        plain[number] = due_s
        if number % 3 == 0:
            first = min(plain, key=lambda n: (plain[n], n))
            orders.serve(10.0, 0.0)
            assert orders.done_s[first] == 0.0
            del plain[first]
    assert orders.open["number"].tolist() == sorted(plain, key=lambda n: (plain[n], n))
    again = Orders.of(orders.state())
    assert again.state() == orders.state()
    assert again.due_per_s(2.0) == orders.due_per_s(2.0) == 10.0 * len(plain) / 60.0


def test_the_rate_that_is_due_holds_every_deadline() -> None:
    orders = Orders()
    orders.add("first", 0, 1000.0, 1000.0)
    orders.add("second", 0, 9000.0, 2000.0)
    assert orders.due_per_s(0.0) == pytest.approx(5.0)  # 10,000 by 2,000 s
    orders.serve(9000.0, 1000.0)
    assert orders.due_per_s(1000.0) == pytest.approx(1.0)
    assert orders.due_per_s(5000.0) == pytest.approx(1000.0 / 60), "late, but not forgotten"

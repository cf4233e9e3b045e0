"""Order by level, fair inside it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.policy.fairness import FairRing, OrderedQueue, level


def test_classes_come_first_then_tiers_and_flex_and_batch_come_after_all_classes():
    order = [
        level(rank, 2, tier) for rank in (0, 1) for tier in ("reserved", "priority", "default")
    ]
    assert order == sorted(order)
    assert level(0, 2, "flex") == level(1, 2, "flex") > order[-1]
    assert level(0, 2, "batch") == level(0, 2, "flex") + 1


@given(
    costs=st.lists(st.integers(1, 20_000), min_size=2, max_size=8),
    quantum=st.integers(1, 5_000),
)
def test_backlogged_tenants_get_equal_tokens_whatever_their_requests_cost(costs, quantum):
    ring = FairRing(quantum)
    served = dict.fromkeys(range(len(costs)), 0)
    for tenant, cost in enumerate(costs):
        for _ in range(2):
            ring.push(str(tenant), 1.0, cost, tenant)
    for _ in range(300):
        tenant = ring.pop()
        served[tenant] += costs[tenant]
        ring.push(str(tenant), 1.0, costs[tenant], tenant)
    # Each is within one request and one quantum of every other: the bound of the algorithm.
    slack = 2 * (max(costs) + quantum)
    assert max(served.values()) - min(served.values()) <= slack


def test_weights_share_in_proportion():
    ring = FairRing(100)
    for tenant, weight in (("a", 3.0), ("b", 1.0)):
        for _ in range(1000):
            ring.push(tenant, weight, 50, tenant)
    first = [ring.pop() for _ in range(800)]
    assert first.count("a") / first.count("b") == pytest.approx(3.0, rel=0.02)


def test_a_tenant_whose_estimates_are_low_is_charged_afterwards():
    ring = FairRing(100)
    for tenant in ("honest", "sly"):
        for _ in range(400):
            ring.push(tenant, 1.0, 100 if tenant == "honest" else 10, tenant)
    used = {"honest": 0, "sly": 0}
    while min(len(t.waiting) for t in ring._tenants.values()):
        tenant = ring.pop()
        used[tenant] += 100
        if tenant == "sly":
            ring.charge("sly", 90)
    assert used["sly"] == pytest.approx(used["honest"], rel=0.02)


def test_what_is_put_back_is_next_in_its_line_and_costs_nothing_twice():
    ring = FairRing(100)
    ring.push("a", 1.0, 500, "first")
    ring.push("a", 1.0, 500, "second")
    assert ring.pop() == "first"
    ring.push_front("a", 1.0, 500, "first")
    assert [ring.pop(), ring.pop()] == ["first", "second"]
    assert len(ring) == 0


def test_credit_is_not_saved_while_idle_but_debt_is_kept():
    ring = FairRing(1000)
    ring.push("a", 1.0, 10, "x")
    ring.pop()
    assert ring._tenants["a"].deficit == 0.0
    ring.charge("a", 700)
    ring.forget_idle()
    assert ring._tenants["a"].deficit == -700


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60), st.data())
def test_nothing_is_lost_or_served_out_of_order(items, data):
    queue = OrderedQueue(4)
    waiting = []
    for number, (at, tenant) in enumerate(items):
        item = (at, tenant, number)
        queue.push(at, str(tenant), 1.0, 10 * tenant + 1, item)
        waiting.append(item)
        if waiting and data.draw(st.booleans()):
            if data.draw(st.booleans()):
                gone = data.draw(st.sampled_from(waiting))
                assert queue.remove(gone[0], str(gone[1]), gone)
            else:
                first = queue.first_level()
                assert first == min(w[0] for w in waiting)
                gone = queue.pop(first)
                # In a tenant's own line the oldest goes first.
                assert gone[2] == min(w[2] for w in waiting if w[:2] == gone[:2])
            waiting.remove(gone)
        assert queue.waiting == len(waiting)

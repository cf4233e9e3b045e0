"""The pool's ledger closes: tenants and idle time, by cause, add up to the fleet."""

import numpy as np
import pytest
from tests.unit.control.pools import Small, rules

from headgate.core.facts import NodeFailed, NodeJoined, WorkFinished, WorkStarted, WorkStopped
from headgate.ledger.pool import LOST, RUNNING, STARTING, STOPPING, Ledger, close, share


def ledger(pool: Small, now_s: float, live_gpu_s: float) -> Ledger:
    ground = pool.machine.ground
    return close(ground.tables, ground.rows, 3, np.array([live_gpu_s]), now_s)


def test_every_gpu_second_of_a_short_story_is_where_it_belongs() -> None:
    pool = Small(2, rules(3), up=1)
    row = pool.submit("b", 4)  # starts at 0
    pool.tell(WorkStarted(10.0, row))
    pool.now_s = 20.0
    pool.tell(NodeJoined(20.0, 1))
    pool.now_s = 50.0
    high = pool.submit("a", 16)  # takes the first back
    pool.tell(WorkStopped(60.0, row, 100.0))
    assert pool.told_to_start() == [high]
    pool.tell(WorkStarted(70.0, high))
    pool.tell(WorkFinished(90.0, high))
    closed = ledger(pool, 100.0, 8 * 100.0 + 8 * 80.0)
    spent = closed.tenants
    assert spent[1].tolist()[STARTING] == 4 * 10 + 4 * 10, "it starts again at 90"
    assert spent[1].tolist()[LOST] == 100
    assert spent[1].tolist()[STOPPING] == 4 * 10
    assert spent[0].tolist()[STARTING] == 16 * 10
    assert spent[0].tolist()[RUNNING] == 16 * 20
    # The four beside the stopping work, and the second node, are kept for ten seconds.
    assert closed.reserved.tolist() == [12 * 10]
    assert closed.residual < 1e-12


def test_a_lost_node_is_down_and_what_is_held_there_is_still_its_holders() -> None:
    pool = Small(1, rules(1))
    row = pool.run("a", 4)
    pool.tell(NodeFailed(10.0, 0))
    pool.tell(WorkStopped(15.0, row))
    closed = ledger(pool, 20.0, 8 * 20.0)
    assert closed.down.tolist() == [4 * 5 + 8 * 5]
    assert closed.tenants[0].sum() == 4 * 15
    assert closed.residual < 1e-12


def test_a_gpu_second_that_is_nobodys_shows_as_a_residual() -> None:
    pool = Small(1, rules(1))
    pool.run("a", 4)
    assert ledger(pool, 10.0, 8 * 10.0).residual == 0.0
    assert ledger(pool, 10.0, 8 * 11.0).residual == pytest.approx(1 / 11)


def test_a_services_gpu_seconds_are_shared_among_its_users_by_tokens() -> None:
    pool = Small(1, rules(1))
    pool.run("a", 8)
    closed = ledger(pool, 10.0, 80.0)
    shared = share(closed, 0, np.array([1.0, 3.0]))
    assert shared[:, RUNNING].tolist() == [20.0, 60.0]
    assert shared.sum() == pytest.approx(closed.tenants[0].sum())
    assert share(closed, 0, np.zeros(2)).sum() == 0.0, "unused, it stays its owner's"

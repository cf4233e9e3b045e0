"""The counting kernels against plain loops over the same works."""

import numpy as np
import pytest
from tests.stories import POLICIES, Player, Thrown, small_fleet

from headgate.control.machine import Machine
from headgate.control.roster import Roster
from headgate.kernels import layout as k
from headgate.kernels.muster import fill_held, fill_waiting, muster, owed

LENT = 2


def played(policy: str, seed: int) -> Machine:
    player = Player(Machine(small_fleet(), POLICIES[policy]()), Thrown(seed))
    player.open()
    player.play(150)
    return player.machine


@pytest.mark.parametrize("policy", ["headgate", "priority", "fifo"])
@pytest.mark.parametrize("seed", range(3))
def test_a_muster_counts_what_a_walk_counts(policy: str, seed: int) -> None:
    machine = played(policy, seed)
    works = machine.ground.tables.works
    rows = [r for r in range(machine.ground.rows) if works[r]["service"] == 0]
    assert rows, "the story has replicas"
    speed, first = np.array([100.0, 250.0]), 1
    alive = [r for r in rows if works[r]["state"] < k.DONE]
    staying = [r for r in alive if works[r]["state"] != k.STOPPING]
    each = {r: speed[works[r]["pool"] if works[r]["pool"] >= 0 else first] for r in staying}
    at = np.array(rows)
    states, capacity = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    kept, have, lent, count, waiting = muster(
        machine.ground.columns, at, len(rows), speed, first, LENT, states, capacity
    )
    assert at[:kept].tolist() == alive
    assert states[:kept].tolist() == [works[r]["state"] for r in alive]
    assert capacity[:kept].tolist() == [each.get(r, 0.0) for r in alive]
    assert have == pytest.approx(sum(each.values()))
    assert lent == pytest.approx(sum(e for r, e in each.items() if works[r]["place"] == LENT))
    assert (count, waiting) == (
        len(staying),
        sum(works[r]["state"] == k.WAITING for r in staying),
    )


@pytest.mark.parametrize("seed", range(20))
def test_quotas_are_filled_in_order_by_those_that_find_half_their_room(seed: int) -> None:
    dice = np.random.default_rng(seed)
    works, uses, pools = 40, 5, 3
    gpus, use = dice.integers(1, 9, works), dice.integers(0, uses, works)
    pool, order = dice.integers(0, pools, works), dice.permutation(works)
    inside, left = dice.integers(0, 2, works), dice.integers(0, 20, (uses, pools)).astype(float)
    room, partial = dice.integers(0, 20, uses).astype(float), dice.random(uses) < 0.5
    held, waits = np.full(works, LENT), np.full(works, LENT)
    plain_held, plain_waits = held.copy(), waits.copy()
    quota, most = left.tolist(), room.tolist()
    for i in order:
        if quota[use[i]][pool[i]] >= min(gpus[i], max(1.0, gpus[i] / 2)):
            plain_held[i] = inside[i]
            quota[use[i]][pool[i]] -= gpus[i]
        if not partial[use[i]] or most[use[i]] >= gpus[i] / 2:
            plain_waits[i] = inside[i]
            most[use[i]] -= gpus[i]
    fill_held(order, gpus, use, pool, inside, left, held)
    fill_waiting(order, gpus.astype(float), use, partial, inside, room, waits)
    assert held.tolist() == plain_held.tolist()
    assert waits.tolist() == plain_waits.tolist()
    assert left.tolist() == quota
    assert room.tolist() == most


@pytest.mark.parametrize("seed", range(6))
def test_what_is_owed_is_what_fits_into_the_promise_in_order(seed: int) -> None:
    machine = played("priority", seed)
    tables = machine.ground.tables
    spare = np.random.default_rng(seed).integers(0, 12, (4, 2))
    left, expected = spare.copy(), []
    lines = [tables.claimants()]
    for lane in tables.lanes[: tables.meta[k.N_LANES]]:
        line, at = [], int(lane["head"])
        while at >= 0:
            line.append(at)
            at = int(tables.works[at]["behind"])
        lines.append(line[:3])
    for row in (row for line in lines for row in line if tables.works[row]["kind"] != k.BATCH):
        for p in range(2):
            wanted = int(tables.shapes[tables.works[row]["shape"], p, k.GPUS])
            if 0 < wanted <= left[tables.works[row]["class_"], p]:
                expected.append((row, p))
                left[tables.works[row]["class_"], p] -= wanted
    rows, pools = np.zeros(64, np.int64), np.zeros(64, np.int64)
    count = owed(machine.ground.columns, spare, 3, rows, pools)
    assert list(zip(rows[:count].tolist(), pools[:count].tolist(), strict=True)) == expected
    assert spare.tolist() == left.tolist()


def test_a_roster_grows_and_keeps_its_order() -> None:
    roster = Roster([5])
    for row in range(100, 300):
        roster.append(row)
    roster.remove({100, 299})
    assert roster.rows.tolist() == [5, *range(101, 299)]
    assert len(roster.states) >= len(roster)

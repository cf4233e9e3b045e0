"""A restored machine goes on as if nothing had happened."""

import numpy as np
import pytest
from tests.stories import POLICIES, Player, Thrown, small_fleet

from headgate.control.machine import Machine
from headgate.control.snapshot import restore, snapshot
from headgate.core.errors import InputError
from headgate.kernels.columns import NAMES


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_restored_machine_wishes_what_the_other_wishes(policy: str) -> None:
    machine = Machine(small_fleet(), POLICIES[policy](), {"big-data": 0.5})
    player = Player(machine, Thrown(7))
    player.open()
    player.play(120)
    other = restore(snapshot(machine), POLICIES[policy]())
    told = len(player.facts)
    player.play(150)
    assert sum(map(len, player.wishes[told:])) > 0
    for fact, wishes in zip(player.facts[told:], player.wishes[told:], strict=True):
        assert other.handle(fact) == wishes
    for name in NAMES:
        assert np.array_equal(
            getattr(other.ground.tables, name), getattr(machine.ground.tables, name)
        ), name


def test_what_is_no_snapshot_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="log is not a snapshot"):
        restore(b"no zip", POLICIES["fifo"](), "log")


def test_a_snapshot_goes_on_under_its_own_policy_only() -> None:
    data = snapshot(Machine(small_fleet(), POLICIES["fifo"]()))
    with pytest.raises(InputError, match="is of policy fifo"):
        restore(data, POLICIES["priority"]())

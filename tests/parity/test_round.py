"""The compiled round against its plain twin: the same facts, the same wishes."""

from unittest.mock import patch

import pytest
from tests.parity.twin import Twin
from tests.stories import POLICIES, Player, Thrown, small_fleet

from headgate.control.machine import Machine

STANDING = {"big-data": 0.5}


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(4))
def test_the_compiled_round_wishes_what_its_plain_twin_wishes(policy: str, seed: int) -> None:
    fleet = small_fleet(guarantees=seed != 3)
    player = Player(Machine(fleet, POLICIES[policy](), STANDING), Thrown(1000 + seed))
    player.open()
    player.play(160)
    machine = Machine(fleet, POLICIES[policy](), STANDING)
    with patch("headgate.control.ground.kernel", Twin(machine.ground)):
        for number, (fact, wishes) in enumerate(zip(player.facts, player.wishes, strict=True)):
            assert machine.handle(fact) == wishes, (number, fact)

"""The order of classes, presets and standing."""

import numpy as np
import pytest
from tests.stories import CLASSES, small_fleet

from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.facts import NodeJoined, StartWork, TenantChanged, WorkFinished, WorkSubmitted
from headgate.policy.baselines import Priority
from headgate.policy.headgate import Headgate
from headgate.policy.order import class_levels, ladder, lower_levels, rung, standing


@pytest.mark.parametrize(
    ("preset", "levels"),
    [
        ("internal_first", (0, 1, 2, 3)),
        ("external_first", (0, 1, 3, 2)),
        ("together", (0, 1, 2, 2)),
    ],
)
def test_training_comes_first_then_maas_and_the_preset_says_the_rest(preset, levels) -> None:
    assert class_levels(CLASSES, preset) == levels


def test_the_order_does_not_hang_on_the_order_of_the_file() -> None:
    assert class_levels(("external", "maas", "internal", "training"), "internal_first") == (
        3, 1, 2, 0,
    )  # fmt: skip


def test_a_class_the_order_does_not_name_comes_last() -> None:
    assert class_levels(("guests", "training"), "internal_first") == (1, 0)


def test_a_preset_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match="internal_first, external_first, together"):
        class_levels(CLASSES, "alphabetic")  # type: ignore[arg-type]


def test_priority_comes_before_the_rest_of_the_class_but_not_before_a_higher_class() -> None:
    rungs = [rung(CLASSES, "internal_first", c, p) for c in range(4) for p in (1, 0)]
    assert rungs == sorted(set(rungs))
    assert ladder(CLASSES, "internal_first") == rungs[-1] + 2, "and filling work below them all"


def test_each_level_may_take_from_every_level_below_and_from_no_other() -> None:
    may = lower_levels(4)
    assert all(may[a, b] == (b > a) for a in range(4) for b in range(4))
    assert may.dtype == np.int8


def test_standing_is_the_weight_of_the_families_used_and_gpus_alone_rank_last() -> None:
    weights = {"storage": 2.0, "network": 0.5}
    assert standing((), weights) == 0.0
    assert standing(("storage", "network"), weights) == 2.5
    assert standing(("storage", "storage"), weights) == 2.0, "a family counts once"
    assert standing(("unheard-of",), weights) == 1.0


def external(machine: Machine, tenant: int, at_s: float) -> int:
    machine.handle(WorkSubmitted(at_s, "lease", "lease", tenant, 5))
    return machine.ground.rows - 1


def started(wishes) -> list[int]:
    return [wish.work for wish in wishes if isinstance(wish, StartWork)]


def waiting_pool() -> tuple[Machine, int]:
    """The old pool full of one training gang that external leases wait for."""
    machine = Machine(
        small_fleet(guarantees=False, services=False), Headgate(CLASSES), full_laws=True
    )
    for node in range(4):
        machine.handle(NodeJoined(0.0, node))
    machine.handle(WorkSubmitted(0.0, "gang", "gang", 0, 5))
    machine.ground.turn(4, 0)  # it runs
    return machine, 0


def test_a_tenant_that_uses_more_families_comes_first_inside_its_class() -> None:
    machine, holder = waiting_pool()
    plain, rich = external(machine, 3, 10.0), external(machine, 4, 20.0)
    assert started(machine.handle(WorkFinished(30.0, holder))) == [rich]
    assert plain != rich


def test_a_new_standing_reorders_what_waits() -> None:
    machine, holder = waiting_pool()
    plain, _ = external(machine, 3, 10.0), external(machine, 4, 20.0)
    machine.handle(TenantChanged(25.0, 3, ("storage", "big-data", "compute")))
    assert started(machine.handle(WorkFinished(30.0, holder))) == [plain]


def test_external_may_come_before_internal_and_then_takes_from_it() -> None:
    for preset, taken in (("internal_first", False), ("external_first", True), ("together", False)):
        fleet = small_fleet(guarantees=False, services=False)
        machine = Machine(fleet, Priority(CLASSES, preset), full_laws=True)  # type: ignore[arg-type]
        for node in range(4):
            machine.handle(NodeJoined(0.0, node))
        machine.handle(WorkSubmitted(0.0, "internal", "lease", 2, 5))
        wishes = machine.handle(WorkSubmitted(60.0, "external", "lease", 3, 5))
        assert bool(wishes) == taken, preset

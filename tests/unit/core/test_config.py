"""What a person can get wrong in a file, and the one sentence that says so."""

import pytest
from tests.scenarios import SMALL, broken
from tests.stories import shape

from headgate.core.config import load
from headgate.core.errors import InputError
from headgate.core.fleet import Fleet, Pool, Tenant
from headgate.sim.scenario import Scenario, read

MISTAKES = {
    "an unknown key": (
        ("nodes = 4\ndomain_nodes", "nods = 4\ndomain_nodes"),
        ("pools[0].nods", "name, generation, nodes, gpus_per_node, racks"),
    ),
    "an unknown table": (("[order]\n", "[ordr]\n[order]\n"), ("ordr", "allowed", "order")),
    "a missing key": (('model = "m"\n', ""), ("services[0].model", "missing")),
    "a negative number": (
        ("gpus_offered = 30", "gpus_offered = -30"),
        ("training.gangs.generated.gpus_offered", "-30", "> 0"),
    ),
    "a number below one": (
        ("gpus = 16\n", "gpus = 0\n"),
        ("training.foundation[0].gpus", "is 0", ">= 1"),
    ),
    "a text for a number": (("hours = 40", 'hours = "40"'), ("foundation[0].hours", "'40'")),
    "an infinite number": (("days = 0.1", "days = inf"), ("days", "finite")),
    "no number at all": (
        ("requests_per_s = 20,", "requests_per_s = nan,"),
        ("services[0].demand.generated.requests_per_s", "finite"),
    ),
    "too long a span": (("days = 0.1", "days = 4000"), ("days", "4000", "at most 400")),
    "less than a window": (("days = 0.1", "days = 0.0001"), ("days", "at least one window")),
    "a gang larger than its pools": (
        ("gpus = 16\n", "gpus = 49\n"),
        ("training.foundation[0].gpus", "49", "48"),
    ),
    "a gang larger than a domain": (
        ('gpus = 16\npools = ["new"]', 'gpus = 24\nwithin_domain = true\npools = ["old"]'),
        ("training.foundation[0].gpus", "24", "at most 16", "within_domain"),
    ),
    "a replica larger than a domain": (
        (
            "[services.replicas]\nold = { gpus = 2,",
            "within_domain = true\n[services.replicas]\nold = { gpus = 17,",
        ),
        ("services[0].replicas.old.gpus", "17", "at most 16", "within_domain"),
    ),
    "a domain of no nodes": (
        ("domain_nodes = 2", "domain_nodes = 0"),
        ("pools[0].domain_nodes", "is 0", ">= 1"),
    ),
    "a replica larger than its pool": (
        ("old = { gpus = 2,", "old = { gpus = 33,"),
        ("services[0].replicas.old.gpus", "33", "32"),
    ),
    "guarantees beyond the pool": (
        ("maas = { new = 16 }", "maas = { new = 25 }"),
        ("order.guarantees", "new", "33", "32"),
    ),
    "a guarantee of a class that is not": (
        ("maas = { new = 16 }", "mass = { new = 16 }"),
        ("order.guarantees", "mass", "training", "external"),
    ),
    "a guarantee in a pool that is not": (
        ("maas = { new = 16 }", "maas = { now = 16 }"),
        ("order.guarantees.maas", "'now'", "old, new"),
    ),
    "a class that is not": (
        ('class = "maas"', 'class = "retail"'),
        ("services[0].class", "'retail'", "external, internal, maas, training"),
    ),
    "a pool that is not": (
        ('pools = ["new"]\nhours', 'pools = ["newest"]\nhours'),
        ("training.foundation[0].pools", "'newest'", "old, new"),
    ),
    "the same pool twice": (('name = "new"', 'name = "old"'), ("pools[1].name", "second time")),
    "a lease without a price": (
        ("lease_usd_per_gpu_h = { old = 1.5, new = 2.5 }", "lease_usd_per_gpu_h = { old = 1.5 }"),
        ("worth.lease_usd_per_gpu_h", "'new'"),
    ),
    "patience shorter than the objective": (
        ("input_weight = 0.2", "input_weight = 0.2\nwait_s = 90"),
        ("services[0].patience_s", "90"),
    ),
    "half a line": (("[failures]\n", "[failures\n"), ("not valid TOML", "line")),
    "an extension that is not there": (
        ('name = "small"', 'name = "small"\nextends = "none.toml"'),
        ("none.toml", "cannot be read"),
    ),
    "an extension of itself": (
        ('name = "small"', 'name = "small"\nextends = "broken.toml"'),
        ("extends itself",),
    ),
}


@pytest.mark.parametrize(("change", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_one_sentence(tmp_path, change, said) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(broken(*change))
    with pytest.raises(InputError) as caught:
        read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 400
    for word in said:
        assert word in sentence


def test_the_small_scenario_itself_is_read(tmp_path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    assert read(path).pools[1].nodes_in_all == 6


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.toml", Scenario)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path, Scenario)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load(tmp_path / "bytes.toml", Scenario)


def test_a_file_may_lay_its_values_over_anothers(tmp_path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "longer.toml").write_text('extends = "small.toml"\ndays = 2\n[order]\nreclaim_s=60')
    scenario = read(tmp_path / "longer.toml")
    assert (scenario.days, scenario.order.reclaim_s) == (2, 60)
    assert scenario.order.guarantees["maas"] == {"new": 16}


def fleet(**changed) -> Fleet:
    parts = {
        "pools": (Pool(name="pool", generation="any", nodes=2),),
        "classes": ("a",),
        "tenants": (Tenant(name="t", class_=0),),
        "shapes": (shape("four", [4]),),
    }
    return Fleet(**(parts | changed))


def test_a_fleet_refuses_what_could_never_be() -> None:
    assert fleet().gpus == 16
    with pytest.raises(InputError, match=r"wants 17 GPUs, but the largest pool .* 16"):
        fleet(shapes=(shape("huge", [17]),))
    racks = (Pool(name="pool", generation="any", nodes=5, domain_nodes=2),)
    assert (racks[0].domains, racks[0].domain_gpus) == (3, 16)
    with pytest.raises(InputError, match=r"wants 17 GPUs within one domain, but .* has 16"):
        fleet(pools=racks, shapes=(shape("wide", [17], within_domain=True),))
    with pytest.raises(InputError, match="runs in no pool"):
        fleet(shapes=(shape("none", [0]),))
    with pytest.raises(InputError, match="add up to 17 GPUs, but it has 16"):
        fleet(classes=("a", "b"), guarantees=((9,), (8,)))

"""The machine at one moment, in one file: a restart reads it and the facts that came after it.

A zip of arrays (numpy's npz): the tables as they are, and one entry of JSON for the rest. Nothing
in it is code.
"""

import io
import zipfile
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headgate.control.batches import Orders
from headgate.control.machine import Machine
from headgate.control.pricing import Prices
from headgate.control.roster import Roster
from headgate.core.errors import InputError
from headgate.core.fleet import Fleet
from headgate.kernels.columns import NAMES
from headgate.policy.rules import Plan, Policy

VERSION = 1


class PricesRest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What prices know beside the plan: the uses, in order, and when the plan was made."""

    keys: list[tuple[str, int, int, float, list[float]]]
    rows: list[int]  # use of each key
    bids: list[float]
    classes: list[int]
    priorities: list[int]
    speeds: list[list[float]]
    restarts_s: list[float]
    risks_s: list[float]
    planned_s: float | None  # None: no plan yet
    planned_uses: int


class Rest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is not in the tables."""

    version: int
    policy: str
    fleet: Fleet
    weights: dict[str, float]
    now_s: float
    fact: int
    rows: int
    names: list[str]
    shape_of: list[int]
    lanes: list[tuple[int, int, int, int, int]]  # in order of their rows
    families: list[tuple[str, ...]]
    standings: list[float]
    impatient: list[tuple[float, int]]
    orders: list[dict[str, Any]]
    replicas: list[tuple[list[int], list[int]]]
    made: list[int]
    window_s: float
    quarter_s: float
    ordered: list[tuple[float, int, float]]
    ordered_tokens: list[float]
    prices: PricesRest | None


Arrays = dict[str, NDArray[Any]]


def snapshot(machine: Machine) -> bytes:
    """Everything the machine knows; `restore` makes an equal one of it."""
    rest, arrays = capture(machine)
    arrays["rest"] = np.frombuffer(msgspec.json.encode(rest), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def capture(machine: Machine) -> tuple[Rest, Arrays]:
    """Everything the machine knows, its own arrays and lists among it: copy before a change."""
    ground, services = machine.ground, machine.services
    rest = Rest(
        version=VERSION,
        policy=machine.policy.name,
        fleet=machine.fleet,
        weights=machine.weights,
        now_s=ground.now_s,
        fact=ground.fact,
        rows=ground.rows,
        names=ground.names,
        shape_of=ground.shape_of,
        lanes=list(ground.lane_rows),
        families=machine.families,
        standings=machine.standings,
        impatient=machine.impatient,
        orders=[orders.state() for orders in services.orders],
        replicas=[tuple(roster.rows.tolist() for roster in both) for both in services.rosters],
        made=services.made,
        window_s=services.window_s,
        quarter_s=services.quarter_s,
        ordered=list(services.ordered),
        ordered_tokens=services.ordered_tokens,
        prices=None if machine.prices is None else _prices(machine.prices),
    )
    arrays = {name: getattr(ground.tables, name) for name in NAMES}
    arrays |= {
        "urgent": services.urgent,
        "arrived": services.arrived,
        "queued": services.queued,
        "quarters": services.quarters,
        "quarter_tokens": services.quarter_tokens,
    }
    if machine.prices is not None and machine.prices.plan is not None:
        plan = machine.prices.plan
        arrays |= {f"plan.{name}": getattr(plan, name) for name in plan.__slots__}
    return rest, arrays


def restore(data: bytes, policy: Policy, name: str = "snapshot") -> Machine:
    """The machine of a snapshot, under the same policy; it goes on as if nothing had happened.

    Raises InputError when the data is no snapshot, or one of another policy or version.
    """
    try:
        arrays = dict(np.load(io.BytesIO(data), allow_pickle=False))
        rest = msgspec.json.decode(arrays.pop("rest").tobytes(), type=Rest)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise InputError(
            f"{name} is not a snapshot ({error}); give what headgate.control.snapshot made."
        ) from None
    if rest.version != VERSION or rest.policy != policy.name:
        raise InputError(
            f"{name} is of policy {rest.policy}, version {rest.version}, but {policy.name}, "
            f"version {VERSION}, is to go on from it; restore it under its own policy."
        )
    return rebuild(rest, arrays, policy)


def rebuild(rest: Rest, arrays: Arrays, policy: Policy) -> Machine:
    """A machine of what was captured. It takes the arrays over and copies the lists."""
    machine = Machine(rest.fleet, policy, rest.weights)
    ground, services = machine.ground, machine.services
    for table in NAMES:
        setattr(ground.tables, table, arrays[table])
    ground.now_s, ground.fact, ground.rows = rest.now_s, rest.fact, rest.rows
    ground.names, ground.shape_of = list(rest.names), list(rest.shape_of)
    ground.lane_rows = {place: row for row, place in enumerate(rest.lanes)}
    ground.refresh()
    machine.families, machine.standings = list(rest.families), list(rest.standings)
    machine.impatient = list(rest.impatient)
    services.orders = [Orders.of(orders) for orders in rest.orders]
    services.rosters = [(Roster(online), Roster(batch)) for online, batch in rest.replicas]
    services.made = list(rest.made)
    services.urgent, services.arrived = arrays["urgent"], arrays["arrived"]
    services.queued = arrays["queued"]
    services.quarters, services.quarter_tokens = arrays["quarters"], arrays["quarter_tokens"]
    services.window_s, services.quarter_s = rest.window_s, rest.quarter_s
    services.ordered.extend(rest.ordered)
    services.ordered_tokens = list(rest.ordered_tokens)
    if machine.prices is not None and rest.prices is not None:
        _restore_prices(machine.prices, rest.prices, arrays)
    return machine


def _prices(prices: Prices) -> PricesRest:
    return PricesRest(
        keys=[(*key[:4], list(key[4])) for key in prices.keys],  # type: ignore[call-overload]
        rows=list(prices.keys.values()),
        bids=prices.bids,
        classes=prices.classes,
        priorities=prices.priorities,
        speeds=[speed.tolist() for speed in prices.speeds],
        restarts_s=[float(x) for x in prices.restarts_s],
        risks_s=[float(x) for x in prices.risks_s],
        planned_s=float(prices.planned_s) if np.isfinite(prices.planned_s) else None,
        planned_uses=prices.planned_uses,
    )


def _restore_prices(prices: Prices, rest: PricesRest, arrays: dict[str, Any]) -> None:
    """The uses and the plan as they were; the next plan starts from no basis, to the same end."""
    prices.keys = {
        (*key[:4], tuple(key[4])): row for key, row in zip(rest.keys, rest.rows, strict=True)
    }
    prices.bids, prices.classes = list(rest.bids), list(rest.classes)
    prices.priorities = list(rest.priorities)
    prices.speeds = [np.array(speed) for speed in rest.speeds]
    prices.restarts_s, prices.risks_s = list(rest.restarts_s), list(rest.risks_s)
    prices.planned_s = -np.inf if rest.planned_s is None else rest.planned_s
    prices.planned_uses = rest.planned_uses
    plan = {name[5:]: array for name, array in arrays.items() if name.startswith("plan.")}
    prices.plan = Plan(**plan) if plan else None

"""All of the round's tables as one argument.

Inside compiled code `Columns` is a plain tuple of arrays and costs nothing. Handing eighteen
arrays over from Python costs 8 us a call, so they travel in one `Parcel`, which costs 1 us.
"""

from typing import Any, NamedTuple

from numba import njit, types
from numba.experimental import structref

Table = Any  # a structured array of headgate.kernels.layout


class Columns(NamedTuple):
    """The tables of headgate.kernels.layout, by name."""

    works: Table
    lanes: Table
    nodes: Table
    gpus: Table
    pools: Table
    hist: Any
    shapes: Any
    claims: Any
    levels: Any
    exposed: Any
    ready: Any
    tally: Any
    flags: Any
    taken: Any  # scratch of the search for victims: GPUs taken from each claim
    victims: Any  # scratch: works
    picked: Any  # scratch: nodes
    wishes: Table
    meta: Any


@structref.register
class ParcelType(types.StructRef):
    """numba's type of a Parcel."""

    def preprocess_fields(self, fields: Any) -> Any:
        return tuple((name, types.unliteral(kind)) for name, kind in fields)


class Parcel(structref.StructRefProxy):
    """The same tables for the way from Python into compiled code."""

    def __new__(cls, *tables: Any) -> "Parcel":
        return structref.StructRefProxy.__new__(cls, *tables)


structref.define_proxy(Parcel, ParcelType, list(Columns._fields))


@njit(cache=True)
def unpack(parcel: Any) -> Columns:
    """The parcel's tables."""
    return Columns(
        parcel.works,
        parcel.lanes,
        parcel.nodes,
        parcel.gpus,
        parcel.pools,
        parcel.hist,
        parcel.shapes,
        parcel.claims,
        parcel.levels,
        parcel.exposed,
        parcel.ready,
        parcel.tally,
        parcel.flags,
        parcel.taken,
        parcel.victims,
        parcel.picked,
        parcel.wishes,
        parcel.meta,
    )

"""The allocation of perishable capacity as a linear programme, and what its answer says.

Capacity comes in pools and buckets of time and perishes unused. A use asks for output: it arrives
bucket by bucket, may wait as long as it may, and is then lost. Traffic that must be served at once,
deferrable work with deadlines and jobs that last are all uses; they differ in how long output may
wait and how wide it may be served.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Uses:
    """What wants capacity, one row each. Output is in units of the caller's choice.

    Best scaled so that one unit of capacity makes about one unit of output in an hour.
    """

    value: Floats  # [use] worth of a unit of output served
    loss: Floats  # [use] taken off for each unit that expires
    wait: Floats  # [use] taken off for each unit that waits an hour
    rate: Floats  # [use, pool] output of one unit of capacity in an hour; 0: it cannot go there
    arrives: Floats  # [use, bucket] output that can first be served in the bucket
    may_wait: Floats  # [use, bucket] the most that may wait at its end; infinite: all
    width: Floats  # [use, bucket] the most capacity it can use at once; infinite: any
    class_: Ints  # [use] whose guarantee it counts in
    tier: Ints  # [use] its place in the strict order, smallest first
    family: Ints  # [use] uses of one family pass capacity to each other without a start
    held: Floats  # [family, pool] capacity held as the first bucket begins
    start_h: Floats  # [family] hours of capacity that a start costs; 0: starts are not counted

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True, slots=True)
class Programme:
    """Maximise the worth of what is served, less losses, within capacity, width and floors."""

    hours: Floats  # [bucket] length
    capacity: Floats  # [pool, bucket]
    uses: Uses
    floors: Floats  # [class, pool, bucket] capacity that a class has at least
    spread: int = 1  # buckets over which a start may be charged; more loosens the charge
    reserve: float | Floats = 0.0  # [pool] worth of a unit left idle for an hour


@dataclass(frozen=True, slots=True)
class Answer:
    """An optimum and its duals. Prices are per unit of capacity and hour."""

    worth: float
    served: Floats  # [use, pool, bucket] capacity in use
    expired: Floats  # [use, bucket] output
    waiting: Floats  # [use, bucket] output left at the bucket's end
    price: Floats  # [pool, bucket] worth of one more unit of capacity for an hour
    floor_price: Floats  # [class, pool, bucket] worth lost by one more unit of a class's floor
    output_price: Floats  # [use, bucket] worth of one more unit of output arriving
    width_price: Floats  # [use, bucket] worth of one more unit of width for an hour
    iterations: int


def unit_cost(price: Floats, rate: Floats) -> Floats:
    """[use, pool] what a unit of output costs at prices [pool]; infinite where it cannot go."""
    cost = np.full(rate.shape, np.inf)
    np.divide(price[None, :], rate, out=cost, where=rate > 0)
    return cost

"""Draw what happens inside a window from what is known of the window: counts and tokens.

Request traffic is far too dense to draw request by request (a week of a busy service holds a
thousand million), and the simulator needs windows of it only. So arrivals are drawn as counts of
a renewal process and token sums by their moments, all windows and tenants at once.
"""

import numpy as np

from headgate.sim.demand import Floats, Ints


def whole(dice: np.random.Generator, expected: Floats) -> Ints:
    """Whole counts with the given means: rounded up with the probability of the fraction."""
    return np.floor(expected + dice.random(expected.shape)).astype(np.int64)


def split(dice: np.random.Generator, count: Ints, cv: Floats, parts: int) -> Ints:
    """Split each count over `parts` equal pieces of its window, [window, tenant] in and out.

    Gaps between arrivals with coefficient of variation cv make the count of a piece with mean m
    vary with variance cv^2 m (the renewal central limit theorem, Cox 1962). Gamma weights of
    shape m / cv^2 give the pieces this mean and variance and keep the window's total exactly.
    """
    windows, tenants = count.shape
    pieces = np.zeros((windows, parts, tenants), dtype=np.int64)
    window, tenant = np.nonzero(count)
    total = count[window, tenant]
    # Shapes beyond a million weigh alike to a part in a thousand; below 1e-3 one piece has all.
    shape = np.clip(total / parts / np.maximum(cv[window, tenant], 1e-3) ** 2, 1e-3, 1e6)
    weight = dice.standard_gamma(np.repeat(shape[:, None], parts, axis=1))
    # A floor far below any other weight, so that no window weighs nothing in all its pieces.
    weight += np.finfo(float).tiny * dice.integers(1, 1 << 20, weight.shape)
    reached = np.cumsum(weight, axis=1)
    reached *= (total / reached[:, -1])[:, None]
    reached[:, -1] = total
    # A common random offset rounds every piece without bias and keeps the total.
    steps = np.floor(reached + dice.random(len(total))[:, None]).astype(np.int64)
    pieces[window, :, tenant] = np.diff(steps, axis=1, prepend=0)
    return pieces.reshape(windows * parts, tenants)


def tokens(dice: np.random.Generator, requests: Ints, mean: Floats, variance: Floats) -> Ints:
    """Tokens of all requests of a cell together: a Gamma with the sum's mean and variance.

    A request has one token at least. For many requests this is the central limit theorem; for few,
    the Gamma keeps the sum positive and skewed to the right, as lengths are.
    """
    drawn = np.zeros(requests.shape, dtype=np.int64)
    cell = np.nonzero(requests)
    count, centre = requests[cell], np.maximum(mean[cell], 1.0)
    scale = np.maximum(variance[cell], 1e-6 * centre**2) / centre
    total = dice.standard_gamma(count * centre / scale) * scale
    drawn[cell] = np.maximum(np.rint(total), count)
    return drawn

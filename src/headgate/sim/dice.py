"""Named dice: one seed, a stream for each purpose."""

import hashlib

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """The dice of one purpose, such as `stream(seed, "arrivals", service.name)`.

    The same seed and name give the same numbers on every machine and in every run, and a new draw
    under one name never shifts another's. `("a", "bc")` and `("ab", "c")` are different names, and
    so are `1` and `"1"`.
    """
    digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    # PCG64 by name: what default_rng stands for may change with numpy, these numbers must not.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=words)))

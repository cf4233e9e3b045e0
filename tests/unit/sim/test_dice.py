import numpy as np
import pytest

from headgate.sim.dice import stream

GOLDEN = [970181, 481414, 406044, 227016, 718319]


def draw(*name, seed=7):
    return stream(seed, *name).random(4).tolist()


def test_the_same_seed_and_name_throw_the_same_dice():
    assert draw("arrivals", "chat") == draw("arrivals", "chat")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("arrivals", "chat"), ("arrivals", "code")),
        (("a", "bc"), ("ab", "c")),
        (("a", 1), ("a", "1")),
        ((), ("",)),
    ],
)
def test_different_names_throw_different_dice(one, other):
    assert draw(*one) != draw(*other)


def test_different_seeds_throw_different_dice():
    assert draw("arrivals", seed=1) != draw("arrivals", seed=2)


def test_the_numbers_do_not_change_between_versions_of_the_program():
    assert stream(1, "golden").integers(0, 1_000_000, 5).tolist() == GOLDEN


def test_streams_of_neighbouring_names_are_uncorrelated():
    draws = np.array([stream(3, "tenant", row).random(2000) for row in range(30)])
    off_diagonal = np.corrcoef(draws)[~np.eye(30, dtype=bool)]
    assert abs(off_diagonal).max() < 5 / np.sqrt(2000)

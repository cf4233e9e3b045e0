"""Figures of a measurement, as people read them."""

import pytest

from headgate.cli.figures import show, shown


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (32_012.4, "32,012"),
        (0.27431, "0.274"),
        (2_106_000, "2,106,000"),
        ((4_797_677.0, 4_926_181.0), "4,797,677 to 4,926,181"),
        (True, "True"),
        ("3.11.7", "3.11.7"),
    ],
)
def test_a_figure_is_shown_to_three_digits_or_to_the_unit(figure, text):
    assert shown(figure) == text


def test_what_was_not_measured_is_left_out(capsys):
    show({"rate": {"ours": 3.0, "theirs": None}, "start_s": 0.3, "week_s": None})
    said = capsys.readouterr().out
    assert [name in said for name in ("ours", "start_s", "theirs", "week_s")] == [1, 1, 0, 0]

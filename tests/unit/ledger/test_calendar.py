"""Days and months without a clock, held against the standard library's."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.errors import InputError
from headgate.ledger.calendar import (
    LAST_DAY,
    civil,
    day_of,
    day_of_civil,
    day_of_date,
    days_of,
    iso_date,
)

EPOCH = datetime.date(1970, 1, 1)
days = st.integers(0, LAST_DAY)


@given(days)
def test_a_day_is_the_standard_librarys_day(day: int) -> None:
    date = EPOCH + datetime.timedelta(days=day)
    assert civil(day) == (date.year, date.month, date.day)
    assert iso_date(day) == date.isoformat()
    assert day_of_civil(*civil(day)) == day
    assert day_of_date(iso_date(day)) == day


@given(days)
def test_a_month_is_from_its_first_day_to_its_last(day: int) -> None:
    first, last = days_of("month", day)
    assert first <= day <= last
    assert civil(first)[2] == 1
    assert civil(last + 1)[2] == 1
    assert civil(first)[:2] == civil(last)[:2] == civil(day)[:2]
    assert days_of("day", day) == (day, day)
    assert days_of("total", day) == (0, LAST_DAY)


def test_a_day_begins_at_midnight() -> None:
    assert [day_of(0.0), day_of(86_399.9), day_of(86_400.0)] == [0, 0, 1]


@pytest.mark.parametrize("text", ["", "2026-13-01", "2026-02-29", "26-1-1", "today", "2026-11-1x"])
def test_what_is_no_date_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="is not a date"):
        day_of_date(text)

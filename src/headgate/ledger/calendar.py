"""Days and the periods of budgets, counted in UTC without a clock."""

from typing import Literal

from headgate.core.errors import InputError

DAY_S = 86_400
LAST_DAY = 2_932_896  # 9999-12-31
Period = Literal["day", "month", "total"]


def day_of(at_s: float) -> int:
    """Days since 1970 of a moment in seconds since 1970."""
    return int(at_s // DAY_S)


def civil(day: int) -> tuple[int, int, int]:
    """(year, month, day of month) of a day; the proleptic Gregorian calendar.

    Howard Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years that begin
    on 1 March, so that the leap day comes last.
    """
    era, day_of_era = divmod(day + 719_468, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = year_of_era + era * 400 + (month <= 2)
    return year, month, day_of_year - (153 * month_from_march + 2) // 5 + 1


def iso_date(day: int) -> str:
    year, month, day_of_month = civil(day)
    return f"{year:04d}-{month:02d}-{day_of_month:02d}"


def day_of_civil(year: int, month: int, day_of_month: int) -> int:
    """The inverse of `civil`."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day_of_month - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def day_of_date(date: str) -> int:
    """The day a date such as 2026-11-21 names; InputError for anything else."""
    parts = date.split("-")
    if [len(part) for part in parts] == [4, 2, 2] and all(part.isdecimal() for part in parts):
        year, month, day_of_month = map(int, parts)
        day = day_of_civil(year, month, day_of_month)
        if civil(day) == (year, month, day_of_month):
            return day
    raise InputError(f"{date!r} is not a date; give one such as 2026-11-21.")


def first_and_last_day(first: str | None, last: str | None) -> tuple[int, int]:
    """A span of dates as days; open at an end that is None."""
    return (
        0 if first is None else day_of_date(first),
        LAST_DAY if last is None else day_of_date(last),
    )


def days_of(period: Period, day: int) -> tuple[int, int]:
    """First and last day of the period that holds `day`."""
    if period == "day":
        return day, day
    if period == "total":
        return 0, LAST_DAY
    year, month, day_of_month = civil(day)
    first = day - day_of_month + 1
    long = month in (1, 3, 5, 7, 8, 10, 12)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    length = 31 if long else 30 if month != 2 else 29 if leap else 28
    return first, first + length - 1

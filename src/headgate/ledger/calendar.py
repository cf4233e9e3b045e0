"""Days and the periods of budgets, counted in UTC without a clock."""

from typing import Literal

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

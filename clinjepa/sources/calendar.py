"""Dates of all sources: age in completed years, and dates without a time of day.

A date without a time is the whole day. Conversions write it as 00:00:00 or 23:59:59. MIMIC-IV documents `patients.dod` as such a date
(hospital and state records); `admissions.deathtime` has a time, and only deaths in hospital have one
(https://mimic.mit.edu/docs/iv/modules/hosp/patients, .../admissions). What cannot be decided within that day is unknown.
"""

from __future__ import annotations

import datetime

import polars as pl


def is_date_only(time: pl.Expr) -> pl.Expr:
    """Whether a time stands for a date without a time of day: 00:00:00, or 23:59:59 with any fraction."""
    clock = time.dt.time()
    return (clock == datetime.time(0)) | (clock >= datetime.time(23, 59, 59))


def end_of(time: pl.Expr) -> pl.Expr:
    """The latest instant that a time can mean: itself, or the end of its day where it is a date only."""
    return pl.when(is_date_only(time)).then(time.dt.truncate("1d") + pl.duration(days=1, microseconds=-1)).otherwise(time)


def completed_years(birth: pl.Expr, at: pl.Expr) -> pl.Expr:
    """Age in completed years: one more on each birthday. Who was born on 29 February has it on 1 March of other years.

    A birth on 1 January at 00:00, as conversions of MIMIC-IV write a year of birth (anchor_year - anchor_age), gives the difference of
    the years: MIMIC-IV's own definition.
    """
    before_birthday = _day_of_year(at) < _day_of_year(birth)
    return at.dt.year() - birth.dt.year() - before_birthday.cast(pl.Int32)


def age_at(birth: datetime.datetime, at: datetime.datetime) -> int:
    """`completed_years` of two single times."""
    return at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))


def years_before(at: datetime.datetime, years: int) -> datetime.datetime:
    """The same day and time `years` earlier; for 29 February 28 February where that year has none, so that `age_at` gives `years`."""
    try:
        return at.replace(year=at.year - years)
    except ValueError:
        return at.replace(year=at.year - years, day=28)


def _day_of_year(time: pl.Expr) -> pl.Expr:
    """Month and day as one number that orders the days of any year."""
    return time.dt.month().cast(pl.Int32) * 100 + time.dt.day().cast(pl.Int32)

"""Ages and dates: birthdays, leap days, patients over 89, and times that are dates only."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from clinjepa.sources.calendar import age_at, completed_years, end_of, is_date_only, years_before
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic

AGES = [
    ("2090-01-01", "2150-03-01", 60),
    ("2090-03-01", "2150-03-01", 60),
    ("2090-03-02", "2150-03-01", 59),
    ("2090-03-01 23:00", "2150-03-01 10:00", 60),
    ("2132-01-01", "2150-01-01", 18),
    ("2132-01-02", "2150-01-01", 17),
    ("2092-02-29", "2151-02-28", 58),
    ("2092-02-29", "2151-03-01", 59),
    ("2092-02-29", "2152-02-29", 60),
    ("2100-01-01", "2100-01-01", 0),
    ("1850-03-01", "2150-03-01", 300),
]


@pytest.mark.parametrize(("birth", "at", "years"), AGES)
def test_an_age_grows_by_one_on_each_birthday(birth, at, years):
    times = [datetime.fromisoformat(text) for text in (birth, at)]
    frame = pl.DataFrame([times], schema={"birth": pl.Datetime("us"), "at": pl.Datetime("us")}, orient="row")
    assert frame.select(completed_years(pl.col("birth"), pl.col("at"))).item() == years
    assert age_at(*times) == years


def test_who_is_born_years_before_a_day_has_that_age_on_it():
    for day in (datetime(2152, 2, 29, 3), datetime(2150, 3, 1), datetime(2151, 1, 1, 23, 59)):
        for years in range(100):
            assert age_at(years_before(day, years), day) == years


@pytest.mark.parametrize(
    ("birth", "anchor_age", "anchor_year", "age"),
    [
        ("2090-01-01", 58, 2148, 60.0),
        ("2132-01-01", 18, 2150, 18.0),
        ("2057-01-01", 91, 2148, 93.0),
        ("1850-01-01", 298, 2148, None),
        ("2150-01-01", 0, 2150, None),
    ],
)
def test_both_readers_of_mimic_iv_give_the_same_age(tmp_path, birth, anchor_age, anchor_year, age):
    base = mimic.hospital()
    base["patients"][0] |= {"anchor_age": anchor_age, "anchor_year": anchor_year}
    raw = mimic.read_all(mimic.write_mimic(tmp_path / "raw", {}, base))
    rows = [row | ({"time": datetime.fromisoformat(birth)} if row["code"] == "MEDS_BIRTH" else {}) for row in meds.stay_rows()]
    converted = meds.read_all(meds.write_meds(tmp_path / "meds", rows))
    for tables in (raw, converted):
        assert tables.stays["age_years"].to_pylist() == [age]
        assert tables.counts.get("implausible_age", 0) == (age is None)


def test_midnight_and_the_last_second_of_a_day_are_dates_only():
    texts = ["2150-03-02", "2150-03-02 23:59:59", "2150-03-02 23:59:59.999999", "2150-03-02 00:01", "2150-03-02 23:59"]
    times = pl.DataFrame({"time": [datetime.fromisoformat(text) for text in texts]}).select(
        is_date_only(pl.col("time")).alias("date"), end_of(pl.col("time")).alias("end")
    )
    assert times["date"].to_list() == [True, True, True, False, False]
    assert {str(end) for end in times["end"][:3]} == {"2150-03-02 23:59:59.999999"}

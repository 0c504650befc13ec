"""CLIF's instants and dates: durations are real where summer time begins or ends, dates stay dates, and a cut of stays changes no fact."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.clif.clocks import date_columns
from clinjepa.sources.extraction import extract_all
from clinjepa.storage import Folder
from tests.support.data import clif_examples as clif

AUTUMN = 3822
"""Hours from the examples' day to the end of summer time in New York (7 November 2021, 06:00 UTC)."""
SPRING = 6847
"""Hours to its beginning (13 March 2022, 07:00 UTC)."""
HOUR = datetime.timedelta(hours=1)


def around(change: int, **more: Any) -> dict[str, clif.Rows]:
    """One ICU stay of 20 hours around a change of the clock, in New York, with a drip, a fluid and a heart rate every hour."""
    content = {
        "patient": [{"patient_id": "A", "sex_category": "Male", "race_category": "White", "ethnicity_category": None, "death_dttm": None}],
        "hospitalization": [clif.stay("A", "7", change - 15, change + 40, "Home")],
        "adt": [clif.place("7", change - 15, change - 10, "ed"), clif.place("7", change - 10, change + 10, "icu")],
        "vitals": [clif.vital("7", change - 9.75 + hour, "heart_rate", 70.0 + hour) for hour in range(19)],
        "medication_admin_continuous": [
            clif.drip("7", change - 0.25, "norepinephrine", 0.1, "mcg/kg/min", "start", "n"),
            clif.drip("7", change + 0.25, "norepinephrine", 0.0, "mcg/kg/min", "stop", "n"),
            clif.drip("7", change - 2, "lactated_ringers_solution", 100.0, "mL/hr", "start", "f"),
            clif.drip("7", change + 3, "lactated_ringers_solution", None, "mL/hr", "stop", "f"),
        ],
    }
    return content | more


@pytest.mark.parametrize("change", [AUTUMN, SPRING])
def test_a_change_of_the_clock_inside_a_stay_changes_no_duration_order_or_amount(tmp_path, change):
    stays, events, counts = clif.read_one(clif.write(tmp_path / "data", around(change)), time_zone="America/New_York")
    plain_stays, plain, plain_counts = clif.read_one(clif.write(tmp_path / "again", around(change)))
    offset = plain_stays["intime"][0] - stays["intime"][0]
    assert offset == (4 * HOUR if change == AUTUMN else 5 * HOUR)  # that of the time before the change
    shifted = plain.with_columns(pl.col("time") - offset, pl.col("end_time") - offset, pl.col("store_time") - offset)
    assert events.drop("row").sort(pl.all()).equals(shifted.drop("row").sort(pl.all())) and counts == plain_counts
    assert stays["outtime"][0] - stays["intime"][0] == 20 * HOUR
    fluid = events.filter(pl.col("variable") == "crystalloid").row(0, named=True)
    assert fluid["value"] == pytest.approx(500.0)
    pressor = events.filter(pl.col("variable") == "norepinephrine").row(0, named=True)
    assert pressor["end_time"] - pressor["time"] == HOUR / 2


def test_a_patient_s_stays_in_summer_and_winter_have_the_hospital_s_clock_and_real_gaps(tmp_path):
    content = around(AUTUMN)
    content["hospitalization"].append(clif.stay("A", "8", AUTUMN + 100, AUTUMN + 200, "Home"))
    content["adt"].append(clif.place("8", AUTUMN + 110, AUTUMN + 130, "icu"))
    content["vitals"].append(clif.vital("8", AUTUMN + 111, "heart_rate", 70.0))
    stays, events, _ = clif.read_one(clif.write(tmp_path / "data", content), time_zone="America/New_York")
    summer, winter = stays.rows(named=True)
    assert summer["intime"] == clif.at(AUTUMN - 14).replace(tzinfo=None) and winter["intime"] == clif.at(AUTUMN + 105).replace(tzinfo=None)
    assert winter["hospital_admission_time"] == clif.at(AUTUMN + 95).replace(tzinfo=None)
    assert summer["next_hospital_admission_time"] - summer["hospital_discharge_time"] == 60 * HOUR
    assert events.filter(pl.col("stay_id") == 801)["time"].to_list() == [winter["intime"] + HOUR]


def test_a_location_inside_the_hour_that_comes_twice_is_no_stay_of_an_hour_more(tmp_path):
    content = around(AUTUMN)
    content["adt"] = [
        clif.place("7", AUTUMN - 3, AUTUMN - 0.5, "ed"),
        clif.place("7", AUTUMN - 0.5, AUTUMN + 0.25, "icu"),
        clif.place("7", AUTUMN + 0.25, AUTUMN + 5, "ward"),
    ]
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content), time_zone="America/New_York")
    assert stays["outtime"][0] - stays["intime"][0] == 0.75 * HOUR and not {rule for rule in counts if rule.startswith("stay_")}


DAY_OF_DEATH = [
    datetime.date(2021, 6, 2),
    datetime.datetime(2021, 6, 2),
    datetime.datetime(2021, 6, 2, tzinfo=datetime.UTC),
    datetime.datetime(2021, 6, 2, 23, 59, 59),
]


@pytest.mark.parametrize("zone", ["US/Central", "Asia/Tokyo", "UTC"])
@pytest.mark.parametrize("death", DAY_OF_DEATH, ids=["date", "naive midnight", "midnight in UTC", "end of day"])
def test_a_column_of_deaths_without_a_time_of_day_holds_the_hospital_s_days(tmp_path, zone, death):
    content = clif.tables()
    content["patient"][1]["death_dttm"] = death
    content["hospitalization"][2] |= {"discharge_dttm": clif.at(41), "discharge_category": "Expired"}
    stays, _, _ = clif.read_one(clif.write(tmp_path / "data", content), time_zone=zone)
    left = stays.filter(pl.col("hadm_id") == 9).row(0, named=True)
    hours = {"US/Central": -5, "Asia/Tokyo": 9, "UTC": 0}[zone]
    assert left["hospital_discharge_time"] == clif.at(41 + hours).replace(tzinfo=None)
    day_of_discharge = left["hospital_discharge_time"].date() == datetime.date(2021, 6, 2)
    assert left["death_time"] == (left["hospital_discharge_time"] if day_of_discharge else datetime.datetime(2021, 6, 2))
    assert left["died_in_hospital"] is True


def test_days_that_were_timestamps_are_counted_and_one_time_among_them_makes_all_of_them_times(tmp_path):
    content = clif.tables()
    content["patient"][1]["death_dttm"] = clif.at(24)
    assert left_out(clif.write(tmp_path / "days", content))["midnight_is_date:death_dttm"] == 1
    content["patient"][0]["death_dttm"] = clif.at(700.5)
    assert "midnight_is_date:death_dttm" not in left_out(clif.write(tmp_path / "times", content))


def test_dates_of_discharge_are_dates_too_and_midnights_of_it_are_times(tmp_path):
    content = clif.tables()
    for row, begin, end in zip(content["hospitalization"], (1, 9, 1), (5, 10, 3), strict=True):
        row |= {"admission_dttm": datetime.date(2021, 6, begin), "discharge_dttm": datetime.date(2021, 6, end)}
    stays, _, _ = clif.read_one(clif.write(tmp_path / "dates", content), time_zone="US/Central")
    assert stays["hospital_discharge_time"].to_list() == [datetime.datetime(2021, 6, day) for day in (5, 5, 3)]
    for row in content["hospitalization"]:
        row["discharge_dttm"] = datetime.datetime.combine(row["discharge_dttm"], datetime.time(0), datetime.UTC)
    folder = clif.write(tmp_path / "times", content)
    stays, _, _ = clif.read_one(folder, time_zone="US/Central")
    assert stays["hospital_discharge_time"].to_list() == [datetime.datetime(2021, 6, day, 19) for day in (4, 4, 2)]
    assert not [rule for rule in left_out(folder) if rule.startswith("midnight_is_date:discharge")]


@pytest.mark.parametrize("change", [AUTUMN, SPRING])
@pytest.mark.parametrize("days", [2, 3])
def test_a_date_of_death_is_the_civil_day_also_after_a_change_of_the_clock_inside_the_stay(tmp_path, change, days):
    """The patient dies in the ICU some days after the change, 15 minutes from midnight in New York."""
    summer = change == SPRING
    day = datetime.date(2022, 3, 13) if summer else datetime.date(2021, 11, 7)
    midnight = datetime.datetime(day.year, day.month, day.day, 4 if summer else 5, tzinfo=datetime.UTC) + days * 24 * HOUR
    end = (midnight - clif.DAY) / HOUR + (0.25 if summer else -0.25)
    died = day + datetime.timedelta(days=days if summer else days - 1)
    content = around(change)
    content["hospitalization"] = [clif.stay("A", "7", change - 15, end, "Expired")]
    content["adt"] = [clif.place("7", change - 10, end, "icu")]
    content["patient"][0]["death_dttm"] = died
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content), time_zone="America/New_York")
    (found,) = stays.to_dicts()
    assert (found["died_in_hospital"], found["died_in_icu"], "impossible_death" in counts) == (True, True, False)
    assert found["death_time"] == found["outtime"] == found["hospital_discharge_time"]
    content["hospitalization"] = [clif.stay("A", "7", change - 15, end, "Home")]  # and at home later on that day
    stays, _, counts = clif.read_one(clif.write(tmp_path / "home", content), time_zone="America/New_York")
    assert stays["died_in_hospital"].to_list() == [False] and "impossible_death" not in counts


def test_midnight_of_the_hospital_is_a_date_among_times(tmp_path):
    content = clif.tables()
    content["patient"][0]["death_dttm"] = clif.at(24 * 30 + 5)  # 1 July, 00:00 in Chicago
    stays, _, _ = clif.read_one(clif.write(tmp_path / "data", content), time_zone="America/Chicago")
    assert stays["death_time"].to_list()[0] == datetime.datetime(2021, 7, 1)


def test_a_column_without_a_value_or_with_another_zone_s_midnights_is_told_apart():
    tokyo = pl.datetime_range(datetime.datetime(2021, 1, 1), datetime.datetime(2021, 1, 3), "1d", time_zone="Asia/Tokyo", eager=True)
    frame = pl.DataFrame({"tokyo": tokyo, "none": pl.Series([None] * 3, dtype=pl.Datetime("us")), "noon": tokyo.dt.offset_by("12h")})
    assert date_columns(frame.to_arrow()) == {"tokyo": "Asia/Tokyo"}


@pytest.mark.parametrize("number", [1, 2])
def test_a_cut_of_stays_changes_no_fact_of_those_that_remain(tmp_path, number):
    content = clif.tables()
    content["patient"][0]["death_dttm"] = clif.at(50.5)  # before the second ICU stay
    whole, _, counts = clif.read_one(clif.write(tmp_path / "data", content))
    part, _, some = clif.read_one(clif.write(tmp_path / "less", content), max_stays=number)
    assert part.height == number and part.equals(whole.head(number))
    assert part["next_icu_admission_time"][0] is not None and part["death_time"][0] is None
    assert some["impossible_death"] == counts["impossible_death"] > 0


def left_out(folder: Path) -> dict[str, int]:
    source = open_source(SourceConfig(kind="clif", path=str(folder)))
    return extract_all(source, Folder(folder.parent / f"{folder.name}-left-out"), 500)

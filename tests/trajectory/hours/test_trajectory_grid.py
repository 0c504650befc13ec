"""The hourly grid: each variable's own rule, null where nothing was observed, nothing from later hours."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import load_variables
from clinjepa.trajectory.hours.aggregates import aggregate_hours
from clinjepa.trajectory.hours.grid import at_store_time, coverage, grid_columns, place_events
from tests.support.data.handmade_stays import at, event, events_table, stays_table

VARIABLES = load_variables()


def place(*events: dict, num_hours: int = 10, outtime: float = 10.0):
    stays = pl.DataFrame(stays_table({"stay_id": 1, "outtime": at(outtime)})).with_columns(pl.lit(num_hours, pl.Int32).alias("num_hours"))
    placed, counts = place_events(events_table(*events), stays, VARIABLES)
    return stays, placed, counts


def grid_of(*events: dict, **options) -> pl.DataFrame:
    stays, placed, _ = place(*events, **options)
    return aggregate_hours(placed, stays, VARIABLES)


def test_every_hour_has_a_row_and_every_variable_of_the_dictionary_a_column():
    grid = grid_of(event(1, 2.5, "heart_rate", 80.0))
    assert grid["hour"].to_list() == list(range(10))
    assert grid.columns == ["stay_id", "hour", *grid_columns(VARIABLES)]
    assert {"heart_rate", "norepinephrine", "map_invasive"} <= set(grid.columns) and not {"age", "sex"} & set(grid.columns)


def test_by_store_time_a_value_stands_in_the_hour_in_which_it_was_stored():
    events = events_table(
        event(1, 2.5, "lactate", 4.0, store_time=at(3.5)),
        event(1, 4.5, "lactate", 2.0),
        event(1, 6.5, "lactate", 1.0, store_time=at(6.0)),
        event(1, 1.5, "norepinephrine", 0.1, until=3.5, store_time=at(8.0)),
    )
    stays = pl.DataFrame(stays_table({"stay_id": 1, "outtime": at(10)})).with_columns(pl.lit(10, pl.Int32).alias("num_hours"))
    moved = at_store_time(events)
    assert moved.schema == events.schema
    grid = aggregate_hours(place_events(moved, stays, VARIABLES)[0], stays, VARIABLES)
    assert grid["lactate"].to_list() == [None, None, None, 4.0, 2.0, None, 1.0, None, None, None]
    assert grid["norepinephrine"].is_not_null().to_list() == [False, True, True, True, *[False] * 6]


def test_the_worst_value_of_an_hour_has_a_column_beside_its_median_or_mean():
    grid = grid_of(
        *(event(1, 2.0 + step / 10, "map", value) for step, value in enumerate((80.0, 55.0, 90.0))),
        event(1, 2.0, "norepinephrine", 0.02, until=2.75),
        event(1, 2.75, "norepinephrine", 0.3, until=3.25),
        event(1, 2.1, "creatinine", 1.0),
        event(1, 2.2, "creatinine", 1.4),
        event(1, 2.3, "creatinine", 1.1),
    )
    assert grid["map"].to_list()[2:4] == [80.0, None] and grid["map_lowest"].to_list()[2:4] == [55.0, None]
    assert grid["norepinephrine"].to_list()[2:4] == pytest.approx([0.75 * 0.02 + 0.25 * 0.3, 0.25 * 0.3])
    assert grid["norepinephrine_highest"].to_list()[1:5] == [None, pytest.approx(0.3), pytest.approx(0.3), None]
    assert (grid["creatinine"][2], grid["creatinine_highest"][2]) == (pytest.approx(1.1), pytest.approx(1.4))


def test_all_devices_of_an_hour_and_those_of_its_latest_time_have_columns_that_do_not_depend_on_the_order_of_rows():
    devices = [(2.1, "Nasal cannula"), (2.8, "None"), (2.8, "Face tent"), (5.2, "None")]
    for rows in (devices, devices[::-1]):
        grid = grid_of(*(event(1, hours, "o2_device", None, text=word, row=row) for row, (hours, word) in enumerate(rows)))
        assert grid["o2_device_all"].to_list() == [None, None, "Face tent\nNasal cannula\nNone", None, None, "None", *[None] * 4]
        assert grid["o2_device_latest"].to_list() == [None, None, "Face tent\nNone", None, None, "None", *[None] * 4]
    assert grid_of()["o2_device_all"].null_count() == 10


def test_a_median_variable_takes_the_median_of_its_hour():
    grid = grid_of(*(event(1, 2.0 + step / 10, "heart_rate", value) for step, value in enumerate((80.0, 200.0, 90.0))))
    assert grid["heart_rate"].to_list() == [None, None, 90.0, *[None] * 7]


def test_the_median_of_two_values_is_halfway_and_each_hour_has_its_own():
    rates = ((1.1, 80.0), (1.9, 70.0), (2.2, 61.0), (2.4, 90.0), (2.6, 62.0), (2.8, 10.0), (4.5, 55.0))
    assert grid_of(*(event(1, hour, "heart_rate", value) for hour, value in rates))["heart_rate"].to_list()[:5] == [
        None,
        75.0,
        61.5,
        None,
        55.0,
    ]


def test_a_minimum_variable_takes_the_minimum():
    assert grid_of(event(1, 2.1, "gcs_eye", 4.0), event(1, 2.2, "gcs_eye", 2.0))["gcs_eye"][2] == 2.0


def test_a_category_takes_the_last_of_its_hour_by_time():
    assert (
        grid_of(event(1, 2.8, "o2_device", text="Nasal cannula"), event(1, 2.1, "o2_device", text="None"))["o2_device"][2]
        == "Nasal cannula"
    )


def test_a_sum_variable_adds_up_and_an_amount_over_hours_is_shared():
    grid = grid_of(event(1, 2.1, "urine_output", 30.0), event(1, 2.9, "urine_output", 20.0), event(1, 3.5, "crystalloid", 100.0, until=4.5))
    assert grid["urine_output"][2] == 50.0
    assert grid["crystalloid"].to_list()[3:5] == [50.0, 50.0]


def test_a_rate_is_weighted_by_the_time_it_ran():
    grid = grid_of(event(1, 1.5, "norepinephrine", 0.2, until=2.25), event(1, 2.25, "norepinephrine", 0.4, until=3.0))
    assert grid["norepinephrine"].to_list()[1:4] == [pytest.approx(0.1), pytest.approx(0.2 * 0.25 + 0.4 * 0.75), None]


def test_an_indicator_is_one_in_every_hour_it_touches():
    assert grid_of(event(1, 1.5, "crrt", 1.0, until=3.5))["crrt"].to_list()[:5] == [None, 1.0, 1.0, 1.0, None]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_indicator_without_a_value_is_never_on(value):
    grid = grid_of(
        event(1, 1.5, "crrt", value), event(1, 3.5, "crrt", 0.0), event(1, 3.6, "crrt", value), event(1, 5.5, "crrt", value, until=7)
    )
    assert grid["crrt"].to_list()[:7] == [None, None, None, 0.0, None, None, None]


def test_an_event_on_the_boundary_belongs_to_the_later_hour():
    assert grid_of(event(1, 3.0, "heart_rate", 80.0))["heart_rate"].to_list()[2:4] == [None, 80.0]


def test_what_lies_outside_the_stay_is_counted_and_left_out():
    events = [
        event(1, -0.5, "lactate", 2.0),
        event(1, 10.0, "heart_rate", 80.0),
        event(1, 4.0, "norepinephrine", 0.1, until=3.0),
        event(1, 4.0, "heart_rate", None),
        event(1, 4.0, "heart_rate", float("nan")),
        event(1, -2.0, "norepinephrine", 0.1, until=0.0),
    ]
    _, placed, counts = place(*events)
    assert placed.height == 0
    assert counts == {"before_icu_admission": 2, "after_last_hour": 1, "interval_ends_before_start": 1, "without_value": 2}


def test_an_infusion_that_started_before_the_icu_counts_from_admission():
    assert grid_of(event(1, -2.0, "norepinephrine", 0.1, until=1.5))["norepinephrine"].to_list()[:3] == [
        pytest.approx(0.1),
        pytest.approx(0.05),
        None,
    ]


def test_hours_cut_off_by_the_cohort_hold_nothing():
    grid = grid_of(event(1, 4.5, "norepinephrine", 0.1, until=9.0), num_hours=6)
    assert grid["hour"].to_list() == list(range(6)) and grid["norepinephrine"].to_list()[4:] == [pytest.approx(0.05), pytest.approx(0.1)]


def test_coverage_counts_events_hours_and_stays():
    _, placed, _ = place(event(1, 1.1, "heart_rate", 80.0), event(1, 1.2, "heart_rate", 81.0), event(1, 5.0, "heart_rate", 82.0))
    assert coverage(placed) == {"heart_rate": {"num_events": 3, "num_hours": 2, "num_stays": 1}}


INTERVALS = st.lists(st.tuples(st.integers(-10, 45), st.integers(1, 50), st.integers(1, 100)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(intervals=INTERVALS)
def test_the_hours_of_an_interval_add_up_to_the_time_it_ran_in_the_stay(intervals):
    _, placed, _ = place(
        *(event(1, start / 4, "norepinephrine", value / 100, until=(start + length) / 4) for start, length, value in intervals)
    )
    ran = sum(max(0.0, min((start + length) / 4, 10.0) - max(start / 4, 0.0)) for start, length, _ in intervals)
    assert placed["overlap_hours"].sum() == pytest.approx(ran)
    assert placed.height == 0 or (placed["overlap_hours"].min() > 0 and placed["overlap_hours"].max() <= 1)


@settings(max_examples=60, deadline=None)
@given(intervals=INTERVALS)
def test_the_time_weighted_mean_stays_between_nothing_and_the_sum_of_the_rates(intervals):
    grid = grid_of(*(event(1, start / 4, "norepinephrine", value / 100, until=(start + length) / 4) for start, length, value in intervals))
    values = grid["norepinephrine"].drop_nulls()
    assert values.len() == 0 or (values.min() > 0 and values.max() <= sum(value for _, _, value in intervals) / 100 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(times=st.lists(st.integers(0, 3_599_999), min_size=1, max_size=20), hour=st.integers(0, 9))
def test_every_instant_of_an_hour_lands_in_that_hour(times, hour):
    _, placed, _ = place(*(event(1, hour + milliseconds / 3_600_000, "heart_rate", 80.0) for milliseconds in times))
    assert set(placed["hour"]) == {hour} and placed.height == len(times)

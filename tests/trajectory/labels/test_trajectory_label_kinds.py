"""Each kind of task on hours made by hand: what is positive, what is negative, what has no label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import list_tasks, load_derived, load_task, parse_task
from clinjepa.trajectory.labels.derived.registry import functions
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.hour_rows import HourRows
from clinjepa.trajectory.labels.rules import FLAG_COLUMNS, TIME_COLUMNS, hourly_labels, stay_labels

_ = np.nan


def stay(num_hours: int, facts: dict[str, float] | None = None, first_hour: int = 0, **columns) -> DerivedState:
    """One stay that ends after its last hour, alive; facts: flags and times in hours after admission."""
    known = {"weight_kg": 80.0, "outtime": float(first_hour + num_hours), "died_in_icu": 0.0, "died_in_hospital": 0.0} | (facts or {})
    constants = {name: np.full(num_hours, known.get(name, _)) for name in ("weight_kg", *FLAG_COLUMNS, *TIME_COLUMNS)}
    hours = np.arange(first_hour, first_hour + num_hours, dtype=np.int32)
    filled = {}
    for name, values in columns.items():
        filled[name] = np.array([values.get(hour, _) for hour in hours] if isinstance(values, dict) else values, np.float64)
    return DerivedState(HourRows(np.ones(num_hours, np.int64), hours, filled, constants), functions())


def task(**fields):
    return parse_task(yaml.safe_dump({"name": "x", "title": "x", "source": "x"} | fields), "here")


def marks(labels: np.ndarray) -> str:
    return " ".join("-" if math.isnan(label) else f"{label:g}" for label in labels)


LOW_MAP = {"variables": ["map"], "stat": "observed", "op": "<", "value": 65}


def event(**fields):
    common = {"kind": "event", "horizon_hours": 2, "switches_only": False, "state": LOW_MAP, "requires": ["map"]}
    return task(**(common | fields))


def test_only_onsets_after_enough_free_hours_count():
    state = stay(7, map=[80, 60, 80, 80, 80, 60, 80])
    assert marks(hourly_labels(event(), state)) == "1 - 0 1 1 - -"
    assert marks(hourly_labels(event(free_hours=2), state)) == "1 - - 1 1 - -"
    assert marks(hourly_labels(event(free_hours="all"), state)) == "1 - - - - - -"


def test_a_state_may_take_the_label_of_an_hour_away():
    state = stay(4, map=[80, 80, 80, 60], lactate=[1, 5, _, 1])
    unless = {"variables": ["lactate"], "stat": "observed", "op": ">", "value": 2}
    assert marks(hourly_labels(event(unless=unless), state)) == "0 - 1 -"


def test_values_before_admission_are_no_hours_of_a_task():
    state = stay(4, first_hour=-2, map=[60, 60, 80, 80])
    assert marks(hourly_labels(event(switches_only=True), state)) == "- - 0 -"


def test_excluded_stays_have_no_labels():
    state = stay(3, {"chronic_dialysis": 1}, map=[80, 80, 80])
    assert marks(hourly_labels(event(exclude_stays=["chronic_dialysis"]), state)) == "- - -"


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [("chronic_dialysis", _, "0 0 -"), *((name, value, mark) for name in FLAG_COLUMNS[:3] for value, mark in ((0, "0 0 -"), (_, "- - -")))],
)
def test_an_unknown_outcome_excludes_a_stay_and_an_unknown_history_does_not(flag, value, expected):
    state = stay(3, {flag: value}, map=[80, 80, 80])
    assert marks(hourly_labels(event(exclude_stays=[flag]), state)) == expected


@pytest.mark.parametrize(("died", "expected"), [(0.0, "0 1 1"), (1.0, "- - -"), (_, "- - -")])
def test_a_discharge_from_the_icu_is_known_only_of_stays_that_ended_in_one(died, expected):
    soon = load_task("icu_discharge_24h")
    labels = hourly_labels(soon, stay(40, {"died_in_icu": died, "outtime": 40.0}))
    assert marks(labels[[10, 15, 38]]) == expected and math.isnan(labels[39])


@pytest.mark.parametrize(("died", "expected"), [(0.0, 1.0), (_, _)])
def test_a_patient_who_may_have_died_in_hospital_has_no_label_of_coming_back(died, expected):
    facts = {"died_in_hospital": died, "hospital_discharge_time": 9.0, "next_hospital_admission_time": 99.0}
    labels = stay_labels(load_task("hospital_readmission_30d"), DerivedState(stay(6, facts).rows, functions()), 24)
    np.testing.assert_equal(labels[-1], expected)


def test_a_time_ahead_is_positive_inside_its_window_and_missing_once_it_has_come():
    soon = task(kind="time", horizon_hours=2, gap_hours=1, time="death_time")
    # predicted after hours 1, 2, 3, 4, 5, 6; death at 4.5 lies 3.5, 2.5, 1.5, 0.5 h ahead
    assert marks(hourly_labels(soon, stay(6, {"death_time": 4.5, "died_in_hospital": 1}))) == "0 1 1 0 - -"
    assert marks(hourly_labels(soon, stay(2))) == "0 0"
    assert marks(hourly_labels(soon, stay(2, {"died_in_hospital": _}))) == "- -"  # the outcome is unknown
    assert marks(hourly_labels(soon, stay(2, {"died_in_hospital": 1}))) == "- -"  # dead, nobody knows when


def test_decompensation_labels_the_last_day_of_those_who_die_in_the_icu():
    decompensation = load_task("decompensation_24h")
    labels = hourly_labels(decompensation, stay(30, {"died_in_icu": 1, "outtime": 29.5}))
    assert marks(labels) == " ".join(["0"] * 5 + ["1"] * 24 + ["-"])  # after 6 h the end is 23.5 h ahead
    assert marks(hourly_labels(decompensation, stay(3, {"outtime": 2.5}))) == "0 0 -"
    assert marks(hourly_labels(decompensation, stay(2, {"died_in_icu": _}))) == "- -"


def test_a_change_compares_two_known_hours():
    worse = task(kind="change", horizon_hours=2, column="lactate", op=">=", value=1.5, requires=["lactate"])
    assert marks(hourly_labels(worse, stay(5, lactate=[1, 2, 2.5, 3, _]))) == "1 0 - - -"


def test_a_column_is_a_label_as_it_stands():
    label = load_task("sepsis_label_cinc2019")
    assert marks(hourly_labels(label, stay(5, sepsis_label=[0, 0, 1, 1, _]))) == "0 0 1 1 -"


def test_the_label_of_cinc2019_never_passes_through_the_early_event_rule():
    for name in list_tasks():
        if "sepsis_label" in load_task(name).variables:
            assert load_task(name).kind in ("column", "stay")


def test_a_number_is_taken_from_the_hours_ahead():
    lactate = stay(6, lactate=[_, 1, _, 3, _, 1.9])
    at_4h = {"kind": "regression", "requires": ["lactate"]}
    exact = task(**at_4h, target={"column": "lactate", "hours": 4, "transform": "log", "offset": 0.1})
    np.testing.assert_allclose(hourly_labels(exact, lactate), [_, math.log(2.0), _, _, _, _])
    for statistic, expected in (
        ("mean", "2 3 2.45 1.9 1.9 -"),
        ("first", "1 3 3 1.9 1.9 -"),
        ("last", "3 3 1.9 1.9 1.9 -"),
        ("max", "3 3 3 1.9 1.9 -"),
    ):
        some = task(**at_4h, target={"column": "lactate", "hours": [1, 3], "statistic": statistic})
        assert marks(hourly_labels(some, lactate)) == expected


def test_time_left_counts_from_the_prediction():
    assert marks(hourly_labels(load_task("remaining_stay"), stay(3, {"outtime": 2.5}))) == "0.0625 0.0208333 -"  # 1.5 h and 0.5 h in days


def test_a_number_predicted_once_has_one_label():
    median = load_task("creatinine_day_2")
    state = stay(60, creatinine={20: 9, 24: 1, 30: 2, 47: 4, 48: 9})
    labels = stay_labels(median, state, 24)
    assert np.flatnonzero(~np.isnan(labels)).tolist() == [23] and labels[23] == 2


def test_a_stay_that_ends_in_the_window_has_no_label_for_the_whole_of_it():
    for outtime, labelled in ((47.5, 0), (48.0, 1)):
        state = stay(48, {"outtime": outtime}, creatinine={20: 9, 30: 2})
        assert (~np.isnan(stay_labels(load_task("creatinine_day_2"), state, 24))).sum() == labelled


@pytest.mark.parametrize(
    ("name", "facts", "label"),
    [
        ("death_within_7d", {"death_time": 168.0, "died_in_hospital": 1}, 1),
        ("death_within_7d", {"death_time": 168.5, "died_in_hospital": 0}, 0),
        ("death_within_14d", {"death_time": 168.5, "died_in_hospital": 0}, 1),
        ("death_within_7d", {}, 0),
        ("death_within_7d", {"died_in_hospital": 1}, None),  # no time of death
        ("death_within_7d", {"died_in_hospital": _}, None),
        ("death_within_7d", {"death_time": 24.0, "died_in_hospital": 1}, None),  # dead at the prediction
        ("stay_beyond_7d", {"outtime": 168.5}, 1),
        ("stay_beyond_7d", {"outtime": 168.0}, 0),
        ("stay_beyond_7d", {"outtime": 23.5}, None),  # gone at the prediction
        ("in_hospital_death", {"died_in_hospital": 1, "death_time": 900.0}, 1),
    ],
)
def test_outcomes_of_a_stay_at_24_hours(name, facts, label):
    labels = stay_labels(load_task(name), stay(30, {"outtime": 30.0} | facts), 24)
    assert marks(labels) == " ".join(["-"] * 23 + ["-" if label is None else str(label)] + ["-"] * 6)


@pytest.mark.parametrize(
    ("name", "facts", "label"),
    [
        ("icu_readmission", {"next_icu_admission_time": 100.0}, 1),
        ("icu_readmission", {}, 0),
        ("icu_readmission_48h", {"next_icu_admission_time": 100.0}, 0),
        ("icu_readmission", {"died_in_icu": 1, "died_in_hospital": 1}, None),
        ("icu_readmission", {"hospital_discharge_time": _}, None),
        ("icu_readmission", {"outtime": 3.5}, None),  # the grid was cut before the end
        ("hospital_readmission_30d", {"next_hospital_admission_time": 500.0}, 1),
        ("hospital_readmission_30d", {"next_hospital_admission_time": 1000.0}, 0),
        ("hospital_readmission_30d", {"died_in_hospital": 1}, None),
    ],
)
def test_readmission_is_predicted_at_the_last_hour(name, facts, label):
    labels = stay_labels(load_task(name), stay(3, {"outtime": 2.5, "hospital_discharge_time": 50.0} | facts), 24)
    assert marks(labels) == "- - " + ("-" if label is None else str(label))


def test_a_stay_already_septic_is_not_predicted():
    outcome = load_task("sepsis_in_stay")
    infection = {"culture": {26: 1}, "antibiotic": {26: 1}}
    later, already = stay(40, platelets_lowest={30: 90}, **infection), stay(40, platelets_lowest={2: 90, 20: 90}, **infection)
    assert stay_labels(outcome, later, 24)[23] == 1
    assert np.isnan(stay_labels(outcome, already, 24)).all()
    assert stay_labels(outcome, stay(40, platelets_lowest={30: 200}, **infection), 24)[23] == 0


HOURLY = [name for name in list_tasks() if load_task(name).is_hourly and load_task(name).looks_ahead_hours is not None]
VALUES = {
    "map": [55, 80],
    "lactate": [1, 2.5, 5],
    "creatinine": [0.8, 1.2, 1.9, 4.2],
    "urine_output": [0, 20, 200],
    "platelets": [60, 250],
    "bilirubin_total": [0.5, 7],
    "inr": [1, 3],
    "pao2": [50, 90],
    "fio2": [21, 60],
    "gcs_eye": [1, 4],
    "norepinephrine": [0.05, 0.4],
    "invasive_ventilation": [1],
    "crrt": [1],
    "culture": [1],
    "antibiotic": [1, 0],
    "glucose": [50, 120, 320],
    "potassium": [4, 6],
    "heart_rate": [80, 130],
    "sbp": [90, 120],
    "map_lowest": [45, 75],
    "platelets_lowest": [40, 250],
    "bilirubin_total_highest": [0.5, 7],
    "creatinine_highest": [0.8, 2.1, 5.2],
    "norepinephrine_highest": [0.05, 0.4],
    "o2_flow": [0, 4],
}
WORDS = {
    "o2_device": ["Nasal cannula", "Endotracheal tube"],
    "vent_mode": ["CPAP/PSV", "NIV"],
    "gcs_verbal_response": ["No Response-ETT", "Oriented"],
    "crrt_mode": ["CVVHDF"],
}
FIRST, LENGTH = -20, 180


def random_stay(seed: int, length: int = LENGTH) -> DerivedState:
    """A dense stay from hour -20 on; the first hours of a longer one are those of a shorter one."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name, choices in (VALUES | WORDS).items():
        seen = rng.random(LENGTH) < rng.choice([0.02, 0.1, 0.5])
        values = np.array(choices, dtype=object if name in WORDS else np.float64)[rng.integers(0, len(choices), LENGTH)]
        columns[name] = np.where(seen, values, None if name in WORDS else _)[:length]
    whole = stay(length, first_hour=FIRST)
    return DerivedState(HourRows(whole.rows.stay_id_R, whole.rows.hour_R, columns, whole.rows.constants), functions())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), hour=st.integers(0, 30))
def test_labels_of_a_truncated_stay_equal_those_of_the_whole_one(seed, hour):
    whole = random_stay(seed)
    for name in HOURLY:
        own, seen = load_task(name), hour - FIRST + 1
        if seen + own.looks_ahead_hours < LENGTH:
            cut = random_stay(seed, seen + own.looks_ahead_hours)
            np.testing.assert_array_equal(hourly_labels(own, whole)[:seen], hourly_labels(own, cut)[:seen], err_msg=name)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), hour=st.integers(0, 30))
def test_a_derived_quantity_looks_no_further_ahead_than_it_says(seed, hour):
    whole = random_stay(seed)
    for name, quantity in load_derived().items():
        seen = hour - FIRST + 1
        cut = random_stay(seed, seen + quantity.looks_ahead_hours)
        np.testing.assert_array_equal(whole.column(name)[:seen], cut.column(name)[:seen], err_msg=name)


def test_a_label_that_reads_hours_that_the_cohort_cut_off_is_unknown():
    cut = {"outtime": 9.5}  # hours 6 to 9 are not kept
    low = [80, 80, 80, 80, 60, 80]
    assert marks(hourly_labels(event(), stay(6, map=low))) == "0 0 1 1 - -"
    assert marks(hourly_labels(event(), stay(6, cut, map=low))) == "0 0 1 1 - -", "hour 3 reads hours 4 and 5, which are kept"
    assert marks(hourly_labels(event(), stay(6, cut, map=[80] * 6))) == "0 0 0 0 - -"
    assert marks(hourly_labels(event(horizon_hours=3), stay(6, cut, map=low))) == "0 1 1 - - -", "nor a 1: the outcome decides no label"
    mean = task(kind="regression", target={"column": "map", "hours": [1, 3], "statistic": "mean"}, requires=["map"])
    values = [70.0, 71.0, 72.0, 73.0, 74.0, 75.0]
    assert marks(hourly_labels(mean, stay(6, map=values))) == "72 73 74 74.5 75 -"
    assert marks(hourly_labels(mean, stay(6, cut, map=values))) == "72 73 74 - - -"
    for name in ("icu_discharge_24h", "remaining_stay"):
        assert not np.isnan(hourly_labels(load_task(name), stay(6, cut))).any(), "a time of the stay is known beyond the cut"


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), kept=st.integers(60, 150))
def test_where_a_cut_stay_has_labels_they_are_those_of_the_whole_stay(seed, kept):
    whole, short = random_stay(seed), random_stay(seed, kept)
    short.rows.constants["outtime"] = np.full(kept, float(FIRST + LENGTH))
    for name in HOURLY:
        labels, expected = hourly_labels(load_task(name), short), hourly_labels(load_task(name), whole)[:kept]
        known = ~np.isnan(labels)
        np.testing.assert_array_equal(labels[known], expected[known], err_msg=name)
        settled = short.rows.hour_R + load_task(name).looks_ahead_hours < FIRST + kept
        np.testing.assert_array_equal(labels[settled], expected[settled], err_msg=name)


def test_an_outcome_of_the_rest_of_the_stay_is_unknown_where_the_stay_was_cut():
    outcome = load_task("sepsis_in_stay")
    infection = {"culture": {10: 1}, "antibiotic": {12: 1}}
    assert stay_labels(outcome, stay(40, {"outtime": 40.0}, platelets_lowest={30: 200}, **infection), 24)[23] == 0
    assert np.isnan(stay_labels(outcome, stay(40, {"outtime": 60.0}, platelets_lowest={30: 200}, **infection), 24)).all()
    assert stay_labels(load_task("in_hospital_death"), stay(40, {"outtime": 60.0}), 24)[23] == 0, "an outcome of the record"
    creatinine = {hour: 1.0 for hour in range(0, 40, 4)}
    assert not np.isnan(stay_labels(load_task("creatinine_day_2"), stay(48, {"outtime": 60.0}, creatinine=creatinine), 24)[23])
    assert np.isnan(stay_labels(load_task("creatinine_day_2"), stay(40, {"outtime": 60.0}, creatinine=creatinine), 24)).all()

"""Derived clinical state against examples worked by hand; each says its arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clinjepa.clinical import load_task
from clinjepa.clinical.derived import load_derived
from clinjepa.trajectory.labels.derived.registry import functions
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.hour_rows import HourRows
from clinjepa.trajectory.labels.rules import hourly_labels

_ = np.nan
WORDS = ("o2_device", "o2_device_all", "o2_device_latest", "vent_mode", "gcs_verbal_response", "crrt_mode")


def state(num_hours: int, *, first_hour: int = 0, weight: float = 80.0, **columns) -> DerivedState:
    """One stay; a column is a list per hour or {hour: value}. With one device an hour, it is all of the hour's and the latest."""
    if "o2_device" in columns:
        columns = {"o2_device_all": columns["o2_device"], "o2_device_latest": columns["o2_device"]} | columns
    hour = np.arange(first_hour, first_hour + num_hours, dtype=np.int32)
    filled = {}
    for name, values in columns.items():
        listed = [values.get(h) for h in hour] if isinstance(values, dict) else list(values) + [None] * (num_hours - len(values))
        known = [None if v is None or v != v else v for v in listed]
        filled[name] = (
            np.array(known, dtype=object) if name in WORDS else np.array([_ if v is None else v for v in known], dtype=np.float64)
        )
    rows = HourRows(np.ones(num_hours, np.int64), hour, filled, {"weight_kg": np.full(num_hours, weight)})
    return DerivedState(rows, functions())


def near(found: np.ndarray, expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_quantity_has_a_definition_and_either_a_function_or_a_condition():
    derived = load_derived()
    assert {name for name, one in derived.items() if one.condition is None} == set(functions())
    assert all(one.source and one.title and one.unit for one in derived.values())
    for name in derived:  # all of them can be computed on a source that gives nothing at all
        assert DerivedState(HourRows(np.zeros(3, np.int64), np.arange(3)), functions()).column(name).shape == (3,)


def test_fio2_is_of_the_same_hour_or_of_the_four_before():
    # 80 mmHg at 50 % = 160; four hours later still 50 %; five hours later unknown, and ventilated, so no room air is assumed
    found = state(6, pao2=[80, _, _, _, 80, 80], fio2={0: 50}, invasive_ventilation=[1] * 6).column("pf_ratio")
    near(found, [160, _, _, _, 160, _])


def test_the_slip_of_the_blood_gas_goes_before_the_charted_oxygen():
    found = state(2, pao2=[80, 80], fio2=[50, 50], fio2_blood_gas=[40, _], invasive_ventilation=[1, 1]).column("pf_ratio")
    near(found, [200, 160])


def test_room_air_is_assumed_only_two_hours_free_of_ventilation():
    # 84 / 0.21 = 400; hour 2 follows an hour of ventilation
    found = state(4, pao2=[84, 84, 84, 84], o2_device={0: "None"}, noninvasive_ventilation={1: 1}).column("pf_ratio")
    near(found, [400, _, _, 400])


@pytest.mark.parametrize(
    "oxygen",
    [
        {"o2_device": {0: "Nasal cannula"}},
        {"o2_device": {0: "High flow nasal cannula"}},
        {"o2_device": {0: "Trach mask"}},
        {"o2_device": {0: "a device of another hospital"}},
        {"vent_mode": {0: "a mode of another hospital"}},
        {"o2_flow": {0: 2.0}},
        {"fio2": {0: 40.0}},
        {"o2_device": {0: "None"}, "o2_flow": {0: 4.0}},
    ],
)
def test_no_room_air_is_assumed_where_oxygen_was_charted(oxygen):
    found = state(15, pao2={hour: 84 for hour in (0, 5, 13, 14)}, **oxygen).column("pf_ratio")
    first = 84 / 0.40 if "fio2" in oxygen else _  # that FiO2 itself counts in its hour
    near(found[[0, 5, 13, 14]], [first, _, _, _])


def test_room_air_is_assumed_for_thirteen_hours_after_a_device_that_is_none():
    near(state(3, pao2=[84] * 3, o2_device={0: "Face tent", 1: "None"}).column("pf_ratio"), [_, _, 400])
    found = state(15, pao2={hour: 84 for hour in (0, 5, 13, 14)}, o2_device={0: " none"}).column("pf_ratio")
    near(found[[0, 5, 13, 14]], [400, 400, 400, _])


@pytest.mark.parametrize(
    "charted",
    [
        {},  # as in CinC 2012 and the simulator, which chart no device
        {"invasive_ventilation": {0: 1}},  # hours later: CinC 2012 charts MechVent as points
        {"o2_flow": {0: 3, 3: 0}},
        {"o2_device": {0: "Nasal cannula"}, "o2_flow": {3: 0}},
        {"fio2": {0: 21}},  # older than four hours, and no device
    ],
)
def test_no_room_air_is_assumed_unless_the_latest_device_is_none(charted):
    near(state(7, pao2={6: 84}, **charted).column("pf_ratio")[6:], [_])


def test_any_oxygen_of_the_hour_counts_also_when_it_ended_before_the_hours_end():
    many, last = {0: "Nasal cannula\nNone"}, {0: "None"}
    near(state(2, pao2=[84] * 2, o2_device=last, o2_device_all=many, o2_device_latest=last).column("pf_ratio"), [_, 400])
    near(state(2, pao2=[84] * 2, o2_device=last, o2_device_all=many, o2_device_latest=many).column("pf_ratio"), [_, _])
    near(state(2, pao2=[84] * 2, o2_device=last, o2_flow={0: 0}, o2_flow_highest={0: 4}).column("pf_ratio"), [_, 400])


def test_ventilation_status_takes_the_highest_class_of_the_hour_and_lasts_thirteen_hours():
    device = {1: "Nasal cannula", 2: "Endotracheal tube", 3: "Bipap mask ", 4: "Trach mask", 5: "None"}
    near(state(7, o2_device=device).column("vent_status"), [_, 1, 4, 3, 5, 0, 0])
    found = state(16, o2_device={0: "High flow nasal cannula"}).column("vent_status")
    near(found, [2] * 14 + [_] * 2)


def test_a_ventilator_mode_and_a_procedure_say_invasive_too():
    found = state(4, o2_device=["Nasal cannula"] * 4, vent_mode={1: "CPAP/PSV", 2: "NIV"}, invasive_ventilation={3: 1})
    near(found.column("vent_status"), [1, 4, 3, 4])
    near(state(2, invasive_ventilation={0: 1}).column("vent_status"), [4, _])  # a procedure has an end of its own
    near(found.column("ventilated_invasively"), [0, 1, 0, 1])
    near(found.column("ventilated"), [0, 1, 1, 1])


def test_a_tube_makes_the_coma_score_fifteen():
    eye, motor = {0: 3, 1: 1, 2: 1, 9: 2}, {0: 5, 1: 1, 9: 4}
    found = state(10, gcs_eye=eye, gcs_motor=motor, gcs_verbal={0: 4}, gcs_verbal_response={1: "No Response-ETT"}).column("gcs")
    # 3+4+5; tube; verbal not charted after a tube; nothing charted; hour 9: verbal last known 9 h ago, so normal: 2+5+4
    near(found, [12, 15, 15, _, _, _, _, _, _, 11])


def test_missing_components_are_carried_for_six_hours_then_normal():
    found = state(9, gcs_eye={0: 2, 6: 3, 8: 3}, gcs_verbal={0: 3}, gcs_motor={0: 4}).column("gcs")
    near(found, [9, _, _, _, _, _, 10, _, 14])  # hour 6: 3+3+4; hour 8: 3+5+6
    near(state(2, gcs_total=[7, _]).column("gcs"), [7, _])


def test_norepinephrine_equivalents():
    drugs = {
        "norepinephrine": [0.1, _],
        "epinephrine": [0.05, _],
        "phenylephrine": [1.0, _],
        "dopamine": [5.0, _],
        "vasopressin": [0.04, _],
    }
    near(state(2, **drugs).column("nee"), [0.1 + 0.05 + 0.1 + 0.05 + 0.1, 0])


def test_shock_index_and_any_vasopressor():
    found = state(2, heart_rate=[120, 80], sbp=[80, _], angiotensin_ii=[_, 10])
    near(found.column("shock_index"), [1.5, _])
    near(found.column("vasopressor_any"), [0, 1])


def test_urine_rates_need_documented_hours():
    # 80 kg, charted every second hour from hour 1: each charting documents 2 h; 240 mL / 2 h / 80 kg = 1.5
    found = state(26, urine_output={hour: 240 for hour in range(1, 26, 2)})
    near(found.column("urine_ml_kg_h")[:4], [_, 1.5, _, 1.5])
    near(found.column("urine_ml_kg_h_6h")[:8], [_, _, _, _, _, 1.5, _, 1.5])
    near(found.column("urine_ml_kg_h_12h")[9:14], [_, _, 1.5, _, 1.5])
    near(found.column("urine_ml_kg_h_24h")[21:], [_, _, 1.5, _, 1.5])
    near(found.column("urine_24h")[21:], [240 * 11 / 22 * 24, _, 2880, _, 2880])


def test_a_gap_is_documented_whole_and_weight_defaults_to_75_kg():
    # hour 7 documents 8 h (6 <= 8 < 12): 300 / 8 / 75 = 0.5; hour 8 alone adds 1 h: window of 6 h documents 9 h
    found = state(9, weight=_, urine_output={7: 300, 8: 60}).column("urine_ml_kg_h_6h")
    near(found[7:], [0.5, 360 / 9 / 75])
    assert math.isnan(state(13, urine_output={12: 300}).column("urine_ml_kg_h_6h")[12])  # 13 h: not below 12


def test_creatinine_stages_look_at_48_hours_and_seven_days():
    near(state(3, creatinine=[1.0, 1.3, 1.29]).column("kdigo_creatinine_stage"), [_, 1, 0])  # +0.3 in 48 h
    near(state(4, creatinine=[1.0, 1.5, 2.0, 3.0]).column("kdigo_creatinine_stage"), [_, 1, 2, 3])
    late = state(200, creatinine={0: 1.0, 60: 1.4, 100: 1.5, 199: 3.0}).column("kdigo_creatinine_stage")
    # hour 60: +0.4 but over more than 48 h, ratio 1.4: 0; hour 100: ratio 1.5; hour 199: the 1.0 is older than 7 d, 3.0 / 1.4 = 2.1
    assert [late[hour] for hour in (60, 100, 199)] == [0, 1, 2]
    near(state(2, creatinine=[3.8, 4.1]).column("kdigo_creatinine_stage"), [_, 3])  # >= 4 with a rise of 0.3
    near(state(170, creatinine={0: 3.9, 169: 3.9}).column("kdigo_creatinine_stage")[[0, 169]], [_, _])  # the first is older than 7 d


def test_a_creatinine_before_admission_is_a_baseline():
    found = state(102, first_hour=-100, creatinine={-100: 0.8, 1: 1.6}).column("kdigo_creatinine_stage")
    assert math.isnan(found[0]) and found[-1] == 2


def test_urine_stages():
    def stages(per_hour: float, hours: int) -> np.ndarray:
        return state(hours, urine_output=[per_hour] * hours).column("kdigo_urine_stage")

    low = stages(0.4 * 80, 26)  # 0.4 mL/kg/h: stage 0 in the first six hours, then 1, from 12 h on 2
    assert [low[hour] for hour in (5, 6, 10, 11, 25)] == [0, 1, 1, 2, 2]
    assert [stages(0.2 * 80, 26)[hour] for hour in (11, 22, 23)] == [2, 2, 3]
    assert [stages(0.0, 13)[hour] for hour in (10, 11)] == [1, 3]
    near(stages(0.6 * 80, 26), [_] * 5 + [0] * 21)  # five hours give no rate


def test_a_urine_stage_of_zero_needs_the_rate_over_six_hours():
    alone = state(40, urine_output={35: 500}).column("kdigo_urine_stage")  # after a gap above 24 h it documents 1 h
    assert math.isnan(alone[35])
    # hour 11 documents 12 h, so there is no rate over 6 h: 960 / 12 / 80 = 1.0 leaves stage 1 open, 300 / 12 / 80 = 0.31 is stage 2
    assert math.isnan(state(12, urine_output={11: 960}).column("kdigo_urine_stage")[11])
    assert state(12, urine_output={11: 300}).column("kdigo_urine_stage")[11] == 2


def test_the_kdigo_stage_is_the_highest_of_the_last_six_hours():
    # urine of 1 mL/kg/h has a rate over 6 h, and so stage 0, from hour 5 on; the creatinine doubles at hour 2 and is back at hour 9
    found = state(14, creatinine={0: 1.0, 2: 2.0, 9: 1.0}, urine_output=[80] * 14, crrt={12: 1})
    near(found.column("kdigo_stage"), [_, _, _, _, _, 2, 2, 2, _, 0, 0, 0, 3, 3])
    near(found.column("kdigo_at_least_1"), [_, _, 1, 1, 1, 1, 1, 1, _, 0, 0, 0, 1, 1])
    near(found.column("kdigo_at_least_3"), [_, _, _, _, _, 0, 0, 0, _, 0, 0, 0, 1, 1])


def test_a_kdigo_stage_with_an_unknown_part_is_unknown_unless_a_known_part_is_the_highest():
    # no urine was charted: the doubled creatinine says "2 or more", nothing says "below 3"; CRRT is 3 whatever the urine is
    found = state(14, creatinine={0: 1.0, 2: 2.0, 9: 1.0}, crrt={12: 1})
    near(found.column("kdigo_stage"), [_] * 12 + [3, 3])
    near(found.column("kdigo_at_least_2"), [_, _, 1, 1, 1, 1, 1, 1, _, _, _, _, 1, 1])
    near(found.column("kdigo_at_least_3"), [_] * 12 + [1, 1])


@pytest.mark.parametrize(("per_hour", "stage"), [(80.0, _), (32.0, _), (16.0, 3)])  # 1.0, 0.4 and 0.2 mL/kg/h: urine stages 0, 2, 3
def test_a_first_creatinine_leaves_the_stage_to_urine_alone_only_where_that_is_the_highest(per_hour, stage):
    found = state(40, creatinine={30: 3.9}, urine_output=[per_hour] * 40)
    assert math.isnan(found.column("kdigo_creatinine_stage")[30])
    near(found.column("kdigo_stage")[30:31], [stage])
    near(found.column("kdigo_at_least_1")[30:31], [_ if per_hour == 80 else 1])
    near(found.column("kdigo_at_least_2")[30:31], [_ if per_hour == 80 else 1])


@pytest.mark.parametrize(("baseline", "label"), [(None, _), (3.9, 0), (1.3, 1)])
def test_no_kidney_injury_is_predicted_only_where_a_later_hour_surely_has_none(baseline, label):
    # 1 mL/kg/h and a creatinine of 3.9 at hour 30: against 3.9 it is stage 0, against 1.3 it is 3 x the baseline, alone it is unknown
    found = state(40, creatinine={30: 3.9} | ({10: baseline} if baseline else {}), urine_output=[80.0] * 40)
    found.rows.constants |= {"chronic_dialysis": np.zeros(40), "outtime": np.full(40, 40.0)}
    for task in ("aki_stage_1_48h", "aki_stage_3_48h"):
        near(hourly_labels(load_task(task), found)[[5, 20]], [label, label])


def test_kidney_failure_needs_all_to_be_known_to_say_no():
    urine = [80.0] * 26
    found = state(26, creatinine={0: 1.0, 1: 3.0, 24: 1.0, 25: 1.1}, urine_output=urine).column("kidney_failure")
    # hour 1: 3 x; before 24 h the urine rules are unknown; hour 24: everything known
    assert found[1] == 1 and math.isnan(found[0]) and found[24] == 0 and math.isnan(found[23])
    dry = state(26, creatinine=[1.0] * 26, urine_output=[10.0] * 26).column("kidney_failure")
    assert [dry[22] == 1, dry[23] == 1] == [False, True]  # 10 / 80 < 0.3, after 24 h
    assert list(state(3, crrt={1: 1}).column("kidney_failure")[1:]) == [1, 1]


def test_a_creatinine_without_an_earlier_one_is_no_sure_no():
    urine = [80.0] * 60
    for first in (0.9, 3.9):
        found = state(60, creatinine={30: first, 59: 0.9}, urine_output=urine).column("kidney_failure")
        assert math.isnan(found[30]) and found[59] == 0
    # above 4.0 the rise decides: with one creatinine in 48 h none can be seen, with two it can
    alone = state(80, creatinine={30: 4.5, 79: 4.5}, urine_output=urine + urine[:20]).column("kidney_failure")
    assert math.isnan(alone[30]) and math.isnan(alone[79])
    risen = state(60, creatinine={30: 4.1, 40: 4.5, 50: 4.5}, urine_output=urine).column("kidney_failure")
    assert list(risen[[40, 50]]) == [1, 1]
    steady = state(60, creatinine={30: 4.5, 40: 4.5}, urine_output=urine).column("kidney_failure")
    assert math.isnan(steady[30]) and steady[40] == 0
    # what needs no baseline still says yes
    assert state(60, creatinine={30: 3.9}, urine_output=[1.0] * 60).column("kidney_failure")[30] == 1
    # a creatinine from the week before admission is a baseline
    before = state(80, first_hour=-20, creatinine={-10: 1.3, 30: 3.9}, urine_output={hour: 80.0 for hour in range(60)})
    assert before.column("kidney_failure")[50] == 1


def test_meld():
    # 3.78 ln 2 + 11.2 ln 1.5 + 9.57 ln 3 + 6.43 = 2.620 + 4.541 + 10.514 + 6.43
    found = state(3, bilirubin_total=[2, _, _], inr=[1.5, _, _], creatinine=[3, _, 0.5])
    near(found.column("meld"), [2.620096 + 4.541209 + 10.513720 + 6.43, _, 2.620096 + 4.541209 + 6.43])
    with_crrt = state(1, bilirubin_total=[1], inr=[0.8], creatinine=[1], crrt=[1]).column("meld")
    near(with_crrt, [9.57 * math.log(4) + 6.43])


@pytest.mark.parametrize(
    ("organ", "columns", "points"),
    [
        ("respiration", {"pao2": [80], "fio2": [21]}, 1),  # 381
        ("respiration", {"pao2": [60], "fio2": [40]}, 2),  # 150, not ventilated
        ("respiration", {"pao2": [60], "fio2": [40], "invasive_ventilation": [1]}, 3),
        ("respiration", {"pao2": [60], "fio2": [80], "invasive_ventilation": [1]}, 4),
        ("coagulation", {"platelets_lowest": [150]}, 0),
        ("coagulation", {"platelets_lowest": [99]}, 2),
        ("coagulation", {"platelets_lowest": [19]}, 4),
        ("liver", {"bilirubin_total_highest": [1.2]}, 1),
        ("liver", {"bilirubin_total_highest": [6]}, 3),
        ("cardiovascular", {"map_lowest": [70]}, 0),
        ("cardiovascular", {"map_lowest": [69]}, 1),
        ("cardiovascular", {"map_lowest": [80], "dobutamine_highest": [2]}, 2),
        ("cardiovascular", {"dopamine_highest": [5.5]}, 3),
        ("cardiovascular", {"norepinephrine_highest": [0.1]}, 3),
        ("cardiovascular", {"norepinephrine_highest": [0.11]}, 4),
        ("cardiovascular", {"vasopressin": [0.04], "map_lowest": [75]}, 0),
        ("cns", {"gcs_total": [14]}, 1),
        ("cns", {"gcs_total": [6]}, 3),
        ("renal", {"creatinine_highest": [2.0]}, 2),
        ("renal", {"creatinine_highest": [5.0]}, 4),
    ],
)
def test_sofa_points(organ, columns, points):
    near(state(1, **columns).column(f"sofa_{organ}"), [points])


def test_little_urine_scores_for_the_kidney():
    found = state(24, urine_output=[19.0] * 24).column("sofa_renal")  # 456 mL in 24 h
    assert math.isnan(found[20]) and found[23] == 3


def test_sofa_adds_the_worst_of_24_hours_over_the_organs():
    found = state(26, map_lowest={0: 60, 25: 90}, platelets_lowest={0: 90}, creatinine_highest={5: 3.6}).column("sofa")
    # 1 + 2 from hour 0, + 3 from hour 5; after 24 h the first two have passed
    assert [found[hour] for hour in (0, 4, 5, 23, 24)] == [3, 3, 6, 6, 3]
    assert math.isnan(state(1).column("sofa")[0])


def test_suspicion_is_at_the_culture_when_it_came_first_and_at_the_antibiotic_otherwise():
    found = state(200, culture={10: 1, 30: 1, 150: 1}, antibiotic={80: 1, 130: 1, 40: 0}).column("suspicion_of_infection")
    # 80: earliest culture of hours 8..80 is 10; 130: none in 58..130, but one 20 h later
    assert list(np.flatnonzero(found)) == [10, 130]


def test_no_suspicion_without_a_culture_in_reach_or_a_start_of_the_antibiotic():
    assert not state(120, culture={0: 1}, antibiotic={73: 1}).column("suspicion_of_infection").any()
    assert not state(120, culture={60: 1}, antibiotic={35: 1}).column("suspicion_of_infection").any()
    assert not state(120, culture={10: 1}, antibiotic=[0] * 120).column("suspicion_of_infection").any()
    assert state(120, culture={0: 1}, antibiotic={72: 1}).column("suspicion_of_infection")[0] == 1


def test_sepsis_begins_with_organ_dysfunction_near_a_suspicion_and_stays():
    infection = {"culture": {60: 1}, "antibiotic": {61: 1}}
    late = state(120, platelets_lowest={84: 90}, **infection).column("sepsis3")  # 2 points at 84 = 60 + 24
    assert list(np.flatnonzero(np.diff(late, prepend=0))) == [84] and late[-1] == 1
    assert not state(120, platelets_lowest={85: 90}, **infection).column("sepsis3").any()
    early = state(120, platelets_lowest={0: 90}, **infection).column("sepsis3")  # the points of hour 0 last until hour 23; 60 - 48 = 12
    assert np.argmax(early) == 12
    assert not state(120, platelets_lowest={60: 101, 61: 120}, **infection).column("sepsis3").any()  # 1 point


def test_a_stay_knows_nothing_of_the_stay_before_it():
    rows = HourRows(
        np.array([1, 1, 2, 2]),
        np.array([0, 1, 0, 1], np.int32),
        {"creatinine": np.array([1.0, 1.0, 3.0, 3.0]), "culture": np.array([1.0, _, _, _]), "antibiotic": np.array([_, _, 1.0, _])},
    )
    near(DerivedState(rows, functions()).column("kdigo_creatinine_stage"), [_, 0, _, 0])
    assert not DerivedState(rows, functions()).column("suspicion_of_infection").any()

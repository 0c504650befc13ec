"""MIMIC-IV in MEDS: what each kind of row becomes."""

from __future__ import annotations

from collections import Counter

import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources.meds.source import MedsSource
from clinjepa.storage import Folder
from tests.support.data.meds_examples import SCHEMA, chart, events_of, infusion, read_all, row, stay_rows, write_meds


def read(tmp_path, rows, **settings):
    return read_all(write_meds(tmp_path, stay_rows() + rows), **settings)


def values(tables, variable):
    return [event["value"] for event in events_of(tables, variable)]


def test_a_stay_carries_its_patient_and_outcome(tmp_path):
    (stay,) = read_all(
        write_meds(tmp_path, stay_rows(died=True) + [chart(226512, 1, 70.0, "kg"), chart(226707, 1, 67.0, "Inch")])
    ).stays.to_pylist()
    told = {
        key: stay[key]
        for key in ("stay_id", "subject_id", "hadm_id", "sex", "race", "died_in_hospital", "died_in_icu", "stay_number_in_admission")
    }
    assert told == {
        "stay_id": 11,
        "subject_id": 1,
        "hadm_id": 101,
        "sex": "female",
        "race": "white",
        "died_in_hospital": True,
        "died_in_icu": True,
        "stay_number_in_admission": 1,
    }
    assert (stay["age_years"], stay["weight_kg"], stay["height_cm"]) == (pytest.approx(60), pytest.approx(70), pytest.approx(170.18))


def test_a_death_after_the_icu_is_a_death_in_hospital_only(tmp_path):
    rows = [r for r in stay_rows(died=True) if r["code"] != "MEDS_DEATH"] + [row("MEDS_DEATH", 45)]
    (stay,) = read_all(write_meds(tmp_path, rows)).stays.to_pylist()
    assert (stay["died_in_hospital"], stay["died_in_icu"]) == (True, False)


@pytest.mark.parametrize(
    ("item", "unit", "value", "variable", "expected"),
    [
        (223761, "°F", 98.6, "temperature", [37.0]),
        (223761, "UNK", 36.6, "temperature", []),
        (223835, "UNK", 0.21, "fio2", [21.0]),
        (223835, "UNK", 40.0, "fio2", [40.0]),
        (223835, "UNK", 6.0, "fio2", []),
        (220277, "%", 43.0, "spo2", []),
        (220045, "furlong", 80.0, "heart_rate", []),
    ],
)
def test_charted_values_are_converted_or_dropped(tmp_path, item, unit, value, variable, expected):
    assert values(read(tmp_path, [chart(item, 2, value, unit)]), variable) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("item", "unit", "value", "rule"),
    [
        (220277, "%", 43.0, "out_of_range:spo2"),
        (220045, "furlong", 80.0, "unknown_unit:heart_rate"),
        (220045, "bpm", None, "non_numeric:heart_rate"),
    ],
)
def test_what_is_dropped_is_counted_by_rule(tmp_path, item, unit, value, rule):
    assert read(tmp_path, [chart(item, 2, value, unit)]).counts[rule] == 1


def test_an_intubated_patient_s_silence_is_no_verbal_score(tmp_path):
    silent = [chart(223900, 2, 1.0, text_value="No Response-ETT"), chart(223900, 6, 1.0, text_value="No Response")]
    tables = read(tmp_path, silent)
    assert [event["time"] for event in events_of(tables, "gcs_verbal")] == [6.0]
    assert tables.counts["not_testable:gcs_verbal"] == 1


def test_labs_without_an_admission_id_are_found_by_time(tmp_path):
    labs = [row("LAB//50813//mmol/L", hours, 2.5) for hours in (-30, -3, 5, 31)]
    tables = read(tmp_path, labs)
    assert [event["time"] for event in events_of(tables, "lactate")] == [-3.0, 5.0]
    assert tables.counts["outside_stay"] == 2


def test_the_charted_copy_of_a_lab_is_not_read_as_the_lab(tmp_path):
    tables = read(tmp_path, [chart(225668, 2, 9.0, "mmol/L"), row("LAB//50813//mmol/L", 2, 2.5)])
    assert values(tables, "lactate") == [2.5]


def test_results_of_a_meds_0_4_export_are_labs_and_specimens_are_not(tmp_path):
    rows = [row("LAB//RESULT//50813//mmol/L", 3, 2.5), row("LAB//SPECIMEN_COLLECTED//50813//STAT", 2)]
    assert values(read(tmp_path, rows), "lactate") == [2.5]


def test_crp_in_mg_per_dl_is_brought_to_mg_per_l(tmp_path):
    assert values(read(tmp_path, [row("LAB//50889//mg/dL", 3, 4.0)]), "crp") == [40.0]


def test_an_infusion_becomes_an_interval_with_its_rate(tmp_path):
    (event,) = events_of(read(tmp_path, infusion(221906, 2, 5.5, 0.25, "mcg/kg/min", 4.0)), "norepinephrine")
    assert (event["time"], event["end_time"], event["value"], event["unit"]) == (2.0, 5.5, 0.25, "mcg/kg/min")


def test_vasopressin_per_hour_is_brought_to_minutes(tmp_path):
    assert values(read(tmp_path, infusion(222315, 2, 5, 2.4, "units/hour", 7.2)), "vasopressin") == pytest.approx([0.04])


def test_a_rate_per_patient_is_divided_by_the_weight_at_the_infusion(tmp_path):
    rows = infusion(221749, 2, 5, 80.0, "mcg/min", 14.4) + [row("SUBJECT_WEIGHT_AT_INFUSION//KG", 2, 80.0)]
    assert values(read(tmp_path, rows), "phenylephrine") == [1.0]


def test_a_pushed_drug_without_a_rate_is_a_medication_with_its_dose(tmp_path):
    tables = read(tmp_path, infusion(221794, 3, 3.02, None, None, 40.0, ordercategorydescription="Drug Push"))
    (event,) = events_of(tables, "medication")
    assert (event["text"], event["value"], event["end_time"]) == ("Furosemide (Lasix)", 40.0, None)


def test_a_rate_below_zero_is_no_bolus_and_is_counted(tmp_path):
    tables = read(tmp_path, infusion(222315, 2, 5, -2.4, "units/hour", 7.2))
    assert (events_of(tables, "medication"), events_of(tables, "vasopressin")) == ([], [])
    assert tables.counts["negative_rate"] == 1


def test_a_reading_without_a_time_is_counted_and_a_static_row_is_not(tmp_path):
    timeless = chart(220045, 3, 99.0, "bpm") | {"time": None}
    static = row("GENDER//F", 0) | {"time": None}
    tables = read(tmp_path, [chart(220045, 2, 80.0, "bpm"), timeless, static])
    assert (values(tables, "heart_rate"), tables.counts["row_without_time"]) == ([80.0], 1)


@pytest.mark.parametrize(("code", "rule"), [("MEDS_BIRTH", "patient_with_several_births"), ("MEDS_DEATH", "patient_with_several_deaths")])
def test_two_births_or_deaths_of_a_patient_are_counted(tmp_path, code, rule):
    assert read(tmp_path / "two", [row(code, 400), row(code, 500)]).counts[rule] == 1
    assert read(tmp_path / "same", [row(code, 400), row(code, 400)]).counts.get(rule, 0) == (1 if code == "MEDS_BIRTH" else 0)


def test_a_row_without_a_code_is_dropped_and_counted(tmp_path):
    nameless = row("LAB//220045//bpm", 3, 99.0, icustay_id=11, hadm_id=101) | {"code": None}
    tables = read(tmp_path, [chart(220045, 2, 80.0, "bpm"), nameless])
    assert (values(tables, "heart_rate"), tables.counts["row_without_code"]) == ([80.0], 1)


def test_a_bolus_of_crystalloid_stays_and_a_drug_s_carrier_goes(tmp_path):
    bolus = infusion(225158, 3, 4, None, None, 500.0, ordercategorydescription="Bolus")
    carrier = infusion(225158, 3, 9, 10.0, "mL/hour", 60.0, order=6)
    solution = infusion(225943, 3, 4, None, None, 50.0, order=7)
    tables = read(tmp_path, bolus + carrier + solution)
    assert values(tables, "crystalloid") == [500.0]
    assert tables.counts["carrier_or_flush"] == 2


def test_antibiotics_are_named_indicators(tmp_path):
    (event,) = events_of(read(tmp_path, infusion(225798, 3, 4, None, None, 1.0)), "antibiotics_iv")
    assert (event["value"], event["text"]) == (1.0, "Vancomycin")


def test_procedures_become_intervals(tmp_path):
    inside = {"icustay_id": 11, "hadm_id": 101}
    rows = [row("PROCEDURE//START//225792", 1, **inside), row("PROCEDURE//END//225792", 20, **inside)]
    (event,) = events_of(read(tmp_path, rows), "invasive_ventilation")
    assert (event["time"], event["end_time"]) == (1.0, 20.0)


def test_a_procedure_whose_end_is_absent_does_not_take_another_s(tmp_path):
    inside = {"icustay_id": 11, "hadm_id": 101}
    rows = [
        row("PROCEDURE//START//225441", 1, **inside),
        row("PROCEDURE//START//225441", 10, **inside),
        row("PROCEDURE//END//225441", 13, **inside),
    ]
    tables = read(tmp_path, rows)
    assert [(event["time"], event["end_time"]) for event in events_of(tables, "hemodialysis")] == [(1.0, None), (10.0, 13.0)]
    assert tables.counts["start_without_end"] == 1


@pytest.mark.parametrize("order", [0, 1])
def test_an_end_at_the_time_of_the_second_start_ends_the_first_only(tmp_path, order):
    inside = {"icustay_id": 11, "hadm_id": 101, "order_id": 8}
    starts = [row("INFUSION_START//220949", hour, 50.0, unit="mL/hour", **inside) for hour in (3, 9)]
    end = row("INFUSION_END//220949", 9, 300.0, unit="ml", **inside)
    tables = read(tmp_path, [*starts, end] if order else [end, *starts])
    events = events_of(tables, "crystalloid")
    assert [(event["time"], event["end_time"], event["value"]) for event in events] == [(3.0, 9.0, 300.0)]
    assert tables.counts["start_without_end"] == 1


def test_every_end_is_given_to_one_start(tmp_path):
    """Starts at 1, 4, 4, 10 and ends at 4, 4, 12: the first two ends end two of the starts, and no start takes what another has."""
    inside = {"icustay_id": 11, "hadm_id": 101}
    rows = [row("PROCEDURE//START//225441", hour, **inside) for hour in (1, 4, 4, 10)]
    rows += [row("PROCEDURE//END//225441", hour, **inside) for hour in (4, 4, 12)]
    tables = read(tmp_path, rows)
    ends = [(event["time"], event["end_time"]) for event in events_of(tables, "hemodialysis")]
    assert ends == [(1.0, 4.0), (4.0, 4.0), (4.0, None), (10.0, 12.0)]
    assert tables.counts["start_without_end"] == 1 and "end_without_start" not in tables.counts


def test_only_drugs_that_were_given_count_and_orders_yield_to_them(tmp_path):
    rows = [
        row("MEDICATION//Aspirin//Administered", 3),
        row("MEDICATION//Senna//Not Given", 3),
        row("MEDICATION//Sodium Chloride 0.9%  Flush//Flushed", 3),
        row("MEDICATION//START//Warfarin", 3),
    ]
    assert [event["text"] for event in events_of(read(tmp_path, rows), "medication")] == ["Aspirin"]


def test_an_order_before_the_first_administration_does_not_depend_on_what_follows(tmp_path):
    order, later = row("MEDICATION//START//Warfarin", 2), row("MEDICATION//Aspirin//Administered", 5)
    before = [event["text"] for event in events_of(read(tmp_path / "cut", [order]), "medication")]
    whole = [event["text"] for event in events_of(read(tmp_path / "whole", [order, later]), "medication")]
    assert (before, whole) == (["Warfarin"], ["Warfarin", "Aspirin"])


def test_orders_stand_in_where_no_administration_was_recorded(tmp_path):
    tables = read(tmp_path, [row("MEDICATION//START//Warfarin", 3), row("MEDICATION//STOP//Warfarin", 9)])
    assert [event["text"] for event in events_of(tables, "medication")] == ["Warfarin"]


def test_excluded_codes_never_become_events(tmp_path):
    tables = read(tmp_path, [row("DIAGNOSIS//ICD//10//A419", 3), row("DRG//APR//720//SEPTICEMIA", 3)])
    assert tables.events.num_rows == 0
    assert (tables.counts["excluded:icd_diagnoses"], tables.counts["excluded:drg"]) == (1, 1)


def test_a_stay_without_measurements_is_kept_with_no_events(tmp_path):
    tables = read(tmp_path, [])
    assert (tables.stays.num_rows, tables.events.num_rows) == (1, 0)


def test_events_outside_their_stay_are_dropped_and_counted(tmp_path):
    tables = read(tmp_path, [chart(220045, hours, 80.0, "bpm") for hours in (-25, -1, 5, 31)])
    assert [event["time"] for event in events_of(tables, "heart_rate")] == [-1.0, 5.0]
    assert tables.counts["outside_stay"] == 2


def test_an_infusion_that_ends_before_it_starts_is_dropped_and_counted(tmp_path):
    tables = read(tmp_path, infusion(221906, 6, 5, 0.2, "mcg/kg/min", 1.0))
    assert events_of(tables, "norepinephrine") == []
    assert tables.counts["end_before_start"] == 1


def test_a_row_given_twice_counts_once(tmp_path):
    tables = read(tmp_path, [chart(220045, 2, 80.0, "bpm")] * 2)
    assert values(tables, "heart_rate") == [80.0]
    assert tables.counts["duplicate_row"] == 1


def test_a_stay_that_ends_before_it_starts_is_dropped_and_counted(tmp_path):
    tables = read_all(write_meds(tmp_path, stay_rows(hours=-2) + stay_rows(subject=2, stay=12)))
    assert tables.stays["stay_id"].to_pylist() == [12]
    assert tables.counts["stay_end_before_start"] == 1


def test_other_spellings_of_the_columns_give_the_same_tables(tmp_path):
    rows = stay_rows() + [chart(220045, 2, 80.0, "bpm")]
    renamed = {name: {"subject_id": "patient_id", "icustay_id": "stay_id"}.get(name, name) for name in SCHEMA}
    first, second = read_all(write_meds(tmp_path / "a", rows)), read_all(write_meds(tmp_path / "b", rows, schema=renamed))
    assert first.stays.equals(second.stays) and first.events.equals(second.events)


def test_an_object_store_s_address_gives_the_same_tables(tmp_path):
    write_meds(tmp_path, stay_rows() + [chart(220045, 2, 80.0, "bpm")])
    Folder("memory://meds").upload(tmp_path)
    source = MedsSource(SourceConfig(kind="meds", path="memory://meds", num_partitions=1))
    (partition,) = source.partitions()
    assert source.read(partition).events.equals(read_all(tmp_path).events)


def test_an_export_without_optional_columns_is_read(tmp_path):
    kept = {name: name for name in SCHEMA if name not in ("text_value", "order_id", "unit", "race", "ordercategorydescription")}
    tables = read_all(write_meds(tmp_path, stay_rows() + [chart(220045, 2, 80.0, "bpm")], schema=kept))
    assert values(tables, "heart_rate") == [80.0]


def test_partitions_are_patient_disjoint_and_together_the_whole(tmp_path):
    rows = [r for subject in range(1, 8) for r in stay_rows(subject=subject, stay=10 + subject)]
    write_meds(tmp_path, rows[: len(rows) // 7 * 3], "data/train/0.parquet")
    write_meds(tmp_path, rows[len(rows) // 7 * 3 :], "data/held_out/0.parquet")
    source = MedsSource(SourceConfig(kind="meds", path=str(tmp_path), num_partitions=3))
    parts = [source.read(partition).stays["subject_id"].to_pylist() for partition in source.partitions()]
    assert len(parts) == 3
    assert sorted(subject for part in parts for subject in part) == list(range(1, 8))


def test_counts_do_not_depend_on_the_number_of_partitions(tmp_path):
    """Three shards whose rows have the same numbers, with labs inside and outside the stays at the same places."""
    for subject in (1, 2, 3):
        rows = stay_rows(subject=subject, stay=30 + subject)
        rows += [
            row("LAB//50912//mg/dL", hour, 1.0 + hour / 50, subject_id=subject) for hour in (-40, -3, 2, 5, 9 + 30 * (subject == 2), 70)
        ]
        write_meds(tmp_path, rows, f"data/train/{subject}.parquet")

    def counted(number):
        source = MedsSource(SourceConfig(kind="meds", path=str(tmp_path), num_partitions=number))
        return sum((Counter(source.read(partition).counts) for partition in source.partitions()), Counter())

    assert counted(1) == counted(2) == counted(3)
    assert counted(1)["outside_stay"] == 4


def test_max_stays_keeps_the_first_by_id(tmp_path):
    rows = [r for subject in (1, 2, 3) for r in stay_rows(subject=subject, stay=20 - subject)]
    assert read_all(write_meds(tmp_path, rows), max_stays=2).stays["stay_id"].to_pylist() == [17, 18]


def test_the_digest_follows_the_content_not_the_place(tmp_path):
    def digest(folder, value):
        write_meds(folder, stay_rows() + [chart(220045, 2, value, "bpm")])
        return MedsSource(SourceConfig(kind="meds", path=str(folder))).content_digest()

    assert digest(tmp_path / "a", 80.0) == digest(tmp_path / "b", 80.0) != digest(tmp_path / "c", 81.0)


def test_the_specimen_of_a_blood_gas_is_that_of_its_time(tmp_path):
    rows = [row("LAB//50821//mm Hg", hour, 40.0) for hour in (2, 3, 4)]
    rows += [row("LAB//52033//UNK", hour, text_value=words) for hour, words in ((2, "ART."), (3, "VEN."))]
    tables = read(tmp_path, rows)
    assert [event["time"] for event in events_of(tables, "pao2")] == [2.0, 4.0]
    assert tables.counts["not_arterial:pao2"] == 1

"""Raw MIMIC-IV: what each kind of row becomes. The traps are numbered as in the list of docs/clinical.md."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources.extraction import extract_all
from clinjepa.sources.mimic_iv.source import MimicIvSource
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.truncation import Chart, cut_chart
from clinjepa.trajectory.hours.ingest import build_partition
from tests.support.data.handmade_stays import lenient_config
from tests.support.data.mimic_iv_examples import ADMITTED, INSIDE, at, chart, events_of, hospital, infusion, lab, read_all, write_mimic


def read(tmp_path, base=None, **tables):
    return read_all(write_mimic(tmp_path, tables, base))


def values(tables, variable):
    return [event["value"] for event in events_of(tables, variable)]


class GivenTables:
    def __init__(self, tables):
        self.tables = tables

    def read(self, partition):
        return self.tables


def test_a_stay_carries_its_patient_and_outcome(tmp_path):
    charted = [chart(226512, 1, 70.0, "kg"), chart(226707, 1, 67.0, "Inch")]
    (stay,) = read(tmp_path, hospital(died=True), chartevents=charted).stays.to_pylist()
    expected = {
        "stay_id": 11,
        "subject_id": 1,
        "hadm_id": 101,
        "sex": "female",
        "race": "white",
        "age_years": 60.0,
        "admission_type": "EW EMER.",
        "care_unit": "Medical ICU",
        "died_in_hospital": True,
        "died_in_icu": True,
        "stay_number_in_admission": 1,
        "chronic_dialysis": None,
    }
    assert {key: stay[key] for key in expected} == expected
    assert (stay["weight_kg"], stay["height_cm"]) == (pytest.approx(70), pytest.approx(170.18))


def test_a_date_of_death_after_discharge_is_no_death_in_hospital(tmp_path):
    base = hospital()
    base["patients"][0]["dod"] = "2150-03-20"
    (stay,) = read(tmp_path, base).stays.to_pylist()
    assert (stay["died_in_hospital"], stay["died_in_icu"], str(stay["death_time"])) == (False, False, "2150-03-20 00:00:00")


def test_a_stay_knows_what_comes_after_it(tmp_path):
    base = hospital()
    base["icustays"].append(base["icustays"][0] | {"stay_id": 12, "intime": at(40), "outtime": at(49)})
    base["admissions"].append(base["admissions"][0] | {"hadm_id": 102, "admittime": at(500), "dischtime": at(600)})
    stay = read(tmp_path, base).stays.to_pylist()[0]
    hours = [
        (stay[name] - ADMITTED).total_seconds() / 3600
        for name in ("hospital_admission_time", "hospital_discharge_time", "next_icu_admission_time", "next_hospital_admission_time")
    ]
    assert hours == [-5, 50, 40, 500]


@pytest.mark.parametrize(("code", "version", "expected"), [("N186", 10, True), ("5856", 9, True), ("N186", 9, False), ("A419", 10, False)])
def test_codes_of_dialysis_mark_the_stay_and_nothing_else(tmp_path, code, version, expected):
    diagnosis = {"subject_id": 1, "hadm_id": 101, "icd_code": code, "icd_version": version}
    tables = read(tmp_path, diagnoses_icd=[diagnosis])
    assert (tables.stays["chronic_dialysis"].to_pylist(), tables.events.num_rows) == ([expected], 0)


def test_trap_1_the_desaturation_alarm_limit_is_no_saturation(tmp_path):
    assert values(read(tmp_path, chartevents=[chart(226253, 2, 85.0, "%"), chart(220277, 2, 97.0, "%")]), "spo2") == [97.0]


def test_trap_2_residuals_of_tube_feed_are_no_urine(tmp_path):
    rows = [INSIDE | {"charttime": at(2), "itemid": item, "value": 120, "valueuom": "ml"} for item in (227510, 226559)]
    tables = read(tmp_path, outputevents=rows)
    assert (values(tables, "urine_output"), tables.counts["unmapped_code"]) == ([120.0], 1)


def test_trap_3_the_text_of_the_skin_is_no_temperature(tmp_path):
    assert values(read(tmp_path, chartevents=[chart(224027, 2, text="Warm")]), "temperature") == []


def test_trap_4_a_lab_item_is_read_from_the_labs(tmp_path):
    tables = read(tmp_path, labevents=[lab(50817, 2, 95.0, "%")], chartevents=[chart(50817, 3, 50.0, "%")])
    assert values(tables, "sao2") == [95.0]


def test_trap_5_all_three_phenylephrines_count(tmp_path):
    rows = [infusion(item, hour, hour + 1, 0.5, "mcg/kg/min", 2.4) for hour, item in enumerate((221749, 229630, 229632), start=2)]
    assert values(read(tmp_path, inputevents=rows), "phenylephrine") == [0.5, 0.5, 0.5]


def test_trap_6_vasopressin_per_hour_is_brought_to_minutes(tmp_path):
    assert values(read(tmp_path, inputevents=[infusion(222315, 2, 5, 2.4, "units/hour", 7.2)]), "vasopressin") == pytest.approx([0.04])


def test_trap_7_a_rate_per_patient_is_divided_by_the_weight_of_its_row(tmp_path):
    assert values(read(tmp_path, inputevents=[infusion(221749, 2, 5, 80.0, "mcg/min", 14.4)]), "phenylephrine") == [1.0]


@pytest.mark.parametrize(("value", "expected"), [(0.21, [21.0]), (40.0, [40.0]), (6.0, [])])
def test_trap_8_oxygen_fractions_become_percent_and_flows_go(tmp_path, value, expected):
    assert values(read(tmp_path, chartevents=[chart(223835, 2, value)]), "fio2") == pytest.approx(expected)


def test_trap_9_charted_copies_of_labs_are_not_read_and_sentinels_go(tmp_path):
    rows = [chart(225668, 2, 9.0, "mmol/L"), chart(220045, 3, 999999, "bpm")]
    tables = read(tmp_path, chartevents=rows, labevents=[lab(50813, 2, 2.5, "mmol/L"), lab(50813, 4, 999999, "mmol/L")])
    assert (values(tables, "lactate"), values(tables, "heart_rate")) == ([2.5], [])
    assert (tables.counts["missing_code:lactate"], tables.counts["missing_code:heart_rate"]) == (1, 1)


@pytest.mark.parametrize("item", [52390, 52408, 52411, 51081, 51977])
def test_traps_10_and_11_items_of_urine_and_pleura_are_no_blood(tmp_path, item):
    assert read(tmp_path, labevents=[lab(item, 2, 4.0, "mg/dL")]).events.num_rows == 0


def test_trap_12_serum_sodium_counts_and_whole_blood_does_not(tmp_path):
    assert values(read(tmp_path, labevents=[lab(50983, 2, 140, "mEq/L"), lab(50824, 2, 120, "mEq/L")]), "sodium") == [140.0]


def test_trap_13_an_intubated_patient_s_silence_is_no_verbal_score(tmp_path):
    rows = [chart(223900, 2, 1, text="No Response-ETT"), chart(223900, 6, 1, text="No Response")]
    tables = read(tmp_path, chartevents=rows)
    assert [event["time"] for event in events_of(tables, "gcs_verbal")] == [6.0]
    assert [event["text"] for event in events_of(tables, "gcs_verbal_response")] == ["No Response-ETT", "No Response"]


def test_trap_14_labs_without_an_admission_are_found_by_patient_and_time(tmp_path):
    tables = read(tmp_path, labevents=[lab(50813, hours, 2.5, "mmol/L") for hours in (-30, -3, 5, 31)])
    assert [event["time"] for event in events_of(tables, "lactate")] == [-3.0, 5.0]
    assert tables.counts["outside_stay"] == 2


def test_trap_14_creatinine_is_read_from_a_week_before(tmp_path):
    tables = read(tmp_path, labevents=[lab(50912, hours, 1.0, "mg/dL") for hours in (-169, -167, 3)])
    assert [event["time"] for event in events_of(tables, "creatinine")] == [-167.0, 3.0]


def test_trap_15_the_time_of_storing_is_kept_where_it_is_filled(tmp_path):
    tables = read(tmp_path, labevents=[lab(50813, 2, 2.5, "mmol/L", storetime=at(3.5)), lab(50813, 4, 2.0, "mmol/L")])
    assert [event["store_time"] for event in events_of(tables, "lactate")] == [3.5, None]


def test_trap_16_a_procedure_lasts_from_its_start_to_its_end(tmp_path):
    row = INSIDE | {"starttime": at(1), "endtime": at(21), "itemid": 225802, "value": 0.83, "valueuom": "day"}
    (event,) = events_of(read(tmp_path, procedureevents=[row]), "crrt")
    assert (event["time"], event["end_time"], event["value"]) == (1.0, 21.0, 1.0)


def test_trap_17_a_sample_with_a_date_only_is_that_whole_day_and_counts_once(tmp_path):
    day = {"subject_id": 1, "chartdate": "2150-03-02 00:00:00", "charttime": None, "micro_specimen_id": 7, "spec_type_desc": "URINE"}
    timed = day | {"charttime": at(5), "micro_specimen_id": 8, "spec_type_desc": "BLOOD CULTURE"}
    found = events_of(read(tmp_path, microbiologyevents=[day, timed, timed]), "culture")
    assert [(event["time"], event["end_time"], event["text"]) for event in found] == [(5.0, None, "BLOOD CULTURE"), (14.0, 38.0, "URINE")]


def test_a_blood_gas_that_is_known_to_be_venous_is_no_arterial_one(tmp_path):
    gases = []
    for hour, specimen in ((2, "ART."), (3, "VEN."), (4, "CENTRAL VENOUS."), (5, None)):
        slip = {"specimen_id": hour}
        gases += [lab(item, hour, value, unit, **slip) for item, value, unit in ((50821, 40.0, "mm Hg"), (50818, 50.0, "mm Hg"))]
        gases += [lab(50820, hour, 7.3, "units", **slip), lab(50813, hour, 2.0, "mmol/L", **slip)]
        gases += [lab(52033, hour, None, text=specimen, **slip)] if specimen else []
    gases += [lab(50821, 6, 90.0, "mm Hg"), lab(52033, 6, None, text="VEN.")]  # rows without a slip's id say nothing of each other
    tables = read(tmp_path, labevents=gases)
    assert [event["time"] for event in events_of(tables, "pao2")] == [2, 5, 6]
    assert [event["time"] for event in events_of(tables, "paco2")] == [2, 5]
    assert [len(events_of(tables, name)) for name in ("ph", "lactate")] == [4, 4]
    assert (tables.counts["not_arterial:pao2"], tables.counts["not_arterial:paco2"]) == (2, 2)
    assert tables.counts.get("unmapped_code", 0) == 0


def test_by_store_time_an_order_stands_until_the_first_administration_is_entered(tmp_path):
    given = [{"subject_id": 1, "charttime": at(2), "storetime": at(6), "medication": "Aspirin", "event_txt": "Administered"}]
    orders = [
        {"subject_id": 1, "starttime": at(hour), "drug": name, "drug_type": "MAIN"} for hour, name in ((4, "Warfarin"), (7, "Heparin"))
    ]
    folder = write_mimic(tmp_path, {"emar": given, "prescriptions": orders})
    names = {}
    for event_time in ("measured", "stored"):
        names[event_time] = [event["text"] for event in events_of(read_all(folder, event_time=event_time), "medication")]
    assert names == {"measured": ["Aspirin"], "stored": ["Aspirin", "Warfarin"]}


def test_of_a_value_stored_twice_the_first_time_of_storing_counts(tmp_path):
    rows = [lab(50813, 2, 2.5, "mmol/L", storetime=at(hour)) for hour in (9, 3)]
    (event,) = events_of(read(tmp_path, labevents=rows), "lactate")
    assert event["store_time"] == 3.0


def test_height_and_weight_carry_the_time_of_their_charting(tmp_path):
    charted = [chart(226512, 7, 70.0, "kg", storetime=at(9))]
    (stay,) = read(tmp_path, chartevents=charted).stays.to_pylist()
    assert ((stay["weight_time"] - ADMITTED).total_seconds(), stay["height_time"]) == (7 * 3600, None)
    (stay,) = read_all(tmp_path, event_time="stored").stays.to_pylist()
    assert (stay["weight_time"] - ADMITTED).total_seconds() == 9 * 3600


def test_a_rate_per_patient_has_the_stored_weight_in_the_texts_and_the_measured_one_in_the_labels(tmp_path):
    """Two weights, the second stored nine hours late; dobutamine begins in between."""
    weights = [chart(226512, 0.1, 80.0, "kg", storetime=at(0.2)), chart(226512, 1, 60.0, "kg", storetime=at(10))]
    pulse = [chart(220045, hour + 0.5, 80.0, "bpm", storetime=at(hour + 0.6)) for hour in range(24)]
    drips = [
        infusion(221653, start, start + 2, 480.0, "mcg/min", 1, storetime=at(start + 0.1), patientweight=None, orderid=start)
        for start in (2, 12)
    ]
    folder = write_mimic(tmp_path / "data", {"chartevents": weights + pulse, "inputevents": drips})
    found = {}
    for event_time in ("measured", "stored"):
        tables = read_all(folder, event_time=event_time)
        found[event_time] = values(tables, "dobutamine")
        assert (tables.measured is None) == (event_time == "measured")
    assert found == {"measured": [8.0, 8.0], "stored": [6.0, 8.0]}
    assert values(replace(tables, events=tables.measured), "dobutamine") == [8.0, 8.0]

    cut = cut_chart(Chart("p", tables, pl.DataFrame({"stay_id": [11], "cut_hour": [5]}))).tables
    assert values(replace(tables, events=cut.measured), "dobutamine") == [8.0], "a cut chart cuts both"

    config = lenient_config(source={"event_time": "stored"})
    for name in ("measured", "grid"):
        build_partition(GivenTables(tables), {}, config, Folder(tmp_path / "ingest"), "p")
        grid = pl.DataFrame(Folder(tmp_path / "ingest").read_table(f"{name}/p.parquet")).sort("hour")
        assert grid["dobutamine"][2] == (8.0 if name == "measured" else 6.0) and grid["dobutamine"][12] == 8.0
    texts = Folder(tmp_path / "ingest").read_table("hours/p.parquet")["action_texts"].to_pylist()[0]
    assert "Dobutamine: 6 mcg/kg/min" in texts[2] and "Dobutamine: 8 mcg/kg/min" in texts[12]


def test_trap_18_the_words_of_a_delirium_assessment_are_kept_as_they_stand(tmp_path):
    (event,) = events_of(read(tmp_path, chartevents=[chart(228332, 2, text="UTA")]), "delirium_assessment")
    assert event["text"] == "UTA"


def test_a_systemic_antibiotic_is_an_interval_and_an_eye_drop_is_none(tmp_path):
    order = {"subject_id": 1, "starttime": at(-50), "stoptime": at(20), "drug": "Vancomycin", "drug_type": "MAIN", "route": "IV"}
    local = [order | {"route": route} for route in ("LEFT EYE", "IT", "NU", "Intraventricular", " inhalation", "INTRA-PLEURAL")]
    others = [*local, order | {"drug": "Ondansetron"}, order | {"starttime": at(-100)}]
    (event,) = events_of(read(tmp_path, prescriptions=[order, *others]), "antibiotic")
    assert (event["time"], event["end_time"], event["text"]) == (-50.0, 20.0, "Vancomycin")


def test_orders_stand_in_where_no_administration_was_recorded(tmp_path):
    orders = [
        {"subject_id": 1, "starttime": at(3), "drug": name, "drug_type": kind} for name, kind in (("Warfarin", "MAIN"), ("NS", "BASE"))
    ]
    tables = read(tmp_path, prescriptions=orders)
    assert [event["text"] for event in events_of(tables, "medication")] == ["Warfarin"]
    assert (tables.counts["carrier_or_flush"], tables.counts["table_missing:emar"]) == (1, 1)


def test_only_drugs_that_were_given_count_and_orders_yield_to_them(tmp_path):
    told = [("Aspirin", "Administered"), ("Senna", "Not Given"), ("Sodium Chloride 0.9%  Flush", "Administered")]
    given = [{"subject_id": 1, "charttime": at(3), "medication": name, "event_txt": event} for name, event in told]
    tables = read(tmp_path, emar=given, prescriptions=[{"subject_id": 1, "starttime": at(3), "drug": "Warfarin"}])
    assert [event["text"] for event in events_of(tables, "medication")] == ["Aspirin"]


def test_a_rewritten_order_and_a_flagged_value_are_left_out_and_counted(tmp_path):
    rewritten = infusion(221906, 2, 5, 0.1, "mcg/kg/min", 1.0, statusdescription="Rewritten")
    flagged = [chart(220045, 2, 80.0, "bpm", warning=1), chart(220045, 3, 90.0, "bpm", warning=0)]
    tables = read(tmp_path, inputevents=[rewritten], chartevents=flagged)
    assert (values(tables, "norepinephrine"), values(tables, "heart_rate")) == ([], [90.0])
    assert (tables.counts["rewritten"], tables.counts["flagged_by_warning"]) == (1, 1)


def test_a_rate_below_zero_is_no_bolus_and_is_counted(tmp_path):
    tables = read(tmp_path, inputevents=[infusion(221906, 2, 5, -0.1, "mcg/kg/min", 1.0)])
    assert (values(tables, "medication"), values(tables, "norepinephrine"), tables.counts["negative_rate"]) == ([], [], 1)


def test_the_digits_of_a_rate_are_those_that_float32_holds(tmp_path):
    assert values(read(tmp_path, inputevents=[infusion(221906, 2, 5, 0.1234567891, "mcg/kg/min", 1.0)]), "norepinephrine") == [0.1234568]


def test_buckets_are_patient_disjoint_and_together_the_whole(tmp_path):
    base = hospital()
    for subject in range(2, 30):
        more = hospital(subject=subject, stay=10 + subject)
        for name in ("patients", "admissions", "icustays"):
            base[name] += more[name]
    rows = [lab(50813, 2, 2.0, "mmol/L", subject_id=subject) for subject in range(1, 30)]
    write_mimic(tmp_path, {"labevents": rows}, base)
    source = MimicIvSource(SourceConfig(kind="mimic_iv", path=str(tmp_path), num_partitions=4))
    out = Folder(tmp_path / "out")
    extract_all(source, out, 1024)
    parts = [source.read(partition, out) for partition in source.partitions()]
    subjects = [set(part.stays["subject_id"].to_pylist()) for part in parts]
    assert len(parts) == 4
    assert sorted(subject for part in subjects for subject in part) == list(range(1, 30))
    assert [part.events.num_rows for part in parts] == [len(part) for part in subjects]


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.s3)])
def object_store(request) -> str:
    return "memory://mimic" if request.param == "memory" else request.getfixturevalue("s3_address")


def test_an_object_store_s_address_gives_the_same_tables(tmp_path, object_store):
    local = read(tmp_path, chartevents=[chart(220045, 2, 80.0, "bpm")], labevents=[lab(50813, 2, 2.5, "mmol/L")])
    for place in ("hosp", "icu"):
        Folder(f"{object_store}/in").upload(tmp_path / place, place)
    source = MimicIvSource(SourceConfig(kind="mimic_iv", path=f"{object_store}/in", num_partitions=1))
    out = Folder(f"{object_store}/out")
    extract_all(source, out, 1024)
    (partition,) = source.partitions()
    assert source.read(partition, out).events.equals(local.events)


def test_max_stays_keeps_the_first_by_id(tmp_path):
    base = hospital(stay=20)
    for subject, stay in ((2, 12), (3, 15)):
        more = hospital(subject=subject, stay=stay)
        for name in ("patients", "admissions", "icustays"):
            base[name] += more[name]
    assert read_all(write_mimic(tmp_path, base=base), max_stays=2).stays["stay_id"].to_pylist() == [12, 15]

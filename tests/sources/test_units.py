"""Values in other units are converted where that is certain, on every source: rates by weight, FiO2 as fraction and percent, SI units."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from clinjepa.clinical import canonical_unit, load_variables
from clinjepa.clinical.units import unit_conversion
from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.challenges.cinc2019 import COLUMNS
from clinjepa.sources.readings.cleaning import convert_values, raw_events
from tests.sources.test_source_openicu import of, ward_map
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data import openicu_examples as icu

START = datetime(2150, 3, 1)


def charted(variable: str, value: float, unit: str | None, hours: float = 2, **more: Any) -> dict[str, Any]:
    place = {"stay_id": 1, "time": START + timedelta(hours=hours), "store_time": None, "patient_weight": None, "text": None}
    return place | {"variable": variable, "value": value, "unit": unit} | more


def convert(*rows: dict[str, Any], event_time: str = "measured") -> tuple[list[float], Counter[str]]:
    """Converted values of the last row's variable, as texts have them, and the counts."""
    counts: Counter[str] = Counter()
    found = convert_values(raw_events(pl.DataFrame(list(rows), infer_schema_length=None)), counts, event_time)
    own = found.filter(pl.col("variable") == rows[-1]["variable"])
    if "view" in own.columns:
        own = own.filter(pl.col("view").ne_missing("labels"))
    return own["value"].to_list(), +counts


@pytest.mark.parametrize(
    ("variable", "value", "unit", "expected"),
    [
        ("norepinephrine", 8.0, "mcg/min", 0.1),
        ("norepinephrine", 8.0, "ug/minute", 0.1),
        ("norepinephrine", 8.0, "\u00b5g/min", 0.1),
        ("norepinephrine", 8.0, "\u03bcg / min", 0.1),
        ("norepinephrine", 0.48, "mg/hr", 0.1),
        ("dopamine", 24.0, "mg/hour", 5.0),
        ("propofol", 240.0, "mg/h", 50.0),
        ("nicardipine", 4.8, "mg/h", 1.0),
        ("dexmedetomidine", 0.01, "mcg/kg/min", 0.6),
        ("dexmedetomidine", 40.0, "mcg/hour", 0.5),
        ("ketamine", 80.0, "mg/h", 1.0),
        ("angiotensin_ii", 1.6, "mcg/min", 20.0),
        ("angiotensin_ii", 0.02, "mcg/kg/min", 20.0),
        ("fentanyl", 1.0, "mcg/kg/h", 80.0),
        ("heparin_infusion", 18.0, "units/kg/hr", 1440.0),
        ("insulin_regular_infusion", 0.05, "U/kg/h", 4.0),
        ("vasopressin", 2.4, "units/hour", 0.04),
        ("amiodarone", 60.0, "mg/h", 1.0),
        ("norepinephrine", 0.1, "mcg/kg/min.", 0.1),
        ("vasopressin", 40.0, "milliunits/min", 0.04),
        ("vasopressin", 2400.0, "mU/hour", 0.04),
    ],
)
def test_a_rate_is_brought_to_its_unit_by_the_patients_weight(variable, value, unit, expected):
    assert convert(charted(variable, value, unit, patient_weight=80.0)) == ([pytest.approx(expected)], {})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([charted("weight", 80.0, "kg", hours=1)], [0.1]),
        ([charted("weight", 176.37, "lb", hours=1)], [pytest.approx(0.1, rel=1e-4)]),
        ([charted("propofol", 10.0, "mcg/kg/min", hours=1, patient_weight=80.0)], [0.1]),
        ([charted("weight", 40.0, "kg", hours=0.5), charted("weight", 80.0, "kg", hours=1), charted("weight", 60.0, "kg", hours=3)], [0.1]),
        ([charted("weight", 80.0, "kg", hours=3)], []),
        ([charted("weight", 80.0, "kg", hours=1, stay_id=2)], []),
        ([charted("weight", 0.0, "kg", hours=1)], []),
        ([charted("weight", 800.0, "kg", hours=1)], []),
    ],
)
def test_without_a_weight_of_its_own_a_rate_takes_the_last_one_known_at_its_time(rows, expected):
    values, counts = convert(*rows, charted("norepinephrine", 8.0, "mcg/min", hours=2))
    assert values == expected
    assert counts["no_weight:norepinephrine"] == (not expected)


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0, 999.0])
def test_an_implausible_weight_of_a_row_is_no_weight(weight):
    assert convert(charted("norepinephrine", 8.0, "mcg/min", patient_weight=weight)) == ([], {"no_weight:norepinephrine": 1})


def test_by_time_of_storage_a_weight_is_known_once_it_is_stored():
    weight = charted("weight", 80.0, "kg", hours=1, store_time=START + timedelta(hours=5))
    for stored_hours, expected in ((3, []), (6, [0.1])):
        rate = charted("norepinephrine", 8.0, "mcg/min", hours=2, store_time=START + timedelta(hours=stored_hours))
        assert convert(weight, rate, event_time="stored")[0] == expected
        assert convert(weight, rate)[0] == [0.1]


def test_labels_take_the_weight_that_was_measured_by_then_whenever_it_was_stored():
    late = charted("weight", 60.0, "kg", hours=1, store_time=START + timedelta(hours=9))
    rate = charted("dobutamine", 480.0, "mcg/min", hours=2, store_time=START + timedelta(hours=3))
    early = charted("weight", 80.0, "kg", hours=0, store_time=START)
    for rows, texts, labels in (([early, late, rate], [6.0], [8.0]), ([late, rate], [], [8.0]), ([early, rate], [6.0], [6.0])):
        counts: Counter[str] = Counter()
        found = convert_values(raw_events(pl.DataFrame(rows, infer_schema_length=None)), counts, "stored")
        found = found.filter(pl.col("variable") == "dobutamine")
        assert found.filter(pl.col("view").ne_missing("labels"))["value"].to_list() == texts
        assert found.filter(pl.col("view").ne_missing("texts"))["value"].to_list() == labels
        assert counts["no_weight:dobutamine"] == (not texts), "the rows of the labels are counted with those of the texts"


def test_a_rate_in_its_own_unit_needs_no_weight():
    assert convert(charted("norepinephrine", 0.1, "mcg/kg/min")) == ([0.1], {})


@pytest.mark.parametrize(
    ("variable", "value", "unit", "expected"),
    [
        ("glucose", 5.0, "mmol/L", 90.078),
        ("creatinine", 88.4, "umol/L", 1.0),
        ("bun", 10.0, "mmol/L", 28.014),
        ("lactate", 18.0, "mg/dL", 1.998),
        ("calcium_total", 4.4, "mEq/L", 8.817),
        ("magnesium", 1.0, "mmol/L", 2.4305),
        ("bilirubin_total", 17.1, "umol/L", 1.0),
        ("hemoglobin", 120.0, "g/L", 12.0),
        ("hemoglobin", 8.0, "mmol/L", 12.89),
        ("albumin", 35.0, "g/L", 3.5),
        ("crp", 4.0, "mg/dL", 40.0),
        ("troponin_t", 52.0, "ng/L", 0.052),
        ("pao2", 12.0, "kPa", 90.0),
        ("platelets", 200000.0, "#/uL", 200.0),
        ("platelets", 200000.0, "/mm3", 200.0),
        ("wbc", 9500.0, "cells / mm3", 9.5),
        ("sodium", 140.0, "mmol/L.", 140.0),
        ("cvp", 10.0, "cmH2O", 7.356),
        ("spo2", 0.97, "fraction", 97.0),
        ("temperature", 98.6, "\u00b0F", 37.0),
        ("height", 70.0, "inches", 177.8),
    ],
)
def test_a_unit_of_the_same_quantity_is_converted(variable, value, unit, expected):
    assert convert(charted(variable, value, unit)) == ([pytest.approx(expected, rel=1e-3)], {})


@pytest.mark.parametrize(
    ("variable", "value", "unit"),
    [
        ("norepinephrine", 5.0, "mL/h"),
        ("heart_rate", 80.0, "mmHg"),
        ("sodium", 140.0, "mg/dL"),
        ("fio2", 40.0, "L/min"),
        ("crp", 4.0, "mmol/L"),
    ],
)
def test_a_unit_of_another_quantity_is_dropped_and_counted(variable, value, unit):
    assert convert(charted(variable, value, unit, patient_weight=80.0)) == ([], {f"unknown_unit:{variable}": 1})


def test_the_table_keeps_a_value_that_is_in_the_unit_of_its_variable():
    for variable in load_variables().values():
        found = unit_conversion(canonical_unit(variable.unit) or "", variable.name)
        assert found is None or found == (1.0, 0)


FRACTION_AND_PERCENT = {2: 0.4, 3: 55.0, 4: 1.0, 5: 6.0}
PERCENT = [40.0, 55.0, 100.0]


def _cinc2012(folder):
    (folder / "set-a").mkdir(parents=True)
    statics = "00:00,RecordID,1\n00:00,Age,54\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,4\n00:00,Weight,80.5\n"
    rows = "".join(f"{hour:02d}:00,FiO2,{value}\n" for hour, value in FRACTION_AND_PERCENT.items())
    (folder / "set-a/1.txt").write_text(f"Time,Parameter,Value\n{statics}{rows}")
    (folder / "Outcomes-a.txt").write_text("RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n1,6,1,5,-1,0\n")
    return _read("cinc2012", folder)


def _cinc2019(folder):
    (folder / "training_setA").mkdir(parents=True)
    statics = {"Age": "61", "Gender": "1", "Unit1": "0", "Unit2": "1", "HospAdmTime": "-2", "SepsisLabel": "0"}
    rows = [
        dict.fromkeys(COLUMNS, "NaN") | statics | {"ICULOS": str(hour), "FiO2": str(value)} for hour, value in FRACTION_AND_PERCENT.items()
    ]
    lines = ["|".join(COLUMNS), *("|".join(row[name] for name in COLUMNS) for row in rows)]
    (folder / "training_setA/p000001.psv").write_text("\n".join(lines) + "\n")
    return _read("cinc2019", folder)


def _read(kind, folder):
    source = open_source(SourceConfig(kind=kind, path=str(folder), num_partitions=1))
    (partition,) = source.partitions()
    return source.read(partition)


def _mimic_iv(folder):
    rows = [mimic.chart(223835, hour, value) for hour, value in FRACTION_AND_PERCENT.items()]
    return mimic.read_all(mimic.write_mimic(folder, {"chartevents": rows}))


def _meds(folder):
    rows = [meds.chart(223835, hour, value) for hour, value in FRACTION_AND_PERCENT.items()]
    return meds.read_all(meds.write_meds(folder, [*meds.stay_rows(), *rows]))


@pytest.mark.parametrize("read", [_mimic_iv, _meds, _cinc2012, _cinc2019])
def test_oxygen_as_fraction_and_percent_in_one_record_becomes_percent(tmp_path, read):
    tables = read(tmp_path)
    found = [event["value"] for event in tables.events.to_pylist() if event["variable"] == "fio2"]
    assert found == pytest.approx(PERCENT)
    assert tables.counts["out_of_range:fio2"] == 1


def test_both_readers_of_mimic_iv_convert_a_rate_per_patient_alike(tmp_path):
    """80 kg at the first infusion, none at the second, none known before the third of another drug at the start."""
    given = [(221749, 1, 80.0, None), (221662, 2, 8.0, 80.0), (221906, 3, 8.0, None)]
    rows = [mimic.infusion(item, start, start + 1, rate, "mcg/min", 4.0, patientweight=weight) for item, start, rate, weight in given]
    raw = mimic.read_all(mimic.write_mimic(tmp_path / "raw", {"inputevents": rows}))
    converted = [*meds.stay_rows(), meds.row("SUBJECT_WEIGHT_AT_INFUSION//KG", 2, 80.0)]
    for order, (item, start, rate, _) in enumerate(given):
        converted += meds.infusion(item, start, start + 1, rate, "mcg/min", 4.0, order=order)
    for tables in (raw, meds.read_all(meds.write_meds(tmp_path / "meds", converted))):
        values = {event["variable"]: event["value"] for event in tables.events.to_pylist()}
        assert values == {"dopamine": pytest.approx(0.1), "norepinephrine": pytest.approx(0.1)}
        assert tables.counts["no_weight:phenylephrine"] == 1


MICRO = ["\u00b5", "\u03bc", "u"]


@pytest.mark.parametrize("sign", MICRO)
@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("10^3/{}L", "K/uL"),
        ("{}g/kg/min", "mcg/kg/min"),
        ("{}mol/L", "umol/L"),
        ("{}g/dL", "mcg/dL"),
        ("x10^3/{}l ", "K/uL"),
        ("{}G/H", "mcg/h"),
    ],
)
def test_both_signs_for_micro_are_read(spelling, unit, sign):
    assert canonical_unit(spelling.format(sign)) == unit


@pytest.mark.parametrize(("spelling", "unit"), [("no units", None), ("(No Units)", None), ("mm/hour", "mm/hr"), ("mm/Hr", "mm/hr")])
def test_words_for_no_unit_and_hours_written_out(spelling, unit):
    assert canonical_unit(spelling) == unit


NO_UNITS = [None, "", "  ", "UNK", "unk", "N/A", "-", "None", "No Units"]
"""What a unit column holds where it says nothing."""


@pytest.mark.parametrize("unit", NO_UNITS)
def test_a_unit_that_says_nothing_leaves_that_of_the_map(tmp_path, unit):
    """Urea 6 mmol/L is 16.8 mg/dL of nitrogen; a row with a unit of its own keeps it."""
    codes = {
        "UREA": {"variables": "bun", "unit": "mmol/L"},
        "LAC": {"variables": "lactate", "unit": "mg/dL"},
        "DRUG": {"variables": "medication", "unit": "g"},
        "PULSE": "heart_rate",
    }
    rows = [icu.row(1, 10, "WARD//IN", unit=unit), icu.row(1, 40, "WARD//OUT", unit=unit), icu.row(1, 11, "PULSE", 80.0, unit=unit)]
    rows += [icu.row(1, 12, "UREA", 6.0, unit=unit), icu.row(1, 13, "UREA", 20.0, unit="mg/dL"), icu.row(1, 12, "LAC", 18.0, unit=unit)]
    rows += [icu.row(1, 14, "DRUG//Ceftriaxone", 2.0, unit=unit)]
    own = ward_map(tmp_path / "ward.yaml", codes=codes)
    _, events, counts = icu.read_one(icu.write_shards(tmp_path / "meds", rows, 1), map=own)
    assert of(events, "bun", 101)["value"].to_list() == [pytest.approx(16.808, rel=1e-3), 20.0]
    assert of(events, "lactate", 101)["value"].to_list() == [pytest.approx(1.998, rel=1e-3)]
    assert of(events, "medication", 101).select("value", "unit").rows() == [(2.0, "g")]
    assert counts == {}


@pytest.mark.parametrize("unit", NO_UNITS)
def test_a_unit_that_says_nothing_leaves_that_of_the_code(tmp_path, unit):
    said = "UNK" if unit is None else unit
    own = ward_map(tmp_path / "ward.yaml", unit_in_code=True, codes={"PULSE": "heart_rate", "UREA": {"variables": "bun", "unit": "mmol/L"}})
    rows = [icu.row(1, 10, "WARD//IN"), icu.row(1, 40, "WARD//OUT"), icu.row(1, 11, "PULSE//bpm", 80.0, unit=unit)]
    rows += [icu.row(1, 12, "UREA//g/L", 0.25, unit=unit), icu.row(1, 13, f"UREA//{said}", 6.0, unit=unit)]
    _, events, _ = icu.read_one(icu.write_shards(tmp_path / "mapped", rows, 1), map=own)
    assert of(events, "bun", 101)["value"].to_list() == [pytest.approx(25.0), pytest.approx(16.808, rel=1e-3)]


@pytest.mark.parametrize("unit", NO_UNITS)
def test_meds_of_mimic_takes_the_unit_of_the_code_where_the_row_says_none(tmp_path, unit):
    """Urea 6 mmol/L by its code; phenylephrine 160 mcg/min at 80 kg is 2 mcg/kg/min."""
    inside = {"icustay_id": 11, "hadm_id": 101}
    rows = [*meds.stay_rows(), meds.row("LAB//51006//mmol/L", 2, 6.0, unit=unit, hadm_id=101)]
    rows += [meds.row("SUBJECT_WEIGHT_AT_INFUSION//KG", 3, 80.0)]
    rows += [
        meds.row("INFUSION_START//221749//mcg/min", 3, 160.0, unit=unit, order_id=5, **inside),
        meds.row("INFUSION_END//221749//mg", 4, 9.6, unit=unit, order_id=5, **inside),
    ]
    found = {event["variable"]: event["value"] for event in meds.read_all(meds.write_meds(tmp_path, rows)).events.to_pylist()}
    assert found == {"bun": pytest.approx(16.808, rel=1e-3), "phenylephrine": pytest.approx(2.0)}

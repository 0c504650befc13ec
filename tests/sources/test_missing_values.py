"""Values that mean "not measured" are dropped and counted alike on every source; values that a patient can have stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables, open_source
from clinjepa.sources.challenges.cinc2019 import COLUMNS
from clinjepa.sources.readings.cleaning import convert_values, raw_events
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic


def _mimic_iv(folder: Path, variable: str, value: float) -> SourceTables:
    item = {"map": 220052, "spo2": 220277, "cvp": 220074}
    if variable in item:
        return mimic.read_all(mimic.write_mimic(folder, {"chartevents": [mimic.chart(item[variable], 2, value)]}))
    if variable == "urine_output":
        row = mimic.INSIDE | {"charttime": mimic.at(2), "itemid": 226560, "value": value, "valueuom": "mL"}
        return mimic.read_all(mimic.write_mimic(folder, {"outputevents": [row]}))
    return mimic.read_all(
        mimic.write_mimic(folder, {"labevents": [mimic.lab({"lactate": 50813, "base_excess": 50802}[variable], 2, value)]})
    )


def _meds(folder: Path, variable: str, value: float) -> SourceTables:
    code = {"lactate": "LAB//50813//UNK", "base_excess": "LAB//50802//UNK", "urine_output": "SUBJECT_FLUID_OUTPUT//226560//mL"}
    item = {"map": 220052, "spo2": 220277, "cvp": 220074}
    inside = {"icustay_id": 11, "hadm_id": 101} if variable == "urine_output" else {}
    row = meds.chart(item[variable], 2, value) if variable in item else meds.row(code[variable], 2, value, **inside)
    return meds.read_all(meds.write_meds(folder, [*meds.stay_rows(), row]))


def _cinc2012(folder: Path, variable: str, value: float) -> SourceTables:
    parameter = {"map": "MAP", "lactate": "Lactate", "urine_output": "Urine"}[variable]
    (folder / "set-a").mkdir(parents=True)
    statics = "00:00,RecordID,1\n00:00,Age,54\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,4\n00:00,Weight,80.5\n"
    (folder / "set-a/1.txt").write_text(f"Time,Parameter,Value\n{statics}02:00,{parameter},{value}\n")
    (folder / "Outcomes-a.txt").write_text("RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n1,6,1,5,-1,0\n")
    return _read("cinc2012", folder)


def _cinc2019(folder: Path, variable: str, value: float) -> SourceTables:
    column = {"map": "MAP", "spo2": "O2Sat", "lactate": "Lactate", "base_excess": "BaseExcess"}[variable]
    (folder / "training_setA").mkdir(parents=True)
    statics = {"Age": "61", "Gender": "1", "Unit1": "0", "Unit2": "1", "HospAdmTime": "-2", "SepsisLabel": "0"}
    fields = dict.fromkeys(COLUMNS, "NaN") | statics | {"ICULOS": "3", column: str(value)}
    (folder / "training_setA/p000001.psv").write_text("|".join(COLUMNS) + "\n" + "|".join(fields[name] for name in COLUMNS) + "\n")
    return _read("cinc2019", folder)


def _read(kind: str, folder: Path) -> SourceTables:
    source = open_source(SourceConfig(kind=kind, path=str(folder), num_partitions=1))
    (partition,) = source.partitions()
    return source.read(partition)


READ = {"mimic_iv": _mimic_iv, "meds": _meds, "cinc2012": _cinc2012, "cinc2019": _cinc2019}


@pytest.mark.parametrize(
    ("source", "variable", "value", "rule"),
    [
        *((source, "map", 0, "zero_reading") for source in READ),
        *((source, "lactate", 0, "zero_reading") for source in READ),
        *((source, "map", -1, "missing_code") for source in READ),
        *((source, "spo2", 999999, "missing_code") for source in ("mimic_iv", "meds", "cinc2019")),
        *((source, "urine_output", -1, "missing_code") for source in ("mimic_iv", "meds", "cinc2012")),
    ],
)
def test_a_value_that_cannot_be_measured_is_left_out_and_counted(tmp_path, source, variable, value, rule):
    tables = READ[source](tmp_path, variable, value)
    assert variable not in tables.events["variable"].to_pylist()
    assert tables.counts[f"{rule}:{variable}"] == 1


@pytest.mark.parametrize(
    ("source", "variable", "value"),
    [
        *((source, "urine_output", 0) for source in ("mimic_iv", "meds", "cinc2012")),
        *((source, "cvp", value) for source in ("mimic_iv", "meds") for value in (0, -1)),
        *((source, "base_excess", value) for source in ("mimic_iv", "meds", "cinc2019") for value in (0, -1, -9)),
    ],
)
def test_a_zero_or_minus_one_that_a_patient_can_have_stays(tmp_path, source, variable, value):
    tables = READ[source](tmp_path, variable, value)
    found = [event["value"] for event in tables.events.to_pylist() if event["variable"] == variable]
    assert found == [value]


READINGS = [
    *((name, 9999.0, None) for name in ("alt", "ast", "ldh", "amylase", "lipase", "ck", "ntprobnp", "d_dimer")),
    ("ck", 9999.0, "IU/L"),
    ("wbc", 9999.0, "/mm3"),
    ("platelets", 99999.0, "#/uL"),
    *((name, -1.0, None) for name in ("base_excess", "anion_gap", "cvp", "icp", "rass")),
]
MISSING = [
    ("wbc", 9999.0, "K/uL"),
    ("creatinine", 9999.0, None),
    ("ck", 999999.0, "U/L"),
    ("urine_output", -1.0, "mL"),
    ("alp", -9.0, "U/L"),
]


@pytest.mark.parametrize(("variable", "value", "unit"), READINGS)
def test_a_code_inside_the_plausible_range_is_a_reading(variable, value, unit):
    counts: Counter[str] = Counter()
    found = convert_values(raw_events(pl.DataFrame([{"stay_id": 1, "variable": variable, "value": value, "unit": unit}])), counts)
    assert found["variable"].to_list() == [variable] and counts == {}


@pytest.mark.parametrize(("variable", "value", "unit"), MISSING)
def test_a_code_outside_the_plausible_range_or_listed_is_missing(variable, value, unit):
    counts: Counter[str] = Counter()
    found = convert_values(raw_events(pl.DataFrame([{"stay_id": 1, "variable": variable, "value": value, "unit": unit}])), counts)
    assert found.height == 0 and counts == {f"missing_code:{variable}": 1}


def test_a_stopped_vasopressor_keeps_its_zero_and_a_category_loses_its_word_for_missing():
    rows = [
        {"stay_id": 1, "variable": "norepinephrine", "value": 0.0, "unit": "mcg/kg/min", "text": None},
        {"stay_id": 1, "variable": "o2_device", "value": None, "unit": None, "text": " Unknown "},
        {"stay_id": 1, "variable": "o2_device", "value": None, "unit": None, "text": "None"},
        {"stay_id": 1, "variable": "medication", "value": -1.0, "unit": "mg", "text": "N/A"},
    ]
    counts: Counter[str] = Counter()
    found = convert_values(raw_events(pl.DataFrame(rows)), counts)
    assert sorted(found["variable"].to_list()) == ["medication", "norepinephrine", "o2_device"]
    assert counts == {"missing_code:o2_device": 1}

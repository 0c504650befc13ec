"""Columns that are not what their name says: certain readings go to their own variable, the others are named in the data card."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from clinjepa.clinical import load_variables
from clinjepa.clinical.definitions import read_definitions
from clinjepa.clinical.misfiled import load_misfiled, parse_misfiled
from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ConfigError
from clinjepa.report.data_card_page import render_data_card
from clinjepa.sources import SourceTables, open_source
from clinjepa.sources.challenges.cinc2019 import COLUMNS
from clinjepa.sources.readings.cleaning import at_sites, convert_values, raw_events
from clinjepa.sources.readings.misfiled import move_misfiled
from clinjepa.sources.readings.range_losses import Counts, GroupLosses, add_losses
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.data_card import NOTES, grouped_drops
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.hours.odd_medians import describe_odd, odd_medians
from clinjepa.trajectory.hours.range_losses import LEAST_READINGS, LEAST_SHARE, describe, range_losses
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data.handmade_stays import at, event, events_table, lenient_config, stays_table

VARIABLES = load_variables()


def events(*rows: tuple[str, float, str | None], item: int | None = None) -> pl.DataFrame:
    """Raw events (variable, value, unit) of stays 1, 2, …"""
    return raw_events(
        pl.DataFrame([{"stay_id": 1 + i, "variable": v, "value": x, "unit": u, "item": item, "row": i} for i, (v, x, u) in enumerate(rows)])
    )


def moved(variable: str, value: float, unit: str | None, item: int | None = None) -> tuple[tuple, dict[str, int]]:
    counts: Counter[str] = Counter()
    found = convert_values(events((variable, value, unit), item=item), counts)
    return (tuple(found.select("variable", "value", "unit").row(0)) if found.height else ()), dict(counts)


@pytest.mark.parametrize("unit", [None, "mg/dL", "mmol/L"])
def test_ionised_calcium_under_calcium_goes_to_its_own_variable_and_is_counted(unit):
    found, counts = moved("calcium_total", 1.12, unit)
    assert found == ("calcium_ionized", 1.12, "mmol/L") and counts == {"ionized_calcium_under_calcium:calcium_total": 1}


def test_total_calcium_stays_where_it_is():
    assert moved("calcium_total", 8.9, "mg/dL") == (("calcium_total", 8.9, "mg/dL"), {})
    assert moved("calcium_ionized", 1.12, "mmol/L") == (("calcium_ionized", 1.12, "mmol/L"), {})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("calcium_ionized", 9.2, ("calcium_total", 9.2)),
        ("temperature", 98.6, ("temperature", 37.0)),
        ("spo2", 0.97, ("spo2", 97.0)),
        ("spo2", 1.0, ("spo2", 100.0)),
        ("sao2", 0.91, ("sao2", 91.0)),
        ("hematocrit", 0.31, ("hematocrit", 31.0)),
        ("hemoglobin", 105.0, ("hemoglobin", 10.5)),
        ("albumin", 31.0, ("albumin", 3.1)),
        ("total_protein", 62.0, ("total_protein", 6.2)),
        ("wbc", 9100.0, ("wbc", 9.1)),
        ("platelets", 215000.0, ("platelets", 215.0)),
    ],
)
def test_a_number_that_only_another_unit_can_explain_is_converted(variable, value, expected):
    found, counts = moved(variable, value, None)
    assert found[0] == expected[0] and found[1] == pytest.approx(expected[1]) and found[2] == VARIABLES[expected[0]].unit
    assert sum(counts.values()) == 1 and next(iter(counts)).partition(":")[2] == variable


@pytest.mark.parametrize(("variable", "value"), [("calcium_total", 1.8), ("spo2", 12.0), ("temperature", 60.0), ("hemoglobin", 27.0)])
def test_a_number_with_more_than_one_explanation_is_dropped_as_before(variable, value):
    assert moved(variable, value, None) == ((), {f"out_of_range:{variable}": 1})


def test_an_item_with_a_conversion_of_its_own_is_left_to_it():
    assert moved("temperature", 98.6, "°F", item=223761)[0][:2] == ("temperature", pytest.approx(37.0))
    found, counts = moved("temperature", 98.6, None, item=223761)
    assert found[:2] == ("temperature", pytest.approx(37.0)) and counts == {}


@pytest.mark.parametrize("unit", [None, "\u00b0C", "C"])
@pytest.mark.parametrize("value", [98.6, 100.4])
def test_fahrenheit_under_the_celsius_item_is_converted_as_without_an_item(value, unit):
    found, counts = moved("temperature", value, unit, item=223762)
    assert found == moved("temperature", value, unit)[0] and found[1] == pytest.approx((value - 32) / 1.8)
    assert counts == {"fahrenheit_under_celsius:temperature": 1}
    assert moved("temperature", 60.0, unit, item=223762) == ((), {"out_of_range:temperature": 1})


def test_both_readers_of_mimic_iv_convert_fahrenheit_under_the_celsius_item(tmp_path):
    raw = mimic.read_all(mimic.write_mimic(tmp_path / "raw", {"chartevents": [mimic.chart(223762, 2, 100.4)]}))
    for tables in (raw, meds.read_all(meds.write_meds(tmp_path / "meds", [*meds.stay_rows(), meds.chart(223762, 2, 100.4)]))):
        assert [row["value"] for row in tables.events.to_pylist() if row["variable"] == "temperature"] == [pytest.approx(38.0)]
        assert tables.counts["fahrenheit_under_celsius:temperature"] == 1


def test_every_rule_is_disjoint_from_the_range_that_it_takes_from():
    for rule in load_misfiled():
        low, high = VARIABLES[rule.variable].minimum, VARIABLES[rule.variable].maximum
        assert rule.highest < low or rule.lowest > high
    raw = read_definitions("maps/misfiled.yaml")["rules"][0]
    with pytest.raises(ConfigError, match="not disjoint from the plausible"):
        parse_misfiled({**raw, "to": 5}, "x.yaml")
    with pytest.raises(ConfigError, match="outside the plausible"):
        parse_misfiled({**raw, "multiply": 40}, "x.yaml")
    with pytest.raises(ConfigError, match="'blood' is not a variable"):
        parse_misfiled({**raw, "becomes": "blood"}, "x.yaml")


def test_moved_readings_are_a_note_of_the_card_and_no_drop():
    rule = load_misfiled()[0].name
    assert rule in NOTES and set(grouped_drops({f"{rule}:calcium_total": 4})) == {"moved"}


def losses(*parts: pl.DataFrame) -> list:
    found = []
    for part in parts:
        counts = Counts()
        convert_values(part, counts)
        found.append(counts.losses)
    return found


def column(variable: str, values: list[float], unit: str | None, site: str | None = None) -> pl.DataFrame:
    rows = events(*((variable, value, unit) for value in values))
    return at_sites(rows, dict.fromkeys(rows["stay_id"], site)) if site else rows


def test_a_variable_that_loses_much_is_named_with_share_median_and_what_would_fit():
    # 1.5 to 1.9: too high to be certainly ionised calcium, too low for total calcium
    lost = [1.5 + 0.02 * step for step in range(20)]
    (loss,) = range_losses(losses(column("calcium_total", lost + [9.0] * 80, None)))
    assert (loss["variable"], loss["where"], loss["num_lost"], loss["num_readings"]) == ("calcium_total", "all readings", 20, 100)
    assert loss["share_lost"] == 0.2 and loss["median_lost"] == pytest.approx(1.68)
    assert any(fit.startswith("Ionized Calcium") for fit in loss["fits"]) and "calcium_total_highest" not in str(loss)
    line = describe(loss)
    assert "20 of 100 readings (20 %)" in line and "median 1.68" in line and "Ionized Calcium" in line and "\n" not in line


@pytest.mark.parametrize(
    ("variable", "value", "fit"),
    [
        ("creatinine", 84.0, "Creatinine in umol/L"),
        ("bilirubin_total", 250.0, "Total Bilirubin in umol/L"),
        ("platelets", 0.2, "Platelets in M/uL"),
        ("paco2", 4.9, "PaCO2 in kPa"),
        ("height", 1.7, "Height in m"),
        ("height", 66.0, "Height in inch"),
        ("weight", 450.0, "Weight in lb"),
        ("norepinephrine", 8.0, "Norepinephrine in mcg/min (at 80 kg)"),
        ("vasopressin", 2.4, "Vasopressin in units/h"),
        ("lactate", 40.0, "Lactate in mg/dL"),
        ("albumin", 42.0, "Albumin in g/L"),
        ("temperature", 310.0, None),
    ],
)
def test_what_would_fit_is_sought_in_every_unit_of_the_table(variable, value, fit):
    (loss,) = range_losses([[group(variable, lost={str(value): 40})]])
    assert (fit in loss["fits"]) if fit else loss["fits"] == []
    assert all(found.startswith(VARIABLES[variable].text_name + " ") and "Infusion" not in found for found in loss["fits"])


@pytest.mark.parametrize(
    ("variable", "value", "unit", "fit"),
    [
        ("glucose", 5.6, None, "Glucose in mmol/L"),
        ("glucose", 5.6, "mg/dL", "Glucose in mmol/L"),
        ("glucose", 100.0, "mmol/L", "Glucose in mg/dL"),
        ("bilirubin_total", 14.0, None, "Total Bilirubin in umol/L"),
        ("lactate", 18.0, None, "Lactate in mg/dL"),
        ("bun", 5.0, None, "BUN in mmol/L"),
        ("calcium_total", 2.1, None, "Calcium in mmol/L"),
        ("magnesium", 0.8, None, "Magnesium in mmol/L"),
        ("phosphate", 1.1, None, "Phosphate in mmol/L"),
        ("hemoglobin", 6.2, None, "Hemoglobin in mmol/L"),
        ("cholesterol", 4.2, None, "Cholesterol in mmol/L"),
        ("paco2", 5.3, None, "PaCO2 in kPa"),
        ("map", 11.0, None, "MAP in kPa"),
        ("pao2", 12.0, None, "PaO2 in kPa"),
        ("body_weight", 176.0, None, "Weight in lb"),
    ],
)
def test_a_whole_column_in_another_unit_is_named_by_its_median_and_not_changed(variable, value, unit, fit):
    found = losses(column(variable, [value] * 12, unit))
    assert range_losses(found) == []
    (odd,) = odd_medians(found)
    assert odd["where"] == "all readings" and fit in odd["fits"] and fit in describe_odd(odd)


def test_an_odd_median_of_one_site_is_named_and_few_readings_or_usual_ones_are_not():
    usual = column("glucose", [110.0] * 90, None, "A")
    (odd,) = odd_medians(losses(usual, column("glucose", [5.6] * 10, None, "B")))
    assert (odd["where"], odd["num_readings"], odd["median"]) == ("site B", 10, 5.6)
    assert odd_medians(losses(usual, column("glucose", [5.6] * (LEAST_READINGS - 1), None, "B"))) == []
    assert odd_medians(losses(column("glucose", [6.1] * 20, "mmol/L"), column("creatinine", [1.1] * 20, None))) == []


def test_a_wrong_unit_beside_numbers_in_the_right_one_is_seen_from_the_numbers():
    (loss,) = range_losses([[group("glucose", lost={"150": 40}, unit="mmol/L")]])
    assert "Glucose in mg/dL" in loss["fits"]


def group(variable: str, lost: dict[str, int], unit: str | None = None, number: int = 40) -> GroupLosses:
    return {
        "variable": variable,
        "site": None,
        "unit": unit,
        "item": None,
        "num_readings": number,
        "num_lost": sum(lost.values()),
        "values": lost,
    }


def test_a_site_stands_out_although_the_whole_does_not():
    parts = [
        column("sodium", [140.0] * 2000, None, "A"),
        column("sodium", [140.0] * 60, None, "B"),
        column("sodium", [14.1] * 40, None, "B"),
    ]
    (loss,) = range_losses(losses(*parts))
    assert (loss["where"], loss["num_lost"], loss["num_readings"]) == ("site B", 40, 100) and loss["fits"] == []
    assert "no other variable or unit" in describe(loss)


def test_a_unit_that_is_not_known_stands_out_with_its_name():
    parts = [column("ptt", [30.0] * 100, "sec"), column("ptt", [1.1] * 12, "furlong")]
    found = {loss["where"]: loss for loss in range_losses(losses(*parts))}
    assert set(found) == {"all readings", "unit furlong"} and found["unit furlong"]["share_lost"] == 1.0
    assert found["unit furlong"]["units"] == ["furlong"] and "(100 %)" in describe(found["unit furlong"])


def test_few_losses_are_not_named_so_that_a_median_is_no_patients_value():
    assert LEAST_READINGS >= 10 and 0.01 < LEAST_SHARE <= 0.05
    assert range_losses(losses(column("lactate", [99.0] * (LEAST_READINGS - 1) + [2.0] * 5, None))) == []
    assert range_losses(losses(column("lactate", [99.0] * LEAST_READINGS + [2.0] * 1000, None))) == []


def test_the_losses_of_parts_are_those_of_the_whole():
    values = [0.5, 1.8, 9.0, 1.8, 25.0, 8.0, 1.7]
    whole = losses(column("calcium_total", values, "mg/dL"))
    halves = losses(column("calcium_total", values[:3], "mg/dL"), column("calcium_total", values[3:], "mg/dL"))
    assert add_losses(whole) == add_losses(halves) == whole[0]


def test_moving_nothing_returns_the_rows_as_they_are():
    rows = events(("heart_rate", 80.0, "bpm"))
    assert move_misfiled(rows, Counter()) is rows


def _mimic_iv(folder: Path, values: list[float]) -> SourceTables:
    rows = [mimic.lab(50893, 2 + hour, value, "mg/dL") for hour, value in enumerate(values)]
    return mimic.read_all(mimic.write_mimic(folder, {"labevents": rows}))


def _meds(folder: Path, values: list[float]) -> SourceTables:
    rows = [meds.row("LAB//50893//mg/dL", 2 + hour, value) for hour, value in enumerate(values)]
    return meds.read_all(meds.write_meds(folder, [*meds.stay_rows(), *rows]))


def _cinc2019(folder: Path, values: list[float]) -> SourceTables:
    (folder / "training_setB").mkdir(parents=True)
    statics = {"Age": "61", "Gender": "1", "HospAdmTime": "-2", "SepsisLabel": "0"}
    rows = [dict.fromkeys(COLUMNS, "NaN") | statics | {"ICULOS": str(3 + hour), "Calcium": str(value)} for hour, value in enumerate(values)]
    lines = ["|".join(COLUMNS), *("|".join(fields[name] for name in COLUMNS) for fields in rows)]
    (folder / "training_setB/p100001.psv").write_text("\n".join(lines) + "\n")
    return _read("cinc2019", folder)


def _cinc2012(folder: Path, values: list[float]) -> SourceTables:
    """The challenge has no calcium: haematocrit as a fraction."""
    (folder / "set-a").mkdir(parents=True)
    statics = "00:00,RecordID,1\n00:00,Age,54\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,4\n00:00,Weight,80.5\n"
    rows = "".join(f"{2 + hour:02d}:00,HCT,{value}\n" for hour, value in enumerate(values))
    (folder / "set-a/1.txt").write_text(f"Time,Parameter,Value\n{statics}{rows}")
    (folder / "Outcomes-a.txt").write_text("RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n1,6,1,5,-1,0\n")
    return _read("cinc2012", folder)


def _read(kind: str, folder: Path) -> SourceTables:
    source = open_source(SourceConfig(kind=kind, path=str(folder), num_partitions=1))
    (partition,) = source.partitions()
    return source.read(partition)


@pytest.mark.parametrize(
    ("read", "right", "value", "expected", "lost", "site"),
    [
        (_mimic_iv, "calcium_ionized", 1.12, 1.12, 1.7, None),
        (_meds, "calcium_ionized", 1.12, 1.12, 1.7, None),
        (_cinc2019, "calcium_ionized", 1.12, 1.12, 1.7, "B"),
        (_cinc2012, "hematocrit", 0.31, 31.0, 3.1, "a"),
    ],
)
def test_every_source_moves_what_is_certain_and_counts_what_is_lost_by_site(tmp_path, read, right, value, expected, lost, site):
    tables = read(tmp_path, [value, value, *[lost] * 12])
    found = pl.DataFrame(tables.events).with_columns(pl.col("variable").cast(pl.String))
    assert found.filter(pl.col("variable") == right)["value"].to_list() == [pytest.approx(expected)] * 2
    rule = "ionized_calcium_under_calcium:calcium_total" if right == "calcium_ionized" else "fraction_under_percent_hematocrit:hematocrit"
    assert tables.counts[rule] == 2
    (loss,) = [one for one in range_losses([tables.losses]) if one["where"] == "all readings"]
    assert (loss["num_lost"], loss["median_lost"]) == (12, lost)
    assert {group["site"] for group in tables.losses} == {site}


def test_the_data_card_of_an_ingest_names_the_losses(tmp_path):
    config = lenient_config()
    stays = stays_table(*({"stay_id": stay, "outtime": at(30)} for stay in (1, 2, 3)))
    readings = losses(column("calcium_total", [1.7] * 30 + [9.0] * 70, None, "B"))[0] + losses(column("glucose", [5.6] * 20, None, "B"))[0]

    class Reads:
        def read(self, partition):
            return SourceTables(stays, events_table(*(event(stay, 1.0, "map", 80.0) for stay in (1, 2, 3))), {}, readings)

    out = Folder(tmp_path / "ingest")
    build_partition(Reads(), {}, config, out, "part-0")
    card = finish_ingest(out, config)
    assert [loss["variable"] for loss in card["range_losses"]] == ["calcium_total"]
    assert card["range_losses"][0]["share_lost"] == pytest.approx(0.3)
    assert [odd["variable"] for odd in card["odd_medians"]] == ["glucose"] and "Glucose in mmol/L" in render_data_card(card)
    assert "Columns that may not be what their name says" in (page := render_data_card(card)) and "30 of 100" in page

"""CLIF's drugs: which doses were given, which still run, which act in the whole body."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from clinjepa.sources.readings.antibiotics import antibiotic_map, is_antibiotic, is_systemic
from tests.support.data import clif_examples as clif


def drips(folder: Path, *rows: dict[str, object]) -> tuple[pl.DataFrame, dict[str, int]]:
    _, events, counts = clif.read_one(clif.write(folder / "data", clif.tables() | {"medication_admin_continuous": list(rows)}))
    return events, counts


def doses(folder: Path, *rows: dict[str, object]) -> tuple[pl.DataFrame, dict[str, int]]:
    _, events, counts = clif.read_one(clif.write(folder / "data", clif.tables() | {"medication_admin_intermittent": list(rows)}))
    return events.filter(pl.col("stay_id") == 701), counts


def intervals(events: pl.DataFrame, variable: str, stay: int = 701) -> list[tuple[float, float | None, float]]:
    """(start, end, value) in hours of the examples' clock."""
    found = events.filter((pl.col("variable") == variable) & (pl.col("stay_id") == stay)).sort("time")
    day = pl.lit(clif.DAY.replace(tzinfo=None))
    hours = [((pl.col(name) - day).dt.total_seconds() / 3600).alias(name) for name in ("time", "end_time")]
    return found.select(*hours, "value").rows()


@pytest.mark.parametrize("drug", ["insulin", "vecuronium", "linezolid", "sodium_bicarbonate", "albumin_infusion", "metoprolol"])
@pytest.mark.parametrize("dose", [0.0, -2.0, float("nan"), float("inf")])
def test_a_dose_of_nothing_was_not_given_and_is_counted(tmp_path, drug, dose):
    events, counts = doses(tmp_path, clif.dose("7", 15, drug, dose, "mL", "iv"), clif.dose("7", 16, "pantoprazole", 40.0, "mg", "iv"))
    given = events.filter(
        pl.col("row").is_in([0, 1]) & pl.col("variable").is_in(["medication", "antibiotic", "antibiotics_iv", "insulin_any"])
    )
    assert given["text"].to_list() == ["Pantoprazole"] and counts["zero_amount"] == 1


def test_a_dose_whose_size_is_not_recorded_was_given(tmp_path):
    events, counts = doses(tmp_path, clif.dose("7", 15, "linezolid", None, "mg", "iv"), clif.dose("7", 16, "rocuronium", None, "mg", "iv"))
    assert {"antibiotics_iv", "neuromuscular_blocker"} <= set(events["variable"]) and "zero_amount" not in counts


@pytest.mark.parametrize("dose", [float("nan"), float("inf"), None])
def test_a_drip_without_a_number_is_not_on(tmp_path, dose):
    events, counts = drips(
        tmp_path, clif.drip("7", 14, "vecuronium", dose, "mcg/kg/min", "start"), clif.drip("7", 19, "vecuronium", None, "", "stop")
    )
    assert intervals(events, "neuromuscular_blocker") == [] and counts["non_numeric"] == 1


def test_a_start_and_a_stop_of_one_minute_follow_each_other_as_in_the_file(tmp_path):
    events, _ = drips(
        tmp_path,
        clif.drip("7", 14, "milrinone", 0.2, "mcg/kg/min", "start", "a"),
        clif.drip("7", 14, "milrinone", 0.0, "mcg/kg/min", "stop", "a"),
        clif.drip("7", 30, "milrinone", 0.3, "mcg/kg/min", "start", "a"),
        clif.drip("7", 32, "milrinone", 0.0, "mcg/kg/min", "stop", "a"),
        clif.drip("7", 32, "milrinone", 0.4, "mcg/kg/min", "start", "a"),
        clif.drip("7", 33, "milrinone", 0.0, "mcg/kg/min", "dose_change", "a"),
    )
    assert intervals(events, "milrinone") == [(30, 32, 0.3), (32, 33, 0.4)]


@pytest.mark.parametrize("swapped", [False, True])
def test_without_an_order_s_number_the_stop_of_a_running_drug_is_that_of_the_infusion_before(tmp_path, swapped):
    minute = [
        clif.drip("7", 16, "milrinone", 0.4, "mcg/kg/min", "start"),
        clif.drip("7", 16, "milrinone", 0.0, "mcg/kg/min", "stop"),
    ]
    rows = [
        clif.drip("7", 13, "milrinone", 0.1, "mcg/kg/min", "start"),
        clif.drip("7", 13, "milrinone", 0.0, "mcg/kg/min", "stop"),  # nothing ran: started and stopped at once
        clif.drip("7", 14, "milrinone", 0.2, "mcg/kg/min", "start"),
        *(minute[::-1] if swapped else minute),
        clif.drip("7", 18, "milrinone", 0.0, "mcg/kg/min", "stop"),
        clif.drip("7", 19, "milrinone", 0.5, "mcg/kg/min", "start"),
        clif.drip("7", 19, "milrinone", 0.0, "mcg/kg/min", "stop"),  # stopped before, so started and stopped at once again
    ]
    events, _ = drips(tmp_path, *[row | {"med_order_id": None} for row in rows])
    assert intervals(events, "milrinone") == [(14, 16, 0.2), (16, 18, 0.4)]


def test_a_drip_set_days_before_admission_that_still_runs_is_one_of_the_stay(tmp_path):
    events, counts = drips(
        tmp_path,
        clif.drip("7", -200, "vasopressin", 0.03, "units/min", "start", "a"),
        clif.drip("7", 20, "vasopressin", 0.0, "units/min", "stop", "a"),
        clif.drip("7", -100, "lactated_ringers_solution", 50.0, "mL/hr", "start", "b"),
        clif.drip("7", -4, "lactated_ringers_solution", 0.0, "mL/hr", "stop", "b"),
        clif.drip("7", -300, "dobutamine", 5.0, "mcg/kg/min", "start", "c"),
        clif.drip("7", -40, "dobutamine", 0.0, "mcg/kg/min", "stop", "c"),
        clif.drip("7", -90, "nicardipine", 5.0, "mg/hr", "start", "d"),
    )
    assert intervals(events, "vasopressin") == [(-14, 20, 0.03)]  # ICU admission at hour 10, its day before at -14
    assert intervals(events, "crystalloid") == [(-14, -4, 500.0)]
    assert intervals(events, "dobutamine") == [] == intervals(events, "nicardipine") and counts["outside_stay"] >= 2


def test_a_row_of_a_later_stay_changes_no_hour_of_an_earlier_one(tmp_path):
    """Hospitalisation 7 is in the ICU at hours 10 to 60 and again at 70 to 80."""
    first = [
        clif.drip("7", 8, "milrinone", 0.2, "mcg/kg/min", "start", "a"),  # before the stay: runs into it
        clif.drip("7", 50, "milrinone", 0.4, "mcg/kg/min", "dose_change", "a"),
        clif.drip("7", 52, "nicardipine", 5.0, "mg/hr", "start", "b"),
        clif.drip("7", 62, "nicardipine", 0.0, "mg/hr", "stop", "b"),  # between the stays
        clif.drip("7", 55, "lactated_ringers_solution", 50.0, "mL/hr", "start", "c"),
    ]
    later = [
        clif.drip("7", 72, "milrinone", 0.6, "mcg/kg/min", "dose_change", "a"),
        clif.drip("7", 75, "milrinone", 0.0, "mcg/kg/min", "stop", "a"),
        clif.drip("7", 71, "lactated_ringers_solution", 0.0, "mL/hr", "stop", "c"),
    ]
    alone, counts = drips(tmp_path / "alone", *first)
    both, _ = drips(tmp_path / "both", *first, *later)
    for name in ("milrinone", "nicardipine", "crystalloid"):
        assert intervals(both, name) == intervals(alone, name), name
    assert intervals(alone, "milrinone") == [(8, 50, 0.2), (50, None, 0.4)] and counts["start_without_end"] == 2
    assert [one[:2] for one in intervals(alone, "nicardipine")] == [(52, 62)] and intervals(alone, "crystalloid") == []
    assert intervals(both, "milrinone", 702) == [(46, 50, 0.2), (50, None, 0.4), (72, 75, 0.6)]


def test_a_drip_that_is_stopped_long_after_the_stay_runs_to_its_end(tmp_path):
    events, _ = drips(
        tmp_path,
        clif.drip("9", 5, "esmolol", 50.0, "mcg/kg/min", "start"),
        clif.drip("9", 400, "esmolol", 0.0, "mcg/kg/min", "stop"),
    )
    assert intervals(events, "medication", 901) == [(5, 400, 50.0)]


LOCAL = ["inhaled", "Nebulized", "ophthalmic", "OTIC", "intranasal", "intra-ventricular", "intraventricular", "intrathecal", "intrapleural"]


@pytest.mark.parametrize("route", [*LOCAL, "irrigation", "IT", "NU", "Left Eye"])
def test_a_drug_to_one_place_is_no_systemic_antibiotic_or_drip(tmp_path, route):
    local, _ = doses(tmp_path, clif.dose("7", 15, "gentamicin", 80.0, "mg", route), clif.dose("7", 15, "sodium chloride", 3.0, "mL", route))
    assert not {"antibiotic", "antibiotics_iv", "crystalloid"} & set(local.filter(pl.col("row") < 2)["variable"])
    assert local.filter(pl.col("variable") == "medication")["text"].sort().to_list() == ["Gentamicin", "Sodium chloride"]
    rows = [clif.drip("7", 14, "epinephrine", 0.1, "mcg/kg/min", "start"), clif.drip("7", 15, "epinephrine", 0.0, "mcg/kg/min", "stop")]
    events, _ = drips(tmp_path / "drips", *[row | {"med_route_category": route} for row in rows])
    assert intervals(events, "epinephrine") == [] and len(intervals(events, "medication")) >= 1


@pytest.mark.parametrize("route", ["iv", "IM", "enteral", "PO/NG", "IV DRIP", "buccal_sublingual", None])
def test_other_routes_are_systemic(route):
    assert pl.select(is_systemic(pl.lit(route, pl.String))).item() is True


def test_every_excluded_route_is_excluded_as_it_is_written():
    routes = pl.DataFrame({"route": antibiotic_map()["excluded_routes"]})
    assert not routes.select(is_systemic(pl.col("route")).any()).item() and routes["route"].is_unique().all()


@pytest.mark.parametrize("name", ["polymyxin b", "Polymyxin B Sulfate", "cefoperazone", "kanamycin", "sulbactam durlobactam", "lefamulin"])
def test_antibacterials_of_clif_are_antibiotics(name):
    assert is_antibiotic(name)


@pytest.mark.parametrize(
    "name",
    [
        "Neomycin-Polymyxin-Bacitracin",
        "Neomycin/Polymyxin B Sulf/HC",
        "Polymyxin B Sul-Trimethoprim",
        "fidaxomicin",
        "micafungin",
        "acyclovir",
    ],
)
def test_drops_ointments_and_drugs_against_other_germs_are_not(name):
    assert not is_antibiotic(name)


def test_only_a_drug_with_the_name_of_a_laboratory_value_says_that_it_is_a_drug(tmp_path):
    events, _ = doses(
        tmp_path,
        clif.dose("7", 15, "insulin", 4.0, "units", "im"),
        clif.dose("7", 15, "sodium_bicarbonate", 50.0, "mEq", "iv"),
        clif.dose("7", 16, "magnesium", 2.0, "grams", "iv"),
        clif.dose("7", 17, "albumin", 25.0, "grams", "iv"),
    )
    texts = events.filter(pl.col("text").is_not_null() & (pl.col("variable").is_in(["medication", "insulin_any", "sodium_bicarbonate"])))
    assert texts.sort("row")["text"].to_list() == ["Insulin", "Sodium bicarbonate", "Magnesium (drug)", "Albumin (drug)"]

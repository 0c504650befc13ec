"""CLIF's respiratory support: the device decides over the mode, a ventilated tracheostomy is ventilated, unknown words are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinjepa.clinical.derived import load_derived
from clinjepa.sources.clif.tables import clif_map, load_tables
from tests.support.data import clif_examples as clif

PARAMETERS = load_derived()["vent_status"].parameters


def row(hour: float, device: str | None = None, mode: str | None = None, neck: bool | None = False, **settings: float) -> dict[str, Any]:
    return {
        "hospitalization_id": "7",
        "recorded_dttm": clif.at(hour),
        "device_category": device,
        "mode_category": mode,
        "tracheostomy": neck,
        "fio2_set": None,
        "peep_set": None,
        **settings,
    }


def words(folder: Path, *rows: dict[str, Any]) -> tuple[list[str], list[str], dict[str, int]]:
    """(devices, modes, counts) of the first stay, in the order of time."""
    _, events, counts = clif.read_one(clif.write(folder / "data", clif.tables() | {"respiratory_support": list(rows)}))
    found = events.filter(pl.col("stay_id") == 701).sort("time")
    return *(found.filter(pl.col("variable") == name)["text"].to_list() for name in ("o2_device", "vent_mode")), counts


def class_of(word: str, kind: str) -> str | None:
    return next((name for name, known in PARAMETERS[kind].items() if word in known), None)


@pytest.mark.parametrize(("device", "unmapped"), [("Other", 0), ("Oxyhood", 1), ("T-piece", 1), (None, 0)])
def test_a_device_of_unknown_class_ends_room_air(tmp_path, device, unmapped):
    devices, _, counts = words(tmp_path, row(12, "Room Air"), row(14, device))
    assert devices == ["None", *(["Other"] if device else [])] and counts.get("unmapped_code", 0) == unmapped
    assert class_of("Other", "devices") is None


@pytest.mark.parametrize(("mode", "expected", "unmapped"), [("Other", "Other", 0), ("Blow by", "Blow by", 0), ("NAVA", "Other", 1)])
def test_a_mode_of_unknown_class_is_a_mode(tmp_path, mode, expected, unmapped):
    _, modes, counts = words(tmp_path, row(12, "Room Air"), row(13, None, mode))
    assert modes == [expected] and counts.get("unmapped_code", 0) == unmapped and class_of(expected, "modes") is None


def test_an_unknown_word_of_delirium_is_counted(tmp_path):
    content = clif.tables()
    content["patient_assessments"] += [clif.score("7", 15, "cam_total", None, "perhaps"), clif.score("7", 16, "cam_total", 1.0, None)]
    _, events, counts = clif.read_one(clif.write(tmp_path / "data", content))
    assert events.filter(pl.col("variable") == "delirium_assessment").height == 1 and counts["unmapped_code"] == 1


NECK = "Tracheostomy tube and ventilator"


@pytest.mark.parametrize(
    ("charted", "device", "status"),
    [
        (row(12, "IMV", "SIMV", True), NECK, "invasive"),
        (row(12, "IMV", None, True), NECK, "invasive"),
        (row(12, None, "Pressure-Regulated Volume Control", True), NECK, "invasive"),
        (row(12, None, None, True, peep_set=5.0), NECK, "invasive"),
        (row(12, "Other", "Pressure Support/CPAP", True), NECK, "invasive"),
        (row(12, "IMV", "SIMV", False), "Endotracheal tube", "invasive"),
        (row(12, "IMV", "SIMV", None), "Endotracheal tube", "invasive"),
        (row(12, "Trach Collar", None, True), "Trach mask", "tracheostomy"),
        (row(12, "Trach Collar", "Blow by", True), "Trach mask", "tracheostomy"),
        (row(12, "Nasal Cannula", None, True), "Nasal cannula", "supplemental_oxygen"),
        (row(12, "NIPPV", "Pressure Control", True), "Bipap mask", "noninvasive"),
    ],
)
def test_a_tracheostomy_is_ventilated_where_a_ventilator_is_named(tmp_path, charted, device, status):
    devices, _, _ = words(tmp_path, charted)
    assert devices == [device] and class_of(device, "devices") == status


@pytest.mark.parametrize("charted", [row(12, None, None, True), row(12, None, "Blow by", True), row(12, None, None, True, peep_set=0.0)])
def test_a_tracheostomy_alone_names_no_device(tmp_path, charted):
    assert words(tmp_path, charted)[0] == []


@pytest.mark.parametrize("mode", ["Pressure Support/CPAP", "Pressure Control", "Other", "Assist Control-Volume Control"])
@pytest.mark.parametrize("device", ["NIPPV", "CPAP"])
def test_a_mode_by_mask_is_not_invasive(tmp_path, device, mode):
    _, modes, _ = words(tmp_path, row(12, device, mode))
    assert modes == ["NIV"] and class_of("NIV", "modes") == "noninvasive"


@pytest.mark.parametrize(
    ("hour", "mode", "expected"),
    [(13, "Pressure Support/CPAP", "NIV"), (26, "Pressure Support/CPAP", "CPAP/PSV"), (13, "SIMV", "SIMV")],
)
def test_a_mode_without_a_device_is_that_of_the_last_mask_where_a_mask_has_it_too(tmp_path, hour, mode, expected):
    _, modes, _ = words(tmp_path, row(12, "CPAP"), row(hour, None, mode))
    assert modes == [expected]


@pytest.mark.parametrize("device", ["Nasal Cannula", "High Flow NC", "Room Air", "Face Mask", "Trach Collar"])
def test_a_mode_beside_a_device_that_is_no_ventilator_is_none_and_counted(tmp_path, device):
    _, modes, counts = words(tmp_path, row(12, device, "Pressure Support/CPAP"))
    assert modes == [] and counts["contradicting_mode"] == 1


def test_every_word_of_the_map_has_a_class_but_other():
    known = clif_map()
    assert [word for word, text in known["devices"].items() if class_of(text, "devices") is None] == ["other"]
    assert [word for word, text in known["modes"].items() if class_of(text, "modes") is None] == ["blow by", "other"]
    assert {*known["invasive"], *known["noninvasive"]} <= set(known["devices"])
    assert {*known["shared_modes"], *known["no_ventilator_modes"]} <= set(known["modes"])
    assert set(known["ventilator_settings"]) <= set(load_tables()["respiratory_support"].optional)
    assert set(known["lab_units"]) <= set(known["labs"]) and set(known["labs"]) - set(known["lab_units"]) == {"inr", "ph_arterial"}

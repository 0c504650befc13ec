"""Weights and heights of MIMIC-IV and MEDS: the first is a static, known from its time; weights charted again are a series."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.data import meds_examples, mimic_iv_examples

KG, POUNDS, DAILY = 226512, 226531, 224639
Weight = tuple[int, float, float]
"""Item, hours after ICU admission, value."""


def read(kind: str, folder: Path, weights: list[Weight]) -> tuple[float | None, float | None, list[tuple[float, float]]]:
    """(static weight, hours after admission from which it is known, [(hour, value) of the series])."""
    if kind == "mimic_iv":
        rows = [mimic_iv_examples.chart(item, hour, value, "lbs" if item == POUNDS else "kg") for item, hour, value in weights]
        tables = mimic_iv_examples.read_all(mimic_iv_examples.write_mimic(folder, {"chartevents": rows}))
        events_of = mimic_iv_examples.events_of
    else:
        rows = [meds_examples.chart(item, hour, value, "lbs" if item == POUNDS else "kg") for item, hour, value in weights]
        tables = meds_examples.read_all(meds_examples.write_meds(folder, [*meds_examples.stay_rows(), *rows]))
        events_of = meds_examples.events_of
    (stay,) = tables.stays.to_pylist()
    known = None if stay["weight_time"] is None else (stay["weight_time"] - stay["intime"]).total_seconds() / 3600
    return stay["weight_kg"], known, [(event["time"], event["value"]) for event in events_of(tables, "body_weight")]


@pytest.mark.parametrize("kind", ["mimic_iv", "meds"])
@pytest.mark.parametrize(
    ("weights", "static", "known", "series"),
    [
        ([(KG, 2, 80)], 80, 2, []),
        ([(KG, 2, 80), (DAILY, 10, 82), (DAILY, 20, 83.5)], 80, 2, [(10, 82), (20, 83.5)]),
        ([(DAILY, 12, 77), (DAILY, 5, 76)], 76, 5, [(5, 76), (12, 77)]),
        ([(KG, 2, 80), (POUNDS, 2, 176.37), (KG, 15, 81)], 80, 2, [(15, 81)]),
        ([(POUNDS, 3, 176.37), (KG, 27, 90)], 80, 3, [(27, 90)]),
        ([(DAILY, 1, 77), (KG, 5, 80)], 80, 5, [(1, 77)]),
        ([(KG, 2, 0), (DAILY, 9, 84)], 84, 9, [(9, 84)]),
        ([(KG, 2, 8000), (KG, 9, 84)], 84, 9, []),
    ],
    ids=["admission", "daily", "daily only", "charted again", "in pounds first", "daily first", "zero first", "implausible first"],
)
def test_a_series_is_a_series_and_a_static_known_from_its_time(tmp_path, kind, weights, static, known, series):
    found = read(kind, tmp_path, weights)
    assert (found[0], found[1], found[2]) == (pytest.approx(static, rel=1e-5), known, series)


CM, INCHES = 226730, 226707


@pytest.mark.parametrize("examples", [mimic_iv_examples, meds_examples])
@pytest.mark.parametrize(
    ("heights", "static", "repeated"),
    [
        ([(CM, 2, 170)], 170, 0),
        ([(CM, 2, 170), (INCHES, 2, 67)], 170, 0),  # one measurement in two units
        ([(CM, 2, 170), (CM, 9, 182)], 170, 1),
        ([(INCHES, 2, 66.93), (CM, 9, 182)], 170, 1),
        ([(CM, 2, 170), (CM, 9, 182), (INCHES, 9, 71.7), (CM, 12, 170)], 170, 2),
        ([(CM, 2, 17), (CM, 9, 182)], 182, 0),  # the first is out of range
    ],
    ids=["one", "in two units", "charted again", "in inches first", "charted again in two units", "implausible first"],
)
def test_a_height_charted_again_is_counted_as_a_repeated_static(tmp_path, examples, heights, static, repeated):
    rows = [examples.chart(item, hour, float(value), "Inch" if item == INCHES else "cm") for item, hour, value in heights]
    if examples is meds_examples:
        folder = meds_examples.write_meds(tmp_path, [*meds_examples.stay_rows(), *rows])
    else:
        folder = mimic_iv_examples.write_mimic(tmp_path, {"chartevents": rows})
    tables = examples.read_all(folder)
    assert tables.stays["height_cm"].to_pylist() == [pytest.approx(static, rel=1e-4)]
    assert (tables.counts.get("repeated_static", 0), tables.events.num_rows) == (repeated, 0)

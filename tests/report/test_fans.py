"""Fans show what was measured, choose by counts alone, and name no patient."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from clinjepa.evaluation.forecasts.tables import FORECASTS
from clinjepa.report.sections.fans import NUM_PATIENTS, choose_fans
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.show import may_show_patients


def table(rows: list[tuple[str, int, int, float, float | None]]) -> pa.Table:
    """rows: variable, horizon, patient, measured, end of the intervals (None: the forecast has none)."""
    found = []
    for variable, horizon, patient, observed, end in rows:
        low = None if end is None else -end
        bounds = {"low_50": low, "high_50": end, "low_90": low, "high_90": end}
        keys = {"variable": variable, "horizon": horizon, "stay_id": 7000 + patient, "subject_id": patient, "start_hour": 0}
        found.append({**keys, "observed": observed, "model": 1.0, "last_value": 0.0, "lightgbm": None, **bounds})
    return pa.Table.from_pylist(found, schema=FORECASTS)


def test_the_windows_with_the_most_measured_horizons_are_shown_whatever_the_forecast() -> None:
    rows = [("map", hour, 11, 100.0, 2.0) for hour in (4, 1, 8)] + [("map", hour, 12, 1.0, 2.0) for hour in (1, 4)]
    fans = choose_fans(table([*rows, ("map", 1, 13, 1.0, 2.0)]), {"map": "mmHg"})
    assert [(fan.title, fan.unit, [point.hours_ahead for point in fan.points]) for fan in fans] == [
        ("MAP, patient 1", "mmHg", [1, 4, 8]),
        ("MAP, patient 2", "mmHg", [1, 4]),
    ]
    assert fans[0].points[0].observed == 100.0


def test_a_variable_has_a_window_of_at_most_three_patients() -> None:
    rows = [("map", hour, patient, 1.0, 2.0) for patient in range(9) for hour in (1, 4)]
    assert len(choose_fans(table(rows), {})) == NUM_PATIENTS


def test_forecasts_without_intervals_make_no_fan() -> None:
    assert choose_fans(table([("map", hour, 11, 1.0, None) for hour in (1, 4)]), {}) == []


def test_no_identifier_of_a_patient_is_in_a_fan() -> None:
    told = repr(choose_fans(table([("map", hour, 4711, 1.0, 2.0) for hour in (1, 4)]), {}))
    assert "4711" not in told


@pytest.mark.parametrize(
    ("card", "shown"), [({"access": "open"}, True), ({"access": "synthetic"}, True), ({"access": "credentialed"}, False), ({}, False)]
)
def test_patients_are_shown_of_simulated_and_open_data_only(tmp_path: Path, card: dict[str, str], shown: bool) -> None:
    store = Folder(tmp_path)
    store.write_json("data_card.json", card)
    assert may_show_patients(store) is shown

"""Forecasts as MEDS trajectories: times, codes, what is left out, and the schema of the package that reads them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.forecasts.patients import VALUES
from clinjepa.evaluation.forecasts.trajectories import STATISTICS, TRAJECTORY, meds_trajectories

INTIME = datetime(2150, 1, 1, 10, 20)
STAYS = pa.table({"stay_id": [1, 2], "subject_id": [10, 20], "intime": pa.array([INTIME, INTIME], pa.timestamp("us"))})


def forecasts(*rows: dict[str, Any]) -> pa.Table:
    plain = {"stay_id": 1, "hour": 5, "variable": "map", "unit": "mmHg", "horizon": 1, "median": 70.0, "measured_probability": 0.9}
    return pa.Table.from_pylist([plain | row for row in rows], schema=VALUES)


def test_a_forecast_lies_in_its_hour_and_after_the_last_hour_that_was_used():
    table = meds_trajectories(forecasts({}, {"horizon": 6, "median": 75.0}), STAYS)
    assert table.schema == TRAJECTORY
    end_of_hour_5 = INTIME + timedelta(hours=6)
    assert set(table["prediction_time"].to_pylist()) == {end_of_hour_5 - timedelta(microseconds=1)}
    middle = timedelta(minutes=30)
    assert table["time"].to_pylist() == [end_of_hour_5 + middle, end_of_hour_5 + timedelta(hours=5) + middle]
    assert (table["code"].to_pylist(), table["numeric_value"].to_pylist()) == (["map//mmHg"] * 2, [70.0, 75.0])


def test_codes_of_a_data_set_replace_the_names():
    table = meds_trajectories(forecasts({}, {"variable": "glucose", "unit": "mg/dL"}), STAYS, codes={"map": "LAB//220052//mmHg"})
    assert table["code"].to_pylist() == ["LAB//220052//mmHg", "glucose//mg/dL"]


def test_what_is_unlikely_to_be_measured_or_has_no_forecast_is_left_out():
    table = meds_trajectories(
        forecasts({"measured_probability": 0.2}, {"median": None}, {"stay_id": 2, "measured_probability": None}), STAYS
    )
    assert table["subject_id"].to_pylist() == [20]


def test_a_course_of_no_statistic_and_forecasts_of_other_stays_are_refused():
    assert {"point", "median", "low_90", "high_90"} <= set(STATISTICS) and "last_value" not in STATISTICS
    with pytest.raises(EvaluationError, match="statistic=last_value is no forecast"):
        meds_trajectories(forecasts({}), STAYS, statistic="last_value")
    with pytest.raises(EvaluationError, match="1 forecasts are of stays that are not among the stays"):
        meds_trajectories(forecasts({"stay_id": 3}), STAYS)


def test_the_table_is_what_meds_trajectory_evaluation_takes():
    schema = pytest.importorskip("MEDS_trajectory_evaluation.schema", reason="pip install meds-trajectory-evaluation")
    schema.GeneratedTrajectorySchema.validate(meds_trajectories(forecasts({}), STAYS))

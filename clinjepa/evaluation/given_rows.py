"""Predictions at the very rows of a label file, in the schema of `meds-evaluation`: what a benchmark such as MEDS-DEV compares.

A row whose prediction time lies at an hour of a kept stay gets the probe's probability of that hour, from the history alone. A benchmark
asks for every row, also before the first hour of a stay has ended and outside intensive care, where this method has no input: such a row
gets the share of positive training labels, and is counted.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.prediction import predict_points
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor
from clinjepa.trajectory.labels.label_files import place_times

ROW_PREDICTIONS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
        ("predicted_boolean_value", pa.bool_()),
        ("predicted_boolean_probability", pa.float64()),
    ]
)
"""One row for each row of the label file, in its order; the columns of `meds-evaluation` for binary tasks."""


class RowCounts(TypedDict):
    """Rows by what they were predicted from. `num_rows` = `at_an_hour` + `before_first_hour` + `outside_stays`."""

    num_rows: int
    at_an_hour: int
    before_first_hour: int
    outside_stays: int


def predict_rows(
    predictor: Predictor, latents: Latents, stays: pa.Table, probes: FittedProbes, task: str, rows: pl.DataFrame
) -> tuple[pa.Table, RowCounts]:
    """A probability for every row of a label file.

    Args:
        predictor: The predictor that the probes were fitted with.
        latents: Latents of the stays.
        stays: Kept stays with stay_id, subject_id, intime, outtime, num_hours.
        probes: With a probe of the task; its first kind is used.
        task: The task's name.
        rows: subject_id, prediction_time, label (0, 1 or null) as of `LabelFile.rows`.

    Returns:
        (a table of ROW_PREDICTIONS in the order of `rows`, the counts).

    Raises:
        EvaluationError: The task has no probe, or its label is a number.
        StoreError: The probes were fitted with another predictor.
    """
    fitted = probes.tasks[task]
    if fitted.reason is not None or fitted.train.mean is None or fitted.output != "log_odds":
        raise EvaluationError(f"no probe of {task} predicts a probability: {fitted.reason or 'its label is a number'}")
    placed = place_times(rows.with_row_index("row"), pl.DataFrame(stays))
    inside = placed.filter(pl.col("hour") >= 0)
    score_N = np.full(placed.height, fitted.train.mean)
    if inside.height:
        asked = inside.select("stay_id", "hour").unique().to_arrow(compat_level=pl.CompatLevel.oldest())
        found = pl.DataFrame(predict_points(predictor, latents, stays, probes, points=asked))
        own = found.filter((pl.col("task") == task) & (pl.col("method") == probes.kinds[0]))
        named = own.select("stay_id", "hour", pl.col("predicted_boolean_probability").cast(pl.Float64).alias("probability"))
        joined = inside.join(named, on=["stay_id", "hour"], how="left", maintain_order="left")
        score_N[joined["row"].to_numpy()] = joined["probability"].to_numpy()
    table = placed.select(
        "subject_id",
        "prediction_time",
        (pl.col("label") > 0.5).alias("boolean_value"),
        pl.Series("predicted_boolean_value", score_N >= 0.5),
        pl.Series("predicted_boolean_probability", score_N),
    )
    early = int(placed["is_early"].sum())
    counts: RowCounts = {
        "num_rows": placed.height,
        "at_an_hour": inside.height,
        "before_first_hour": early,
        "outside_stays": placed.height - inside.height - early,
    }
    return table.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(ROW_PREDICTIONS), counts

"""Forecasts as MEDS events after a prediction time: `GeneratedTrajectorySchema` of `meds-trajectory-evaluation`.

That schema holds sampled futures, one table a sample. A forecast here is a predictive distribution of each variable and horizon, not a
sample of the whole future. So one statistic of it makes one table: the most likely course, hour by hour. Spread over several tables of
quantiles would not be a sample of courses, since the errors of two hours belong together.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.forecasts.patients import VALUES

TRAJECTORY = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("prediction_time", pa.timestamp("us")),
    ]
)
"""MEDS's data columns without text_value, and prediction_time: data up to and including it were used."""
_IDENTITY = ("stay_id", "hour", "variable", "unit", "horizon", "distribution")
STATISTICS = tuple(name for name in VALUES.names if name not in (*_IDENTITY, "last_value", "hours_since", "measured_probability"))
"""Columns of the forecasts that can be the numeric value."""


def meds_trajectories(
    values: pa.Table,
    stays: pa.Table,
    statistic: str = "median",
    codes: Mapping[str, str] | None = None,
    min_measured_probability: float = 0.5,
) -> pa.Table:
    """One forecast course of every patient and prediction time.

    A forecast of hour h + k, made from hours 0 … h, stands in the middle of that hour. prediction_time is one microsecond before the end of
    hour h: MEDS includes the time itself, and what lies at the end of an hour belongs to the next one.

    Args:
        values: Forecasts as `clinjepa score` writes them (`values/*.parquet`, schema VALUES).
        stays: `stays.parquet` of their ingest artifact: stay_id, subject_id, intime.
        statistic: A column of STATISTICS.
        codes: Variable -> MEDS code, for the codes of a data set; others are called `<variable>//<unit>`.
        min_measured_probability: Forecasts of variables that are measured in that hour with less probability are left out.

    Returns:
        A table of TRAJECTORY, sorted by subject, prediction time and time.

    Raises:
        EvaluationError: The statistic is not known, or a stay is missing.
    """
    if statistic not in STATISTICS:
        raise EvaluationError(f"statistic={statistic} is no forecast; use one of {', '.join(STATISTICS)}")
    people = pl.DataFrame(stays).select("stay_id", "subject_id", pl.col("intime").cast(pl.Datetime("us")))
    rows = pl.DataFrame(values).join(people, on="stay_id", how="left", maintain_order="left")
    if lost := rows["subject_id"].null_count():
        raise EvaluationError(f"{lost} forecasts are of stays that are not among the stays; give those of the same scores")
    hours, horizon = pl.col("hour").cast(pl.Int64), pl.col("horizon").cast(pl.Int64)
    plain = pl.concat_str("variable", pl.lit("//"), pl.col("unit").fill_null(""))
    kept = pl.col(statistic).is_finite() & (pl.col("measured_probability") >= min_measured_probability).fill_null(True)
    table = rows.filter(kept).select(
        "subject_id",
        (pl.col("intime") + pl.duration(hours=hours + horizon, minutes=30)).alias("time"),
        pl.col("variable").replace_strict(dict(codes or {}), default=plain, return_dtype=pl.String).alias("code"),
        pl.col(statistic).alias("numeric_value"),
        (pl.col("intime") + pl.duration(hours=hours + 1) - pl.duration(microseconds=1)).alias("prediction_time"),
    )
    return table.sort("subject_id", "prediction_time", "time", "code").to_arrow(compat_level=pl.CompatLevel.oldest()).cast(TRAJECTORY)

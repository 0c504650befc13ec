"""The forecasts and probabilities behind the figures, kept so that any of them can be made again.

Patients' ids are those of the ingest: keep the files where the data may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clinjepa.evaluation.drift_windows import Windows
from clinjepa.evaluation.forecasts.result import LAST_VALUE, LIGHTGBM, MODEL
from clinjepa.evaluation.forecasts.scoring.distributions import LEVELS
from clinjepa.evaluation.forecasts.scoring.event_scores import EventPoints
from clinjepa.evaluation.forecasts.scoring.horizon_scores import Scored

FORECASTS_FILE, EVENTS_FILE = "forecasts.parquet", "events.parquet"
_METHODS = (MODEL, LAST_VALUE, LIGHTGBM)
_BOUNDS = tuple(f"{end}_{round(100 * level)}" for level in LEVELS for end in ("low", "high"))
_KEYS = [
    ("variable", pa.string()),
    ("horizon", pa.int32()),
    ("stay_id", pa.int64()),
    ("subject_id", pa.int64()),
    ("start_hour", pa.int32()),
]
FORECASTS = pa.schema([*_KEYS, *((name, pa.float32()) for name in ("observed", *_METHODS, *_BOUNDS))])
"""One row is one measured value: `observed`, the point forecasts (each the median of its method's predictive distribution), and the bounds
of the model's intervals, in the variable's unit. Forecasts lie in the variable's plausible range."""
EVENTS = pa.schema(
    [
        ("task", pa.string()),
        ("method", pa.string()),
        ("stay_id", pa.int64()),
        ("subject_id", pa.int64()),
        ("hour", pa.int32()),
        ("label", pa.int8()),
        ("probability", pa.float64()),
    ]
)
"""One row is one labelled prediction point under one method."""


def forecast_rows(windows: Windows, horizon: int, names: Sequence[str], observed_WV: np.ndarray, scored: Scored) -> pa.Table:
    """The rows of FORECASTS of one horizon. observed_WV: measured values, NaN where there is none."""
    row_N, column_N = np.nonzero(np.isfinite(observed_WV))
    missing_WV = np.full(observed_WV.shape, np.nan)
    values = [observed_WV, *(scored.points.get(method, missing_WV) for method in _METHODS)]
    values += [scored.intervals[level, :, :, end] for level in range(len(LEVELS)) for end in (0, 1)]
    keys = [np.asarray(names, dtype=object)[column_N], np.full(len(row_N), horizon)]
    keys += [windows.stay_W[row_N], windows.subject_W[row_N], windows.start_W[row_N]]
    columns = [pa.array(key, field.type) for key, field in zip(keys, FORECASTS, strict=False)]
    columns += [pa.array(each[row_N, column_N].astype(np.float32), pa.float32(), from_pandas=True) for each in values]
    return pa.table(columns, schema=FORECASTS)


class KeptEvents:
    """Collects probabilities and makes the table of EVENTS."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, task: str, method: str, points: EventPoints, probability_W: np.ndarray) -> None:
        """The probabilities of the windows that have a label."""
        names = [pa.array([name] * len(points.row_N), pa.string()) for name in (task, method)]
        columns = [
            points.stay_N,
            points.subject_N,
            points.hour_N.astype(np.int32),
            points.label_N.astype(np.int8),
            probability_W[points.row_N],
        ]
        self._tables.append(pa.table([*names, *columns], schema=EVENTS))

    def table(self) -> pa.Table:
        """All rows in the order in which they were added."""
        return pa.concat_tables(self._tables) if self._tables else EVENTS.empty_table()

"""Forecast fans of single windows, for data whose patients may be shown (`clinjepa.trajectory.audit.show.may_show_patients`).

The choice looks at how much was measured and never at the forecasts, so a fan that fits badly is as likely as one that fits well.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from clinjepa.report.charts.forecast_charts import Fan, FanPoint
from clinjepa.report.words import title

NUM_VARIABLES, NUM_PATIENTS = 3, 3
_BOUNDS = ("low_50", "high_50", "low_90", "high_90")


def choose_fans(forecasts: pa.Table, units: Mapping[str, str]) -> list[Fan]:
    """The variables with the most measured values that have intervals, each for the windows with the most measured horizons.

    Args:
        forecasts: `clinjepa.evaluation.forecasts.tables.FORECASTS` of one predictor.
        units: Unit of each variable.

    Returns:
        At most NUM_VARIABLES × NUM_PATIENTS fans, one window per patient and variable; patients are numbered and not identified.
    """
    rows = pl.DataFrame(forecasts).filter(pl.all_horizontal(pl.col("model", *_BOUNDS).is_not_null()))
    counts = rows.group_by("variable", maintain_order=True).len().sort("len", descending=True, maintain_order=True)
    numbers: dict[int, int] = {}
    fans = []
    for variable in counts["variable"].to_list()[:NUM_VARIABLES]:
        own = rows.filter(pl.col("variable") == variable)
        windows = own.group_by("subject_id", "stay_id", "start_hour", maintain_order=True).agg(pl.col("horizon").n_unique())
        windows = windows.filter(pl.col("horizon") > 1).sort("horizon", descending=True, maintain_order=True)
        for window in windows.unique("subject_id", keep="first", maintain_order=True).head(NUM_PATIENTS).iter_rows(named=True):
            patient = numbers.setdefault(window["subject_id"], len(numbers) + 1)
            found = own.filter(pl.col("stay_id") == window["stay_id"], pl.col("start_hour") == window["start_hour"]).sort("horizon")
            points = [FanPoint(*row) for row in found.select("horizon", "observed", "model", *_BOUNDS).iter_rows()]
            fans.append(Fan(f"{title(variable)}, patient {patient}", units.get(variable, ""), points))
    return fans

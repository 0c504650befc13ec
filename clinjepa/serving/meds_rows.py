"""MEDS rows of one stay as its hours, by the mapping of the MEDS source. Nothing is written to disk."""

from __future__ import annotations

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.serving.hours import STAY_ID, StayHours, TextRules, hours_of_tables
from clinjepa.serving.requests import MedsRow, RequestError, ScoreRequest
from clinjepa.sources.meds.columns import COLUMNS
from clinjepa.sources.meds.events import read_events
from clinjepa.sources.meds.stays import read_stays
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS
from clinjepa.sources.readings.cleaning import finish
from clinjepa.sources.readings.range_losses import Counts

_ADMISSION, _DISCHARGE = "ICU_ADMISSION", "ICU_DISCHARGE"


def meds_hours(asked: ScoreRequest, rules: TextRules, measured: list[str]) -> StayHours:
    """The hours of a request with `rows`: all rows of one patient, with one ICU admission, until `now`.

    Args:
        asked: The request.
        rules: Those of the run.
        measured: Numeric variables whose hourly values are wanted.

    Raises:
        RequestError: A row is after `now`, there is not one ICU admission, or no row can be used.
    """
    assert asked.rows is not None
    for number, row in enumerate(asked.rows):
        if row.time is not None and row.time > asked.now:
            raise RequestError(f"rows.{number}.time", "is after now; send nothing that is not known yet")
    counts = Counts()
    rows = _frame(asked)
    try:
        stays = read_stays(rows, pl.DataFrame(schema={"subject_id": pl.Int64, "source_split": pl.String}), "the rows", counts)
        if stays.height != 1:
            raise RequestError("rows", f"hold {stays.height} ICU stays with an admission before now; give the rows of one")
        stays, events = read_events(rows, stays, counts)
        return hours_of_tables(finish(stays, events, counts), asked.now, rules, measured, len(asked.rows))
    except SourceError as error:
        raise RequestError("rows", str(error)) from None


def _frame(asked: ScoreRequest) -> pl.DataFrame:
    """The rows in the columns of the source, of one patient; the stay ends at `now`, so that nothing of its future is asked for."""
    rows = [row for row in asked.rows or () if row.code.partition("//")[0] != _DISCHARGE]
    admission = next((row for row in rows if row.code.partition("//")[0] == _ADMISSION), None)
    own = STAY_ID if admission is None or admission.icustay_id is None else admission.icustay_id
    if admission is not None and admission.icustay_id is None:  # no ids were sent: all but labs are of the one stay
        rows = [row if row.icustay_id or row.code.startswith("LAB//") else row.model_copy(update={"icustay_id": own}) for row in rows]
    end = MedsRow(time=asked.now, code=_DISCHARGE, icustay_id=own)
    columns = {
        name: pl.Series(name, [getattr(row, name) for row in (*rows, end)], dtype)
        for name, (_, dtype) in COLUMNS.items()
        if name not in ("subject_id", "order_category")
    }
    frame = pl.DataFrame(columns).with_columns(
        pl.lit(STAY_ID, pl.Int64).alias("subject_id"),
        pl.lit(None, COLUMNS["order_category"][1]).alias("order_category"),
        pl.col("numeric_value").round_sig_figs(SIGNIFICANT_DIGITS),
    )
    return frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))

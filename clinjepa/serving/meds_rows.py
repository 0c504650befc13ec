"""MEDS rows of one stay as its hours, by the mapping of the MEDS source. Nothing is written to disk."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

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
_STARTS_AND_ENDS = (("INFUSION_START", "INFUSION_END"), ("PROCEDURE//START", "PROCEDURE//END"))
_FIRST_ICU_ITEM = 220_000
"""MIMIC-IV's items of the ICU's charts begin here; items of the laboratory are lower."""


def meds_hours(asked: ScoreRequest, rules: TextRules, measured: list[str]) -> StayHours:
    """The hours of a request with `rows`: all rows of one patient, with one ICU admission, until `now`.

    Args:
        asked: The request.
        rules: Those of the run.
        measured: Numeric variables whose hourly values are wanted.

    Raises:
        RequestError: A row is after `now`, there is not one ICU admission, its
            discharge is before the last complete hour, or no row can be used.
    """
    assert asked.rows is not None
    for number, row in enumerate(asked.rows):
        if row.time is not None and row.time > asked.now:
            raise RequestError(f"rows.{number}.time", "is after now; send nothing that is not known yet")
    _check_one_stay(asked.rows, asked.now)
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


def _check_one_stay(rows: Sequence[MedsRow], now: datetime.datetime) -> None:
    """Refuse rows of several ICU stays: which one is scored must not depend on the order of rows, nor on an end that was not sent."""
    admissions = {(row.time, row.icustay_id) for row in rows if _kind(row) == _ADMISSION}
    ids = {stay for _, stay in admissions}
    if len(admissions) > 1 and len(ids) == 1 and None not in ids:
        raise RequestError("rows", f"hold two different {_ADMISSION} rows of one stay; give the one that holds")
    if len(admissions) > 1:
        raise RequestError("rows", f"hold {len(admissions)} ICU stays with an admission before now; give the rows of one")
    begun = next((row.time for row in rows if _kind(row) == _ADMISSION and row.time is not None), now)
    last_hour = now - (now - begun) % datetime.timedelta(hours=1)
    own_ends = [row.time for row in rows if _kind(row) == _DISCHARGE and row.icustay_id in ids | {None}]
    if any(ended is not None and ended < last_hour for ended in own_ends):
        raise RequestError("rows", f"hold the {_DISCHARGE} of the stay before the last complete hour; only a stay that goes on is scored")


def _frame(asked: ScoreRequest) -> pl.DataFrame:
    """The rows in the columns of the source, of one patient; the stay ends at `now`, and so does what goes on."""
    rows = [row for row in asked.rows or () if _kind(row) != _DISCHARGE]
    admission = next((row for row in rows if _kind(row) == _ADMISSION), None)
    own = STAY_ID if admission is None or admission.icustay_id is None else admission.icustay_id
    if admission is not None and admission.icustay_id is None:  # no ids were sent
        rows = [row if row.icustay_id or _is_laboratory(row) else row.model_copy(update={"icustay_id": own}) for row in rows]
    rows += [*_running(rows, asked), MedsRow(time=asked.now, code=_DISCHARGE, icustay_id=own)]
    columns = {
        name: pl.Series(name, [getattr(row, field) for row in rows], dtype)
        for name, ((field, *_), dtype) in COLUMNS.items()
        if name != "subject_id"
    }
    frame = pl.DataFrame(columns).with_columns(
        pl.lit(STAY_ID, pl.Int64).alias("subject_id"), pl.col("numeric_value").round_sig_figs(SIGNIFICANT_DIGITS)
    )
    return frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def _kind(row: MedsRow) -> str:
    return row.code.partition("//")[0]


def _is_laboratory(row: MedsRow) -> bool:
    """Whether a row is a result of the laboratory, which belongs to no ICU stay; readings at the bed have the same kind of code."""
    items = [part for part in row.code.split("//")[1:] if part.isdigit()]
    return _kind(row) == "LAB" and bool(items) and int(items[0]) < _FIRST_ICU_ITEM


def _running(rows: Sequence[MedsRow], asked: ScoreRequest) -> list[MedsRow]:
    """Ends at `now` of infusions and procedures that have none yet. Amounts given so far are not known, rates are.

    Under one order id one interval runs at a time; without an order id all starts run whose ends have not come. An end ends what began
    before it, or at its time; an end of nothing has no effect.
    """
    changes: dict[tuple[str, int | None, int | None], dict[datetime.datetime, list[int]]] = {}
    for row in rows:
        for start, end in _STARTS_AND_ENDS:
            if row.time is not None and row.code.startswith((f"{start}//", f"{end}//")):
                item = row.code.removeprefix(start).removeprefix(end).split("//")[1]
                times = changes.setdefault((f"{end}//{item}", row.icustay_id, row.order_id), {})
                times.setdefault(row.time, [0, 0])[row.code.startswith(f"{end}//")] += 1
    found = []
    for (code, stay, order), times in changes.items():
        running = 0
        for _, (begun, ended) in sorted(times.items()):
            running = max(running + begun - ended, 0)
            running = running if order is None else min(running, 1)
        found += [MedsRow(time=asked.now, code=code, icustay_id=stay, order_id=order)] * running
    return found

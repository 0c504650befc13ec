"""CLIF's clinical tables to events of ICU stays. Rows belong to every stay of their patient whose window contains their time."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.sources.clif.clocks import shifted
from clinjepa.sources.clif.respiratory import respiratory
from clinjepa.sources.clif.tables import ClifMap, as_category, category, clif_map, load_tables
from clinjepa.sources.clif.treatments import continuous, given_doses, held_doses, intermittent, renal_replacement, running_in
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS, in_windows, take_statics
from clinjepa.sources.readings.cleaning import convert_values, raw_events
from clinjepa.sources.readings.written_units import written_unit
from clinjepa.sources.schema import LOOKBACK_HOURS

_DRIPS, _DOSES = "medication_admin_continuous", "medication_admin_intermittent"

_REACH_BACK = ("labs", _DOSES, "microbiology_culture")
"""Tables with variables whose `lookback_hours` are longer than LOOKBACK_HOURS."""


def read_events(
    tables: dict[str, pl.DataFrame],
    stays: pl.DataFrame,
    windows: pl.DataFrame,
    entered: pl.DataFrame,
    counts: Counter[str],
    event_time: str,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of a bucket of patients, on the clocks of the stays; dropped rows are counted by rule.

    Args:
        tables: The bucket's rows, with times in UTC.
        stays: Stays in the columns of STAYS_SCHEMA, on their own clocks.
        windows: The same stays with intime and outtime in UTC, and `offset` (`clocks.with_offsets`).
        entered: hadm_id and intime (UTC) of all admissions to an ICU, also of stays that are not read.
        counts: Receives rows left out, by rule.
        event_time: `measured` or `stored`.
    """
    known = clif_map()
    timed = {name: rows.rename({time: "time"}) for name, rows in tables.items() if (time := load_tables()[name].time) is not None}
    if (drips := timed.get(_DRIPS)) is not None:
        timed[_DRIPS] = held_doses(drips, entered, counts)
    if (doses := timed.get(_DOSES)) is not None:
        timed[_DOSES] = given_doses(doses, counts)
    placed = {name: (running_in if name == _DRIPS else in_windows)(rows, windows, counts) for name, rows in timed.items()}
    offsets = windows.select("stay_id", "offset")
    placed = {
        name: shifted(rows.join(offsets, on="stay_id", how="left", maintain_order="left"), pl.col("offset")).drop("offset")
        for name, rows in placed.items()
    }
    placed = {name: rows if name in _REACH_BACK else _near(rows, stays) for name, rows in placed.items()}
    parts = [
        _measurements(placed.get("vitals"), "vital_category", "vital_value", known["vitals"]),
        _measurements(_with_units(placed.get("labs")), "lab_category", "lab_value_numeric", known["labs"], "unit", "lab_result_dttm"),
        *_assessments(placed.get("patient_assessments"), known, counts),
    ]
    if (rows := placed.get("respiratory_support")) is not None:
        parts += respiratory(rows, counts)
    if (rows := placed.get(_DRIPS)) is not None:
        parts.append(continuous(rows, counts))
    if (rows := placed.get(_DOSES)) is not None:
        parts.append(intermittent(rows))
    if (rows := placed.get("crrt_therapy")) is not None:
        parts.append(renal_replacement(rows))
    if (rows := placed.get("microbiology_culture")) is not None:
        sample = pl.col("fluid_category").str.replace_all("_", " ").alias("text")
        parts.append(
            raw_events(rows.select("stay_id", "time", "row", sample, pl.lit("culture").alias("variable"), pl.lit(1.0).alias("value")))
        )
    events = convert_values(pl.concat(parts), counts, event_time)
    return take_statics(events, stays, counts, event_time)


def _near(rows: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """Rows at most LOOKBACK_HOURS before their stay: a weight of an earlier stay is not one of this stay."""
    began = rows.join(stays.select("stay_id", "intime"), on="stay_id", how="left", maintain_order="left")
    return rows.filter(began["time"] >= began["intime"] - timedelta(hours=LOOKBACK_HOURS))


def _with_units(labs: pl.DataFrame | None) -> pl.DataFrame | None:
    """Laboratory rows with `unit`: their reference unit, or where that says nothing the unit that CLIF fixes for their category."""
    if labs is None:
        return None
    fixed = {as_category(word): unit for word, unit in clif_map()["lab_units"].items()}
    of_category = category("lab_category").replace_strict(fixed, default=None, return_dtype=pl.String)
    return labs.with_columns(pl.coalesce(written_unit(labs, "reference_unit"), of_category).alias("unit"))


def _measurements(
    rows: pl.DataFrame | None, code: str, value: str, meaning: dict[str, list[str]], unit: str | None = None, stored: str | None = None
) -> pl.DataFrame:
    """Raw events of a table with a category and a number."""
    if rows is None:
        return raw_events(pl.DataFrame())
    pairs = [(as_category(word), name) for word, names in meaning.items() for name in names]
    table = pl.DataFrame(pairs, schema={"code": pl.String, "variable": pl.String}, orient="row")
    return raw_events(
        rows.with_columns(category(code).alias("code"))
        .join(table, on="code", how="inner", maintain_order="left")
        .select(
            "stay_id",
            "time",
            "variable",
            "row",
            pl.col(value).round_sig_figs(SIGNIFICANT_DIGITS).alias("value"),
            *([pl.col(unit).alias("unit")] if unit else []),
            *([pl.col(stored).alias("store_time")] if stored else []),
        )
    )


def _assessments(rows: pl.DataFrame | None, known: ClifMap, counts: Counter[str]) -> list[pl.DataFrame]:
    """Scores by their number, the result of CAM-ICU by its word; words that the map lacks are counted as `unmapped_code`."""
    if rows is None:
        return []
    scores = {word: [n for n in names if load_variables()[n].kind == "numeric"] for word, names in known["assessments"].items()}
    words = {word: names for word, names in known["assessments"].items() if not scores[word]}
    found = [_measurements(rows, "assessment_category", "numerical_value", scores)]
    for word, names in words.items():
        said = rows.filter(category("assessment_category") == as_category(word)).with_columns(
            category("categorical_value").replace_strict(known["delirium"], default=None, return_dtype=pl.String).alias("text")
        )
        if unmapped := said.filter(pl.col("text").is_null() & pl.col("categorical_value").is_not_null())["row"].n_unique():
            counts["unmapped_code"] += unmapped
        said = said.drop_nulls("text")
        found += [raw_events(said.select("stay_id", "time", "row", "text", pl.lit(name).alias("variable"))) for name in names]
    return found

"""Extracted rows of a mapped MEDS data set to events of ICU stays.

A row belongs to every stay of its patient whose window contains its time: concepts of OpenICU have no id of a stay.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.clinical.code_maps import CodeMap
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS, in_windows, take_statics
from clinjepa.sources.readings.cleaning import convert_values, raw_events
from clinjepa.sources.schema import LOOKBACK_HOURS, MEDICATION

_LONGEST_STAY = pl.duration(days=366)


def end_open_stays(stays: pl.DataFrame, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`stays` whose unknown ends are the last row of their patient before his next stay; those without such a row are left out.

    counts: receives `stay_end_from_last_row` (kept) and `stay_without_end`.
    """
    if not stays["outtime"].null_count():
        return stays
    following = pl.col("intime").shift(-1).over("subject_id", order_by="intime")
    stays = stays.with_columns(following.fill_null(pl.col("intime") + _LONGEST_STAY).alias("until"))
    times = rows.select("subject_id", "time").join(stays.select("subject_id", "stay_id", "intime", "until"), on="subject_id")
    last = (
        times.filter(pl.col("time").is_between("intime", "until", closed="left"))
        .group_by("stay_id")
        .agg(pl.col("time").max().alias("last"))
    )
    opened = stays["outtime"].is_null()
    stays = stays.join(last, on="stay_id", how="left", maintain_order="left")
    stays = stays.with_columns(pl.coalesce("outtime", "last").alias("outtime"), opened.alias("opened")).drop("until", "last")
    kept = stays.filter((pl.col("outtime") > pl.col("intime")).fill_null(False))
    if kept.height < stays.height:
        counts["stay_without_end"] += stays.height - kept.height
    if ended := kept.select(pl.col("opened").sum()).item():
        counts["stay_end_from_last_row"] += ended
    return kept.drop("opened")


def read_events(
    rows: pl.DataFrame, stays: pl.DataFrame, code_map: CodeMap, counts: Counter[str], event_time: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of a bucket of patients; dropped rows are counted by rule.

    Args:
        rows: Extracted rows of these patients, in the order of the files.
        stays: Their stays in the columns of STAYS_SCHEMA.
        code_map: The map.
        counts: Receives the rules of `convert_values`, `start_without_end`, `negative_rate`, `non_numeric` and `without_value`.
        event_time: `measured` or `stored`.
    """
    rows = rows.join(_meanings(code_map), on="key", how="left", maintain_order="left")
    digits = pl.col("numeric_value").round_sig_figs(SIGNIFICANT_DIGITS)
    rows = rows.with_columns(digits, pl.coalesce("unit", *(["rest"] if code_map.unit_in_code else []), "map_unit").alias("unit"))
    held = _held(rows.filter(pl.col("read") == "held"), counts)
    plain = rows.filter(pl.col("read") != "held").with_columns(pl.lit(None, pl.Datetime("us")).alias("end_time"))
    placed = in_windows(pl.concat([plain, held.select(plain.columns)]), stays, counts)
    raw = _near(_raw(placed, code_map, counts), stays)
    events = convert_values(raw, counts, event_time)
    return take_statics(events, stays, counts, event_time)


def _meanings(code_map: CodeMap) -> pl.DataFrame:
    """key, read, map_unit and hours; one row for each code of the map."""
    table = [(key, meaning.read, meaning.unit, meaning.hours) for key, meaning in code_map.codes.items()]
    types = {"key": pl.String, "read": pl.String, "map_unit": pl.String, "hours": pl.Float64}
    return pl.DataFrame(table, schema=types, orient="row")


def _held(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rates that hold until the next row of their patient, code and order, at most `hours`; 0 ends one, a last row is a point in time."""
    for rule, fault in (("non_numeric", pl.col("numeric_value").is_null()), ("negative_rate", pl.col("numeric_value") < 0)):
        wrong = fault.fill_null(False)
        if number := rows.select(wrong.sum()).item():
            counts[rule] += number
        rows = rows.filter(~wrong)
    series = ["subject_id", "key", "order"]
    stops = pl.col("numeric_value") == 0
    rows = rows.with_columns(stops.alias("stops")).sort(*series, "time", pl.col("stops").not_(), "row", nulls_last=True)
    following = pl.col("time").shift(-1).over(series)
    limit = pl.col("time") + pl.duration(seconds=pl.col("hours") * 3600)
    rows = rows.with_columns(pl.when(following.is_not_null()).then(pl.min_horizontal(following, limit)).alias("end_time"))
    rows = rows.filter(~pl.col("stops"))
    if open_ended := rows["end_time"].null_count():
        counts["start_without_end"] += open_ended
    return rows.filter(pl.col("end_time").is_null() | (pl.col("end_time") > pl.col("time")))


def _raw(placed: pl.DataFrame, code_map: CodeMap, counts: Counter[str]) -> pl.DataFrame:
    """Raw events: one for each variable of a row's code."""
    kinds = {name: variable.kind for name, variable in load_variables().items()} | {MEDICATION: "category"}
    pairs = [(key, name, kinds[name]) for key, meaning in code_map.codes.items() for name in meaning.variables]
    table = pl.DataFrame(pairs, schema={"key": pl.String, "variable": pl.String, "kind": pl.String}, orient="row")
    rows = placed.join(table, on="key", how="inner", maintain_order="left").with_columns(_said(code_map).alias("said"))
    category, drug, flag = pl.col("kind") == "category", pl.col("variable") == MEDICATION, pl.col("read") == "flag"
    lacking = ~drug & ~flag & pl.when(category).then(pl.col("said").is_null()).otherwise(pl.col("numeric_value").is_null())
    for name, number in rows.filter(lacking).group_by("variable").len().sort("variable").iter_rows():
        counts[f"without_value:{name}"] += number
    rows = rows.filter(~lacking)
    return raw_events(
        rows.select(
            "stay_id",
            "time",
            "end_time",
            "variable",
            "row",
            pl.col("order").rank("dense").cast(pl.Int64),
            pl.when(flag).then(1.0).when(~category | drug).then(pl.col("numeric_value")).alias("value"),
            pl.when(drug).then(pl.coalesce("text_value", "rest")).when(category).then("said").alias("text"),
            pl.when(~category | (drug & pl.col("numeric_value").is_not_null())).then("unit").alias("unit"),
            pl.col("stored").alias("store_time"),
        ).filter(~((pl.col("variable") == MEDICATION) & pl.col("text").is_null()))
    )


def _said(code_map: CodeMap) -> pl.Expr:
    """The text of a row, in the words of the map where it has some for the row's code."""
    text = pl.col("text_value").str.strip_chars()
    said: pl.Expr = text
    for key, meaning in code_map.codes.items():
        if meaning.words:
            words = text.str.to_lowercase().replace_strict(dict(meaning.words), default=None, return_dtype=pl.String)
            said = pl.when(pl.col("key") == key).then(words).otherwise(said)
    return said


def _near(events: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """Events at most their variable's look-back before their stay: a weight of an earlier stay is not one of this stay."""
    hours = {name: variable.lookback_hours for name, variable in load_variables().items()}
    lookback = pl.col("variable").replace_strict(hours, default=LOOKBACK_HOURS, return_dtype=pl.Int64)
    began = events.join(stays.select("stay_id", "intime"), on="stay_id", how="left", maintain_order="left")
    return events.filter(began.select(pl.col("time") >= pl.col("intime") - pl.duration(hours=lookback)).to_series())

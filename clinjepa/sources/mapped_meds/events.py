"""Extracted rows of a mapped MEDS data set to events of ICU stays.

A row belongs to every stay of its patient whose window contains its time: concepts of OpenICU have no id of a stay. A rate holds inside one
ICU stay: rows of another stay neither begin nor end it, so what happens later changes no hour of an earlier stay.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.clinical.code_maps import CodeMap
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS, in_windows, take_statics
from clinjepa.sources.readings.cleaning import convert_values, raw_events
from clinjepa.sources.readings.written_units import written_unit
from clinjepa.sources.schema import LOOKBACK_HOURS, MEDICATION

_LONGEST_STAY = pl.duration(days=366)


def end_open_stays(stays: pl.DataFrame, rows: pl.DataFrame, begins: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`stays` whose unknown ends are the last row of their patient before his next stay; those without such a row are left out.

    Args:
        stays: Stays with subject_id, intime and outtime, which may be null.
        rows: Extracted rows of these patients.
        begins: subject_id and `time` of all beginnings of their ICU stays, also of stays that are not read.
        counts: Receives `stay_end_from_last_row` (kept) and `stay_without_end`.
    """
    if not stays["outtime"].null_count():
        return stays
    stays = stays.join(_until_next(stays, begins), on="stay_id", how="left", maintain_order="left")
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


def whole_windows(stays: pl.DataFrame, begins: pl.DataFrame) -> pl.DataFrame:
    """subject_id, intime and outtime of `stays`; an unknown outtime is the patient's next beginning in `begins` (`end_open_stays`)."""
    ended = stays.join(_until_next(stays, begins), on="stay_id", how="left", maintain_order="left")
    return ended.select("subject_id", "intime", pl.coalesce("outtime", "until").alias("outtime"))


def _until_next(stays: pl.DataFrame, begins: pl.DataFrame) -> pl.DataFrame:
    """stay_id and `until`: the next beginning of an ICU stay of the patient, at most _LONGEST_STAY after the stay's own."""
    own = stays.select("subject_id", "stay_id", "intime")
    later = begins.select("subject_id", pl.col("time").alias("until")).join(own, on="subject_id")
    following = later.filter(pl.col("until") > pl.col("intime")).group_by("stay_id").agg(pl.col("until").min())
    found = own.join(following, on="stay_id", how="left", maintain_order="left")
    longest = pl.col("intime") + _LONGEST_STAY
    return found.select("stay_id", pl.min_horizontal("until", longest).alias("until"))


def read_events(
    rows: pl.DataFrame, stays: pl.DataFrame, windows: pl.DataFrame, code_map: CodeMap, counts: Counter[str], event_time: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of a bucket of patients; dropped rows are counted by rule.

    Args:
        rows: Extracted rows of these patients, in the order of the files.
        stays: Their stays in the columns of STAYS_SCHEMA.
        windows: subject_id, intime and outtime of all their usable stays, also of those that are not read.
        code_map: The map.
        counts: Receives the rules of `convert_values`, `start_without_end`, `negative_rate`, `non_numeric` and `without_value`.
        event_time: `measured` or `stored`.
    """
    rows = rows.join(_meanings(code_map), on="key", how="left", maintain_order="left")
    digits = pl.col("numeric_value").round_sig_figs(SIGNIFICANT_DIGITS)
    of_code = [written_unit(rows, "rest")] if code_map.unit_in_code else []
    rows = rows.with_columns(digits, pl.coalesce(written_unit(rows, "unit"), *of_code, "map_unit").alias("unit"))
    placed = in_windows(_with_rates(rows, counts), stays, counts)
    held = _held(_of_own_stay(placed.filter(pl.col("read") == "held"), stays, windows), counts)
    plain = placed.filter(pl.col("read") != "held").with_columns(pl.lit(None, pl.Datetime("us")).alias("end_time"))
    raw = _near(_raw(pl.concat([plain, held.select(plain.columns)]), code_map, counts), stays)
    events = convert_values(raw, counts, event_time)
    return take_statics(events, stays, counts, event_time)


def _meanings(code_map: CodeMap) -> pl.DataFrame:
    """key, read, map_unit and hours; one row for each code of the map."""
    table = [(key, meaning.read, meaning.unit, meaning.hours) for key, meaning in code_map.codes.items()]
    types = {"key": pl.String, "read": pl.String, "map_unit": pl.String, "hours": pl.Float64}
    return pl.DataFrame(table, schema=types, orient="row")


def _with_rates(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`rows` without held rates that are no number or negative, which are counted."""
    for rule, fault in (("non_numeric", pl.col("numeric_value").is_null()), ("negative_rate", pl.col("numeric_value") < 0)):
        wrong = ((pl.col("read") == "held") & fault).fill_null(False)
        if number := rows.select(wrong.sum()).item():
            counts[rule] += number
        rows = rows.filter(~wrong)
    return rows


def _of_own_stay(placed: pl.DataFrame, stays: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """`placed` without rows before their stay that lie in another one: a rate of an earlier stay is not one of this stay.

    Args:
        placed: Rows with the stay_id of each stay in whose window they lie, as `in_windows` returns them.
        stays: The stays.
        windows: As in `read_events`.
    """
    began = stays.select("stay_id", pl.col("intime").alias("began"))
    before = placed.select("stay_id", "subject_id", "row", "time").join(began, on="stay_id").filter(pl.col("time") < pl.col("began"))
    inside = before.join(windows, on="subject_id").filter(pl.col("time").is_between("intime", "outtime"))
    return placed.join(inside, on=["stay_id", "row"], how="anti", maintain_order="left")


def _held(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rates that hold until the next row of their stay, code and order, at most `hours`; 0 ends one, a last row is a point in time."""
    series = ["stay_id", "key", "order"]
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

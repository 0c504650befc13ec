"""The hour's rows in words: state, action and static texts.

Values are not normalised, binned or imputed: every row of the hour is written once, in the fixed clinical order, chronological
inside one variable; what is missing is absent. The hour counts from ICU admission, so a text is the same in every window
that holds its hour. Source: Clin-JEPA (arXiv 2605.10840), section on data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from clinjepa.clinical import Variable, excluded_by
from clinjepa.errors import ConfigError
from clinjepa.sources.schema import MEDICATION
from clinjepa.trajectory.grid import hour_frame

NO_OBSERVATIONS = "No observations."
NO_INTERVENTIONS = "No active interventions."
STATIC_FIELDS = ("age_years", "sex", "race")
_UNITLESS = ("", "score", "ratio", "unit", "category", "indicator")


def format_number(value: float, max_decimals: int) -> str:
    """At most `max_decimals` decimals, no trailing zeros, no negative zero: 88.0 -> `88`, 0.125 -> `0.12`."""
    text = f"{value:.{max_decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def guard_exclusions(names: Iterable[str]) -> None:
    """Raise ConfigError when a field about to enter a text is on the exclusion list (`clinical/exclusions.yaml`)."""
    found = sorted({field for name in names if (field := excluded_by(name))})
    if found:
        raise ConfigError(
            f"excluded fields would enter the texts: {', '.join(found)}; give their variables role label_only, or drop them in the source"
        )


def hour_texts(
    placed: pl.DataFrame, stays: pl.DataFrame, variables: Mapping[str, Variable], max_decimals: int, include_medications: bool
) -> pl.DataFrame:
    """stay_id, state_texts list<string>, action_texts list<string>, one row per stay, T texts each, sorted by stay_id.

    placed: rows of `grid.place_events`; stays: stay_id, num_hours. Raises ConfigError if an excluded field would be written.
    """
    frame = hour_frame(stays)
    columns = []
    for role, column, sentinel in (("state", "state_texts", NO_OBSERVATIONS), ("action", "action_texts", NO_INTERVENTIONS)):
        written = {name: variable for name, variable in variables.items() if variable.role == role}
        rows = placed.filter(pl.col("variable").is_in(list(written)))
        in_use = rows["variable"].unique().to_list()
        named = rows.filter(pl.col("kind") == "indicator")["text"].drop_nulls().unique().to_list()
        guard_exclusions([*in_use, *(written[name].text_name for name in in_use), *named])
        pieces = _variable_pieces(rows, written, max_decimals)
        if role == "action" and include_medications:
            pieces = pl.concat([pieces, _medication_pieces(placed.filter(pl.col("variable") == MEDICATION), max_decimals)])
        pieces = pieces.sort("stay_id", "hour", "position", "start_us", "row", "piece")
        bodies = pieces.group_by("stay_id", "hour", maintain_order=True).agg(pl.col("piece").str.join(" ").alias("body"))
        texts = frame.join(bodies, on=["stay_id", "hour"], how="left").sort("stay_id", "hour")
        sentence = pl.format("t={}h | {}", pl.col("hour"), pl.col("body").fill_null(sentinel))
        columns.append(texts.with_columns(sentence.alias(column)).group_by("stay_id", maintain_order=True).agg(pl.col(column)))
    return columns[0].join(columns[1], on="stay_id", how="inner", validate="1:1").sort("stay_id")


def static_texts(stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, static_text: `Age: 63 years. Gender: male. Race: unknown.` Ages are whole years."""
    guard_exclusions(STATIC_FIELDS)
    age = pl.col("age_years").floor().cast(pl.Int32)
    age_text = pl.when(age.is_null()).then(pl.lit("unknown")).otherwise(pl.format("{} years", age))
    return stays.select(
        "stay_id",
        pl.format("Age: {}. Gender: {}. Race: {}.", age_text, _category(pl.col("sex")), _category(pl.col("race"))).alias("static_text"),
    )


def _variable_pieces(rows: pl.DataFrame, written: Mapping[str, Variable], max_decimals: int) -> pl.DataFrame:
    """stay_id, hour, position, start_us, row, piece: one phrase per row; an indicator or rate of zero is none."""
    ranked = sorted(written, key=lambda name: written[name].order)
    names = pl.DataFrame(
        {
            "variable": ranked,
            "position": list(range(len(ranked))),
            "text_name": [written[name].text_name for name in ranked],
            "suffix": [f" {unit}." if (unit := written[name].unit) not in _UNITLESS else "." for name in ranked],
        },
        schema={"variable": pl.String, "position": pl.Int64, "text_name": pl.String, "suffix": pl.String},
    )
    is_off = pl.col("kind").is_in(["indicator", "rate"]) & (pl.col("value") == 0)
    rows = rows.filter(~is_off.fill_null(False)).join(names, on="variable", how="left")
    rows = rows.with_columns(_formatted(rows["value"], max_decimals))
    name = pl.col("text_name")
    detail = _category(pl.col("text"))
    says_no_more = pl.col("text").is_null() | (detail.str.to_lowercase() == name.str.to_lowercase())
    phrase = (
        pl.when(pl.col("kind") == "indicator")
        .then(pl.when(says_no_more).then(pl.format("{}.", name)).otherwise(pl.format("{}: {}.", name, detail)))
        .when(pl.col("kind") == "category")
        .then(pl.format("{}: {}.", name, _category(pl.coalesce(pl.col("text"), pl.col("number")))))
        .otherwise(pl.concat_str(name, pl.lit(": "), pl.col("number"), pl.col("suffix")))
    )
    return rows.select("stay_id", "hour", "position", "start_us", "row", phrase.alias("piece"))


def _medication_pieces(rows: pl.DataFrame, max_decimals: int) -> pl.DataFrame:
    """Free-named medications, after every named action: `Vancomycin: 1000 mg.`, or `Vancomycin.` without a dose."""
    guard_exclusions(rows["text"].drop_nulls().unique().to_list())
    rows = rows.filter(pl.col("text").is_not_null())
    rows = rows.with_columns(_formatted(rows["value"], max_decimals))
    name = _category(pl.col("text"))
    unit = (
        pl.when(pl.col("unit").is_null() | (pl.col("unit").str.strip_chars() == ""))
        .then(pl.lit(""))
        .otherwise(pl.format(" {}", pl.col("unit").str.strip_chars()))
    )
    phrase = (
        pl.when(pl.col("number").is_null())
        .then(pl.format("{}.", name))
        .otherwise(pl.concat_str(name, pl.lit(": "), pl.col("number"), unit, pl.lit(".")))
    )
    return rows.select("stay_id", "hour", pl.lit(1 << 30, pl.Int64).alias("position"), "start_us", "row", phrase.alias("piece"))


def _category(text: pl.Expr) -> pl.Expr:
    """One line, no full stop at its end, `unknown` when there is none."""
    line = text.str.replace_all(r"\s+", " ").str.strip_chars(" .")
    return pl.when(line.is_null() | (line == "")).then(pl.lit("unknown")).otherwise(line)


def _formatted(values: pl.Series, max_decimals: int) -> pl.Series:
    """Column `number`: each distinct value is formatted once."""
    floats = values.to_numpy()
    distinct, inverse = np.unique(floats, return_inverse=True)
    words = [None if np.isnan(value) else format_number(value, max_decimals) for value in distinct.tolist()]
    return pl.Series("number", words, dtype=pl.String).gather(inverse) if len(words) else pl.Series("number", [], dtype=pl.String)

"""Texts of an hour: state, action and static texts from rows of `grid.place_events`.

Values are not normalised, binned or imputed. Every row of the hour is written once, in the fixed clinical order and chronologically
within a variable; a missing value is not mentioned. Hours count from ICU admission, so a text is the same in every window that
contains its hour. Source: Clin-JEPA (arXiv 2605.10840), section on data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import DEFAULT_DIGITS, Variable, excluded_by
from clinjepa.errors import ConfigError
from clinjepa.sources.schema import MEDICATION
from clinjepa.trajectory.hours.grid import find_stays, variable_names
from clinjepa.trajectory.hours.numbers import format_numbers

NO_OBSERVATIONS = "No observations."
NO_INTERVENTIONS = "No active interventions."
STATIC_FIELDS = ("age_years", "sex", "race")
_UNITLESS = ("", "score", "ratio", "unit", "category", "indicator")
_HEAD = re.compile(r"t=\d+h \| ")


def guard_exclusions(names: Iterable[str]) -> None:
    """Raise ConfigError if one of the field names is on the exclusion list (`clinjepa/clinical/exclusions.yaml`)."""
    found = sorted({field for name in names if (field := excluded_by(name))})
    if found:
        raise ConfigError(
            f"excluded fields would enter the texts: {', '.join(found)}; give their variables role label_only, or drop them in the source"
        )


def hour_texts(
    placed: pl.DataFrame, stays: pl.DataFrame, variables: Mapping[str, Variable], max_decimals: int, include_medications: bool
) -> pl.DataFrame:
    """State and action texts of every hour: stay_id, state_texts list<string>, action_texts list<string>, sorted by stay_id.

    Args:
        placed: rows of `grid.place_events` of these stays.
        stays: stay_id, num_hours (T, the number of texts of each kind).
        variables: the variable dictionary.
        max_decimals: decimals of a number that has enough significant digits (`numbers.format_number`).
        include_medications: write free-named medications into the action texts.

    Raises:
        ConfigError: an excluded field would be written.
    """
    stays = stays.sort("stay_id")
    num_hours = stays["num_hours"].cast(pl.Int64).to_numpy()
    at, _ = find_stays(stays["stay_id"].to_numpy(), placed["stay_id"].to_numpy())
    slot = (np.cumsum(num_hours) - num_hours)[at] + placed["hour"].to_numpy() if placed.height else np.zeros(0, np.int64)
    columns = {}
    for role, column, sentinel in (("state", "state_texts", NO_OBSERVATIONS), ("action", "action_texts", NO_INTERVENTIONS)):
        written = {name: variable for name, variable in variables.items() if variable.role == role}
        kinds: dict[str, str] = {name: variable.kind for name, variable in written.items()}
        if role == "action" and include_medications:
            kinds[MEDICATION] = MEDICATION
        names = variable_names(placed)
        code = placed["variable"].to_physical().to_numpy()
        rows = np.flatnonzero(np.array([name in kinds for name in names])[code])
        distinct, which = _distinct_rows(placed[rows], kinds)
        guard_exclusions(_field_names(distinct, written))
        phrases = _phrases(distinct, written, max_decimals)
        has_phrase = phrases.is_not_null().to_numpy()[which]
        rows, which = rows[has_phrase], which[has_phrase]
        rows, which = _in_order(placed, rows, which, phrases)
        columns[column] = _joined(phrases, which, slot[rows], num_hours, sentinel)
    return pl.DataFrame({"stay_id": stays["stay_id"]} | {name: pl.from_arrow(texts) for name, texts in columns.items()})


def phrases_of(text: str) -> list[str]:
    """The phrases of an hour's text without their full stops; none of a text that says that nothing was observed or given.

    A name with `. ` in it makes two phrases. A text without the head of an hour is one phrase.
    """
    body = text[head.end() :] if (head := _HEAD.match(text)) else text
    return [] if body in (NO_OBSERVATIONS, NO_INTERVENTIONS) else body.removesuffix(".").split(". ")


def action_text(hour: int, phrases: Iterable[str]) -> str:
    """The action text of an hour of the stay with these phrases, which are without their full stops."""
    return f"t={hour}h | " + (" ".join(f"{phrase}." for phrase in phrases) or NO_INTERVENTIONS)


def static_texts(stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, static_text: `Age: 63 years. Gender: male. Race: unknown.` Ages are whole years."""
    guard_exclusions(STATIC_FIELDS)
    age = pl.col("age_years").floor().cast(pl.Int32)
    age_text = pl.when(age.is_null()).then(pl.lit("unknown")).otherwise(pl.format("{} years", age))
    return stays.select(
        "stay_id",
        pl.format("Age: {}. Gender: {}. Race: {}.", age_text, _category(pl.col("sex")), _category(pl.col("race"))).alias("static_text"),
    )


def _distinct_rows(rows: pl.DataFrame, kinds: Mapping[str, str]) -> tuple[pl.DataFrame, np.ndarray]:
    """(rows that give different phrases: variable, value, text, unit, kind; for each row the position of its like)."""
    names = variable_names(rows)
    code = rows["variable"].to_physical().to_numpy()
    is_number = np.array([kinds.get(name) in ("numeric", "rate") for name in names])[code]
    value, num_values = _numbered(rows["value"])
    text, num_texts = _numbered(rows["text"])
    unit, num_units = _numbered(rows["unit"])
    if len(names) * num_values * num_texts * num_units >= 1 << 62:
        raise ConfigError("a partition has too many different values and texts at once; raise source.num_partitions")
    # Numeric variables and rates are written with the value and the dictionary's unit; the row's text and unit do not matter.
    key = np.where(is_number, 0, text * num_units + unit) * num_values + value
    which, _ = _numbered(pl.Series(key * len(names) + code))
    first = np.zeros(which.max() + 1 if len(which) else 0, np.int64)
    first[which[::-1]] = np.arange(len(which))[::-1]
    distinct = rows.select(pl.col("variable").cast(pl.String), "value", "text", "unit")[first]
    return distinct.with_columns(pl.col("variable").replace_strict(dict(kinds), return_dtype=pl.String).alias("kind")), which


def _numbered(column: pl.Series) -> tuple[np.ndarray, int]:
    """(number of each entry's value, by first appearance; how many values there are). A null counts as a value."""
    if column.null_count() == len(column):
        return np.zeros(len(column), np.int64), 1
    encoded = column.to_arrow().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(encoded.dictionary)


def _field_names(distinct: pl.DataFrame, written: Mapping[str, Variable]) -> list[str]:
    """All field names in the rows: variables, the details of indicators, medications."""
    in_use = distinct.filter(pl.col("variable") != MEDICATION)["variable"].unique().to_list()
    named = distinct.filter(pl.col("kind").is_in(["indicator", MEDICATION]))["text"].drop_nulls().unique().to_list()
    return [*in_use, *(written[name].text_name for name in in_use), *named]


def _in_order(placed: pl.DataFrame, rows: np.ndarray, which: np.ndarray, phrases: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows as in the text. They are sorted already, except that rows of one variable, time and source row are sorted by phrase."""
    names = ("stay_id", "hour", "variable", "start_us", "row")
    keys = [placed[name].to_physical().to_numpy()[rows] for name in names]
    if len(rows) < 2 or not np.logical_and.reduce([key[1:] == key[:-1] for key in keys]).any():
        return rows, which
    order = np.lexsort((phrases.rank("dense").to_numpy()[which], *reversed(keys)))
    return rows[order], which[order]


def _joined(phrases: pl.Series, which: np.ndarray, slot: np.ndarray, num_hours: np.ndarray, sentinel: str) -> pa.ListArray:
    """One list per stay of its hours' texts.

    All texts together are one sequence of pieces: an hour's head, then its phrases or the sentinel. The pieces are gathered once, and the
    borders of the texts follow from the pieces' lengths.

    Args:
        phrases: the distinct phrases.
        which: phrase of each row, in the order of the text.
        slot: hour of each row, counted over all stays, ascending.
        num_hours: hours of each stay.
        sentinel: written in an hour without phrases.
    """
    most, total = int(num_hours.max(initial=0)), int(num_hours.sum())
    heads = pl.Series([f"t={hour}h |" for hour in range(most)], dtype=pl.String)
    pieces = pl.concat([" " + phrases.fill_null(""), heads, pl.Series([f" {sentinel}"])])
    dictionary = pieces.to_arrow(compat_level=pl.CompatLevel.oldest())
    num_phrases = np.bincount(slot, minlength=total)
    num_pieces = 1 + np.maximum(num_phrases, 1)
    start = np.cumsum(num_pieces) - num_pieces
    order = np.full(int(num_pieces.sum()), len(phrases) + most)  # the sentinel, where no phrase is put below
    order[start] = len(phrases) + np.arange(total) - np.repeat(np.cumsum(num_hours) - num_hours, num_hours)
    order[np.arange(len(which)) + np.cumsum(num_phrases == 0)[slot] + slot + 1] = which
    content = dictionary.take(pa.array(order))
    _, offsets, data = content.buffers()
    borders = np.frombuffer(offsets, np.int64)[np.append(start, len(order))]
    texts = pa.LargeStringArray.from_buffers(total, pa.py_buffer(borders), data)
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, np.cumsum(num_hours))), texts)


def _phrases(distinct: pl.DataFrame, written: Mapping[str, Variable], max_decimals: int) -> pl.Series:
    """The phrase of each row; null for an indicator or rate of zero and for a medication without a name."""
    names = pl.DataFrame(
        {
            "variable": list(written),
            "text_name": [variable.text_name for variable in written.values()],
            "suffix": [f" {variable.unit}." if variable.unit not in _UNITLESS else "." for variable in written.values()],
            "digits": [variable.digits for variable in written.values()],
        },
        schema={"variable": pl.String, "text_name": pl.String, "suffix": pl.String, "digits": pl.Int64},
    )
    distinct = distinct.join(names, on="variable", how="left", maintain_order="left")
    numbers = format_numbers(distinct["value"], distinct["digits"].fill_null(DEFAULT_DIGITS), max_decimals)
    distinct = distinct.with_columns(numbers.alias("number"))
    name, detail = pl.col("text_name"), _category(pl.col("text"))
    is_off = pl.col("kind").is_in(["indicator", "rate"]) & (pl.col("value") == 0)
    adds_nothing = pl.col("text").is_null() | (detail.str.to_lowercase() == name.str.to_lowercase())
    phrase = (
        pl.when(is_off.fill_null(False))
        .then(None)
        .when(pl.col("kind") == MEDICATION)
        .then(_medication())
        .when(pl.col("kind") == "indicator")
        .then(pl.when(adds_nothing).then(pl.format("{}.", name)).otherwise(pl.format("{}: {}.", name, detail)))
        .when(pl.col("kind") == "category")
        .then(pl.format("{}: {}.", name, _category(pl.coalesce(pl.col("text"), pl.col("number")))))
        .otherwise(pl.concat_str(name, pl.lit(": "), pl.col("number"), pl.col("suffix")))
    )
    return distinct.select(phrase.alias("phrase"))["phrase"]


def _medication() -> pl.Expr:
    """Phrase of a free-named medication: `Vancomycin: 1000 mg.`, or `Vancomycin.` without a dose."""
    name, unit = _category(pl.col("text")), pl.col("unit").str.strip_chars()
    suffix = pl.when(unit.is_null() | (unit == "")).then(pl.lit("")).otherwise(pl.format(" {}", unit))
    dose = pl.concat_str(name, pl.lit(": "), pl.col("number"), suffix, pl.lit("."))
    phrase = pl.when(pl.col("number").is_null()).then(pl.format("{}.", name)).otherwise(dose)
    return pl.when(pl.col("text").is_not_null()).then(phrase)


def _category(text: pl.Expr) -> pl.Expr:
    """A text on one line, without a full stop at its end; `unknown` if it is missing or blank."""
    line = text.str.replace_all(r"\s+", " ").str.strip_chars(" .")
    return pl.when(line.is_null() | (line == "")).then(pl.lit("unknown")).otherwise(line)

"""Values that mean "not measured": dropped from events and counted.

The table is `clinical/maps/missing.yaml`, the same for every source. `cleaning.convert_values` applies it before it converts units.
Height and weight of MIMIC-IV and MEDS are events until then; those of CinC 2012 are held to their plausible ranges where they are read, and
ages of every source by `cleaning.drop_implausible_ages` or the same range.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import canonical_unit, load_variables
from clinjepa.clinical.missing import MissingCode, missing_values
from clinjepa.clinical.units import unit_conversion


def drop_missing(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events without those whose value or text means "missing".

    Counted: `zero_reading:<variable>`, and `missing_code:<variable>` for other numbers and for texts.
    """
    rules = events.select(_rule(pl.col("variable"), pl.col("value"), pl.col("text")).alias("rule"))["rule"]
    if rules.null_count() == len(rules):
        return events
    rules = _without_readings(events, rules)
    dropped = events.select("variable", rules).filter(pl.col("rule").is_not_null())
    for rule, variable, number in dropped.group_by("rule", "variable").len().iter_rows():
        counts[f"{rule}:{variable}"] += number
    return events.filter(rules.is_null())


def _is_reading(code: MissingCode, name: str, factor: float = 1.0) -> bool:
    """Whether a code, times the factor of its unit, is a plausible value of a variable."""
    variable = load_variables()[name]
    if name in code.also or variable.minimum is None or variable.maximum is None:
        return False
    return variable.minimum <= code.value * factor <= variable.maximum


def _without_readings(events: pl.DataFrame, rules: pl.Series) -> pl.Series:
    """`rules` without `missing_code` where the code is a plausible value in the row's unit (9999 white cells per uL)."""
    codes = {code.value: code for code in missing_values().codes}
    coded = pl.DataFrame({"place": range(len(rules)), "rule": rules}).with_columns(events["variable"], events["value"], events["unit"])
    coded = coded.filter((pl.col("rule") == "missing_code") & pl.col("unit").is_not_null() & pl.col("value").is_in(list(codes)))
    readings = []
    for place, name, value, unit in coded.select("place", "variable", "value", "unit").iter_rows():
        found = unit_conversion(canonical_unit(unit) or "", name)
        if found is not None and not found.per_kg and _is_reading(codes[value], name, found.factor):
            readings.append(place)
    return rules.scatter(readings, None) if readings else rules


def _rule(variable: pl.Expr, value: pl.Expr, text: pl.Expr) -> pl.Expr:
    """The rule by which a value means "missing", null where it is a reading. Variables outside the dictionary are never missing."""
    table, variables = missing_values(), load_variables()
    zeros = pl.Series(sorted(table.zero_is_missing)).implode()
    numbers = pl.Series([name for name, known in variables.items() if known.kind != "category"]).implode()
    categories = pl.Series([name for name, known in variables.items() if known.kind == "category"]).implode()
    coded: pl.Expr = pl.lit(False)
    for code in table.codes:
        missing = pl.Series([name for name in variables if not _is_reading(code, name)], dtype=pl.String).implode()
        coded = coded | ((value == code.value) & variable.is_in(missing))
    words = text.str.strip_chars().str.to_lowercase().is_in(pl.Series(sorted(table.texts)).implode())
    return (
        pl.when((value == 0) & variable.is_in(zeros))
        .then(pl.lit("zero_reading"))
        .when((coded & variable.is_in(numbers)) | (words & variable.is_in(categories)))
        .then(pl.lit("missing_code"))
        .otherwise(pl.lit(None, pl.String))
    )

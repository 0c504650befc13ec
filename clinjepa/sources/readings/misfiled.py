"""Readings that certainly belong to another variable or unit are moved there, on every source, before units are converted.

The rules are `clinical/maps/misfiled.yaml`. `range_losses.py` counts what is lost where no rule is certain.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import Conversion, canonical_unit, load_variables
from clinjepa.clinical.misfiled import load_misfiled


def move_misfiled(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events with the readings of `misfiled.yaml` under their own variable, in its unit.

    A reading that a conversion of its item applies to stays: what it means is known. Counted: `<rule>:<variable>`.
    """
    moved = _moved(_candidates(events))
    if not moved.height:
        return events
    for name, old, number in moved.group_by("rule", "from_variable").len().iter_rows():
        counts[f"{name}:{old}"] += number
    new = {name: pl.coalesce(f"new_{name}", name).alias(name) for name in ("variable", "value", "unit")}
    joined = events.with_row_index("place").join(moved, on="place", how="left", maintain_order="left")
    return joined.with_columns(**new).select(events.columns)


def _candidates(events: pl.DataFrame) -> pl.DataFrame:
    """The few rows whose value lies in the range of a rule of their variable, with their row number `place` in `events`."""
    rules = load_misfiled()
    value = pl.col("value")
    in_a_range = [(pl.col("variable") == rule.variable) & value.is_between(rule.lowest, rule.highest) for rule in rules]
    columns = events.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias("place"), "variable", "value", "unit", "item")
    concerned = columns.filter(pl.col("variable").is_in(list({rule.variable for rule in rules})) & value.is_not_null())
    return concerned.filter(pl.any_horizontal(in_a_range))


def _moved(events: pl.DataFrame) -> pl.DataFrame:
    """(place, rule, from_variable, new_variable, new_value, new_unit) of the candidates to which a rule applies; the last one decides."""
    variables = load_variables()
    known = {unit: canonical_unit(unit) for unit in events["unit"].unique().to_list() if unit is not None}
    unit = pl.col("unit").replace_strict(known, default=None, return_dtype=pl.String)
    chosen, value, variable, own_unit = pl.lit(None, pl.String), pl.col("value"), pl.col("variable"), pl.col("unit")
    for rule in load_misfiled():
        in_units = unit.is_in([one for one in rule.units if one is not None])
        in_units = (in_units | unit.is_null()) if None in rule.units else in_units.fill_null(False)
        by_item = [conversion for conversion in variables[rule.variable].conversions if conversion.itemid is not None]
        is_known = pl.any_horizontal(pl.lit(False), *(_applies(conversion) for conversion in by_item))
        here = (pl.col("variable") == rule.variable) & pl.col("value").is_between(rule.lowest, rule.highest) & in_units
        here = (here & ~is_known).fill_null(False)
        chosen = pl.when(here).then(pl.lit(rule.name)).otherwise(chosen)
        value = pl.when(here).then((pl.col("value") + rule.add) * rule.multiply).otherwise(value)
        variable = pl.when(here).then(pl.lit(rule.becomes)).otherwise(variable)
        own_unit = pl.when(here).then(pl.lit(variables[rule.becomes].unit)).otherwise(own_unit)
    new = [value.alias("new_value"), variable.alias("new_variable"), own_unit.alias("new_unit")]
    return events.select("place", chosen.alias("rule"), pl.col("variable").alias("from_variable"), *new).drop_nulls("rule")


def _applies(conversion: Conversion) -> pl.Expr:
    """Whether a conversion of an item applies to a reading, by item and range."""
    value = pl.col("value")
    from_on = pl.lit(True) if conversion.lowest is None else value >= conversion.lowest
    up_to = pl.lit(True) if conversion.highest is None else value <= conversion.highest
    return ((pl.col("item") == conversion.itemid) & from_on & up_to).fill_null(False)

"""Readings that certainly belong to another variable or unit are moved there, on every source, before units are converted.

The rules are `clinical/maps/misfiled.yaml`. `range_losses.py` counts what is lost where no rule is certain.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import canonical_unit, load_variables
from clinjepa.clinical.misfiled import load_misfiled


def move_misfiled(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events with the readings of `misfiled.yaml` under their own variable, in its unit.

    A reading whose item has a conversion of its own stays: what the item means is known. Counted: `<rule>:<variable>`.
    """
    rules, variables = load_misfiled(), load_variables()
    concerned = events.filter(pl.col("variable").is_in(list({rule.variable for rule in rules})) & pl.col("value").is_not_null())
    if not concerned.height:
        return events
    known = {unit: canonical_unit(unit) for unit in events["unit"].unique().to_list() if unit is not None}
    unit = pl.col("unit").replace_strict(known, default=None, return_dtype=pl.String)
    chosen, value, variable, own_unit = pl.lit(None, pl.String), pl.col("value"), pl.col("variable"), pl.col("unit")
    for rule in rules:
        in_units = unit.is_in([one for one in rule.units if one is not None])
        in_units = (in_units | unit.is_null()) if None in rule.units else in_units.fill_null(False)
        items = [conversion.itemid for conversion in variables[rule.variable].conversions if conversion.itemid is not None]
        here = (pl.col("variable") == rule.variable) & pl.col("value").is_between(rule.lowest, rule.highest) & in_units
        here = (here & ~pl.col("item").is_in(items).fill_null(False)).fill_null(False)
        chosen = pl.when(here).then(pl.lit(rule.name)).otherwise(chosen)
        value = pl.when(here).then((pl.col("value") + rule.add) * rule.multiply).otherwise(value)
        variable = pl.when(here).then(pl.lit(rule.becomes)).otherwise(variable)
        own_unit = pl.when(here).then(pl.lit(variables[rule.becomes].unit)).otherwise(own_unit)
    found = events.select(chosen.alias("rule"))["rule"]
    if found.null_count() == len(found):
        return events
    for name, old, number in events.select("variable", found).drop_nulls("rule").group_by("rule", "variable").len().iter_rows():
        counts[f"{name}:{old}"] += number
    return events.with_columns(variable.alias("variable"), value.alias("value"), own_unit.alias("unit"))

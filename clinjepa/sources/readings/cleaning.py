"""Raw events of a source to clean events: unit conversion, plausible ranges, the stay's window, duplicates.

Every source calls `convert_values` and `finish`, so a rule has the same name in the counts of every data set. The rules are data:
conversions and ranges in `clinical/variables.yaml`, unit spellings in `clinical/maps/units.yaml`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Conversion, Variable, canonical_unit, load_variables
from clinjepa.clinical.units import unit_conversion, units_of
from clinjepa.sources.readings.known_weight import is_weight, with_known_weight
from clinjepa.sources.readings.misfiled import move_misfiled
from clinjepa.sources.readings.missing_values import drop_missing
from clinjepa.sources.readings.range_losses import Counts, group_losses
from clinjepa.sources.schema import (
    EVENTS_SCHEMA,
    LABEL_COLUMNS,
    LOOKBACK_HOURS,
    MEDICATION,
    STAYS_SCHEMA,
    STAYS_TYPES,
    TIMES_OF_STATICS,
    SourceTables,
    validate,
)

PLAUSIBLE_YEARS = (1, 120)
"""Ages of use. Patients over 89 are 91 in MIMIC-IV; 200 and 300 stand for them in older releases and in what is made from these."""

_EVENT_COLUMNS = pl.Schema(
    {
        "stay_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "end_time": pl.Datetime("us"),
        "variable": pl.String(),
        "value": pl.Float64(),
        "text": pl.String(),
        "unit": pl.String(),
        "store_time": pl.Datetime("us"),
        "row": pl.Int64(),
    }
)
_IDENTITY = {"item": pl.Int64(), "order": pl.Int64()}
"""What tells rows apart beside their content: the item, and the order under which something was given (a number of the source)."""

VIEW, TEXTS, LABELS = "view", "texts", "labels"
"""Column of converted events with `source.event_time: stored`, and its values: who reads a row. Null: both."""

_RAW_COLUMNS = pl.Schema({**_EVENT_COLUMNS, **_IDENTITY, "patient_weight": pl.Float64(), "site": pl.String()})


def raw_events(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with all columns of a raw event: EVENTS_SCHEMA plus item id, order, patient weight in kg and site.

    Missing columns are null.
    """
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name) for name, dtype in _RAW_COLUMNS.items()
    )


def at_sites(events: pl.DataFrame, sites: Mapping[int, str]) -> pl.DataFrame:
    """Raw events with the site of their stay, for data sets of several hospitals. sites: stay_id -> name."""
    table = pl.DataFrame({"stay_id": list(sites), "site": list(sites.values())}, schema={"stay_id": pl.Int64, "site": pl.String})
    return events.drop("site").join(table, on="stay_id", how="left", maintain_order="left").select(_RAW_COLUMNS.names())


def complete_stays(stays: pl.DataFrame) -> pl.DataFrame:
    """`stays` with the columns of STAYS_SCHEMA in order; missing ones of LABEL_COLUMNS and TIMES_OF_STATICS become null."""
    absent = [name for name in (*LABEL_COLUMNS, *TIMES_OF_STATICS.values()) if name not in stays.columns]
    return stays.with_columns(pl.lit(None, STAYS_TYPES[name]).alias(name) for name in absent).select(STAYS_SCHEMA.names)


def drop_implausible_ages(stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`stays` with ages outside PLAUSIBLE_YEARS as null, counted as `implausible_age`."""
    plausible = pl.col("age_years").is_between(*PLAUSIBLE_YEARS)
    implausible = stays.select((~plausible).sum()).item()
    if implausible:
        counts["implausible_age"] += implausible
    return stays.with_columns(pl.when(plausible).then(pl.col("age_years")).alias("age_years"))


def convert_values(events: pl.DataFrame, counts: Counter[str], event_time: str = "measured") -> pl.DataFrame:
    """Raw events with values in their variables' units; values that cannot be converted or are implausible are dropped and counted.

    A row is converted by the rules of its variable or else, if its unit is another one, by the table of units (`clinical.units`). A row
    without a unit to which no rule applies is taken to be in the variable's own unit.

    Counted: `zero_reading:<variable>` and `missing_code:<variable>` (`missing_values`), `non_numeric:<variable>`,
    `unknown_unit:<variable>`, `no_weight:<variable>` (a rate that needs the body weight, and none was known), `out_of_range:<variable>`
    and the `drop` names of conversions. Moved and counted: `<rule>:<variable>` of `misfiled`. `Counts` also receive the losses by site,
    unit and item. event_time: `measured` or `stored`; decides from when a weight is known in the texts. Labels go by the time of
    measurement: with `stored`, a row whose weight differs between the two is there twice, as the column VIEW says (TEXTS, LABELS, or null
    for both).
    """
    events = move_misfiled(drop_missing(events, counts), counts)
    no_weight = pl.lit(None, pl.Float64).alias("known_weight")
    weights = _convert(events.filter(is_weight()).with_columns(no_weight), Counter())
    known = with_known_weight(events, weights, event_time)
    if event_time == "measured":
        return _converted(known, counts)
    measured = with_known_weight(events, weights, "measured")
    differs = known["known_weight"].ne_missing(measured["known_weight"])
    views: tuple[tuple[pl.DataFrame, Counter[str], str | None], ...] = (
        (known.filter(~differs), counts, None),
        (known.filter(differs), counts, TEXTS),
        (measured.filter(differs), Counter(), LABELS),  # counted with their texts
    )
    return pl.concat([_converted(rows, into).with_columns(pl.lit(view, pl.String).alias(VIEW)) for rows, into, view in views])


def _converted(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events with `known_weight` in their variables' units."""
    with_rules = [variable.name for variable in load_variables().values() if variable.conversions or variable.unit_aliases]
    has_rules = events["variable"].is_in(with_rules)
    # Conversion rules are evaluated row by row; most variables have none and take the short way.
    return pl.concat([_convert(events.filter(part), counts) for part in (~has_rules, has_rules)])


def _convert(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """As `convert_values`, for events of variables that all have conversion rules or aliases, or all have none."""
    variables = load_variables()
    spellings = {unit: canonical_unit(unit) for unit in events["unit"].unique().to_list() if unit is not None}
    units = pl.DataFrame(
        {"unit": list(spellings), "known_unit": list(spellings.values())}, schema={"unit": pl.String, "known_unit": pl.String}
    )
    events = events.join(units, on="unit", how="left", maintain_order="left")
    facts = pl.DataFrame(
        {
            "variable": list(variables),
            "kind": [v.kind for v in variables.values()],
            "own_unit": [canonical_unit(v.unit) for v in variables.values()],
            "lowest": [v.minimum for v in variables.values()],
            "highest": [v.maximum for v in variables.values()],
        }
    )
    events = events.join(facts, on="variable", how="left", maintain_order="left")
    is_number = pl.col("kind").is_in(["numeric", "rate"])
    needs_number = is_number | (pl.col("kind") == "indicator")
    events = events.with_columns(pl.when(pl.col("value").is_finite()).then(pl.col("value")).alias("value"))
    present = {name: variables[name] for name in events["variable"].unique().to_list() if name in variables}
    value, chosen, fault = _conversion_rules(present)
    known = pl.col("known_unit").is_null() | (pl.col("known_unit") == pl.col("own_unit")) | _has_alias(present)
    events = events.with_columns(chosen.alias("chosen"), value.alias("converted"), fault.alias("fault"), known.alias("known"))
    events = _by_unit_table(events).with_columns(
        pl.when(needs_number & pl.col("value").is_null())
        .then(pl.lit("non_numeric"))
        .when(pl.col("fault").is_not_null())
        .then(pl.col("fault"))
        .when(is_number & ~pl.col("chosen") & ~pl.col("known"))
        .then(pl.lit("unknown_unit"))
        .when(
            (pl.col("kind") != "category")
            & pl.col("converted").is_not_null()
            & ~pl.col("converted").is_between(pl.col("lowest"), pl.col("highest"))
        )
        .then(pl.lit("out_of_range"))
        .alias("fault")
    )
    if isinstance(counts, Counts):
        counts.losses += group_losses(events)
    for rule, variable, number in events.filter(pl.col("fault").is_not_null()).group_by("fault", "variable").len().iter_rows():
        counts[f"{rule}:{variable}"] += number
    kept = events.filter(pl.col("fault").is_null())
    own = pl.Series("variable", list(variables)), pl.Series("unit", [v.unit for v in variables.values()])
    unit = pl.when(pl.col("variable") == MEDICATION).then(pl.col("unit")).otherwise(pl.col("variable").replace_strict(*own, default=None))
    return kept.with_columns(pl.col("converted").alias("value"), unit.alias("unit")).select(*_EVENT_COLUMNS, *_IDENTITY)


def _by_unit_table(events: pl.DataFrame) -> pl.DataFrame:
    """Events with `converted`, `known` and `fault` of those in another unit that no rule of their variable chose."""
    other = ~pl.col("chosen") & ~pl.col("known") & pl.col("own_unit").is_not_null()
    pairs = events.filter(other).select("variable", "known_unit").unique().iter_rows()
    rows = [(name, unit, *found) for name, unit in pairs if (found := unit_conversion(unit, name)) is not None]
    if not rows:
        return events
    types = {"variable": pl.String, "known_unit": pl.String, "factor": pl.Float64, "per_kg": pl.Int64}
    table = pl.DataFrame(rows, schema=types, orient="row")
    events = events.join(table, on=["variable", "known_unit"], how="left", maintain_order="left")
    weight = pl.when(pl.col("per_kg") == 0).then(1.0).when(pl.col("per_kg") > 0).then("known_weight").otherwise(1 / pl.col("known_weight"))
    applies = (other & pl.col("factor").is_not_null()).fill_null(False)
    return events.with_columns(
        pl.when(applies).then(pl.col("value") * pl.col("factor") * weight).otherwise("converted").alias("converted"),
        pl.when(applies & weight.is_null()).then(pl.lit("no_weight")).otherwise("fault").alias("fault"),
        (pl.col("known") | applies).alias("known"),
    ).drop("factor", "per_kg")


def finish(stays: pl.DataFrame, events: pl.DataFrame, counts: Counter[str]) -> SourceTables:
    """Sorted, validated Arrow tables of the schema.

    Dropped and counted: events outside their stay (`outside_stay`), intervals that end before they start (`end_before_start`),
    repeated rows (`duplicate_row`).
    """
    texts, labels = _views(events)
    events_table = _events_table(stays, texts, counts)
    measured = None if labels is None else _events_table(stays, labels, Counter())
    stays_table = complete_stays(stays).sort("stay_id").to_arrow().cast(STAYS_SCHEMA)
    return validate(
        SourceTables(
            stays_table,
            events_table,
            {rule: counts[rule] for rule in sorted(counts)},
            counts.losses if isinstance(counts, Counts) else [],
            measured,
        )
    )


def _views(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """(events of the texts, those of the labels or None where they are the same)."""
    if VIEW not in events.columns:
        return events, None
    plain = events.drop(VIEW)
    if not events[VIEW].count():
        return plain, None
    return plain.filter(events[VIEW].ne_missing(LABELS)), plain.filter(events[VIEW].ne_missing(TEXTS))


def _events_table(stays: pl.DataFrame, events: pl.DataFrame, counts: Counter[str]) -> pa.Table:
    """EVENTS_SCHEMA: the events of the stays' windows, each once, sorted."""
    window = stays.select("stay_id", "intime", "outtime")
    events = events.join(window, on="stay_id", how="inner", maintain_order="left")
    hours = {name: variable.lookback_hours for name, variable in load_variables().items()}
    lookback = pl.col("variable").replace_strict(hours, default=LOOKBACK_HOURS, return_dtype=pl.Int64)
    earliest = pl.col("intime") - pl.duration(hours=lookback)
    events = _keep(events, pl.col("time").is_between(earliest, pl.col("outtime")), "outside_stay", counts)
    events = _keep(events, pl.col("end_time").is_null() | (pl.col("end_time") >= pl.col("time")), "end_before_start", counts)
    ordered = (
        _each_once(events, counts)
        .select(pl.col(name).cast(dtype) for name, dtype in _EVENT_COLUMNS.items())
        .sort("stay_id", "time", "row", "variable")
    )
    table = ordered.to_arrow()
    table = table.set_column(3, "variable", table["variable"].cast("string").dictionary_encode())
    return table.cast(EVENTS_SCHEMA)


def _keep(frame: pl.DataFrame, condition: pl.Expr, rule: str, counts: Counter[str]) -> pl.DataFrame:
    holds = frame.select(condition.fill_null(False).alias("holds"))["holds"]
    if holds.all():
        return frame
    counts[rule] += frame.height - int(holds.sum())
    return frame.filter(holds)


def _each_once(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`events` without duplicates (counted as `duplicate_row`). Events are equal when they differ at most in `row` and `store_time`.

    What two orders give is given twice, also with equal times and amounts; an event without an order is equal to one of any order.
    The first of equal events is kept, with the earliest `store_time` of them.
    """
    distinct = [name for name in (*_EVENT_COLUMNS, *_IDENTITY) if name in events.columns and name not in ("row", "store_time")]
    alike = (
        events.select("stay_id", "time", "variable", "value").hash_rows().is_duplicated()
    )  # a small superset, found faster than by comparing all columns
    repeated = events.with_row_index("place").filter(alike)
    if "order" in distinct and 0 < repeated["order"].null_count() < repeated.height:
        content = [name for name in distinct if name != "order"]
        repeated = repeated.with_columns(pl.coalesce("order", pl.col("order").drop_nulls().first().over(content)))
    is_first = repeated.select(pl.struct(distinct).is_first_distinct()).to_series()
    again = repeated.filter(~is_first)["place"]
    if not again.len():
        return events
    counts["duplicate_row"] += again.len()
    if repeated["store_time"].null_count() < repeated.height:
        earliest = repeated.select(pl.col("store_time").min().over(distinct)).to_series()
        stored = events["store_time"].scatter(repeated.filter(is_first)["place"], earliest.filter(is_first))
        events = events.with_columns(stored)
    return events.filter(pl.repeat(True, events.height, eager=True).scatter(again, False))


def _conversion_rules(variables: dict[str, Variable]) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """(converted value, whether a rule applied, fault) as expressions over raw events; the first rule that applies is used."""
    value: pl.Expr = pl.col("value")
    chosen: pl.Expr = pl.lit(False)
    fault: pl.Expr = pl.lit(None, pl.String)
    for variable in variables.values():
        here = pl.col("variable") == variable.name
        ranged = {rule.itemid for rule in variable.conversions if rule.lowest is not None or rule.highest is not None}
        for item in ranged - {None}:  # values outside all ranges of such an item have no meaning
            fault = pl.when(here & (pl.col("item") == item)).then(pl.lit("out_of_range")).otherwise(fault)
        for rule in reversed(variable.conversions):
            applies = here & _selects(rule, variable)
            result = (pl.col("value") + rule.add) * rule.multiply
            result = result / pl.col("known_weight") if rule.per_kg else result
            value = pl.when(applies).then(result).otherwise(value)
            chosen = chosen | applies
            unusable = pl.when(pl.col("known_weight").is_null()).then(pl.lit("no_weight")) if rule.per_kg else pl.lit(rule.drop, pl.String)
            fault = pl.when(applies).then(unusable).otherwise(fault)
    return value, chosen, fault


def _selects(rule: Conversion, variable: Variable) -> pl.Expr:
    condition: pl.Expr = pl.lit(True)
    if rule.itemid is None and rule.unit is None:
        units = pl.Series(units_of(variable.name)).implode()
        condition = pl.col("known_unit").is_null() | pl.col("known_unit").is_in(units) | (pl.col("known_unit") == pl.col("own_unit"))
    if rule.itemid is not None:
        condition = condition & (pl.col("item") == rule.itemid)
    if rule.unit is not None:
        condition = condition & (pl.col("known_unit") == rule.unit)
    if rule.text is not None:
        condition = condition & (pl.col("text").str.strip_chars() == rule.text)
    if rule.patient_weight is not None:
        condition = condition & (pl.col("patient_weight") == rule.patient_weight)
    if rule.lowest is not None:
        condition = condition & (pl.col("value") >= rule.lowest)
    if rule.highest is not None:
        condition = condition & (pl.col("value") <= rule.highest)
    return condition.fill_null(False)


def _has_alias(variables: dict[str, Variable]) -> pl.Expr:
    condition: pl.Expr = pl.lit(False)
    for variable in variables.values():
        aliases = [canonical_unit(alias) for alias in variable.unit_aliases]
        if aliases:
            condition = condition | ((pl.col("variable") == variable.name) & pl.col("known_unit").is_in(aliases))
    return condition.fill_null(False)

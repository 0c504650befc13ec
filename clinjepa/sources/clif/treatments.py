"""CLIF's medication tables and renal replacement to raw events.

A continuous drug has a row for each change. Its dose holds until the next row of its order (of its drug, where the order has no id); a
row of the category `stop`, or with a dose of 0, ends it. The amount of a fluid is its rate times the hours of the interval.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import canonical_unit, load_variables
from clinjepa.sources.clif.tables import category, clif_map
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS
from clinjepa.sources.readings.antibiotics import antibiotic_map, is_antibiotic
from clinjepa.sources.readings.cleaning import raw_events
from clinjepa.sources.schema import LOOKBACK_HOURS, MEDICATION

_VOLUME_RATES = {"mL/h": 1.0, "mL/min": 60.0, "L/h": 1000.0}
"""Unit of a fluid's rate -> mL/h."""
_NO_UNITS = ("dose",)
"""Units of an intermittent dose that say nothing."""


def held_doses(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rows with a dose, with drug, dose and `end`, the time of the next row of their order.

    Args:
        rows: Rows of medication_admin_continuous with time, subject_id, hadm_id and row, of all times of their patients.
        counts: Receives `non_numeric` (a start or change without a dose), `negative_rate` and `start_without_end` (an order's last row).
    """
    dose = pl.col("med_dose").round_sig_figs(SIGNIFICANT_DIGITS)
    rows = rows.with_columns(dose.alias("dose"), category("med_category").alias("drug"), category("mar_action_category").alias("action"))
    stops = (pl.col("action") == "stop").fill_null(False) | (pl.col("dose") == 0).fill_null(False)
    for rule, fault in (("non_numeric", pl.col("dose").is_null()), ("negative_rate", pl.col("dose") < 0)):
        wrong = (fault & ~stops).fill_null(False)
        if number := rows.select(wrong.sum()).item():
            counts[rule] += number
        rows = rows.filter(~wrong)
    order = ["hadm_id", "drug", "med_order_id"]
    rows = rows.with_columns(stops.alias("stops")).sort(*order, "time", pl.col("stops").not_(), "row", nulls_last=True)
    rows = rows.with_columns(pl.col("time").shift(-1).over(order).alias("end")).filter(~pl.col("stops")).drop_nulls("drug")
    if open_ended := rows["end"].null_count():
        counts["start_without_end"] += open_ended
    return rows.filter(pl.col("end").is_null() | (pl.col("end") > pl.col("time")))


def running_in(held: pl.DataFrame, windows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Held doses with the stay_id of every stay of their patient in whose window they run; they begin LOOKBACK_HOURS before it at the earliest.

    A dose that was set long before and still ran at that time is one of the stay; a dose without an end is a point in time.

    Args:
        held: Result of `held_doses`.
        windows: stay_id, subject_id, intime and outtime, on the same clock.
        counts: Receives `outside_stay`: rows in no window.
    """
    begins = pl.col("intime") - pl.duration(hours=LOOKBACK_HOURS)
    stays = windows.select("stay_id", "subject_id", begins.alias("begins"), "outtime")
    joined = held.join(stays, on="subject_id", how="inner", maintain_order="left")
    runs = (pl.col("time") >= pl.col("begins")) | (pl.col("end") > pl.col("begins")).fill_null(False)
    joined = joined.filter((pl.col("time") <= pl.col("outtime")) & runs)
    if outside := held.height - joined["row"].n_unique():
        counts["outside_stay"] += outside
    return joined.with_columns(pl.max_horizontal("time", "begins").alias("time")).drop("begins", "outtime")


def continuous(held: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Interval events of continuous medications; a row without an end is a point in time, and left out where it is a fluid.

    Args:
        held: Result of `held_doses`, with stay_id.
        counts: Receives `unknown_unit:<variable>` of fluids whose rate is no volume.
    """
    named = _named(held, clif_map()["continuous"])
    named = named.with_columns(_spelled(named, "med_dose_unit").alias("unit"))
    hours = (pl.col("end") - pl.col("time")).dt.total_microseconds() / 3.6e9
    fluid = pl.col("variable").is_in(clif_map()["fluids"])
    per_hour = pl.col("unit").replace_strict(_VOLUME_RATES, default=None, return_dtype=pl.Float64)
    is_volume = per_hour.is_not_null()
    for name, number in (
        named.filter(fluid & ~is_volume).unique(["variable", "row"]).group_by("variable").len().sort("variable").iter_rows()
    ):
        counts[f"unknown_unit:{name}"] += number
    named = named.filter(~fluid | (is_volume & pl.col("end").is_not_null()))
    amount = pl.when(fluid).then(pl.col("dose") * per_hour * hours).otherwise(pl.col("dose"))
    return _events(named, amount, pl.when(~fluid).then(pl.col("unit")), "end")


def given_doses(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rows of medication_admin_intermittent whose dose was given, with drug and dose; `counts` receives `medication_not_given`."""
    given = rows.filter(~category("mar_action_category").is_in(clif_map()["not_given"]).fill_null(False))
    if given.height < rows.height:
        counts["medication_not_given"] += rows.height - given.height
    dose = pl.col("med_dose").round_sig_figs(SIGNIFICANT_DIGITS).alias("dose")
    return given.with_columns(dose, category("med_category").alias("drug")).drop_nulls("drug")


def intermittent(given: pl.DataFrame) -> pl.DataFrame:
    """Events of single doses, at their time. given: result of `given_doses`, with stay_id."""
    unit = _spelled(given, "med_dose_unit")
    sized = pl.when(~unit.is_in(_NO_UNITS).fill_null(False)).then(pl.col("dose"))
    plain = _events(_named(given, clif_map()["intermittent"]), sized, pl.when(sized.is_not_null()).then(unit))
    drugs = [name for name in given["drug"].unique().to_list() if is_antibiotic(name)]
    route = category("med_route_category")
    excluded = [word.lower() for word in antibiotic_map()["excluded_routes"]]
    systemic = given.filter(pl.col("drug").is_in(drugs) & ~route.is_in(excluded).fill_null(False))
    parts = [plain]
    for variable, chosen in (("antibiotics_iv", systemic.filter((route == "iv").fill_null(False))), ("antibiotic", systemic)):
        one = chosen.with_columns(pl.lit(variable).alias("variable"), pl.lit("indicator").alias("kind"))
        parts.append(_events(one, pl.lit(1.0), pl.lit(None, pl.String)))
    return pl.concat(parts)


def renal_replacement(rows: pl.DataFrame) -> pl.DataFrame:
    """Events of crrt_therapy: that it ran at the time of a row, and its mode. rows: with stay_id and row."""
    mode = pl.col("crrt_mode_category").str.to_uppercase()
    ran = rows.select("stay_id", "time", "row", pl.lit("crrt").alias("variable"), pl.lit(1.0).alias("value"), pl.lit("CRRT").alias("text"))
    modes = rows.drop_nulls("crrt_mode_category").select(
        "stay_id", "time", "row", pl.lit("crrt_mode").alias("variable"), mode.alias("text")
    )
    return pl.concat([raw_events(ran), raw_events(modes)])


def _named(rows: pl.DataFrame, meaning: dict[str, list[str]]) -> pl.DataFrame:
    """`rows` with variable and kind, one for each variable of their drug; a drug that the map lacks is a `medication`."""
    kinds = {name: variable.kind for name, variable in load_variables().items()}
    pairs = [(drug, name, kinds[name]) for drug, names in meaning.items() for name in names]
    table = pl.DataFrame(pairs, schema={"drug": pl.String, "variable": pl.String, "kind": pl.String}, orient="row")
    known = rows.join(table, on="drug", how="inner", maintain_order="left")
    other = rows.filter(~pl.col("drug").is_in(list(meaning)).fill_null(True))
    return pl.concat([known, other.with_columns(pl.lit(MEDICATION).alias("variable"), pl.lit("category").alias("kind"))])


def _events(named: pl.DataFrame, value: pl.Expr, unit: pl.Expr, end: str | None = None) -> pl.DataFrame:
    indicates = pl.col("kind") == "indicator"
    fields = [variable.text_name.lower() for variable in load_variables().values()]
    name = pl.col("drug").str.slice(0, 1).str.to_uppercase() + pl.col("drug").str.slice(1)
    name = pl.when(pl.col("drug").is_in(fields)).then(name + " (drug)").otherwise(name)  # magnesium is also a laboratory value
    return raw_events(
        named.select(
            "stay_id",
            "time",
            (pl.col(end) if end else pl.lit(None, pl.Datetime("us"))).alias("end_time"),
            "variable",
            "row",
            pl.when(indicates).then(1.0).otherwise(value).alias("value"),
            pl.when(~indicates).then(unit).alias("unit"),
            pl.when(indicates | (pl.col("variable") == MEDICATION)).then(name).alias("text"),
        )
    )


def _spelled(rows: pl.DataFrame, column: str) -> pl.Expr:
    """The units of a column in the dictionary's spelling."""
    units = rows[column].unique().drop_nulls().to_list()
    return pl.col(column).replace_strict(units, [canonical_unit(unit) for unit in units], default=None, return_dtype=pl.String)

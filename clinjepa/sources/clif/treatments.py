"""CLIF's medication tables and renal replacement to raw events.

A continuous drug has a row for each change. Its dose holds until the next row of its order (of its drug, where the order has no id); a
row of the category `stop`, or with a dose of 0, ends it. A row of a later ICU stay ends none of an earlier one, so it changes no hour of
that stay. The amount of a fluid is its rate times the hours of the interval.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.sources.clif.tables import category, clif_map
from clinjepa.sources.mimic_iv.row_meaning import SIGNIFICANT_DIGITS
from clinjepa.sources.readings.antibiotics import is_antibiotic, is_systemic
from clinjepa.sources.readings.cleaning import raw_events
from clinjepa.sources.readings.written_units import written_unit
from clinjepa.sources.schema import LOOKBACK_HOURS, MEDICATION

_VOLUME_RATES = {"mL/h": 1.0, "mL/min": 60.0, "L/h": 1000.0}
"""Unit of a fluid's rate -> mL/h."""
_NO_UNITS = ("dose",)
"""Units of an intermittent dose that say nothing."""
_ORDER = ["hadm_id", "drug", "med_order_id"]
"""Columns that name the order of a continuous drug."""


def held_doses(rows: pl.DataFrame, entered: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rows with a dose, with drug, dose and `end`, the time of the next row of their order.

    Rows of one minute follow each other as in the file. Without an order's number, a stop in a minute in which the drug was running is
    that of the infusion before. `end` is null where there is no such row, or where it lies in a later ICU stay than the row.

    Args:
        rows: Rows of medication_admin_continuous with time, subject_id, hadm_id and row, of all times of their patients.
        entered: hadm_id and intime of all admissions to an ICU (`stays.icu_admissions`), on the clock of `rows`.
        counts: Receives `non_numeric` (a start or change without a dose), `negative_rate` and `start_without_end` (an order's last row).
    """
    number = pl.when(pl.col("med_dose").is_finite()).then(pl.col("med_dose").round_sig_figs(SIGNIFICANT_DIGITS))
    rows = rows.with_columns(number.alias("dose"), category("med_category").alias("drug"), category("mar_action_category").alias("action"))
    stops = (pl.col("action") == "stop").fill_null(False) | (pl.col("dose") == 0).fill_null(False)
    for rule, fault in (("non_numeric", pl.col("dose").is_null()), ("negative_rate", pl.col("dose") < 0)):
        wrong = (fault & ~stops).fill_null(False)
        if faults := rows.select(wrong.sum()).item():
            counts[rule] += faults
        rows = rows.filter(~wrong)
    rows = _in_order(rows.with_columns(stops.alias("stops")))
    rows = rows.with_columns(pl.col("time").shift(-1).over(_ORDER).alias("end")).filter(~pl.col("stops")).drop_nulls("drug")
    rows = _within_a_stay(rows, entered)
    if open_ended := rows["end"].null_count():
        counts["start_without_end"] += open_ended
    return rows.filter(pl.col("end").is_null() | (pl.col("end") > pl.col("time")))


def _within_a_stay(rows: pl.DataFrame, entered: pl.DataFrame) -> pl.DataFrame:
    """`rows` without the ends that lie in a later ICU stay than the row itself; entered: as in `held_doses`."""
    begins = entered.select("hadm_id", pl.col("intime").alias("entry")).drop_nulls().unique()
    spans = rows.select("hadm_id", "row", "time", "end").join(begins, on="hadm_id").group_by("row")
    before, until = (pl.col("entry") <= pl.col("time")).sum(), (pl.col("entry") <= pl.col("end")).sum()
    later = spans.agg(((before > 0) & (until > before)).alias("later")).filter("later").select("row")
    is_later = pl.col("row").is_in(later["row"].implode())
    return rows.with_columns(pl.when(~is_later).then(pl.col("end")).alias("end"))


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` of continuous drugs by order, in the sequence in which they were meant. rows: with the columns of _ORDER, time, row, stops."""
    minutes = rows.group_by(*_ORDER, "time").agg((~pl.col("stops")).any().alias("runs")).sort(*_ORDER, "time", nulls_last=True)
    before = minutes.select(*_ORDER, "time", pl.col("runs").shift(1).over(_ORDER).fill_null(False).alias("ran_before"))
    rows = rows.join(before, on=[*_ORDER, "time"], how="left", nulls_equal=True, maintain_order="left")
    next_infusion = pl.col("med_order_id").is_null() & pl.col("ran_before") & ~pl.col("stops")
    return rows.sort(*_ORDER, "time", next_infusion, "row", nulls_last=True).drop("ran_before")


def running_in(held: pl.DataFrame, windows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Held doses with the stay_id of every stay of their patient in whose window they run.

    A dose that was set long before, and still ran LOOKBACK_HOURS before ICU admission, begins at that time. A dose without an end is a
    point in time.

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
    named = named.with_columns(written_unit(named, "med_dose_unit").alias("unit"))
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
    """Rows of medication_admin_intermittent whose dose was given, with drug and dose; a row without a dose counts as given.

    `counts` receives `medication_not_given`, and `zero_amount`: doses of 0, below 0 or that are no number.
    """
    dose = pl.col("med_dose")
    for rule, fault in (
        ("medication_not_given", category("mar_action_category").is_in(clif_map()["not_given"])),
        ("zero_amount", ~((dose > 0) & dose.is_finite())),
    ):
        given = rows.filter(~fault.fill_null(False))
        if given.height < rows.height:
            counts[rule] += rows.height - given.height
        rows = given
    rows = rows.with_columns(dose.round_sig_figs(SIGNIFICANT_DIGITS).alias("dose"), category("med_category").alias("drug"))
    return rows.drop_nulls("drug")


def intermittent(given: pl.DataFrame) -> pl.DataFrame:
    """Events of single doses, at their time. given: result of `given_doses`, with stay_id."""
    unit = written_unit(given, "med_dose_unit")
    sized = pl.when(~unit.is_in(_NO_UNITS).fill_null(False)).then(pl.col("dose"))
    plain = _events(_named(given, clif_map()["intermittent"]), sized, pl.when(sized.is_not_null()).then(unit))
    drugs = [name for name in given["drug"].unique().to_list() if is_antibiotic(name)]
    systemic = given.filter(pl.col("drug").is_in(drugs) & is_systemic(pl.col("med_route_category")))
    by_vein = systemic.filter((category("med_route_category") == "iv").fill_null(False))
    parts = [plain]
    for variable, chosen in (("antibiotics_iv", by_vein), ("antibiotic", systemic)):
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
    """`rows` with variable and kind, one for each variable of their drug.

    A drug that the map lacks, or whose route is not systemic (inhaled heparin, saline to the eye), is a `medication`.
    """
    kinds = {name: variable.kind for name, variable in load_variables().items()}
    pairs = [(drug, name, kinds[name]) for drug, names in meaning.items() for name in names]
    table = pl.DataFrame(pairs, schema={"drug": pl.String, "variable": pl.String, "kind": pl.String}, orient="row")
    systemic = is_systemic(pl.col("med_route_category"))
    known = rows.filter(systemic).join(table, on="drug", how="inner", maintain_order="left")
    other = rows.filter(~(systemic & pl.col("drug").is_in(list(meaning)).fill_null(True)))
    return pl.concat([known, other.with_columns(pl.lit(MEDICATION).alias("variable"), pl.lit("category").alias("kind"))])


def _events(named: pl.DataFrame, value: pl.Expr, unit: pl.Expr, end: str | None = None) -> pl.DataFrame:
    indicates = pl.col("kind") == "indicator"
    fields = [variable.text_name.lower() for variable in load_variables().values() if any(s.table == "labevents" for s in variable.sources)]
    name = pl.col("drug").str.slice(0, 1).str.to_uppercase() + pl.col("drug").str.slice(1)
    name = pl.when(pl.col("drug").is_in(fields)).then(name + " (drug)").otherwise(name)  # magnesium is also a laboratory value
    return raw_events(
        named.select(
            "stay_id",
            "time",
            (pl.col(end) if end else pl.lit(None, pl.Datetime("us"))).alias("end_time"),
            "variable",
            "row",
            pl.col("med_order_id").rank("dense").cast(pl.Int64).alias("order"),
            pl.when(indicates).then(1.0).otherwise(value).alias("value"),
            pl.when(~indicates).then(unit).alias("unit"),
            pl.when(indicates | (pl.col("variable") == MEDICATION)).then(name).alias("text"),
        )
    )

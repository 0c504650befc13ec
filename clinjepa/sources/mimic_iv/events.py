"""Original tables of MIMIC-IV to events of ICU stays: charted values, labs, outputs, infusions, procedures, drugs, cultures.

The tables' columns are renamed for `row_meaning.py`, which is shared with the MEDS source. Labs, drugs and cultures belong to every
stay of their patient whose window contains them, since their admission id may be null.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.sources.mimic_iv.row_meaning import (
    SIGNIFICANT_DIGITS,
    drop_other_specimens,
    dropped_medications,
    in_windows,
    infusions,
    measurements,
    medications,
    mimic_map,
    procedures,
    take_statics,
    with_procedure_items,
)
from clinjepa.sources.readings.antibiotics import is_antibiotic, is_systemic
from clinjepa.sources.readings.cleaning import convert_values, raw_events


def read_events(
    tables: dict[str, pl.DataFrame], stays: pl.DataFrame, known_stays: pl.DataFrame, counts: Counter[str], event_time: str = "measured"
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of the tables of a bucket of patients. Missing tables give no events.

    Args:
        tables: Table -> its rows for these patients.
        stays: Stays in the columns of STAYS_SCHEMA.
        known_stays: stay_id and subject_id of all stays of these patients, including dropped ones. Rows of any other stay, or of such
            a stay but another patient, are dropped and counted (`without_stay`).
        counts: Receives the dropped rows, by rule.
        event_time: `measured` or `stored`; decides when an administration record begins and when height and weight are known.
    """
    for name in ("chartevents", "outputevents", "inputevents", "procedureevents"):
        rows = tables[name].join(known_stays, on=["stay_id", "subject_id"], how="semi", maintain_order="left")
        _count(counts, "without_stay", tables[name].height - rows.height)
        tables = tables | {name: rows}
    labs = drop_other_specimens(in_windows(_labs(tables["labevents"]), stays, counts), "specimen_id", counts)
    raw = pl.concat(
        [
            measurements(_charted(tables["chartevents"], "CHART", stays), counts),
            measurements(_charted(tables["outputevents"], "OUTPUT", stays), counts),
            measurements(labs.drop("specimen_id"), counts),
            infusions(_infused(tables["inputevents"], stays, counts), counts),
            procedures(_performed(tables["procedureevents"], stays, counts)),
            medications(_drugs(tables, counts), stays, counts, event_time),
            _antibiotics(tables.get("prescriptions"), stays, counts),
            _cultures(tables.get("microbiologyevents"), stays, counts),
        ]
    )
    return take_statics(convert_values(raw, counts, event_time), stays, counts, event_time)


def _charted(rows: pl.DataFrame, part: str, stays: pl.DataFrame) -> pl.DataFrame:
    """Rows of chartevents or outputevents. Rows of dropped stays are not counted again: the drop of the stay is counted already."""
    text = pl.col("value") if rows.schema["value"] == pl.String else pl.lit(None, pl.String)
    return rows.filter(pl.col("stay_id").is_in(stays["stay_id"].implode())).select(
        "stay_id",
        pl.col("charttime").alias("time"),
        "row",
        pl.lit(part).alias("part"),
        pl.col("itemid").alias("item"),
        _rounded("valuenum" if part == "CHART" else "value").alias("numeric_value"),
        text.alias("text_value"),
        pl.col("valueuom").alias("unit"),
        pl.col("storetime").alias("store_time"),
    )


def _labs(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        "subject_id",
        pl.col("charttime").alias("time"),
        "row",
        pl.lit("LAB").alias("part"),
        pl.col("itemid").alias("item"),
        _rounded("valuenum").alias("numeric_value"),
        pl.col("value").alias("text_value"),
        pl.col("valueuom").alias("unit"),
        pl.col("storetime").alias("store_time"),
        "specimen_id",
    )


def _infused(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    paired = rows.filter(pl.col("stay_id").is_in(stays["stay_id"].implode())).select(
        pl.col("stay_id").alias("icustay_id"),
        pl.col("itemid").alias("item"),
        "row",
        pl.col("starttime").alias("time"),
        pl.col("endtime").alias("end"),
        _rounded("rate").alias("numeric_value"),
        pl.col("rateuom").alias("unit"),
        _rounded("amount"),
        pl.col("amountuom").alias("amount_unit"),
        pl.col("ordercategorydescription").alias("order_category"),
        pl.col("orderid").alias("order"),
        pl.when(pl.col("patientweight") > 0).then(_rounded("patientweight")).alias("patient_weight"),
        pl.col("storetime").alias("store_time"),
    )
    _count(counts, "start_without_end", paired["end"].null_count())
    return paired


def _performed(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    paired = rows.filter(pl.col("stay_id").is_in(stays["stay_id"].implode())).select(
        pl.col("stay_id").alias("icustay_id"),
        pl.col("itemid").alias("item"),
        "row",
        pl.col("starttime").alias("time"),
        pl.col("endtime").alias("end"),
        pl.col("storetime").alias("store_time"),
    )
    _count(counts, "start_without_end", paired["end"].null_count())
    return with_procedure_items(paired)


def _drugs(tables: dict[str, pl.DataFrame], counts: Counter[str]) -> pl.DataFrame:
    """Administrations (emar) and starts of orders (prescriptions), without carriers, flushes and drugs that were not given."""
    types = {"subject_id": pl.Int64(), "time": pl.Datetime("us"), "row": pl.Int64(), "part": pl.String(), "name": pl.String()}
    found = [pl.DataFrame(schema={**types, "store_time": pl.Datetime("us")})]
    emar, orders = tables.get("emar"), tables.get("prescriptions")
    if emar is not None:
        given = emar.filter(pl.col("event_txt").str.strip_chars().is_in(mimic_map()["emar_given"]))
        _count(counts, "medication_not_given", emar.height - given.height)
        found.append(
            given.select(
                "subject_id",
                pl.col("charttime").alias("time"),
                "row",
                pl.lit("GIVEN").alias("part"),
                pl.col("medication").alias("name"),
                pl.col("storetime").alias("store_time"),
            )
        )
    if orders is not None:
        main = orders.filter(pl.col("drug_type").ne_missing("BASE"))
        _count(counts, "carrier_or_flush", orders.height - main.height)
        found.append(
            main.select(
                "subject_id",
                pl.col("starttime").alias("time"),
                "row",
                pl.lit("ORDER").alias("part"),
                pl.col("drug").alias("name"),
                pl.lit(None, pl.Datetime("us")).alias("store_time"),
            )
        )
    rows = pl.concat(found)
    spelled = {name: " ".join(name.split()) for name in rows["name"].unique().drop_nulls().to_list()}
    kept = {name: text for name, text in spelled.items() if text and not dropped_medications().search(text)}
    named = rows.with_columns(pl.col("name").replace_strict(kept, default=None, return_dtype=pl.String))
    unnamed = named["name"].null_count()
    _count(counts, "carrier_or_flush", unnamed)
    return named.filter(pl.col("name").is_not_null())


def _antibiotics(orders: pl.DataFrame | None, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Orders of systemic antibiotics from start to stop, by drug name and route (`clinical/maps/antibiotics.yaml`)."""
    if orders is None:
        return raw_events(pl.DataFrame())
    names = {name: is_antibiotic(name) for name in orders["drug"].unique().drop_nulls().to_list()}
    rows = orders.filter(pl.col("drug").replace_strict(names, default=False, return_dtype=pl.Boolean) & is_systemic(pl.col("route")))
    rows = in_windows(rows.rename({"starttime": "time"}), stays, Counter())
    stopped = pl.col("stoptime")
    return raw_events(
        rows.select(
            "stay_id",
            "time",
            pl.when(stopped > pl.col("time")).then(stopped).alias("end_time"),
            pl.lit("antibiotic").alias("variable"),
            pl.lit(1.0).alias("value"),
            pl.col("drug").str.strip_chars().alias("text"),
            "row",
        )
    )


def _cultures(samples: pl.DataFrame | None, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Microbiology samples, one event each (a sample has a row per test and organism). A date without a time becomes the whole day."""
    if samples is None:
        return raw_events(pl.DataFrame())
    day_ends = pl.when(pl.col("charttime").is_null()).then(pl.col("chartdate").dt.truncate("1d") + pl.duration(days=1))
    first = samples.with_columns(pl.coalesce("charttime", "chartdate").alias("time"), day_ends.alias("end_time")).filter(
        pl.col("micro_specimen_id").is_null() | pl.col("micro_specimen_id").is_first_distinct()
    )
    found = in_windows(first.drop("chartdate", "charttime"), stays, Counter())
    return raw_events(
        found.select(
            "stay_id",
            "time",
            "end_time",
            pl.lit("culture").alias("variable"),
            pl.lit(1.0).alias("value"),
            pl.col("spec_type_desc").str.strip_chars().alias("text"),
            "row",
        )
    )


def _rounded(column: str) -> pl.Expr:
    """A column rounded through float32 like in the MEDS conversion, so that both formats give identical numbers."""
    return pl.col(column).cast(pl.Float32).cast(pl.Float64).round_sig_figs(SIGNIFICANT_DIGITS)


def _count(counts: Counter[str], rule: str, number: int) -> None:
    if number:
        counts[rule] += number

"""Simulated stays to rows of MIMIC-IV's tables: the simulator's events with MIMIC-IV's item ids and units, among filler rows.

Reading the dictionary's items back gives the simulator's stays and events. `mimic_writer.yaml` defines the item of each variable and
the columns of every table; `mimic_filler.py` adds the filler rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.simulated.mimic_filler import (
    Drawn,
    draw_rows,
    filler_definitions,
    filler_values,
    number_text,
    outpatient_minutes,
    table_definitions,
)
from clinjepa.sources.simulated.mimic_orders import Generators, order_tables
from clinjepa.sources.simulated.mimic_people import people_tables, stay_facts
from clinjepa.sources.simulated.source import FIRST_SUBJECT, SimulatedStay, charted_events, given_events

_FILLED = {
    "icu/chartevents": "chartevents",
    "icu/inputevents": "inputevents",
    "icu/outputevents": "outputevents",
    "icu/procedureevents": "procedureevents",
    "icu/datetimeevents": "datetimeevents",
    "icu/ingredientevents": "ingredientevents",
    "hosp/labevents": "labevents",
}
_ROW_IDS = ("labevent_id", "specimen_id", "microevent_id", "micro_specimen_id", "pharmacy_id", "orderid", "linkorderid")
_IDS_PER_PATIENT = 100_000
_STREAM = 1_000_003
"""Seed component that separates the filler generators from the simulator's generators."""


def block_tables(stays: Sequence[SimulatedStay], seed: int, density: float) -> dict[str, pl.DataFrame]:
    """Rows of every table (`hosp/labevents` …) for whole patients, sorted by patient and time, with MIMIC-IV's columns."""
    facts = stay_facts(stays)
    generators: Generators = {stay.stay_id: np.random.default_rng([seed, _STREAM, stay.stay_id]) for stay in stays}
    given = given_events(list(stays))
    charted = _charted_rows(charted_events(list(stays), density), facts)
    filler = _filler_rows(stays, generators, facts)
    tables = people_tables(stays) | order_tables(stays, given, generators)
    parts = {name: [table] for name, table in filler.items()}
    for name in ("icu/inputevents", "icu/procedureevents"):
        parts[name].append(_given_rows(given, facts, name))
    for name, rows in charted.items():
        parts[name].append(rows)
    parts["icu/chartevents"].append(_admission_rows(facts))
    tables |= {name: _stacked(name, found) for name, found in parts.items()}
    return {name: _finished(table, name) for name, table in tables.items()}


def dictionary_tables() -> dict[str, pl.DataFrame]:
    """`icu/d_items` and `hosp/d_labitems`: all items that this project reads and all filler items, with MIMIC-IV's labels."""
    items: dict[int, tuple[str, str, str]] = {}
    labs: dict[int, tuple[str, str]] = {}
    for variable in load_variables().values():
        for source in variable.sources:
            for item, label in source.labels.items():
                if source.table == "labevents":
                    labs[item] = (label, "Chemistry")
                else:
                    items[item] = (label, source.table, variable.group)
    mapping = mimic_map()
    for label, numbers in mapping["medication_items"].items():
        items |= {item: (label, "inputevents", "Medications") for item in numbers if item not in items}
    for table, entries in filler_definitions()["items"].items():
        for item, label, category, *_ in entries:
            if table.startswith("labevents"):
                labs.setdefault(item, (label, category))
            else:
                items[item] = items[item] if item in items else (label, table, category)
    items |= {item: (f"Item {item}", "inputevents", "Fluids/Intake") for item in mapping["dropped_items"] if item not in items}
    d_items = pl.DataFrame(
        [(item, label, label, table, category) for item, (label, table, category) in sorted(items.items())],
        schema=["itemid", "label", "abbreviation", "linksto", "category"],
        orient="row",
    )
    d_labitems = pl.DataFrame(
        [(item, label, "Blood", category) for item, (label, category) in sorted(labs.items())],
        schema=["itemid", "label", "fluid", "category"],
        orient="row",
    )
    return {"icu/d_items": _columns(d_items, "icu/d_items"), "hosp/d_labitems": _columns(d_labitems, "hosp/d_labitems")}


def _charted_rows(events: pl.DataFrame, facts: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Rows of the three tables with charted values: chartevents, outputevents, labevents."""
    definitions = table_definitions()
    lines = [(name, entry["table"], entry["item"], entry["unit"], entry.get("write")) for name, entry in definitions["charted"].items()]
    places = pl.DataFrame(lines, schema=["variable", "table", "itemid", "valueuom", "write"], orient="row")
    arterial = pl.col("variable").replace_strict(definitions["arterial"], default=None, return_dtype=pl.Int64)
    words = pl.DataFrame(
        [(name, float(score + 1), word) for name, scores in _gcs_words().items() for score, word in enumerate(scores)],
        schema=["variable", "value", "word"],
        orient="row",
    )
    rows = (
        events.join(places, on="variable", how="left")
        .join(facts, on="stay_id", how="left")
        .join(words, on=["variable", "value"], how="left")
    )
    fahrenheit = pl.col("write") == "fahrenheit"
    number = pl.when(fahrenheit.fill_null(False)).then((pl.col("value") * 1.8 + 32).round(4)).otherwise(pl.col("value"))
    rows = rows.with_columns(
        number_text(number).alias("valuenum"),
        pl.when(pl.col("arterial")).then(pl.coalesce(arterial, "itemid")).otherwise("itemid").alias("itemid"),
        pl.col("time").alias("charttime"),
        pl.coalesce("store_time", pl.col("time") + pl.duration(minutes=7)).alias("storetime"),
    ).with_columns(pl.coalesce("word", "valuenum").alias("value"), pl.lit(0, pl.Int64).alias("warning"))
    return {name: rows.filter(pl.col("table") == name) for name in ("icu/chartevents", "icu/outputevents", "hosp/labevents")}


def _gcs_words() -> dict[str, list[str]]:
    words = table_definitions()["words"]
    return {"gcs_eye": words["gcs_eye"], "gcs_verbal": words["gcs_verbal"], "gcs_motor": words["gcs_motor"]}


def _admission_rows(facts: pl.DataFrame) -> pl.DataFrame:
    parts = [
        facts.select(
            "stay_id",
            "subject_id",
            "hadm_id",
            (pl.col("intime") + pl.duration(minutes=20)).alias("charttime"),
            (pl.col("intime") + pl.duration(minutes=25)).alias("storetime"),
            pl.lit(item, pl.Int64).alias("itemid"),
            number_text(pl.col(column)).alias("value"),
            number_text(pl.col(column)).alias("valuenum"),
            pl.lit(unit).alias("valueuom"),
        )
        for column, (item, unit) in table_definitions()["admission_items"].items()
    ]
    return pl.concat(parts)


def _given_rows(given: pl.DataFrame, facts: pl.DataFrame, table: str) -> pl.DataFrame:
    """Treatments of one table; an instantaneous treatment lasts a minute, as in MIMIC-IV."""
    lines = [
        (
            name,
            entry["item"],
            entry["unit"],
            entry.get("amount_unit"),
            entry.get("per_hour"),
            entry.get("per_kg", False),
            entry["category"],
            entry["order"],
        )
        for name, entry in table_definitions()["given"].items()
        if entry["table"] == table
    ]
    names = ["variable", "itemid", "rateuom", "amountuom", "per_hour", "per_kg", "ordercategoryname", "ordercategorydescription"]
    types = dict.fromkeys(names, pl.String) | {"itemid": pl.Int64, "per_hour": pl.Float64, "per_kg": pl.Boolean}
    places = pl.DataFrame(lines, schema=types, orient="row")
    by_label = {label: item for source in load_variables()["antibiotics_iv"].sources for item, label in source.labels.items()}
    rows = given.join(places, on="variable", how="inner", maintain_order="left").join(
        facts, on="stay_id", how="left", maintain_order="left"
    )
    end = pl.coalesce("end_time", pl.col("time") + pl.duration(minutes=1))
    hours = (end - pl.col("time")).dt.total_seconds() / 3600
    infused = pl.col("value") * hours * pl.col("per_hour") * pl.when(pl.col("per_kg")).then(pl.col("weight_kg")).otherwise(1.0)
    is_rate, whole = pl.col("per_hour").is_not_null(), pl.col("value").fill_null(1.0)
    common = rows.with_columns(
        pl.coalesce("itemid", pl.col("text").replace_strict(by_label, default=None, return_dtype=pl.Int64)).alias("itemid"),
        pl.col("time").alias("starttime"),
        end.alias("endtime"),
        end.alias("storetime"),
        pl.col("weight_kg").alias("patientweight"),
        pl.lit("FinishedRunning").alias("statusdescription"),
    )
    if table == "icu/procedureevents":
        minutes = pl.when(pl.col("rateuom") == "min").then((hours * 60).round().cast(pl.Int64)).otherwise(1).cast(pl.String)
        unit = pl.coalesce("rateuom", pl.lit("None"))
        return common.with_columns(minutes.alias("value"), unit.alias("valueuom"), minutes.alias("originalamount"))
    amount = pl.when(is_rate).then(infused.round(6)).otherwise(whole)
    return common.with_columns(
        number_text(amount).alias("amount"),
        pl.when(is_rate).then(number_text(pl.col("value"))).alias("rate"),
        pl.when(is_rate).then(pl.col("rateuom")).alias("rateuom"),
        pl.lit("Main order parameter").alias("ordercomponenttypedescription"),
        number_text(amount).alias("originalamount"),
    )


def _filler_rows(
    stays: Sequence[SimulatedStay], generators: dict[int, np.random.Generator], facts: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    drawn: dict[str, list[tuple[int, Drawn]]] = {table: [] for table in (*_FILLED.values(), "labevents_outside_icu")}
    first = {stay.subject_id: stay for stay in reversed(stays)}
    for stay in stays:
        length = stay.course.length_hours
        for table in _FILLED.values():
            drawn[table].append((stay.stay_id, draw_rows(table, length / 24, (0, int(length * 60)), generators[stay.stay_id])))
        outside = draw_rows("labevents_outside_icu", 1.0, outpatient_minutes(), generators[stay.stay_id])
        drawn["labevents_outside_icu"].append((first[stay.subject_id].stay_id, outside))
    tables = {name: _filler_table(table, drawn[table], facts) for name, table in _FILLED.items()}
    outpatient = _filler_table("labevents_outside_icu", drawn["labevents_outside_icu"], facts)
    tables["hosp/labevents"] = pl.concat([tables["hosp/labevents"], outpatient.with_columns(pl.lit(None, pl.Int64).alias("hadm_id"))])
    return tables


def _filler_table(table: str, drawn: list[tuple[int, Drawn]], facts: pl.DataFrame) -> pl.DataFrame:
    sizes = [len(rows.item_N) for _, rows in drawn]
    owner = pl.Series("stay_id", np.repeat([stay_id for stay_id, _ in drawn], sizes), pl.Int64)
    minutes = pl.Series("minute", np.concatenate([rows.minute_N for _, rows in drawn]), pl.Int64)
    values = filler_values(table, np.concatenate([rows.item_N for _, rows in drawn]), np.concatenate([rows.draw_N for _, rows in drawn]))
    rows = pl.DataFrame([owner, minutes, *values.get_columns()]).join(facts, on="stay_id", how="left", maintain_order="left")
    time = pl.col("intime") + pl.duration(minutes=pl.col("minute"))
    rows = rows.with_columns(
        time.alias("charttime"), (time + pl.duration(minutes=7)).alias("storetime"), pl.lit(0, pl.Int64).alias("warning")
    )
    if table == "datetimeevents":
        return rows.with_columns(time.dt.strftime("%Y-%m-%d %H:%M:%S").alias("value"), pl.lit("Date and Time").alias("valueuom"))
    if table in ("inputevents", "ingredientevents", "procedureevents"):
        rows = rows.with_columns(
            time.alias("starttime"),
            (time + pl.duration(minutes=1)).alias("endtime"),
            pl.col("weight_kg").alias("patientweight"),
            pl.lit("FinishedRunning").alias("statusdescription"),
        )
        if table != "procedureevents":
            return rows.with_columns(pl.coalesce("valuenum", pl.lit("1")).alias("amount"), pl.col("unit").alias("amountuom"))
    return rows.rename({"unit": "valueuom"})


def _finished(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The table with all its columns, sorted by patient and time, with row ids that do not depend on other patients."""
    order = [
        column for column in ("charttime", "starttime", "intime", "admittime", "seq_num", "itemid", "value") if column in table.columns
    ]
    table = table.sort("subject_id", *order, nulls_last=True, maintain_order=True)
    number = (pl.col("subject_id") - FIRST_SUBJECT) * _IDS_PER_PATIENT + pl.int_range(pl.len()).over("subject_id")
    ids = [column for column in _ROW_IDS if column in table_definitions()["tables"][name]]
    if name == "hosp/emar":
        place = pl.int_range(1, pl.len() + 1).over("subject_id")
        table = table.with_columns(place.alias("emar_seq"), pl.format("{}-{}", "subject_id", place).alias("emar_id"))
    return _columns(table.with_columns(number.alias(column) for column in ids), name)


def _stacked(name: str, parts: list[pl.DataFrame]) -> pl.DataFrame:
    wanted = table_definitions()["tables"][name]
    return pl.concat([part.select(column for column in wanted if column in part.columns) for part in parts], how="diagonal")


def _columns(table: pl.DataFrame, name: str) -> pl.DataFrame:
    wanted = table_definitions()["tables"][name]
    absent = [pl.lit(None, pl.String).alias(column) for column in wanted if column not in table.columns]
    return table.with_columns(absent).select(wanted)

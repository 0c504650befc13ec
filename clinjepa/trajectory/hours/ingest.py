"""A source becomes hourly texts and an hourly grid, one patient-disjoint partition at a time.

Each partition writes `hours/`, `grid/`, `history/`, `stays/` and last its record in `parts/`; `finish_ingest` joins them, draws the split
and writes `stays.parquet`, `attrition.json` and `data_card.json`. Format: docs/contracts.md, section 3.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.config.schema import Config
from clinjepa.errors import SourceError
from clinjepa.sources.access import source_access
from clinjepa.sources.schema import STAYS_SCHEMA, Source, validate
from clinjepa.storage import Folder
from clinjepa.storage.parts import add_counts, finished_part, read_records, write_part_table, write_record
from clinjepa.trajectory.hours.aggregates import aggregate_hours
from clinjepa.trajectory.hours.cohort import apply_measurement_rules, apply_stay_rules, cohort_rules, sum_attrition
from clinjepa.trajectory.hours.data_card import add_hourly, grouped_drops, hourly_coverage
from clinjepa.trajectory.hours.grid import at_store_time, coverage, grid_columns, place_events
from clinjepa.trajectory.hours.history import HISTORY_SCHEMA, history_hours
from clinjepa.trajectory.hours.split import SPLITS, draw_split
from clinjepa.trajectory.hours.text import hour_texts, static_texts

SCHEMA_VERSION = 3
HOURS_SCHEMA = pa.schema(
    [("stay_id", pa.int64()), ("static_text", pa.string()), ("state_texts", pa.list_(pa.string())), ("action_texts", pa.list_(pa.string()))]
)
PART_STAYS_SCHEMA = pa.schema([*STAYS_SCHEMA, ("num_hours", pa.int32())])
INGEST_STAYS_SCHEMA = pa.schema([*PART_STAYS_SCHEMA, ("split", pa.string()), ("part", pa.string())])


def build_partition(
    source: Source, partition: dict[str, Any], config: Config, out: Folder, name: str, extracted: Folder | None = None
) -> dict[str, Any]:
    """Read one partition of a source and write its part of the ingest artifact; returns the part's record.

    extracted: what the source's extraction wrote, for sources that have one. A part that is already finished is not read again.
    Raises SourceError for tables that do not follow the schema, ConfigError when an excluded field would enter a text.
    """
    record = finished_part(out, name, SCHEMA_VERSION)
    if record is not None:
        return record
    tables = validate(source.read(partition) if extracted is None else source.read(partition, extracted))
    events = tables.events if config.source.event_time == "measured" else at_store_time(tables.events)
    variables, rules = load_variables(), cohort_rules(config.cohort)
    stays = pl.DataFrame(tables.stays)
    attrition = apply_stay_rules(stays, rules)
    placed, counts = place_events(events, attrition.stays, variables)
    apply_measurement_rules(attrition, placed, variables, rules)
    kept = attrition.stays.sort("stay_id")
    placed = placed.filter(pl.col("stay_id").is_in(kept["stay_id"].to_list()))

    texts = hour_texts(placed, kept, variables, config.text.max_decimals, config.text.include_medications)
    texts = static_texts(kept).join(texts, on="stay_id", how="inner").sort("stay_id")
    grid = aggregate_hours(placed, kept, variables)
    history = history_hours(tables.events, kept, variables)
    outcomes = []
    if events is not tables.events:  # outcomes happened when they were measured, whenever they were stored
        measured, _ = place_events(tables.events, kept, variables)
        outcomes.append(
            write_part_table(out, f"measured/{name}.parquet", _as_schema(aggregate_hours(measured, kept, variables), grid_schema()))
        )
    dropped = dict(tables.counts)
    add_counts(dropped, counts)
    record = {
        "schema_version": SCHEMA_VERSION,
        "files": [
            write_part_table(out, f"hours/{name}.parquet", _as_schema(texts, HOURS_SCHEMA)),
            write_part_table(out, f"grid/{name}.parquet", _as_schema(grid, grid_schema())),
            write_part_table(out, f"history/{name}.parquet", _as_schema(history, HISTORY_SCHEMA)),
            write_part_table(out, f"stays/{name}.parquet", _as_schema(kept, PART_STAYS_SCHEMA)),
            *outcomes,
        ],
        "num_stays": kept.height,
        "num_hours": int(kept["num_hours"].sum()),
        "num_events": placed.height,
        "attrition": attrition.rows,
        "dropped": dropped,
        "coverage": coverage(placed),
        "hourly_coverage": hourly_coverage(grid),
    }
    write_record(out, name, record)
    return record


def finish_ingest(out: Folder, config: Config, left_out: dict[str, int] | None = None) -> dict[str, Any]:
    """Join the parts, draw the split, write `stays.parquet`, `attrition.json` and `data_card.json`; returns the data card.

    left_out: what the source's extraction left out, by rule; it is added to what the parts dropped.

    Raises SourceError when no stay is left, or when partitions share a stay or a patient.
    """
    records = read_records(out, SCHEMA_VERSION)
    tables = [pl.DataFrame(out.read_table(f"stays/{name}.parquet")).with_columns(pl.lit(name).alias("part")) for name in records]
    stays = pl.concat(tables).sort("stay_id")
    attrition = sum_attrition(record["attrition"] for record in records.values())
    if not stays.height:
        steps = "; ".join(f"{row['rule']}: {row['num_stays']}" for row in attrition)
        raise SourceError(f"no stay is left after the cohort's rules ({steps}); loosen cohort.* or check the source")
    shared_stays = stays.height - stays["stay_id"].n_unique()
    shared_patients = stays.group_by("subject_id").agg(pl.col("part").n_unique()).filter(pl.col("part") > 1).height
    if shared_stays or shared_patients:
        raise SourceError(
            f"partitions of the source share {shared_stays} stays and {shared_patients} patients; they must be patient-disjoint"
        )
    stays = stays.with_columns(draw_split(stays, config.split))
    dropped: dict[str, int] = dict(left_out or {})
    seen: dict[str, dict[str, int]] = {}
    for record in records.values():
        add_counts(dropped, record["dropped"])
        for variable, counts in record["coverage"].items():
            add_counts(seen.setdefault(variable, {}), counts)
    num_hours = int(stays["num_hours"].sum())
    card = {
        "schema_version": SCHEMA_VERSION,
        "name": config.source.name,
        "source": config.source.kind,
        "access": source_access(config.source),
        "num_stays": stays.height,
        "num_patients": stays["subject_id"].n_unique(),
        "num_hours": num_hours,
        "event_time": config.source.event_time,
        "num_events": sum(record["num_events"] for record in records.values()),
        "attrition": attrition,
        "splits": {split: _describe(stays.filter(pl.col("split") == split)) for split in SPLITS},
        "dropped": dict(sorted(dropped.items())),
        "dropped_by_reason": grouped_drops(dropped),
        "coverage": {
            variable: counts | {"share_of_hours": counts["num_hours"] / num_hours, "share_of_stays": counts["num_stays"] / stays.height}
            for variable, counts in sorted(seen.items())
        },
        "hourly_coverage": add_hourly(record["hourly_coverage"] for record in records.values()),
        "parts": {name: record["files"] for name, record in records.items()},
    }
    out.write_table("stays.parquet", _as_schema(stays, INGEST_STAYS_SCHEMA))
    out.write_json("attrition.json", attrition)
    out.write_json("data_card.json", card)
    return card


def grid_schema() -> pa.Schema:
    """Schema of `grid/*.parquet`: stay_id, hour, and a column per variable of the dictionary."""
    columns = grid_columns(load_variables()).items()
    return pa.schema(
        [
            ("stay_id", pa.int64()),
            ("hour", pa.int32()),
            *((name, pa.string() if kind == "category" else pa.float32()) for name, kind in columns),
        ]
    )


def _describe(stays: pl.DataFrame) -> dict[str, int | None]:
    """Counts of a split; None where the source says of no stay whether it was so."""
    return {
        "num_stays": stays.height,
        "num_patients": stays["subject_id"].n_unique(),
        "num_hours": int(stays["num_hours"].sum()),
        **{f"num_{name}": int(stays[name].sum()) if stays[name].count() else None for name in ("died_in_hospital", "sepsis")},
    }


def _as_schema(table: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)

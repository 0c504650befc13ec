"""The ingest artifact: a source as hourly texts and an hourly grid, built one patient-disjoint partition at a time.

Each partition writes `hours/`, `grid/`, `history/`, `stays/` and last its record in `parts/`. `finish_ingest` joins the parts, draws the
split and writes `stays.parquet`, `attrition.json` and `data_card.json`. Format: docs/contracts.md, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable, load_variables
from clinjepa.config.schema import CohortConfig, TextConfig
from clinjepa.errors import SourceError
from clinjepa.sources.access import source_access
from clinjepa.sources.extraction import read_partition
from clinjepa.sources.mapped_meds.coverage import CodeCoverage
from clinjepa.sources.readings.range_losses import GroupLosses
from clinjepa.sources.schema import STAYS_SCHEMA, Partition, PartitionReader, validate
from clinjepa.storage import Folder
from clinjepa.storage.parts import PartFile, add_counts, finished_part, read_records, write_part_table, write_record
from clinjepa.trajectory.hours.aggregates import aggregate_hours
from clinjepa.trajectory.hours.cohort import Attrition, AttritionRow, apply_measurement_rules, apply_stay_rules, cohort_rules, sum_attrition
from clinjepa.trajectory.hours.data_card import DataCard, HourlyCoverage, SplitCounts, add_hourly, grouped_drops, hourly_coverage
from clinjepa.trajectory.hours.grid import at_store_time, coverage, grid_columns, place_events
from clinjepa.trajectory.hours.history import HISTORY_SCHEMA, history_hours
from clinjepa.trajectory.hours.odd_medians import odd_medians
from clinjepa.trajectory.hours.range_losses import range_losses
from clinjepa.trajectory.hours.split import SPLITS, draw_split
from clinjepa.trajectory.hours.text import hour_texts, static_texts
from clinjepa.trajectory.labels.scores import with_scores
from clinjepa.trajectory.settings import IngestSettings

SCHEMA_VERSION = 3
HOURS_SCHEMA = pa.schema(
    [("stay_id", pa.int64()), ("static_text", pa.string()), ("state_texts", pa.list_(pa.string())), ("action_texts", pa.list_(pa.string()))]
)
PART_STAYS_SCHEMA = pa.schema([*STAYS_SCHEMA, ("num_hours", pa.int32())])
INGEST_STAYS_SCHEMA = pa.schema([*PART_STAYS_SCHEMA, ("split", pa.string()), ("part", pa.string())])


class IngestRecord(TypedDict):
    """Record of a finished part: its files and its counts after the cohort's rules.

    dropped: rows by rule or `rule:variable`. range_losses: readings that ranges and units took, by group.
    """

    schema_version: int
    files: list[PartFile]
    num_stays: int
    num_hours: int
    num_events: int
    attrition: list[AttritionRow]
    dropped: dict[str, int]
    range_losses: list[GroupLosses]
    coverage: dict[str, dict[str, int]]
    hourly_coverage: HourlyCoverage


def build_partition(
    source: PartitionReader[Partition],
    partition: Partition,
    settings: IngestSettings,
    out: Folder,
    name: str,
    extracted: Folder | None = None,
) -> IngestRecord:
    """Read one partition of a source and write its part of the ingest artifact, unless the part is finished.

    Args:
        source: the source.
        partition: one of `source.partitions()`.
        settings: sections `source`, `cohort` and `text` are read.
        out: the ingest artifact.
        name: name of the part.
        extracted: folder that the source's extraction wrote, for sources that have one.

    Returns:
        The part's record.

    Raises:
        SourceError: the source's tables do not follow the schema.
        ConfigError: an excluded field would enter a text.
    """
    finished = finished_part(out, name, SCHEMA_VERSION)
    if finished is not None:
        return cast(IngestRecord, finished)
    tables = validate(read_partition(source, partition, extracted))
    events = tables.events if settings.source.event_time == "measured" else at_store_time(tables.events)
    variables = load_variables()
    attrition, placed, counts = _cohort(tables.stays, events, variables, settings.cohort)
    kept = attrition.stays.sort("stay_id")
    outcomes = tables.events if tables.measured is None else tables.measured
    history = history_hours(outcomes, kept, variables)
    same = events is outcomes or settings.text.exclusions == "all"
    known = history if same else history_hours(events, kept, variables)  # a text knows what was stored by then
    texts, grid = texts_and_grid(placed, kept, known, variables, settings.text)
    # Labels go by the time of measurement, whenever a value or the weight of its patient was stored.
    by_measurement = [] if events is outcomes else [_write_measured(out, name, outcomes, kept, variables)]
    dropped = dict(tables.counts)
    add_counts(dropped, counts)
    record: IngestRecord = {
        "schema_version": SCHEMA_VERSION,
        "files": [*_write_tables(out, name, texts, grid, history, kept), *by_measurement],
        "num_stays": kept.height,
        "num_hours": int(kept["num_hours"].sum()),
        "num_events": placed.height,
        "attrition": attrition.rows,
        "dropped": dropped,
        "range_losses": tables.losses,
        "coverage": coverage(placed),
        "hourly_coverage": hourly_coverage(grid),
    }
    write_record(out, name, record)
    return record


def _write_tables(
    out: Folder, name: str, texts: pl.DataFrame, grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame
) -> list[PartFile]:
    """The part's tables; returns what the record says of each file."""
    tables = {
        "hours": _as_schema(texts, HOURS_SCHEMA),
        "grid": _as_schema(grid, grid_schema()),
        "history": _as_schema(history, HISTORY_SCHEMA),
        "stays": _as_schema(stays, PART_STAYS_SCHEMA),
    }
    return [write_part_table(out, f"{folder}/{name}.parquet", table) for folder, table in tables.items()]


def _cohort(
    stays: pa.Table, events: pa.Table, variables: Mapping[str, Variable], cohort: CohortConfig
) -> tuple[Attrition, pl.DataFrame, dict[str, int]]:
    """(stays under the cohort's rules, placed rows of the kept stays, rows that `place_events` left out by rule)."""
    rules = cohort_rules(cohort)
    attrition = apply_stay_rules(pl.DataFrame(stays), rules)
    placed, counts = place_events(events, attrition.stays, variables)
    apply_measurement_rules(attrition, placed, variables, rules)
    return attrition, placed.filter(pl.col("stay_id").is_in(attrition.stays["stay_id"].to_list())), counts


def texts_and_grid(
    placed: pl.DataFrame, stays: pl.DataFrame, history: pl.DataFrame, variables: Mapping[str, Variable], text: TextConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(texts: stay_id, static_text, state_texts, action_texts, a row a stay, sorted by stay_id; rows of `aggregate_hours`).

    Args:
        placed: rows of `grid.place_events`.
        stays: STAYS_SCHEMA and num_hours, sorted by stay_id.
        history: rows of `history_hours`, as known at the time of the texts; read for severity scores only.
        variables: the variable dictionary.
        text: settings of the texts.
    """
    hourly = hour_texts(placed, stays, variables, text.max_decimals, text.include_medications)
    texts = static_texts(stays).join(hourly, on="stay_id", how="inner").sort("stay_id")
    grid = aggregate_hours(placed, stays, variables)
    return (with_scores(texts, grid, history, stays) if text.exclusions == "all_but_scores" else texts), grid


def _write_measured(out: Folder, name: str, events: pa.Table, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> PartFile:
    """Write the grid by time of measurement, `measured/<name>.parquet`."""
    placed, _ = place_events(events, stays, variables)
    return write_part_table(out, f"measured/{name}.parquet", _as_schema(aggregate_hours(placed, stays, variables), grid_schema()))


def finish_ingest(
    out: Folder, settings: IngestSettings, left_out: dict[str, int] | None = None, codes: CodeCoverage | None = None
) -> DataCard:
    """Join the parts, draw the split, write `stays.parquet`, `attrition.json` and `data_card.json`.

    Args:
        out: the ingest artifact, all of whose parts are finished.
        settings: sections `source` and `split` are read.
        left_out: rows that the source's extraction left out, by rule; they are added to those that the parts dropped.
        codes: the codes that a map of codes lacks, for sources that have one.

    Returns:
        The data card.

    Raises:
        SourceError: no stay is left, or partitions share a stay or a patient.
    """
    records = cast("dict[str, IngestRecord]", read_records(out, SCHEMA_VERSION))
    stays, attrition = _join_stays(out, records)
    stays = stays.with_columns(draw_split(stays, settings.split))
    card = _card(settings, stays, attrition, records, left_out or {})
    if codes is not None:
        card["code_coverage"] = codes
    out.write_table("stays.parquet", _as_schema(stays, INGEST_STAYS_SCHEMA))
    out.write_json("attrition.json", attrition)
    out.write_json("data_card.json", card)
    return card


def _join_stays(out: Folder, records: Mapping[str, IngestRecord]) -> tuple[pl.DataFrame, list[AttritionRow]]:
    """(stays of all parts with their part, sorted by stay_id; attrition of the whole source)."""
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
    return stays, attrition


def _card(
    settings: IngestSettings,
    stays: pl.DataFrame,
    attrition: list[AttritionRow],
    records: Mapping[str, IngestRecord],
    left_out: dict[str, int],
) -> DataCard:
    dropped = dict(left_out)
    seen: dict[str, dict[str, int]] = {}
    for record in records.values():
        add_counts(dropped, record["dropped"])
        for variable, counts in record["coverage"].items():
            add_counts(seen.setdefault(variable, {}), counts)
    num_stays, num_hours = stays.height, int(stays["num_hours"].sum())
    return {
        "schema_version": SCHEMA_VERSION,
        "name": settings.source.name,
        "source": settings.source.kind,
        "access": source_access(settings.source),
        "num_stays": num_stays,
        "num_patients": stays["subject_id"].n_unique(),
        "num_hours": num_hours,
        "event_time": settings.source.event_time,
        "num_events": sum(record["num_events"] for record in records.values()),
        "attrition": attrition,
        "splits": {split: _describe(stays.filter(pl.col("split") == split)) for split in SPLITS},
        "dropped": dict(sorted(dropped.items())),
        "dropped_by_reason": grouped_drops(dropped),
        "range_losses": range_losses(record["range_losses"] for record in records.values()),
        "odd_medians": odd_medians(record["range_losses"] for record in records.values()),
        "coverage": {
            variable: {
                "num_events": counts["num_events"],
                "num_hours": counts["num_hours"],
                "num_stays": counts["num_stays"],
                "share_of_hours": counts["num_hours"] / num_hours,
                "share_of_stays": counts["num_stays"] / num_stays,
            }
            for variable, counts in sorted(seen.items())
        },
        "hourly_coverage": add_hourly(record["hourly_coverage"] for record in records.values()),
        "parts": {name: record["files"] for name, record in records.items()},
    }


def grid_schema() -> pa.Schema:
    """Schema of `grid/*.parquet`: stay_id, hour, and one column per grid variable of the dictionary."""
    columns = grid_columns(load_variables()).items()
    return pa.schema(
        [
            ("stay_id", pa.int64()),
            ("hour", pa.int32()),
            *((name, pa.string() if kind == "category" else pa.float32()) for name, kind in columns),
        ]
    )


def _describe(stays: pl.DataFrame) -> SplitCounts:
    died, sepsis = (int(stays[name].sum()) if stays[name].count() else None for name in ("died_in_hospital", "sepsis"))
    return {
        "num_stays": stays.height,
        "num_patients": stays["subject_id"].n_unique(),
        "num_hours": int(stays["num_hours"].sum()),
        "num_died_in_hospital": died,
        "num_sepsis": sepsis,
    }


def _as_schema(table: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)

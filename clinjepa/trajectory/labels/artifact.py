"""The labels artifact: labels of all prediction tasks from grid, history and stays, and their prevalence.

Written part by part: `labels/<part>.parquet`, then the part's record in `parts/`, so that an interrupted run resumes. The parts are
joined into `labels.parquet`, `prevalence.json` and `meds/<task>.parquet` for tools of the Medical Event Data Standard. The rules are in
`rules.py`. Format: docs/contracts.md, section 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import NotRequired, TypedDict, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clinjepa.clinical import Task, can_give, grid_inputs
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.storage.parts import PartFile, finished_part, read_card, read_records, write_part_table, write_record
from clinjepa.trajectory.hours import ingest as ingest_artifact
from clinjepa.trajectory.hours.data_card import DataCard
from clinjepa.trajectory.hours.grid import HOUR_US
from clinjepa.trajectory.labels.derived.registry import functions
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.hour_rows import HourRows, hour_rows
from clinjepa.trajectory.labels.label_files import GivenCounts, LabelFile, sum_counts
from clinjepa.trajectory.labels.prevalence import (
    CarriedCounts,
    LabelCounts,
    add_carried,
    add_prevalence,
    carried_counts,
    count_labels,
    task_runs,
)
from clinjepa.trajectory.labels.rules import FLAG_COLUMNS, TIME_COLUMNS, hourly_labels, stay_labels

SCHEMA_VERSION = 3
LABELS_SCHEMA = pa.schema([("stay_id", pa.int64()), ("task", pa.string()), ("hour", pa.int32()), ("label", pa.float32())])
_TASK_COLUMN = LABELS_SCHEMA.get_field_index("task")
_MEDS_KEYS = [("subject_id", pa.int64()), ("prediction_time", pa.timestamp("us"))]
MEDS_LABEL_SCHEMAS = {
    True: pa.schema([*_MEDS_KEYS, ("boolean_value", pa.bool_())]),
    False: pa.schema([*_MEDS_KEYS, ("float_value", pa.float32())]),
}
"""LabelSchema of MEDS 0.4 (value columns are optional, but not null); True: the task's labels are 0 or 1."""


class LabelRecord(TypedDict):
    """Record of a finished part.

    runs: task -> number of labels, in row order. prevalence: task -> split -> counts. carried: task -> rule -> split -> counts.
    """

    schema_version: int
    files: list[PartFile]
    runs: dict[str, int]
    prevalence: dict[str, dict[str, LabelCounts]]
    carried: dict[str, CarriedCounts]
    given: NotRequired[dict[str, GivenCounts]]
    """Of tasks whose labels are read from files."""


def build_labels(
    ingest: Folder, part: str, tasks: list[Task], stay_prediction_hour: int, out: Folder, files: Sequence[LabelFile] = ()
) -> LabelRecord:
    """Compute and write the labels of one part of an ingest artifact, unless the part is finished.

    Args:
        ingest: a finished ingest artifact.
        part: name of one of its parts.
        tasks: tasks to label; those that the source cannot give are left out (`why_none`).
        stay_prediction_hour: hour of the prediction of once-per-stay tasks.
        out: the labels artifact.
        files: label files of further tasks.

    Returns:
        The part's record.

    Raises:
        SourceError: a label file cannot be read, or contradicts itself.
    """
    finished = finished_part(out, part, SCHEMA_VERSION)
    if finished is not None:
        return cast(LabelRecord, finished)
    able, stays = _able(tasks, _card(ingest)), _stays(ingest, part)
    labels, carried = _label_part(ingest, part, stays, able, stay_prediction_hour)
    read = {file.name: _given_labels(file, stays) for file in files}
    labels = pa.concat_tables([labels, *(table for table, _ in read.values())])
    record: LabelRecord = {
        "schema_version": SCHEMA_VERSION,
        "files": [write_part_table(out, f"labels/{part}.parquet", labels)],
        "runs": dict(zip(*task_runs(labels["task"]), strict=True)),
        "prevalence": count_labels(labels, stays, [*able, *(file.task for file in files)]),
        "carried": carried,
    }
    if read:
        record["given"] = {name: counts for name, (_, counts) in read.items()}
    write_record(out, part, record)
    return record


def finish_labels(ingest: Folder, tasks: list[Task], out: Folder, files: Sequence[LabelFile] = ()) -> dict[str, int]:
    """Join the parts into `labels.parquet`, `meds/` and `prevalence.json`; returns {"num_labels", "num_tasks"}.

    Raises:
        StoreError: a part is missing or truncated.
    """
    card = _card(ingest)
    records = cast("dict[str, LabelRecord]", read_records(out, SCHEMA_VERSION))
    missing = [part for part in card["parts"] if part not in records]
    if missing:
        raise StoreError(f"{out.address}: {len(missing)} parts have no labels yet; run again to go on")
    able = [*_able(tasks, card), *(file.task for file in files)]
    _join_parts(out, {part: record["runs"] for part, record in records.items()}, pl.DataFrame(ingest.read_table("stays.parquet")), able)
    reasons = {task.name: reason for task in tasks if (reason := why_none(task, card))}
    content = {
        "source": card["source"],
        "tasks": add_prevalence([one["prevalence"] for one in records.values()], able),
        "by_carried_event": add_carried([one["carried"] for one in records.values()], able),
        "without_labels": reasons,
    }
    if files:
        content["files"] = {file.name: sum_counts([one["given"][file.name] for one in records.values()], file.num_rows()) for file in files}
    out.write_json("prevalence.json", content)
    return {"num_labels": sum(record["files"][0]["num_rows"] for record in records.values()), "num_tasks": len(able)}


def read_labels(folder: Folder, tasks: Collection[str]) -> pa.Table:
    """Labels of some tasks from a labels artifact (LABELS_SCHEMA); row groups of other tasks are not decoded."""
    file = folder.parquet("labels.parquet")
    groups = range(file.metadata.num_row_groups)
    wanted = [group for group in groups if file.metadata.row_group(group).column(_TASK_COLUMN).statistics.min in tasks]
    return file.read_row_groups(wanted, use_threads=False) if wanted else LABELS_SCHEMA.empty_table()


def compute_labels(ingest: Folder, tasks: list[Task], stay_prediction_hour: int) -> pa.Table:
    """All labels of a small ingest artifact in memory: LABELS_SCHEMA, ordered by task (as given), stay_id, hour."""
    card = _card(ingest)
    able = _able(tasks, card)
    parts = [part_labels(ingest, part, _stays(ingest, part), able, stay_prediction_hour) for part in card["parts"]]
    table = pl.DataFrame(pa.concat_tables([LABELS_SCHEMA.empty_table(), *parts]))
    order = pl.col("task").replace_strict({task.name: place for place, task in enumerate(tasks)}, return_dtype=pl.Int32)
    ordered = table.sort(order, "stay_id", "hour") if table.height else table
    return ordered.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(LABELS_SCHEMA)


def why_none(task: Task, card: DataCard) -> str | None:
    """Why a task has no labels on the data that a data card describes; None when it can have labels."""
    if task.sources and card["source"] not in task.sources:
        return f"not for source {card['source']}: the task says {', '.join(task.sources)}"
    missing = [name for name in task.requires if not can_give(name, card["coverage"])]
    return f"the source gives no {', '.join(missing)}" if missing else None


def part_labels(ingest: Folder, part: str, stays: pl.DataFrame, tasks: list[Task], stay_prediction_hour: int) -> pa.Table:
    """Labels of one part of an ingest artifact (LABELS_SCHEMA), ordered by task (as given), stay_id, hour. stays: rows of that part."""
    return _label_part(ingest, part, stays, tasks, stay_prediction_hour)[0]


def _label_part(
    ingest: Folder, part: str, stays: pl.DataFrame, tasks: list[Task], stay_prediction_hour: int
) -> tuple[pa.Table, dict[str, CarriedCounts]]:
    """(labels as of `part_labels`; for tasks with the switches-only rule, counts under both rules for a carried event)."""
    state = part_state(ingest, part, stays, [name for task in tasks for name in task.variables])
    rows, tables = state.rows, [LABELS_SCHEMA.empty_table()]
    carried = {task.name: carried_counts(task, state, stays) for task in tasks if task.switches_only}
    for task in tasks:
        labels = hourly_labels(task, state) if task.is_hourly else stay_labels(task, state, stay_prediction_hour)
        there = np.flatnonzero(~np.isnan(labels))
        names = pa.repeat(pa.scalar(task.name), len(there))
        numbers = [rows.stay_id_R[there], rows.hour_R[there].astype(np.int32), labels[there].astype(np.float32)]
        stay_ids, hours, values = (pa.array(one) for one in numbers)
        tables.append(pa.table([stay_ids, names, hours, values], schema=LABELS_SCHEMA))
    return pa.concat_tables(tables), carried


def _given_labels(file: LabelFile, stays: pl.DataFrame) -> tuple[pa.Table, GivenCounts]:
    """(labels of a part's stays from a label file, as LABELS_SCHEMA; what became of the rows of their subjects)."""
    labels, counts = file.placed(stays)
    named = labels.select("stay_id", pl.lit(file.name).alias("task"), "hour", "label")
    return named.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(LABELS_SCHEMA), counts


def part_state(ingest: Folder, part: str, stays: pl.DataFrame, names: Collection[str]) -> DerivedState:
    """Grid columns and derived quantities of some stays of a part of an ingest artifact, hour by hour with their history.

    Args:
        ingest: a finished ingest artifact.
        part: name of one of its parts.
        stays: rows of its `stays.parquet` of that part.
        names: columns and derived quantities that will be read.
    """
    columns = grid_inputs(names)
    wanted = pl.col("stay_id").is_in(stays["stay_id"].implode())
    grid = pl.DataFrame(ingest.read_table(_grid_of_outcomes(ingest, part), columns=["stay_id", "hour", *_on_grid(columns)]))
    history = pl.DataFrame(ingest.read_table(f"history/{part}.parquet"))
    return DerivedState(label_rows(grid.filter(wanted), history.filter(wanted), stays, columns), functions())


def label_rows(grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame, columns: list[str]) -> HourRows:
    """Hour rows with the constants that label rules read: weight in kg, flags (0, 1, NaN), times as hours after ICU admission."""
    intime = pl.col("intime").cast(pl.Datetime("us"))
    facts = stays.select(
        "stay_id",
        "weight_kg",
        *(pl.col(name).cast(pl.Float64) for name in FLAG_COLUMNS),
        *(((pl.col(name).cast(pl.Datetime("us")) - intime).dt.total_microseconds() / HOUR_US).alias(name) for name in TIME_COLUMNS),
    )
    return hour_rows(grid, history, facts, columns, ["weight_kg", *FLAG_COLUMNS, *TIME_COLUMNS])


def _grid_of_outcomes(ingest: Folder, part: str) -> str:
    """File of the grid by time of measurement; with `source.event_time: stored` it is not the grid that the texts follow."""
    measured = f"measured/{part}.parquet"
    return measured if ingest.exists(measured) else f"grid/{part}.parquet"


def _card(ingest: Folder) -> DataCard:
    return cast(DataCard, read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again"))


def _able(tasks: list[Task], card: DataCard) -> list[Task]:
    return [task for task in tasks if why_none(task, card) is None]


def _stays(ingest: Folder, part: str) -> pl.DataFrame:
    return pl.DataFrame(ingest.read_table("stays.parquet")).filter(pl.col("part") == part)


def _on_grid(columns: list[str]) -> list[str]:
    known = set(ingest_artifact.grid_schema().names)
    return [name for name in columns if name in known]


def _join_parts(out: Folder, parts: dict[str, dict[str, int]], stays: pl.DataFrame, tasks: list[Task]) -> None:
    """Write `labels.parquet` (ordered by part, then task) and `meds/<task>.parquet`, with one part in memory at a time.

    parts: part -> task -> number of labels, in the order of the part's rows.
    """
    people = stays.select("stay_id", "subject_id", "intime")
    with contextlib.ExitStack() as stack:

        def writer(name: str, schema: pa.Schema) -> pq.ParquetWriter:
            sink = stack.enter_context(out.writing(name))
            delta = {name: "DELTA_BINARY_PACKED" for name in ("stay_id", "hour", "subject_id", "prediction_time") if name in schema.names}
            options = {"column_encoding": delta, "use_dictionary": [name for name in schema.names if name not in delta]}
            return stack.enter_context(pq.ParquetWriter(sink, schema, compression="zstd", **options))

        whole = writer("labels.parquet", LABELS_SCHEMA)
        binary = {task.name: task.is_classification for task in tasks}
        meds = {name: writer(f"meds/{name}.parquet", MEDS_LABEL_SCHEMAS[is_binary]) for name, is_binary in binary.items()}
        for part, runs in parts.items():
            labels = out.read_table(f"labels/{part}.parquet", columns=["stay_id", "hour", "label"])
            timed, first = _timed(pl.DataFrame(labels), people), 0
            for name, length in runs.items():
                own = labels.slice(first, length).add_column(_TASK_COLUMN, "task", pa.repeat(pa.scalar(name), length))
                whole.write_table(own)
                meds[name].write_table(_as_meds(timed.slice(first, length), binary[name]))
                first += length


def _timed(labels: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """subject_id, prediction_time (the end of the label's hour), label."""
    end = pl.col("intime").cast(pl.Datetime("us")) + pl.duration(hours=pl.col("hour").cast(pl.Int64) + 1)
    joined = labels.join(people, on="stay_id", how="left", maintain_order="left")
    return joined.select("subject_id", end.alias("prediction_time"), "label")


def _as_meds(timed: pl.DataFrame, is_classification: bool) -> pa.Table:
    """Rows of MEDS_LABEL_SCHEMAS, in the order of the labels."""
    table = timed.to_arrow(compat_level=pl.CompatLevel.oldest())
    value = pc.greater(table["label"], 0.5) if is_classification else table["label"]
    return pa.table([table["subject_id"], table["prediction_time"], value], schema=MEDS_LABEL_SCHEMAS[is_classification])

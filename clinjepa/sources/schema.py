"""The output of every source: `stays` and `events` in one Arrow schema, and the protocol that a source implements.

Times have no zone: they are the hospital's local times. An event with `end_time` is an interval. Its value is the rate (variables of
kind `rate`), the total amount given (aggregation `sum`) or 1 (kind `indicator`). `medication` is the only variable that is not in the
dictionary: the drug's name is in `text`, its dose (where known) in `value` and `unit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import load_variables
from clinjepa.errors import SourceError
from clinjepa.sources.files.text_files import found_columns
from clinjepa.sources.readings.range_losses import GroupLosses

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig
    from clinjepa.storage import Folder

SCHEMA_VERSION = 2
MEDICATION = "medication"
LOOKBACK_HOURS = 24
"""How far events may precede ICU admission (labs and drugs before the transfer), unless their variable sets `lookback_hours`."""

_TIME = pa.timestamp("us")

STAYS_SCHEMA = pa.schema(
    [
        pa.field("stay_id", pa.int64(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("hadm_id", pa.int64()),
        pa.field("intime", _TIME, nullable=False),
        pa.field("outtime", _TIME, nullable=False),
        pa.field("age_years", pa.float32()),
        pa.field("sex", pa.string()),
        pa.field("race", pa.string()),
        pa.field("height_cm", pa.float32()),
        pa.field("weight_kg", pa.float32()),
        pa.field("admission_type", pa.string()),
        pa.field("care_unit", pa.string()),
        pa.field("stay_number_in_admission", pa.int32(), nullable=False),
        pa.field("died_in_hospital", pa.bool_()),
        pa.field("died_in_icu", pa.bool_()),
        pa.field("death_time", _TIME),
        pa.field("hospital_admission_time", _TIME),
        pa.field("hospital_discharge_time", _TIME),
        pa.field("next_icu_admission_time", _TIME),
        pa.field("next_hospital_admission_time", _TIME),
        pa.field("chronic_dialysis", pa.bool_()),
        pa.field("sepsis", pa.bool_()),
        pa.field("height_time", _TIME),
        pa.field("weight_time", _TIME),
        pa.field("source_split", pa.string()),
    ]
)

STAYS_TYPES = pl.DataFrame(STAYS_SCHEMA.empty_table()).schema
"""STAYS_SCHEMA in polars types."""

LABEL_COLUMNS = (
    "hospital_admission_time",
    "hospital_discharge_time",
    "next_icu_admission_time",
    "next_hospital_admission_time",
    "chronic_dialysis",
)
"""Columns of `stays` that only some sources have: the hospitalisation around the stay, the patient's next ICU stay of the same
hospitalisation, the next hospitalisation, dialysis before it. They serve labels only and are in no text and on no grid."""

TIMES_OF_STATICS = {"height_cm": "height_time", "weight_kg": "weight_time"}
"""Column of `stays` -> column with the time of charting; null when the value was known at ICU admission. No feature uses the value
before that time."""

EVENTS_SCHEMA = pa.schema(
    [
        pa.field("stay_id", pa.int64(), nullable=False),
        pa.field("time", _TIME, nullable=False),
        pa.field("end_time", _TIME),
        pa.field("variable", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("store_time", _TIME),
        pa.field("row", pa.int64(), nullable=False),
    ]
)


STAYS_PER_PARTITION = 200
LEAST_PARTITIONS = 8


def longest_lookback_hours() -> int:
    """The largest number of hours that an event of any variable may precede ICU admission."""
    return max(LOOKBACK_HOURS, *(variable.lookback_hours for variable in load_variables().values()))


def partition_count(wanted: int | None, num_stays: int) -> int:
    """Number of partitions for a source of about `num_stays` stays: `wanted`, or enough that each fits in the memory of one task."""
    return wanted if wanted is not None else max(LEAST_PARTITIONS, -(-num_stays // STAYS_PER_PARTITION))


@dataclass(frozen=True)
class SourceTables:
    """Content of one partition. `counts`: number of rows dropped or altered, by rule, over all patients of the partition.

    losses: readings lost to ranges and units, by variable, site, unit and item (`range_losses.group_losses`).
    measured: EVENTS_SCHEMA, the events that labels read where these are not `events`: with `source.event_time: stored` a rate per patient
    is converted by the weight stored by then in `events`, by the weight measured by then in `measured`.
    """

    stays: pa.Table
    events: pa.Table
    counts: dict[str, int] = field(default_factory=dict)
    losses: list[GroupLosses] = field(default_factory=list)
    measured: pa.Table | None = None


Partition = TypeVar("Partition", bound=Mapping[str, object])
"""A source's own description of a partition: JSON-able, usually a TypedDict."""

ReadPartition = TypeVar("ReadPartition", bound=Mapping[str, object], contravariant=True)


class TableFile(TypedDict):
    """A table file to extract, and its size in bytes."""

    table: str
    bytes: int


class PartitionReader(Protocol[ReadPartition]):
    """The part of a source that reads a partition."""

    def read(self, partition: ReadPartition) -> SourceTables:
        """The stays and events of one partition."""
        ...


class Source(PartitionReader[Partition], Protocol[Partition]):
    """A data set in its own format.

    The constructor reads no large file. It raises SourceError with file, column and remedy when the data set cannot be read.
    """

    name: str

    def __init__(self, config: SourceConfig) -> None: ...

    def content_digest(self) -> str:
        """SHA-256 of everything that determines the content: the files' content, or the simulator's settings."""
        ...

    def partitions(self) -> list[Partition]:
        """Patient-disjoint, deterministic partitions; about `partition_count` of them."""
        ...


class ExtractedSource(Source[Partition], Protocol[Partition]):
    """A source whose files cannot be read by patient: its tables are first extracted, then `read` takes the extraction's folder."""

    def check_items(self) -> dict[str, int]:
        """Item ids in use that the data's own dictionaries lack or define differently, counted by rule and variable."""
        ...

    def extractions(self) -> list[TableFile]:
        """The table files to extract, each one a unit of work."""
        ...

    def extract(self, piece: TableFile, out: Folder, memory_mb: int) -> dict[str, int]:
        """Stream one table file in bounded memory into `out`; its record is written last, a finished piece is skipped.

        Args:
            piece: One of `extractions`.
            out: Folder of the extraction.
            memory_mb: Memory that this call may use.

        Returns:
            Number of rows left out, by rule.
        """
        ...

    def read(self, partition: Partition, extracted: Folder | None = None) -> SourceTables:
        """The stays and events of one partition, out of the folder that `extract` wrote to."""
        ...


def validate(tables: SourceTables) -> SourceTables:
    """Return the tables if they follow the schema; otherwise raise SourceError with the column or rule that is violated."""
    views = [("events", tables.events), *([("measured", tables.measured)] if tables.measured is not None else [])]
    for label, table, schema in (("stays", tables.stays, STAYS_SCHEMA), *((name, view, EVENTS_SCHEMA) for name, view in views)):
        if table.schema.names != schema.names:
            raise SourceError(
                f"{label}: the {len(table.schema)} columns are not those of schema version {SCHEMA_VERSION} in their order "
                f"({found_columns(table.schema.names, schema.names)}); it has {', '.join(schema.names)}"
            )
        for column in schema:
            if table.schema.field(column.name).type != column.type:
                raise SourceError(f"{label}: column {column.name!r} is {table.schema.field(column.name).type}, must be {column.type}")
            if not column.nullable and table[column.name].null_count:
                raise SourceError(f"{label}: column {column.name!r} has {table[column.name].null_count} empty rows")
    stays = tables.stays
    if pc.count_distinct(stays["stay_id"]).as_py() != stays.num_rows:
        raise SourceError("stays: a stay_id occurs more than once; stay ids must be unique in the whole data set")
    if stays.num_rows and not pc.all(pc.greater(stays["outtime"], stays["intime"])).as_py():
        raise SourceError("stays: an outtime is not after its intime")
    for label, events in views:
        if not pc.all(pc.is_in(events["stay_id"], stays["stay_id"].combine_chunks())).as_py() and events.num_rows:
            raise SourceError(f"{label}: rows belong to stays that are not in this partition")
        unknown = {name for name in pc.unique(events["variable"].cast(pa.string())).to_pylist()} - load_variables().keys() - {MEDICATION}
        if unknown:
            raise SourceError(f"{label}: variables {sorted(unknown)} are not in variables.yaml")
    return tables

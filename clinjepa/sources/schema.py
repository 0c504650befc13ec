"""What every source gives: `stays` and `events` in one Arrow schema, and the protocol that a source follows.

Times are without zone, as the hospital wrote them. An event with `end_time` is an interval: of a variable of kind `rate` its value is
the rate that ran, of aggregation `sum` the whole amount given, of kind `indicator` 1. `medication` is the one variable beyond the
dictionary: a free-named drug in `text`, its dose (where known) in `value` and `unit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import load_variables
from clinjepa.errors import SourceError

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

SCHEMA_VERSION = 2
MEDICATION = "medication"
LOOKBACK_HOURS = 24
"""Events may precede ICU admission by this much (labs, drugs given on the way in), if their variable names no other time."""

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


def longest_lookback_hours() -> int:
    """How long before ICU admission an event of any variable may lie."""
    return max(LOOKBACK_HOURS, *(variable.lookback_hours for variable in load_variables().values()))


LABEL_COLUMNS = (
    "hospital_admission_time",
    "hospital_discharge_time",
    "next_icu_admission_time",
    "next_hospital_admission_time",
    "chronic_dialysis",
)
"""Columns of `stays` that only some sources know: the hospitalisation around the stay, the patient's next ICU stay of the same
hospitalisation and next hospitalisation, dialysis before it. They serve labels; no text and no grid sees them."""

TIMES_OF_STATICS = {"height_cm": "height_time", "weight_kg": "weight_time"}
"""Column of `stays` -> when it was charted; null where it was known at ICU admission. No feature shows it earlier."""

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


def partition_count(wanted: int | None, num_stays: int) -> int:
    """Partitions to read a source of about `num_stays` stays in: those `wanted`, else so many that none holds more than a task can."""
    return wanted if wanted is not None else max(LEAST_PARTITIONS, -(-num_stays // STAYS_PER_PARTITION))


@dataclass(frozen=True)
class SourceTables:
    """What one partition holds. `counts`: rows dropped or altered, by rule; never by patient."""

    stays: pa.Table
    events: pa.Table
    counts: dict[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A data set in its own format. Construction opens nothing heavy and raises SourceError with file, column and remedy.

    A source whose files cannot be read by patient also has
    `extractions() -> list[dict]`, JSON-able pieces of work, one per table file, with its `bytes`, and
    `extract(piece, out: Folder, memory_mb: int) -> dict[str, int]`, which streams one in bounded memory into `out`, writes its record
    last, passes over what is finished and returns what was left out, by rule. Its `read` takes that folder as `extracted`, and its
    `check_items() -> dict[str, int]` says which item ids the data's own dictionaries lack or mean differently.
    """

    name: str

    def __init__(self, config: SourceConfig) -> None: ...

    def content_digest(self) -> str:
        """SHA-256 over what determines the content: the files by content, or the simulator's settings."""
        ...

    def partitions(self) -> list[dict[str, Any]]:
        """JSON-able, patient-disjoint, deterministic pieces; about `partition_count` of them."""
        ...

    def read(self, partition: dict[str, Any]) -> SourceTables:
        """The stays and events of one piece."""
        ...


def validate(tables: SourceTables) -> SourceTables:
    """Give the tables back if they follow the schema; SourceError says which column or rule does not hold."""
    for label, table, schema in (("stays", tables.stays, STAYS_SCHEMA), ("events", tables.events, EVENTS_SCHEMA)):
        if table.schema.names != schema.names:
            raise SourceError(f"{label}: columns are {table.schema.names}, schema version {SCHEMA_VERSION} has {schema.names}")
        for column in schema:
            if table.schema.field(column.name).type != column.type:
                raise SourceError(f"{label}: column {column.name!r} is {table.schema.field(column.name).type}, must be {column.type}")
            if not column.nullable and table[column.name].null_count:
                raise SourceError(f"{label}: column {column.name!r} has {table[column.name].null_count} empty rows")
    stays, events = tables.stays, tables.events
    if pc.count_distinct(stays["stay_id"]).as_py() != stays.num_rows:
        raise SourceError("stays: a stay_id occurs more than once; stay ids must be unique in the whole data set")
    if stays.num_rows and not pc.all(pc.greater(stays["outtime"], stays["intime"])).as_py():
        raise SourceError("stays: an outtime is not after its intime")
    if not pc.all(pc.is_in(events["stay_id"], stays["stay_id"].combine_chunks())).as_py() and events.num_rows:
        raise SourceError("events: rows belong to stays that are not in this partition")
    unknown = {name for name in pc.unique(events["variable"].cast(pa.string())).to_pylist()} - load_variables().keys() - {MEDICATION}
    if unknown:
        raise SourceError(f"events: variables {sorted(unknown)} are not in variables.yaml")
    return tables

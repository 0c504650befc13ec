"""Small hand-made stays and events in the sources' schema, for the tests of trajectories."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from clinjepa.config.schema import Config
from clinjepa.sources.schema import EVENTS_SCHEMA, STAYS_SCHEMA, SourceTables

INTIME = datetime(2150, 3, 1, 10, 30)


def at(hours: float) -> datetime:
    """The time `hours` after ICU admission."""
    return INTIME + timedelta(hours=hours)


def stays_table(*rows: dict[str, Any]) -> pa.Table:
    """One stay per dict; what is left out: an adult's 10 h stay, first of its admission, alive."""
    defaults = {
        "intime": INTIME,
        "outtime": at(10),
        "age_years": 63.9,
        "sex": "male",
        "stay_number_in_admission": 1,
        "died_in_hospital": False,
    }
    filled = [{"subject_id": row["stay_id"] * 10} | defaults | row for row in rows]
    return pa.Table.from_pylist([{name: row.get(name) for name in STAYS_SCHEMA.names} for row in filled], schema=STAYS_SCHEMA)


def event(stay_id: int, hours: float, variable: str, value: float | None = None, until: float | None = None, **more: Any) -> dict[str, Any]:
    """An event `hours` after ICU admission; with `until` an interval."""
    return {
        "stay_id": stay_id,
        "time": at(hours),
        "end_time": None if until is None else at(until),
        "variable": variable,
        "value": value,
        **more,
    }


def events_table(*rows: dict[str, Any]) -> pa.Table:
    """Events in the order given (`row` counts from 0)."""
    numbered = [{"row": row} | one for row, one in enumerate(rows)]
    columns = {name: [row.get(name) for row in numbered] for name in EVENTS_SCHEMA.names}
    return pa.table([pa.array(columns[field.name], field.type) for field in _plain(EVENTS_SCHEMA)], schema=_plain(EVENTS_SCHEMA)).cast(
        EVENTS_SCHEMA
    )


class HandmadeSource:
    """A source whose partitions are tables made by hand."""

    name = "handmade"

    def __init__(self, *parts: tuple[pa.Table, pa.Table]) -> None:
        self.parts = parts
        self.num_reads = 0

    def read(self, partition: dict[str, Any]) -> SourceTables:
        self.num_reads += 1
        stays, events = self.parts[partition["part"]]
        return SourceTables(stays, events, {"unmapped_code": 1})


def lenient_config(**sections: Any) -> Config:
    """Keeps every stay, so that a test's own rule is the only one at work."""
    cohort = {"preset": "custom", "min_age_years": None, "min_stay_hours": 0, "first_stay_of_admission": False, "min_vitals_records": 0}
    return Config(**({"cohort": cohort} | sections))


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type, field.nullable) for field in schema]
    )

"""Arrow types of Parquet files that polars does not read."""

from __future__ import annotations

import pyarrow as pa


def plain_decimals(rows: pa.RecordBatch) -> pa.RecordBatch:
    """`rows` with decimals of more than 38 digits (decimal256) as float64; the other columns are unchanged."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_decimal256(field.type):
            rows = rows.set_column(place, field.name, rows.column(place).cast(pa.float64()))
    return rows

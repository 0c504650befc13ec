"""Slices of a stay that training sees. Source: Clin-JEPA (arXiv 2605.10840); the rule for the tail is this project's default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from clinjepa.config.schema import WindowConfig

WINDOWS_SCHEMA = pa.schema(
    [("window_id", pa.int64()), ("stay_id", pa.int64()), ("split", pa.string()), ("start_hour", pa.int32()), ("num_hours", pa.int32())]
)


def stay_windows(num_hours: int, config: WindowConfig) -> list[tuple[int, int]]:
    """(start_hour, num_hours) of the windows of one stay of `num_hours` hours.

    Starts 0, stride, 2 * stride ... while a full window fits, plus one that ends with the stay if hours are left over. A stay shorter
    than a full window is one window; one shorter than `min_hours` has none.
    """
    if num_hours < config.min_hours:
        return []
    if num_hours <= config.max_hours:
        return [(0, num_hours)]
    last = num_hours - config.max_hours
    starts = list(range(0, last + 1, config.stride_hours))
    if starts[-1] != last:
        starts.append(last)
    return [(start, config.max_hours) for start in starts]


def window_table(stays: pa.Table, config: WindowConfig) -> pa.Table:
    """WINDOWS_SCHEMA: all windows of `stays` (stay_id, split, num_hours), ids 0 ... N-1 ordered by (stay_id, start_hour)."""
    rows = sorted(zip(stays["stay_id"].to_pylist(), stays["split"].to_pylist(), stays["num_hours"].to_pylist(), strict=True))
    slices = [(stay_id, split, start, hours) for stay_id, split, num_hours in rows for start, hours in stay_windows(num_hours, config)]
    columns = list(zip(*slices, strict=True)) if slices else [()] * 4
    return pa.table([list(range(len(slices))), *(list(column) for column in columns)], schema=WINDOWS_SCHEMA)

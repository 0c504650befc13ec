"""Windows: the slices of a stay that training and evaluation read.

Source: Clin-JEPA (arXiv 2605.10840); the last window, which ends with the stay, is this project's default.
"""

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

    Windows of `max_hours` start at 0, stride, 2 * stride, … while they fit; if hours are left over and `tail` is set, one more ends with
    the stay. Without `tail` the rule is that of Clin-JEPA's released code (`slice_windows`), in which these hours are in no window. A stay
    shorter than `max_hours` is one window; a stay shorter than `min_hours` has none.
    """
    if num_hours < config.min_hours:
        return []
    if num_hours <= config.max_hours:
        return [(0, num_hours)]
    last = num_hours - config.max_hours
    starts = list(range(0, last + 1, config.stride_hours))
    if config.tail and starts[-1] != last:
        starts.append(last)
    return [(start, config.max_hours) for start in starts]


def window_table(stays: pa.Table, config: WindowConfig) -> pa.Table:
    """All windows of `stays` (stay_id, split, num_hours) as WINDOWS_SCHEMA; ids 0 to N-1 in the order of (stay_id, start_hour)."""
    rows = sorted(zip(stays["stay_id"].to_pylist(), stays["split"].to_pylist(), stays["num_hours"].to_pylist(), strict=True))
    slices = [(stay_id, split, start, hours) for stay_id, split, num_hours in rows for start, hours in stay_windows(num_hours, config)]
    columns = list(zip(*slices, strict=True)) if slices else [()] * 4
    return pa.table([list(range(len(slices))), *(list(column) for column in columns)], schema=WINDOWS_SCHEMA)

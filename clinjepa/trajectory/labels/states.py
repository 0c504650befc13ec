"""Three-valued conditions evaluated per hour: those of tasks and of derived quantities (`clinjepa/clinical/conditions.py`).

Values are 1.0 (true), 0.0 (false) and NaN (unknown). Thresholds are compared at the grid's precision, float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clinjepa.clinical.conditions import Combination, Condition

_COMPARE: dict[str, Callable[[np.ndarray, np.float32], np.ndarray]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
}


def compare(values: np.ndarray, op: str, value: float) -> np.ndarray:
    """Whether each value satisfies `values op value`; False where the value is NaN."""
    return np.asarray(_COMPARE[op](values.astype(np.float32), np.float32(value)) & ~np.isnan(values))


def evaluate(node: Condition | Combination, column: Callable[[str], np.ndarray]) -> np.ndarray:
    """A condition per row, as 1.0, 0.0 or NaN. column: name -> values per row, NaN where unknown."""
    if isinstance(node, Condition):
        return _evaluate_condition(node, column)
    parts = np.stack([evaluate(part, column) for part in node.parts])
    some_true, some_false, unknown = (parts == 1).any(axis=0), (parts == 0).any(axis=0), np.isnan(parts).any(axis=0)
    if node.rule == "not":
        return np.asarray(1.0 - parts[0])
    if node.rule == "all":
        return np.where(some_false, 0.0, np.where(unknown, np.nan, 1.0))
    if node.rule == "any":
        return np.where(some_true, 1.0, np.where(unknown, np.nan, 0.0))
    return np.where(unknown | (some_true & some_false), np.nan, np.where(some_true, 1.0, 0.0))


def _evaluate_condition(condition: Condition, column: Callable[[str], np.ndarray]) -> np.ndarray:
    values = np.stack([column(name) for name in condition.variables])
    if condition.stat == "given":
        values = np.nan_to_num(values, nan=0.0)
    known = ~np.isnan(values)
    holds = compare(values, condition.op, condition.value)
    if condition.pick == "first":
        first = known.argmax(axis=0)[None]
        known, holds = np.take_along_axis(known, first, axis=0), np.take_along_axis(holds, first, axis=0)
    return np.where(holds.any(axis=0), 1.0, np.where(known.any(axis=0), 0.0, np.nan))

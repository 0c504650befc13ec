"""The part of `report.json` on tasks whose labels are numbers: figures of probes and baselines, with paired differences and the unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired

from clinjepa.clinical import list_tasks, load_task
from clinjepa.evaluation.differences.of_errors import CellName
from clinjepa.evaluation.downstream.regression_cells import RegressionCell, RegressionTables
from clinjepa.evaluation.figures import Figure


class NumberCell(RegressionCell):
    """One method and input of a task."""

    unit: str
    """Of the label."""
    mae_difference: NotRequired[Figure]
    """MAE minus the reference's, over the same points; absent in the reference's own cell and where one of the two has no predictions."""


NumberTables = dict[str, dict[str, dict[str, NumberCell]]]
"""{task: {method: {input column: cell}}}"""


def number_tables(tables: RegressionTables, differences: Mapping[str, Mapping[CellName, Figure]]) -> NumberTables:
    """The cells with their units and differences.

    Args:
        tables: Figures of probes and baselines.
        differences: {task: {cell: its mean absolute error minus the reference's}}.
    """
    return {
        task: {
            method: {column: _cell(task, CellName(method, column), cell, differences.get(task, {})) for column, cell in columns.items()}
            for method, columns in methods.items()
        }
        for task, methods in tables.items()
    }


def _cell(task: str, name: CellName, cell: RegressionCell, differences: Mapping[CellName, Figure]) -> NumberCell:
    found: NumberCell = {**cell, "unit": load_task(task).label_unit if task in list_tasks() else ""}  # type: ignore[typeddict-item]  # the optional key is set below
    if name in differences:
        found["mae_difference"] = differences[name]
    return found

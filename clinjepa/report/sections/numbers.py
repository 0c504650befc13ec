"""The report's section on tasks whose labels are numbers: rows of its tables. The template only lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from clinjepa.clinical import load_task
from clinjepa.clinical.tasks import list_tasks
from clinjepa.report.headline import NOT_COMPUTED
from clinjepa.report.words import title


class NumberRow(NamedTuple):
    """One method and input column of one task.

    cells: its figures with the reason of missing ones. difference: the cell of the paired difference; None in the reference's own row.
    """

    method: str
    column: str
    cells: Mapping[str, Any]
    difference: Mapping[str, Any] | None

    @property
    def num_patients(self) -> int | None:
        """Patients behind the figures; None without a figure."""
        figure = self.cells["mae"]
        return None if figure is None else figure["num_patients"]


def number_title(task: str) -> str:
    """The title of the definition of a task with numbers."""
    return load_task(task).title if task in list_tasks() else title(task)


class NumberView:
    """Tasks and rows; empty where the report has no such part."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.tasks: Mapping[str, Any] = report.get("regression", {})
        compared = report.get("comparisons", {})
        self.reference, self.column = str(compared.get("reference", "")), str(compared.get("column", ""))
        self.name = number_title

    def unit(self, task: str) -> str:
        """Unit of the task's label."""
        return next((str(cell["unit"]) for cell in self._cells(task)), "")

    def why_not(self, task: str) -> str:
        """The reasons of a task that has no figure, each once; empty where some cell has one."""
        cells = self._cells(task)
        if any(cell["mae"] is not None for cell in cells):
            return ""
        return "; ".join(dict.fromkeys(cell.get("reason", NOT_COMPUTED) for cell in cells))

    def rows(self, task: str) -> list[NumberRow]:
        """One per method and input column."""
        return [
            NumberRow(method, column, cell, self._difference(method, column, cell))
            for method, columns in self.tasks[task].items()
            for column, cell in columns.items()
        ]

    def _difference(self, method: str, column: str, cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if (method, column) == (self.reference, self.column):
            return None
        if cell.get("mae_difference") is None and cell["mae"] is not None:
            return {"reason": "the reference has no predictions of this task"}
        return cell

    def _cells(self, task: str) -> list[Mapping[str, Any]]:
        return [cell for columns in self.tasks[task].values() for cell in columns.values()]

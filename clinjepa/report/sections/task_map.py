"""All risk tasks and methods in one picture: AUROC from the history alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from clinjepa.report.charts.grids import Cell, cell_map
from clinjepa.report.words import title

COLUMN = "history_only"


def task_map(report: Mapping[str, Any]) -> Markup:
    """Tasks as rows, methods as columns; the shade goes from chance to 1. Nothing where no task has a figure."""
    tables: Mapping[str, Any] = report["downstream"]
    found = {task: {method: _cell(columns) for method, columns in methods.items()} for task, methods in tables.items()}
    shown = {task: cells for task, cells in found.items() if any(cells.values())}
    methods = list(dict.fromkeys(method for cells in shown.values() for method in cells))
    if not shown:
        return Markup("")
    rows = [(title(task), [cells.get(method) for method in methods]) for task, cells in shown.items()]
    best = {label: max((cell.words, title(method)) for method, cell in zip(methods, cells, strict=True) if cell) for label, cells in rows}
    alt = "; ".join(f"{label}: highest {value} of {method}" for label, (value, method) in best.items())
    return Markup(cell_map([title(method) for method in methods], rows, title="AUROC of every task and method, history only", alt=alt))


def _cell(columns: Mapping[str, Any]) -> Cell | None:
    figure = columns.get(COLUMN, {}).get("auroc")
    if figure is None:
        return None
    ends = f" (95 %: {figure['ci95'][0]:.2f} to {figure['ci95'][1]:.2f})" if figure["ci95"] else ""
    words = f"{figure['value']:.2f}"
    return Cell(words, min(max(2 * figure["value"] - 1, 0.0), 1.0), f"{words}{ends}, {figure['num_patients']} patients")

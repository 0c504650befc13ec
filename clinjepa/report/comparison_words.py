"""What the report says in words of a difference between two methods: by its adjusted p-value and its interval, never by its size alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from clinjepa.evaluation.comparisons import MARGIN, Difference, equivalence

LEVEL = 0.05
"""Family-wise error that an answer "higher" or "lower" may have."""


class ComparisonRow(NamedTuple):
    """One method against the reference in one task."""

    task: str
    method: str
    cell: Difference
    answer: str


def comparison_rows(report: Mapping[str, Any]) -> list[ComparisonRow]:
    """The rows of the page's table, in the order of tasks and methods; none where the report has no comparisons."""
    tasks = report.get("comparisons", {}).get("tasks", {})
    return [ComparisonRow(task, method, cell, answer(cell)) for task, methods in tasks.items() for method, cell in methods.items()]


def answer(cell: Difference) -> str:
    """`higher`, `lower`, `equal within 0.005` or `cannot be told`."""
    figure, p_holm = cell["difference"], cell.get("p_holm")
    if p_holm is not None and p_holm < LEVEL and figure["value"] != 0:
        return "higher" if figure["value"] > 0 else "lower"
    return f"equal within {MARGIN:g}" if equivalence(figure) == "equivalent" else "cannot be told"

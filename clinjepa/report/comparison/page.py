"""The page of comparison.json: one file without scripts, fonts or network requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.report.charts.lines import marker_svg
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, interval_chart
from clinjepa.report.comparison.content import COLUMN
from clinjepa.report.comparison_words import answer
from clinjepa.report.document import page_environment, page_style
from clinjepa.report.sections.numbers import number_title
from clinjepa.report.words import Footnotes, cohort_title, duration, plain, title

_SLOTS = 8
"""Colours of the style sheet; later runs repeat them."""


def render_comparison(content: Mapping[str, Any]) -> str:
    """The HTML page. content: of `build_comparison`."""
    template = page_environment().get_template("templates/comparison.html")
    return template.render(view=_View(content), content=content, style=page_style())


class _Chart(NamedTuple):
    """One forest plot: the figure that it shows, what its rows are, its title, and its reference level."""

    measure: str
    by: str
    name: str
    level: float
    meaning: str
    limits: tuple[float, float] | None = None


class _View:
    """The values that the template reads."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.slots = {run["label"]: place % _SLOTS for place, run in enumerate(content["runs"])}
        self.title, self.cohort_title, self.duration, self.plain, self.number = title, cohort_title, duration, plain, number
        self.footnotes, self.answer = Footnotes, answer

    def key(self, run: str) -> Markup:
        return Markup(marker_svg(self.slots[run]))

    def contexts(self) -> list[int]:
        return sorted({row["context"] for row in self.content["drift"]})

    def drift_chart(self, context: int) -> Markup:
        rows = [row for row in self.content["drift"] if row["context"] == context]
        name = f"After {context} h: L1 at the longest horizon relative to a constant"
        return self._chart(rows, _Chart("vs_mean", "recipe", name, 1.0, "mean latent"))

    def cohorts(self) -> list[str]:
        """Cohorts that some run has a ratio of, those that are a headline first."""
        rows = [row for row in self.content["geometry"] if row["ratio"] is not None]
        ordered = sorted(rows, key=lambda row: not row["is_headline"])
        return list(dict.fromkeys(row["cohort"] for row in ordered))

    def geometry_rows(self, cohort: str) -> list[Mapping[str, Any]]:
        return [row for row in self.content["geometry"] if row["cohort"] == cohort]

    def geometry_chart(self, cohort: str) -> Markup:
        name = f"{cohort_title(cohort)}: displacement, deteriorating over stable"
        return self._chart(self.geometry_rows(cohort), _Chart("ratio", "recipe", name[:1].upper() + name[1:], 1.0, "no difference"))

    def risk_rows(self, task: str) -> list[Mapping[str, Any]]:
        """Rows of a task from the history alone."""
        return [row for row in self.content["downstream"][task] if row["column"] == COLUMN]

    def can_estimate(self, task: str) -> bool:
        return any(row["auroc"] is not None for row in self.risk_rows(task))

    def risk_chart(self, task: str) -> Markup:
        name = f"{title(task)}: AUROC, 95 % interval"
        return self._chart(self.risk_rows(task), _Chart("auroc", "method", name, 0.5, "chance", (0.0, 1.0)))

    def task_title(self, task: str) -> str:
        """In words, for either kind of task."""
        return number_title(task) if task in self.content["regression"] else title(task)

    def error_cell(self, task: str, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What holds the paired difference of a row of a task with numbers, or the reason of none; None in the reference's own row."""
        differences, own = self.content["differences"], (row["run"], row["method"])
        if row["column"] != COLUMN:
            return {"reason": "differences are those from the history alone"}
        if own == (differences["reference"]["run"], differences["reference"]["method"]):
            return None
        if row["mae"] is None:
            return row
        found = {(one["run"], one["method"]): one for one in differences["errors"].get(task, [])}
        reasons = [one["reason"] for one in differences["unpaired"] if one["run"] == row["run"] and one["task"] in (task, "all")]
        return found.get(own) or {"reason": next(iter(reasons), "the run keeps no such predictions of this method")}

    def _chart(self, rows: Sequence[Mapping[str, Any]], chart: _Chart) -> Markup:
        """Forest plot: one row per recipe or method, one point per run."""
        named: dict[str, list[Point]] = {}
        described = []
        for row in rows:
            figure = row[chart.measure]
            points = named.setdefault(title(row[chart.by]), [])
            if figure is not None:
                low, high = figure["ci95"] or (None, None)
                points.append(Point(row["run"], self.slots[row["run"]], figure["value"], low, high))
                described.append(f"{title(row[chart.by])}, {row['run']}: {number(figure['value'])}")
        limits = chart.limits or (0.0, 2.0 * max([chart.level, *(point.value for points in named.values() for point in points)]))
        shown = [Row(label, points, note="–") for label, points in named.items()]
        alt, x_label = "; ".join(described) or "no figure could be estimated", chart.measure.replace("_", " ")
        reference = (chart.level, chart.meaning)
        return Markup(interval_chart(shown, title=chart.name, x_label=x_label, alt=alt, reference=reference, limits=limits))

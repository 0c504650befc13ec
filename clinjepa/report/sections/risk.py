"""The report's section on risk scores in use: rows of its tables. The template only lays them out.

The tables that are open show one method, that of the headline recipe; those of all methods are folded, one block per task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.report.charts.forecast_charts import ReliabilityBin, ReliabilityCurve, reliability_chart
from clinjepa.report.charts.parts import number
from clinjepa.report.words import title


class CalibrationRow(NamedTuple):
    """One method of one task; `cells` has figures by name and the reason of missing ones."""

    task: str
    method: str
    cells: Mapping[str, Any]
    counts: Mapping[str, Any]


class AlarmRow(NamedTuple):
    """One method of one task at one rate of false alarms per patient-day."""

    task: str
    method: str
    rate: str
    cells: Mapping[str, Any]
    events: Mapping[str, Any]


class DecisionRow(NamedTuple):
    """One method of one task at one threshold probability."""

    task: str
    method: str
    threshold: str
    cells: Mapping[str, Any]


class GroupRow(NamedTuple):
    """One group of an attribute. The marks say which group a gap is taken from: `best`, or nothing."""

    task: str
    attribute: str
    group: str
    counts: Mapping[str, Any]
    cells: Mapping[str, Any]
    is_best_auroc: bool
    is_best_calibrated: bool


class ReliabilityPlot(NamedTuple):
    """The reliability curves of a task and their methods, in the order of colours."""

    chart: Markup
    methods: Sequence[str]


class RiskView:
    """Rows of the risk part of a report; empty where the report has none."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.found: Mapping[str, Any] = report.get("risk", {})
        self.reference = str(report.get("comparisons", {}).get("reference", ""))

    @property
    def tasks(self) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self.found.get("tasks", {})
        return tasks

    def shown_method(self, task: str) -> str:
        """The method of the open tables: the one that comparisons subtract, else the task's first one."""
        methods = self.tasks[task]["methods"]
        return self.reference if self.reference in methods else next(iter(methods))

    def calibration(self, task: str, *, all_methods: bool) -> list[CalibrationRow]:
        """One row per method with its calibration, or with the reason why it has none."""
        own = self.tasks[task]
        return [
            CalibrationRow(task, method, found.get("calibration", {"reason": found.get("reason")}), own)
            for method, found in self._methods(task, all_methods)
        ]

    def bins(self, task: str) -> list[Mapping[str, Any]]:
        """The reliability curve of the shown method."""
        calibration: Mapping[str, Any] = self.tasks[task]["methods"][self.shown_method(task)].get("calibration", {})
        return list(calibration.get("reliability", []))

    def reliability_plots(self) -> list[ReliabilityPlot]:
        """Per task the reliability curve of the shown method, beside that of the other method with the lowest Brier score."""
        plots = []
        for task in self.tasks:
            known = [method for method in self._compared(task) if self._bins(task, method)]
            curves = [ReliabilityCurve(title(method), slot, self._bins(task, method)) for slot, method in enumerate(known)]
            if curves:
                told = "; ".join(
                    f"{curve.label}: of predictions around {number(curve.bins[-1].mean_predicted)} "
                    f"the share {number(curve.bins[-1].observed_share)} had the event"
                    for curve in curves
                )
                chart = Markup(reliability_chart(curves, title=f"{title(task)}: reliability", alt=told))
                plots.append(ReliabilityPlot(chart, known))
        return plots

    def _compared(self, task: str) -> list[str]:
        """The shown method, and the other one with the lowest Brier score."""
        shown = self.shown_method(task)
        scores = {
            method: found["calibration"]["brier"]["value"]
            for method, found in self.tasks[task]["methods"].items()
            if method != shown and found.get("calibration", {}).get("brier")
        }
        return [shown, *sorted(scores, key=lambda method: (scores[method], method))[:1]]

    def _bins(self, task: str, method: str) -> list[ReliabilityBin]:
        calibration = self.tasks[task]["methods"][method].get("calibration", {})
        found = []
        for each in calibration.get("reliability", []):
            low, high = each["observed"]["ci95"] or (None, None)
            found.append(ReliabilityBin(each["predicted"], each["observed"]["value"], each["num_total"], low, high))
        return found

    def alarms(self, task: str, *, all_methods: bool) -> list[AlarmRow]:
        """One row per method and rate; none for a task without events."""
        events = self.tasks[task]["events"]
        return [
            AlarmRow(task, method, rate, cells, events)
            for method, found in self._methods(task, all_methods)
            for rate, cells in found["alarms"].items()
        ]

    def without_alarms(self) -> dict[str, list[str]]:
        """{reason: tasks} of the tasks that have no figures at event level."""
        found: dict[str, list[str]] = {}
        for task, own in self.tasks.items():
            if own["events"].get("reason"):
                found.setdefault(own["events"]["reason"], []).append(task)
        return found

    def decisions(self, task: str, *, all_methods: bool) -> list[DecisionRow]:
        """One row per method and threshold; none for methods without probabilities."""
        return [
            DecisionRow(task, method, threshold, cells)
            for method, found in self._methods(task, all_methods)
            for threshold, cells in found["decisions"].items()
        ]

    def groups(self, task: str) -> list[GroupRow]:
        """One row per group of the shown method; a group that is too small has no figures and the reason."""
        own = self.tasks[task]
        by_attribute = own["methods"][self.shown_method(task)]["subgroups"]
        rows = []
        for attribute, by_group in own["groups"].items():
            found = by_attribute.get(attribute, {"groups": {}})
            for group, counts in by_group.items():
                cells = found["groups"].get(group, {"reason": counts.get("reason")})
                marks = (found.get("best_auroc") == group, found.get("best_calibrated") == group)
                rows.append(GroupRow(task, attribute, group, counts, cells, *marks))
        return rows

    def lone(self, row: GroupRow, name: str) -> Mapping[str, Any]:
        """The cells of a gap, with the reason where the group has figures and no other group has."""
        if row.cells.get(name) is None and "auroc" in row.cells and "reason" not in row.cells:
            return {"reason": "no other group is large enough"}
        return row.cells

    def _methods(self, task: str, all_methods: bool) -> list[tuple[str, Mapping[str, Any]]]:
        methods: Mapping[str, Mapping[str, Any]] = self.tasks[task]["methods"]
        shown = self.shown_method(task)
        return list(methods.items()) if all_methods else [(shown, methods[shown])]

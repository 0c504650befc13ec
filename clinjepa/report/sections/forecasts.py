"""The report's section on forecasts: rows of its tables and the reliability charts. The template only lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.clinical import load_variables
from clinjepa.report.charts.forecast_charts import ReliabilityBin, ReliabilityCurve, reliability_chart
from clinjepa.report.charts.grids import Cell, cell_map
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, interval_chart
from clinjepa.report.words import title

METHODS = {"model": "model", "last_value": "last value repeated"}
"""Methods with event probabilities."""


class OverallRow(NamedTuple):
    """Means over variables of one recipe at one horizon; `cells` has figures by column and the reason of missing ones."""

    recipe: str
    context: int
    horizon: str
    num_windows: int
    num_variables: int
    cells: Mapping[str, Any]


class VariableRow(NamedTuple):
    """One variable at one horizon."""

    variable: str
    unit: str
    horizon: str
    num_values: int
    cells: Mapping[str, Any]
    distribution: str


class EventRow(NamedTuple):
    """Probabilities of one task by one recipe and method."""

    task: str
    recipe: str
    method: str
    cells: Mapping[str, Any]
    num_positive: int
    num_total: int
    prevalence: float | None


class ForecastView:
    """Rows and charts of the forecasts in a report; `slots` has the colour of each recipe."""

    def __init__(self, report: Mapping[str, Any], slots: Mapping[str, int]) -> None:
        self.found: Mapping[str, Any] = report.get("forecasts", {})
        self.slots = slots

    def overall(self) -> list[OverallRow]:
        """One row per recipe and horizon."""
        rows = []
        for recipe, found in self.found.items():
            for horizon, cell in found["horizons"].items():
                cells = {f"{name}_{method}": figure for name in ("mase", "crps_ratio", "measured") for method, figure in cell[name].items()}
                cells |= {name: cell[name] for name in ("model_over_lightgbm", "coverage_50", "coverage_90")}
                cells["reason"] = cell.get("reason", "not computed in this run")
                rows.append(OverallRow(recipe, found["context"], horizon, cell["num_windows"], cell["num_variables"], cells))
        return rows

    def notes(self) -> list[str]:
        """What could not be forecast at all, and horizons that were cut, by recipe."""
        return [f"{title(recipe)}: {found[name]}." for recipe, found in self.found.items() for name in ("reason", "cut") if found.get(name)]

    def variables(self, recipe: str) -> list[VariableRow]:
        """One row per variable and horizon of one recipe, in the dictionary's order."""
        rows = []
        units = {name: variable.unit for name, variable in load_variables().items()}
        for name, by_horizon in self.found.get(recipe, {}).get("variables", {}).items():
            for horizon, cell in by_horizon.items():
                cells = {f"{of}_{m}": figure for of in ("mae", "mase", "rmse", "spearman", "crps") for m, figure in cell[of].items()}
                cells |= {of: cell[of] for of in ("coverage_50", "width_50", "coverage_90", "width_90")}
                cells["reason"] = cell.get("reason", "not computed in this run")
                kind = (cell["distribution"] or "").replace("_", " ")
                rows.append(VariableRow(name, units.get(name, ""), horizon, cell["num_values"], cells, kind))
        return rows

    def events(self) -> list[EventRow]:
        """One row per task, recipe and method; one per task and recipe where there are no probabilities."""
        rows = []
        for task in self.tasks():
            for recipe, found in self.found.items():
                own = found["events"].get(task)
                if own is None:
                    continue
                counts = (own["num_positive"], own["num_total"], own["prevalence"])
                for method, cells in own["methods"].items():
                    rows.append(EventRow(task, recipe, METHODS.get(method, title(method)), cells, *counts))
                if not own["methods"]:
                    rows.append(EventRow(task, recipe, "", {"reason": own.get("reason")}, *counts))
        return rows

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for found in self.found.values() for task in found["events"]))

    def interval_maps(self, recipe: str) -> list[Markup]:
        """Coverage and width of the 90 % intervals by variable and horizon; empty where no variable has intervals."""
        found = self.found.get(recipe, {}).get("variables", {})
        known = {name: cells for name, cells in found.items() if any(cell["coverage_90"] for cell in cells.values())}
        if not known:
            return []
        horizons = sorted({horizon for cells in known.values() for horizon in cells}, key=int)
        units = {name: variable.unit for name, variable in load_variables().items()}
        coverage, width = [], []
        for name, cells in known.items():
            label = f"{title(name)}, {units[name]}" if units.get(name) else title(name)
            widest = max((cell["width_90"]["value"] for cell in cells.values() if cell["width_90"]), default=0.0) or 1.0
            coverage.append((title(name), [_coverage_cell(cells.get(horizon)) for horizon in horizons]))
            width.append((label, [_width_cell(cells.get(horizon), widest) for horizon in horizons]))
        columns = [f"{horizon} h" for horizon in horizons]
        return [
            Markup(cell_map(columns, rows, title=name, alt="; ".join(_row_words(columns, *row) for row in rows)))
            for name, rows in (("90 % intervals: coverage", coverage), ("90 % intervals: width", width))
        ]

    def farthest(self, recipe: str) -> str:
        """24 h where some variable has intervals there, else the longest horizon with intervals; empty without."""
        found = self.found.get(recipe, {}).get("variables", {})
        known = {horizon for cells in found.values() for horizon, cell in cells.items() if cell["coverage_90"]}
        return "24" if "24" in known else max(known, key=int, default="")

    def calibration_charts(self, recipe: str) -> list[Markup]:
        """Coverage of the 50 % and of the 90 % intervals of every variable at `farthest` hours; empty where no variable has intervals."""
        horizon = self.farthest(recipe)
        found = self.found.get(recipe, {}).get("variables", {})
        charts = []
        for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
            figures = {variable: cells[horizon][name] for variable, cells in found.items() if horizon in cells and cells[horizon][name]}
            if figures:
                rows = [
                    Row(title(each), [Point(f"{horizon} h", 0, f["value"], *(f["ci95"] or (None, None)))]) for each, f in figures.items()
                ]
                alt = "; ".join(f"{title(each)} {number(f['value'])}" for each, f in figures.items())
                heading = f"{level:.0%} intervals, {horizon} h ahead".replace("%", " %")
                shown = interval_chart(rows, title=heading, x_label="coverage", alt=alt, reference=(level, f"{level:g}"), limits=(0.0, 1.0))
                charts.append(Markup(shown))
        return charts

    def reliability_charts(self) -> list[Markup]:
        """Per task the share of events over the mean prediction, a line per recipe; a right forecast lies on the diagonal."""
        charts = []
        for task in self.tasks():
            curves = [
                ReliabilityCurve(title(recipe), self.slots.get(recipe, 0), _bins(curve))
                for recipe, found in self.found.items()
                if (curve := found["events"].get(task, {}).get("methods", {}).get("model", {}).get("reliability"))
            ]
            if curves:
                told = "; ".join(
                    f"{each.label}: of predictions around {number(each.bins[-1].mean_predicted)} "
                    f"the share {number(each.bins[-1].observed_share)} had the event"
                    for each in curves
                )
                charts.append(Markup(reliability_chart(curves, title=f"{title(task)}: reliability", alt=told)))
        return charts


def _bins(curve: Mapping[str, Any]) -> list[ReliabilityBin]:
    return [ReliabilityBin(*each) for each in zip(curve["predicted"], curve["observed"], curve["number"], strict=True)]


def _coverage_cell(cell: Mapping[str, Any] | None) -> Cell | None:
    """Darkest at 0.2 from the level."""
    figure = cell["coverage_90"] if cell else None
    return Cell(f"{figure['value']:.2f}", min(1.0, abs(figure["value"] - 0.9) / 0.2)) if figure else None


def _width_cell(cell: Mapping[str, Any] | None, widest: float) -> Cell | None:
    figure = cell["width_90"] if cell else None
    return Cell(number(figure["value"]), figure["value"] / widest) if figure else None


def _row_words(columns: Sequence[str], label: str, cells: Sequence[Cell | None]) -> str:
    return f"{label} " + ", ".join(f"{cell.words} at {name}" for name, cell in zip(columns, cells, strict=True) if cell)

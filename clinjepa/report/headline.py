"""The headline figures of a report: the tiles at the top of the page, and the notice that the data are too few.

The headline recipe is Clin-JEPA where it was run, else the first recipe. Its headline figures are rollout drift at the headline
context, latent geometry at the headline k, and the AUROC of each risk task from the history alone (docs/report.md, "Too few patients").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clinjepa.evaluation.figures import Figure
from clinjepa.report.charts.parts import number
from clinjepa.report.words import cohort_title, percent, title

MIN_PATIENTS = 100
"""Fewer held-out patients than this behind a headline figure are too few for conclusions.

The number follows the advice for validating a prediction model, at least 100 patients with and 100 without the event
(Collins, Ogundimu and Altman, Statistics in Medicine 2016); here it is a lower bound for all patients of a figure.
"""
NOT_COMPUTED = "not computed in this run"


class Tile(NamedTuple):
    """One tile of the page. `interval` and `basis` are empty for a count; `detail` says what the value is, or why there is none."""

    name: str
    value: str
    detail: str
    interval: str = ""
    basis: str = ""


@dataclass(frozen=True)
class Headline:
    """One headline figure, or the reason why it could not be estimated."""

    name: str
    about: str
    figure: Figure | None
    reason: str
    no_change: float
    """The value that means no change: 0 for drift, 1 for a ratio, 0.5 for an AUROC."""
    in_percent: bool = False
    unclear: str = "no clear change"
    """What stands in place of the value where the interval does not allow one."""

    def tile(self) -> Tile:
        """Value, 95 % interval, patients and seeds; without a figure a dash and the reason.

        A value whose interval is missing or includes no change, or whose seeds lie on both sides of it, is no headline: `unclear` stands
        there, and the estimate in the detail.
        """
        if self.figure is None:
            return Tile(self.name, "–", self.reason)
        value, detail = self._write(self.figure["value"]), self.about
        if self.figure["ci95"] is None or self.includes_no_change() or self.seeds_disagree():
            value, detail = self.unclear, f"{self.about}; estimate {value}"
        return Tile(self.name, value, detail, self._interval(), self._basis())

    def includes_no_change(self) -> bool:
        """True when the 95 % interval contains the value that means no change."""
        ends = None if self.figure is None else self.figure["ci95"]
        return ends is not None and ends[0] <= self.no_change <= ends[1]

    def seeds_disagree(self) -> bool:
        """True when training seeds lie on both sides of the value that means no change."""
        seeds = [] if self.figure is None else self.figure.get("seeds", [])
        return len({value > self.no_change for value in seeds}) > 1

    def caution(self) -> str | None:
        """Why this figure allows no conclusion, or None: it is missing, or of fewer than MIN_PATIENTS held-out patients."""
        if self.figure is None:
            return None if self.reason == NOT_COMPUTED else f"{self.name} cannot be estimated: {self.reason}"
        if self.figure["num_patients"] >= MIN_PATIENTS:
            return None
        also = (
            f"; its 95 % interval includes no change ({number(self.no_change)}{' %' if self.in_percent else ''})"
            if self.includes_no_change()
            else ""
        )
        return f"{self.name}: {self.figure['num_patients']} held-out patients{also}"

    def _write(self, value: float) -> str:
        return percent(value) if self.in_percent else number(value)

    def _interval(self) -> str:
        ends = None if self.figure is None else self.figure["ci95"]
        return "no 95 % interval" if ends is None else f"95 %: {self._write(ends[0])} to {self._write(ends[1])}"

    def _basis(self) -> str:
        assert self.figure is not None
        seeds, values = self.figure["num_seeds"], self.figure.get("seeds", [])
        by_seed = f": {', '.join(self._write(value) for value in values)}" if values else ""
        return f"{number(self.figure['num_patients'])} patients, {seeds} seed{'s' if seeds != 1 else ''}{by_seed}"


def headline_recipe(recipes: Sequence[str]) -> str:
    """`clin_jepa` where it was run, else the first recipe; empty without recipes."""
    return "clin_jepa" if "clin_jepa" in recipes else next(iter(recipes), "")


def headlines(report: Mapping[str, Any], recipe: str, context: str) -> list[Headline]:
    """Drift and geometry of the headline recipe, in the order of the tiles.

    Args:
        report: The content of report.json.
        recipe: The headline recipe.
        context: The headline context in hours, as a key of `drift`.
    """
    drift = report["drift"].get(recipe, {}).get(context, {})
    ratio = report["geometry"].get(recipe, {})
    about = f"{title(recipe)}: L1 {drift.get('h_max')} h ahead against 1 h, given {context} h"
    return [
        Headline("Rollout drift", about, drift.get("drift"), drift.get("reason", NOT_COMPUTED), 0.0, in_percent=True),
        Headline(
            "Latent geometry",
            f"{title(recipe)}: displacement, deteriorating over stable{_cohort(ratio)}",
            ratio.get("ratio"),
            ratio.get("reason", NOT_COMPUTED),
            1.0,
            unclear="no clear difference",
        ),
    ]


def risk_headline(report: Mapping[str, Any], recipe: str) -> Headline:
    """Mean AUROC over the risk tasks, from the history alone: the recipe minus the best tuned baseline that it was compared with."""
    comparisons = report.get("comparisons", {})
    reference = str(comparisons.get("reference", ""))
    baselines = {name: cell for name, cell in comparisons.get("mean", {}).items() if " · " not in name}
    if reference.partition(" · ")[0] != recipe or not baselines:
        return Headline("Risk tasks", "", None, NOT_COMPUTED, 0.0)
    best = max(baselines, key=lambda name: baselines[name]["difference"]["value"])
    count, found = baselines[best]["num_tasks"], baselines[best]["difference"]
    ends, by_seed = found["ci95"], [-value for value in found.get("seeds", [])]
    difference: Figure = {
        "value": -found["value"],
        "ci95": None if ends is None else [-ends[1], -ends[0]],
        "num_patients": found["num_patients"],
        "num_seeds": max(found["num_seeds"], len(by_seed)),
    }
    if by_seed:
        difference["seeds"] = by_seed
    if found.get("interval_reason"):
        difference["interval_reason"] = found["interval_reason"]
    about = f"Mean AUROC over {count} task{'s' if count != 1 else ''}: {title(reference)} minus {title(best)}, the best baseline"
    return Headline("Risk tasks", about, difference, "", 0.0, unclear="no clear difference")


def _cohort(found: Mapping[str, Any]) -> str:
    """The cohort that the ratio is of."""
    return f" ({cohort_title(found['cohort'])}, {found['k_hours']} h)" if "cohort" in found and "k_hours" in found else ""


def cautions(report: Mapping[str, Any], recipe: str, context: str) -> list[str]:
    """One sentence per headline figure that rests on too few held-out patients; empty when every one has enough.

    Args:
        report: The content of report.json.
        recipe: The headline recipe.
        context: The headline context in hours, as a key of `drift`.
    """
    found = [one.caution() for one in headlines(report, recipe, context)]
    return [sentence for sentence in [*found, _tasks_caution(report["downstream"], recipe)] if sentence]


def _tasks_caution(downstream: Mapping[str, Any], recipe: str) -> str | None:
    """One sentence over all risk tasks: how many cannot be estimated, and the fewest patients that the others rest on."""
    tasks = [
        [columns["history_only"]["auroc"] for method, columns in methods.items() if _of_recipe(method, recipe, columns)]
        for methods in downstream.values()
    ]
    tasks = [figures for figures in tasks if figures]
    missing = sum(all(figure is None for figure in figures) for figures in tasks)
    parts = [f"{missing} of {len(tasks)} cannot be estimated"] if missing else []
    fewest = min((figure["num_patients"] for figures in tasks for figure in figures if figure is not None), default=MIN_PATIENTS)
    if fewest < MIN_PATIENTS:
        parts.append(f"{'the others rest' if missing else 'they rest'} on {fewest} held-out patients{' or more' if len(tasks) > 1 else ''}")
    return f"Risk tasks: {'; '.join(parts)}" if parts else None


def _of_recipe(method: str, recipe: str, columns: Mapping[str, Any]) -> bool:
    return method.rpartition(" · ")[0] == recipe and "history_only" in columns

"""The report's section on what the latent adds: sentences, curves over the share of training patients, rows of its tables.

A sentence judges one figure: gradient boosting on features and latents minus gradient boosting on features alone, in AUROC, at the
largest share. It looks at the paired 95 % interval and the p-value that is adjusted over the tasks, never at the value alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from clinjepa.evaluation.comparisons import MARGIN
from clinjepa.report.charts.lines import LineStyle, Series, line_chart
from clinjepa.report.charts.parts import number, spoken
from clinjepa.report.comparison_words import LEVEL
from clinjepa.report.headline import NOT_COMPUTED
from clinjepa.report.words import title

JUDGED = "lightgbm"
"""The estimator that sentences and curves are about."""
INPUTS = {"features": "hand-made features", "latents": "latents", "both": "features and latents"}
ESTIMATORS = {"lightgbm": "LightGBM", "linear": "logistic regression"}
Answer = Literal["adds", "adds_no_more", "cannot_tell"]


class ShareRow(NamedTuple):
    """One recipe, task, share and estimator.

    cells: figures and differences by column, with the reasons of missing ones by column; counts: of the training patients.
    """

    recipe: str
    task: str
    percent: str
    estimator: str
    cells: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Any]


def answer(cell: Mapping[str, Any]) -> Answer:
    """What a paired difference from the features allows to say.

    `adds_no_more`: the upper end of the 95 % interval is at most 0.005. `adds`: the interval lies above 0 and the adjusted p-value is
    below 0.05. Else `cannot_tell`.
    """
    figure, p_holm = cell["auroc"], cell.get("p_holm")
    if figure is None or figure["ci95"] is None:
        return "cannot_tell"
    low, high = figure["ci95"]
    if high <= MARGIN:
        return "adds_no_more"
    return "adds" if low > 0 and p_holm is not None and p_holm < LEVEL else "cannot_tell"


class AddedValueView:
    """Sentences, charts and rows; empty where the report has no such part."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.found: Mapping[str, Any] = report.get("added_value", {})
        self.inputs, self.estimators = INPUTS, ESTIMATORS

    def shown(self, headline: str) -> str:
        """The recipe that the open parts show: the headline recipe, else the first one here."""
        return headline if headline in self.found else next(iter(self.found))

    def tasks(self, recipe: str) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self.found.get(recipe, {}).get("tasks", {})
        return tasks

    def sentences(self, recipe: str) -> list[str]:
        """One per task."""
        return [self._sentence(task, found["shares"]) for task, found in self.tasks(recipe).items()]

    def _sentence(self, task: str, shares: Mapping[str, Any]) -> str:
        share = max(shares, key=float)
        cell = shares[share]["differences"].get(JUDGED, {}).get("both")
        if cell is None:
            return f"{title(task)}: whether the latent adds something cannot be told: gradient boosting was not fitted."
        figure = cell["auroc"]
        if figure is None:
            return f"{title(task)}: whether the latent adds something cannot be told: {cell.get('reason', NOT_COMPUTED)}."
        told = {
            "adds": "the latent adds to the features",
            "adds_no_more": f"the latent does not add more than {MARGIN:g} to the features",
            "cannot_tell": "whether the latent adds to the features cannot be told",
        }[answer(cell)]
        measured = f"AUROC of both minus that of the features {spoken(figure['value'], *(figure['ci95'] or (None, None)))}"
        adjusted = f", adjusted p {number(cell['p_holm'])}" if cell.get("p_holm") is not None else ""
        basis = f"{figure['num_patients']} patients, {_percent(share)} of the training patients"
        return f"{title(task)}: {told}. {measured}{adjusted}, {basis}."

    def charts(self, recipe: str) -> list[Markup]:
        """Per task that has figures: AUROC of gradient boosting over the share of training patients, one line per input."""
        return [
            self._chart(task, found["shares"])
            for task, found in self.tasks(recipe).items()
            if any(cell["auroc"] for share in found["shares"].values() for cell in share["methods"].get(JUDGED, {}).values())
        ]

    def _chart(self, task: str, shares: Mapping[str, Any]) -> Markup:
        order = sorted(shares, key=float)
        x = [100 * float(share) for share in order]
        series, told = [], []
        for slot, (name, words) in enumerate(INPUTS.items()):
            figures = [shares[share]["methods"].get(JUDGED, {}).get(name, {}).get("auroc") for share in order]
            ends = [figure["ci95"] if figure and figure["ci95"] else (None, None) for figure in figures]
            values = [figure["value"] if figure else None for figure in figures]
            series.append(Series(words, slot, x, values, [low for low, _ in ends], [high for _, high in ends]))
            known = [f"{spoken(v, *end)} at {_percent(s)}" for s, v, end in zip(order, values, ends, strict=True) if v is not None]
            told.append(f"{words}: {', '.join(known) or 'no figure'}")
        name = f"{title(task)}: AUROC by share of patients"
        style = LineStyle(log_x=True, x_ticks=x)
        return Markup(
            line_chart(series, title=name, x_label="% of the training patients", y_label="AUROC", alt="; ".join(told), style=style)
        )

    def rows(self, recipe: str) -> list[ShareRow]:
        """One per task, share and estimator of a recipe."""
        return [
            ShareRow(recipe, task, _percent(share), estimator, _cells(found, estimator), found)
            for task, own in self.tasks(recipe).items()
            for share, found in own["shares"].items()
            for estimator in found["methods"]
        ]


def _percent(share: str) -> str:
    return f"{100 * float(share):g} %"


def _cells(found: Mapping[str, Any], estimator: str) -> dict[str, Mapping[str, Any]]:
    """Column -> the cell that holds `auroc` and `auprc`: an input, or `over_<input>` for its difference from the features."""
    by_input: Mapping[str, Mapping[str, Any]] = found["methods"][estimator]
    absent = {"reason": f"{ESTIMATORS.get(estimator, estimator)} is not fitted on features and latents together"}
    cells = {name: by_input.get(name, absent) for name in INPUTS}
    return cells | {f"over_{name}": found["differences"][estimator].get(name, absent) for name in ("both", "latents")}

"""What the report says in words of rollout drift: whether a model uses the actions that it is given, and their doses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from clinjepa.evaluation.drift_doses import OTHER_DOSES, DoseHorizon
from clinjepa.evaluation.figures import Figure
from clinjepa.report.words import percent, title

SAME = 0.01
"""An interval within ± this share counts as no difference."""
VERSIONS = {
    "carried_forward": "last given action repeated",
    "none": "no actions",
    "shuffled": "another patient's",
    "late": "recorded, 6 h late",
}
_MEASURED_ON_REQUEST = {OTHER_DOSES: "recorded, other doses"}


class ActionRow(NamedTuple):
    """Changes of the L1 with wrong actions at one horizon: the container of a cell and its names in the order of `action_versions`."""

    recipe: str
    context: str
    horizon: str
    cells: Mapping[str, Figure | None]


class DoseRow(NamedTuple):
    """Change of the L1 with other doses at one horizon, over the windows with a dose."""

    recipe: str
    context: str
    horizon: str
    factor: float
    cell: DoseHorizon


def action_versions(report: Mapping[str, Any]) -> dict[str, str]:
    """{wrong version of the actions: its title}: VERSIONS, and those that this run measured beyond them."""
    measured = {name for contexts in report["drift"].values() for found in contexts.values() for name in found.get("actions", {})}
    return VERSIONS | {name: words for name, words in _MEASURED_ON_REQUEST.items() if name in measured}


def action_rows(report: Mapping[str, Any]) -> list[ActionRow]:
    """One row per recipe, context and longest horizon with enough patients."""
    rows, names = [], action_versions(report)
    for recipe, contexts in report["drift"].items():
        for context, found in contexts.items():
            horizon = str(found["h_max"])
            versions = found.get("actions", {})
            cells = {name: versions.get(name, {}).get(horizon) for name in names}
            if any(cells.values()):
                rows.append(ActionRow(recipe, context, horizon, cells))
    return rows


def action_sentences(report: Mapping[str, Any], context: str) -> list[str]:
    """One sentence per recipe: whether the error grows when the later actions are those of another patient."""
    return [
        f"{title(row.recipe)}: {_verdict(row.cells['shuffled'], row.horizon, _ANOTHER_PATIENTS)}."
        for row in action_rows(report)
        if row.context == context and row.cells["shuffled"] is not None
    ]


def dose_rows(report: Mapping[str, Any]) -> list[DoseRow]:
    """One row per recipe, context and longest horizon with enough patients, where the run measured other doses."""
    rows = []
    for recipe, contexts in report["drift"].items():
        for context, found in contexts.items():
            doses, horizon = found.get(OTHER_DOSES), str(found["h_max"])
            if doses is not None and horizon in doses["horizons"]:
                rows.append(DoseRow(recipe, context, horizon, doses["factor"], doses["horizons"][horizon]))
    return rows


def dose_sentences(report: Mapping[str, Any], context: str) -> list[str]:
    """One sentence per recipe: whether the error grows when the doses of the later actions are others, over the windows with a dose."""
    return [f"{title(row.recipe)}: {_dose_verdict(row)}." for row in dose_rows(report) if row.context == context]


def _dose_verdict(row: DoseRow) -> str:
    if row.cell["change"] is None:
        return f"whether it uses the doses cannot be told: {row.cell['reason']}"
    windows = f"; {row.cell['num_windows']:,.0f} windows with a dose"
    return _verdict(row.cell["change"], row.horizon, _Wrong("the doses", f"doses times {row.factor:g}", windows))


class _Wrong(NamedTuple):
    """What was wrong in a rollout, in words."""

    used: str
    given: str
    windows: str = ""


_ANOTHER_PATIENTS = _Wrong("the actions", "another patient's actions")


def _verdict(figure: Figure | None, horizon: str, wrong: _Wrong) -> str:
    if figure is None or figure["ci95"] is None:
        return f"whether it uses {wrong.used} cannot be told: there is no interval"
    low, high = figure["ci95"]
    measured = f"L1 {horizon} h ahead {percent(figure['value'])}, 95 % {percent(low)} to {percent(high)}{wrong.windows}"
    if -SAME <= low and high <= SAME:
        return f"{wrong.given} change nothing ({measured}), so it does not use {wrong.used}"
    if low > 0:
        return f"it gets worse with {wrong.given} ({measured}), so it uses them"
    if high < 0:
        return f"it gets better with {wrong.given} ({measured}): what it learned of them does not hold here"
    return f"whether it uses {wrong.used} cannot be told ({measured})"

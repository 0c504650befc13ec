"""What the report says in words of rollout drift: whether a model uses the actions that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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


class ActionRow(NamedTuple):
    """Changes of the L1 with wrong actions at one horizon: the container of a cell and its names in the order of VERSIONS."""

    recipe: str
    context: str
    horizon: str
    cells: Mapping[str, Figure | None]


def action_rows(report: Mapping[str, Any]) -> list[ActionRow]:
    """One row per recipe, context and longest horizon with enough patients."""
    rows = []
    for recipe, contexts in report["drift"].items():
        for context, found in contexts.items():
            horizon = str(found["h_max"])
            versions = found.get("actions", {})
            cells = {name: versions.get(name, {}).get(horizon) for name in VERSIONS}
            if any(cells.values()):
                rows.append(ActionRow(recipe, context, horizon, cells))
    return rows


def action_sentences(report: Mapping[str, Any], context: str) -> list[str]:
    """One sentence per recipe: whether the error grows when the later actions are those of another patient."""
    return [
        f"{title(row.recipe)}: {_verdict(row.cells['shuffled'], row.horizon)}."
        for row in action_rows(report)
        if row.context == context and row.cells["shuffled"] is not None
    ]


def _verdict(figure: Figure | None, horizon: str) -> str:
    if figure is None or figure["ci95"] is None:
        return "whether it uses the actions cannot be told: there is no interval"
    low, high = figure["ci95"]
    measured = f"L1 {horizon} h ahead {percent(figure['value'])}, 95 % {percent(low)} to {percent(high)}"
    if -SAME <= low and high <= SAME:
        return f"another patient's actions change nothing ({measured}), so it does not use the actions"
    if low > 0:
        return f"it gets worse with another patient's actions ({measured}), so it uses them"
    if high < 0:
        return f"it gets better with another patient's actions ({measured}): what it learned of them does not hold here"
    return f"whether it uses the actions cannot be told ({measured})"

"""What the report says of training seeds: the value of each seed, which no interval holds, and recipes that end with the same encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clinjepa.evaluation.figures import Figure
from clinjepa.report.charts.parts import number
from clinjepa.report.words import percent, title


class SeedRow(NamedTuple):
    """A figure by training seed, as it is shown."""

    measure: str
    name: str
    mean: str
    seeds: str
    spread: str
    """Largest minus smallest."""


def seed_rows(report: Mapping[str, Any], context: str) -> list[SeedRow]:
    """Headline figures of every recipe and AUROC of every probe from the history alone, where they have several seeds.

    Args:
        report: The content of report.json.
        context: The headline context of drift in hours, as a key of `drift`.
    """
    return [_row(*found) for found in _figures(report, context) if found[2] is not None and len(found[2].get("seeds", ())) > 1]


def _figures(report: Mapping[str, Any], context: str) -> Iterator[tuple[str, str, Figure, bool]]:
    for recipe, contexts in report["drift"].items():
        yield f"Rollout drift, given {context} h", title(recipe), contexts.get(context, {}).get("drift"), True
    for recipe, found in report["geometry"].items():
        yield "Latent geometry, ratio", title(recipe), found.get("ratio"), False
    for task, methods in report["downstream"].items():
        for method, columns in methods.items():
            yield f"{title(task)}, AUROC", title(method), columns.get("history_only", {}).get("auroc"), False


def _row(measure: str, name: str, figure: Figure, in_percent: bool) -> SeedRow:
    write = percent if in_percent else number
    seeds = figure.get("seeds", [])
    spread = max(seeds) - min(seeds)
    return SeedRow(measure, name, write(figure["value"]), ", ".join(map(write, seeds)), write(spread))


def same_encoders(report: Mapping[str, Any]) -> dict[str, str]:
    """{recipe: the earlier recipe whose encoders it has}, of recipes that share the geometry stage of every seed.

    That stage is keyed by the encoder alone, so equal keys are equal encoders.
    """
    keys: dict[str, set[str]] = {}
    for stage in report["stages"]:
        if stage["name"].partition(" ")[0] == "geometry":
            for recipe in stage.get("recipes", []):
                keys.setdefault(recipe, set()).add(stage["key"])
    recipes = list(dict.fromkeys([*report["phases"], *keys]))
    first: dict[frozenset[str], str] = {}
    found = {}
    for recipe in (name for name in recipes if name in keys):
        earlier = first.setdefault(frozenset(keys[recipe]), recipe)
        if earlier != recipe:
            found[recipe] = earlier
    return found

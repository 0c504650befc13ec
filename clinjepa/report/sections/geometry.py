"""The section on latent geometry: every cohort that can be estimated, the spaces, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.evaluation.figures import Figure
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, interval_chart
from clinjepa.report.charts.space_picture import group_colours, scatter_data_url
from clinjepa.report.words import cohort_title, title

PICTURES = {"umap": "UMAP", "pca": "PCA"}


class CohortRow(NamedTuple):
    """One cohort under one recipe; `cell` holds its figures, `estimable` is False where no recipe has a ratio of the cohort."""

    cohort: str
    definition: str
    recipe: str
    cell: Mapping[str, Any]
    is_headline: bool
    estimable: bool


class ShownPicture(NamedTuple):
    """A picture as a data URL, or None with the reason in `alt`."""

    recipe: str
    kind: str
    src: str | None
    alt: str


def cohort_rows(report: Mapping[str, Any]) -> list[CohortRow]:
    """Rows by cohort, then by recipe; the headline's cohort first, the others in the order of the report."""
    names: dict[str, None] = {}
    for found in report["geometry"].values():
        if "cohort" in found:
            names[found["cohort"]] = None
    for found in report["geometry"].values():
        names |= dict.fromkeys(found.get("cohorts", {}))
    rows = []
    for name in names:
        for recipe, found in report["geometry"].items():
            cell = found.get("cohorts", {}).get(name)
            if cell is not None:
                own, is_headline = _with_interval(cell), found.get("cohort") == name
                rows.append(CohortRow(cohort_title(name), cell.get("definition", ""), recipe, own, is_headline, own["ratio"] is not None))
    known = {row.cohort for row in rows if row.estimable}
    return [row._replace(estimable=row.cohort in known) for row in rows]


def _with_interval(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cohort's figures, its ratios without an interval as unknown ones: such a value says nothing, often it is 0 of noise."""
    shown = dict(cell)
    ratio = cell.get("ratio")
    if ratio is not None and ratio["ci95"] is None:
        why = ratio.get("interval_reason") or cell.get("interval_reason") or "its 95 % interval cannot be given"
        shown |= {"ratio": None, "reason": f"not known: {why.removeprefix('not known: ')}"}
    if cell.get("by_k"):
        shown["by_k"] = {k: _with_interval(each) for k, each in cell["by_k"].items()}
    return shown


def unknown_ratios(report: Mapping[str, Any]) -> list[str]:
    """One sentence per cohort whose ratio some recipes have and others have not: those others, and why."""
    missing: dict[str, dict[str, list[str]]] = {}
    for row in cohort_rows(report):
        if row.estimable and row.cell["ratio"] is None:
            reason = row.cell.get("reason", "not computed in this run")
            missing.setdefault(row.cohort, {}).setdefault(reason, []).append(title(row.recipe))
    return [
        f"{cohort}: " + "; ".join(f"{', '.join(recipes)}: {reason}" for reason, recipes in by_reason.items())
        for cohort, by_reason in missing.items()
    ]


def missing_cohorts(report: Mapping[str, Any]) -> list[str]:
    """One sentence per cohort that no recipe has a ratio of: its name, and why."""
    reasons: dict[str, list[str]] = {}
    known = set()
    for found in report["geometry"].values():
        for name, reason in found.get("absent", {}).items():
            reasons.setdefault(name, []).append(reason)
        for name, cell in ((name, _with_interval(cell)) for name, cell in found.get("cohorts", {}).items()):
            if cell["ratio"] is None:
                reasons.setdefault(name, []).append(cell.get("reason", "not computed in this run"))
            else:
                known.add(name)
    return [f"{cohort_title(name)}: {'; '.join(dict.fromkeys(why))}" for name, why in reasons.items() if name not in known]


def headline_words(report: Mapping[str, Any]) -> str:
    """Which cohort is the headline, and by which rule; empty where no recipe names one."""
    for found in report["geometry"].values():
        if "cohort" in found and "headline_rule" in found:
            pairs = f", {found['num_independent']} pairs without a common patient" if "num_independent" in found else ""
            return (
                f"Headline cohort: {cohort_title(found['cohort'])} ({found.get('definition', '')}{pairs}). Rule: {found['headline_rule']}."
            )
    return ""


def ratio_chart(report: Mapping[str, Any], slots: Mapping[str, int]) -> Markup:
    """Forest plot: one row per cohort that some recipe has a ratio of, with a point per recipe."""
    by_cohort: dict[str, list[Point]] = {}
    described = []
    for row in cohort_rows(report) or _plain_rows(report):
        figure: Figure | None = row.cell["ratio"]
        if figure is None or figure["ci95"] is None:
            continue
        low, high = figure["ci95"]
        by_cohort.setdefault(row.cohort, []).append(Point(title(row.recipe), slots[row.recipe], figure["value"], low, high))
        described.append(f"{row.cohort}, {title(row.recipe)} {number(figure['value'])}")
    rows = [Row(cohort, points) for cohort, points in by_cohort.items()]
    name = "Displacement, deteriorating over stable: ratio and 95 % interval"
    alt = "; ".join(described) or "no ratio could be estimated"
    return Markup(interval_chart(rows, title=name, x_label="ratio", alt=alt, reference=(1.0, "no difference"), limits=_limits(by_cohort)))


def _limits(by_cohort: Mapping[str, list[Point]]) -> tuple[float, float]:
    """From 0 to twice the largest value: an interval without a near end would press all others together."""
    return 0.0, 2.0 * max([1.0, *(point.value for points in by_cohort.values() for point in points)])


def _plain_rows(report: Mapping[str, Any]) -> list[CohortRow]:
    """Rows of a report whose recipes have a headline figure only."""
    return [CohortRow("headline cohort", "", recipe, found, True, True) for recipe, found in report["geometry"].items()]


def pictures(extras: Mapping[str, Any]) -> list[ShownPicture]:
    """The pictures of each recipe, or the reason why it has none."""
    shown = []
    for recipe, of_recipe in extras.get("pictures", {}).items():
        for kind, name in PICTURES.items():
            picture = of_recipe.get(kind)
            if picture is None:
                continue
            if not picture.get("points"):
                shown.append(ShownPicture(recipe, name, None, picture.get("reason", "no picture was made")))
                continue
            counts = {group: picture["groups"].count(group) for group in group_colours(picture["groups"])}
            hours = ", ".join(f"{count} {group} hours" for group, count in counts.items())
            paths = picture.get("paths", {})
            walked = f"; paths of the centres of {' and '.join(paths)} stays" if paths else ""
            alt = f"{name} of state latents, {title(recipe)}: {hours}{walked}{_explained(picture)}"
            shown.append(ShownPicture(recipe, name, scatter_data_url(picture["points"], picture["groups"], paths), alt))
    return shown


def picture_groups(extras: Mapping[str, Any]) -> dict[str, str]:
    """Colour of every group of the pictures."""
    every = [picture for of_recipe in extras.get("pictures", {}).values() for picture in of_recipe.values()]
    return group_colours([group for picture in every for group in picture.get("groups") or []])


def _explained(picture: Mapping[str, Any]) -> str:
    shares = picture.get("explained")
    return f"; {100 * sum(shares):.0f} % of the variance" if shares else ""

"""`report.json`, checked against its schema, and the HTML page that shows it.

`build_report` returns the content of report.json (docs/report.md, schema.json). `render_html` takes that content, and what only the page
shows: training curves, points of pictures, the configuration's text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, TypedDict

import jinja2
import jsonschema

from clinjepa.errors import StoreError
from clinjepa.evaluation.interval_bounds import bounded
from clinjepa.report.sections.claims import judged_claims
from clinjepa.report.view import ReportView

SCHEMA_VERSION = 7
NOT_FINITE = "the computed value is not a finite number"


def build_report(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json from the results of a run.

    results: the fields of report.json, without `schema_version`, `stage_sharing` and `claims`, which are added here. A figure
    whose value is NaN or infinite becomes null with a reason; other such numbers become null. Intervals are kept within the bounds of their
    figures (`clinjepa.evaluation.interval_bounds`).
    Raises StoreError naming the field that does not fit the schema (never its value).
    """
    report = {"schema_version": SCHEMA_VERSION, **bounded(finite(results))}
    report["stage_sharing"] = stage_sharing(report.get("stages", []))
    report["claims"] = []
    report.setdefault("other_code", [])
    faults = sorted(
        jsonschema.Draft202012Validator(report_schema()).iter_errors(report), key=lambda fault: list(map(str, fault.absolute_path))
    )
    if faults:
        told = "; ".join(_explain(fault) for fault in faults[:5])
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise StoreError(f"the results do not fit the schema of report.json: {told}{more}; docs/report.md describes every field")
    report["claims"] = judged_claims(report)
    return report


def render_html(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """One self-contained HTML page: no scripts, no fonts, no network; charts as SVG, pictures of the latent space as embedded PNG.

    extras, all optional: `training` {recipe: {seed: [metrics of a phase: "name", "steps", "diagnostics"]}}, `pictures` {recipe:
    {"umap" or "pca": `clinjepa.evaluation.geometry.pictures.Picture`}}, `config_yaml` text, `head` and `notes` [text], `data_card` the
    name of the data card's page beside the report, `recipes` {name: a recipe of `clinjepa.curriculum.recipes`}, `fans`
    [`clinjepa.report.charts.forecast_charts.Fan`] of patients who may be shown, `no_fans` the reason why there are none.
    """
    template = page_environment().get_template("templates/report.html")
    return template.render(view=ReportView(report, extras), report=report, style=page_style())


def page_environment() -> jinja2.Environment:
    """The templates of this room; shown values are escaped, and a missing one is an error."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def page_style() -> str:
    """The style sheet of every page."""
    return _resource("templates/style.css")


@cache
def report_schema() -> dict[str, Any]:
    """The JSON Schema of report.json."""
    schema: dict[str, Any] = json.loads(_resource("schema.json"))
    return schema


class RecipeSharing(TypedDict):
    """Stages of one recipe, and how many of them another recipe uses too."""

    num_stages: int
    num_shared: int


class Sharing(RecipeSharing):
    """The same over all recipes, with the stages that the run did not compute, and by recipe."""

    num_reused: int
    recipes: dict[str, RecipeSharing]


def stage_sharing(stages: Sequence[Mapping[str, Any]]) -> Sharing:
    """How many stages two or more recipes use, in all and per recipe; a stage without `recipes` belongs to the data set."""
    names = sorted({recipe for stage in stages for recipe in stage.get("recipes", [])})
    by_recipe = {name: [stage for stage in stages if name in stage.get("recipes", [])] for name in names}
    shared = [stage for stage in stages if len(set(stage.get("recipes", []))) > 1]
    return {
        "num_stages": len(stages),
        "num_shared": len(shared),
        "num_reused": sum(bool(stage.get("reused")) for stage in stages),
        "recipes": {
            name: {"num_stages": len(used), "num_shared": sum(len(set(stage["recipes"])) > 1 for stage in used)}
            for name, used in by_recipe.items()
        },
    }


def finite(value: Any) -> Any:
    """A JSON value without NaN and infinity: a figure without a finite value is null with a reason, other such numbers are null."""
    if isinstance(value, Mapping):
        clean = {str(name): finite(item) for name, item in value.items()}
        lost = [name for name, item in value.items() if isinstance(item, Mapping) and "ci95" in item and clean[str(name)] is None]
        if lost and not clean.get("reason"):
            clean["reason"] = NOT_FINITE
        if "ci95" in clean and clean.get("value") is None:
            return None
        if isinstance(clean.get("ci95"), list) and None in clean["ci95"]:
            clean["ci95"] = None
        return clean
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _explain(fault: jsonschema.ValidationError) -> str:
    where = ".".join(map(str, fault.absolute_path)) or "report"
    if fault.validator == "required":
        missing = [name for name in fault.validator_value if name not in fault.instance]
        return f"{where} lacks {', '.join(missing)}"
    if fault.validator == "additionalProperties":
        unknown = sorted(set(fault.instance) - set(fault.schema.get("properties", {})))
        return f"{where} has unknown fields: {', '.join(unknown)}"
    if fault.validator == "oneOf":
        return f"{where} is not a figure (value, ci95, num_patients, num_seeds) or null"
    return f"{where}: {fault.validator} {fault.validator_value!r} is not met"


def _resource(name: str) -> str:
    return (resources.files("clinjepa.report") / name).read_text(encoding="utf-8")

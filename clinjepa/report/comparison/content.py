"""`comparison.json`: the figures of several finished runs side by side, with paired differences where they scored the same points.

Figures are those of each run's `report.json`, unchanged. Differences are computed here, on the predictions that the runs keep.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jsonschema
import pyarrow as pa

from clinjepa.errors import StoreError
from clinjepa.evaluation.differences.between_runs import Method, run_differences
from clinjepa.report.document import SCHEMA_VERSION as REPORT_VERSION
from clinjepa.report.document import finite
from clinjepa.report.headline import headline_recipe

SCHEMA_VERSION = 3
COLUMN = "history_only"
"""The input column whose methods are compared: no method has the actions that follow the prediction."""
NO_PREDICTIONS = "the run's folder has no predictions.parquet; write its report again with `clinjepa report CONFIG`"


class FinishedRun(NamedTuple):
    """What is compared of one run: its name in the comparison, its report.json, and its predictions.parquet, or None without one."""

    label: str
    report: Mapping[str, Any]
    predictions: pa.Table | None


def labels(names: Sequence[str]) -> list[str]:
    """Names of runs, with a number behind the second and later ones of the same name."""
    return [name if names.index(name) == place else f"{name} ({names[: place + 1].count(name)})" for place, name in enumerate(names)]


def build_comparison(runs: Sequence[FinishedRun], *, num_bootstrap: int = 1000) -> dict[str, object]:
    """The content of comparison.json.

    Args:
        runs: At least two runs; the first one's headline recipe is the reference of the differences.
        num_bootstrap: Number of resamplings of patients.

    Raises:
        StoreError: A report has another schema version, or the result does not fit the schema.
    """
    for run in runs:
        if run.report.get("schema_version") != REPORT_VERSION:
            raise StoreError(
                f"{run.label}: report.json has schema version {run.report.get('schema_version')}, this clinjepa reads {REPORT_VERSION}; "
                "write the report again with `clinjepa report CONFIG`"
            )
    content = {
        "schema_version": SCHEMA_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": [_run(run) for run in runs],
        "drift": [row for run in runs for row in _drift(run)],
        "geometry": [row for run in runs for row in _geometry(run)],
        "downstream": _cells(runs, "downstream", ("auroc", "auprc", "num_positive", "num_total")),
        "regression": _cells(runs, "regression", ("mae", "r2", "unit", "num_total")),
        "differences": finite(_differences(runs, num_bootstrap)),
        "claims": [{"run": run.label, "claims": run.report["claims"]} for run in runs],
    }
    fault = next(iter(jsonschema.Draft202012Validator(comparison_schema()).iter_errors(content)), None)
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "comparison"
        raise StoreError(f"the runs do not fit the schema of comparison.json: {where} ({fault.validator}); docs/report.md describes it")
    return content


@cache
def comparison_schema() -> dict[str, object]:
    """The JSON Schema of comparison.json."""
    text = (resources.files("clinjepa.report.comparison") / "schema.json").read_text(encoding="utf-8")
    schema: dict[str, object] = json.loads(text)
    return schema


def _run(run: FinishedRun) -> dict[str, object]:
    report = run.report
    recipes = list(dict.fromkeys([*report["phases"], *report["drift"], *report["geometry"]]))
    return {
        "label": run.label,
        "dataset": report["dataset"]["name"],
        "num_patients": report["dataset"]["num_patients"],
        "num_stays": report["dataset"]["num_stays"],
        "num_hours": report["dataset"]["num_hours"],
        "recipes": recipes,
        "num_seeds": max((len(by_seed) for by_seed in report["phases"].values()), default=0),
        "config_digest": report["config_digest"],
        "code_digest": report["code_digest"],
        "seconds": sum(stage["seconds"] or 0 for stage in report["stages"]),
    }


def _drift(run: FinishedRun) -> list[dict[str, object]]:
    rows = []
    for recipe, contexts in run.report["drift"].items():
        for context, found in contexts.items():
            last = found["horizons"].get(str(found["h_max"]), {})
            row = {"run": run.label, "recipe": recipe, "context": int(context), "h_max": found["h_max"], "num_stays": found["num_stays"]}
            row |= {"drift": found["drift"], "vs_mean": last.get("vs_mean"), "mase": last.get("mase")}
            row["change_of_prediction"] = last.get("change_of_prediction")
            rows.append(row | _reason(found.get("reason") or last.get("reason")))
    return rows


def _geometry(run: FinishedRun) -> list[dict[str, object]]:
    figures = ("k_hours", "num_pairs", "ratio", "mean_displacement_ratio", "farther_share", "p_holm")
    rows = []
    for recipe, found in run.report["geometry"].items():
        for name, cohort in (found.get("cohorts") or {found.get("cohort", "headline"): found}).items():
            row: dict[str, object] = {figure: cohort.get(figure) for figure in figures}
            row |= {"run": run.label, "recipe": recipe, "cohort": name, "is_headline": name == found.get("cohort", name)}
            rows.append(row | {"rankme": found.get("space", {}).get("rankme")} | _reason(cohort.get("reason")))
    return rows


def _cells(runs: Sequence[FinishedRun], part: str, fields: Sequence[str]) -> dict[str, list[dict[str, object]]]:
    """Task -> rows of all runs, methods and input columns, with these fields of the cells of a part of the reports."""
    found: dict[str, list[dict[str, object]]] = {}
    for run in runs:
        for task, methods in run.report.get(part, {}).items():
            for method, columns in methods.items():
                for column, cell in columns.items():
                    row = {"run": run.label, "method": method, "column": column} | {name: cell[name] for name in fields}
                    found.setdefault(task, []).append(row | _reason(cell.get("reason")))
    return found


def _differences(runs: Sequence[FinishedRun], num_bootstrap: int) -> dict[str, object]:
    """Paired differences from the headline recipe of the first run that keeps its predictions."""
    without = [{"run": run.label, "task": "all", "reason": NO_PREDICTIONS} for run in runs if run.predictions is None]
    kept = {run.label: run.predictions for run in runs if run.predictions is not None}
    empty: dict[str, object] = {"reference": None, "column": COLUMN, "tasks": {}, "mean": [], "errors": {}, "unpaired": without}
    if not kept:
        return empty
    first = next(run for run in runs if run.predictions is not None)
    method = _reference(first)
    if method is None:
        return empty
    found = run_differences(kept, method, COLUMN, num_bootstrap=num_bootstrap)
    reference = {"run": method.run, "method": method.name}
    return {"reference": reference, "column": COLUMN, **found, "unpaired": [*without, *found["unpaired"]]}


def _reference(run: FinishedRun) -> Method | None:
    """The method that the run's own comparisons subtract, else the first one of its headline recipe that has predictions."""
    assert run.predictions is not None
    names = list(dict.fromkeys(run.predictions["method"].to_pylist()))
    own = run.report.get("comparisons", {}).get("reference")
    recipe = headline_recipe(list(run.report["phases"]))
    candidates = [name for name in (own, *(each for each in names if each.partition(" · ")[0] == recipe), *names) if name in names]
    return Method(run.label, candidates[0]) if candidates else None


def _reason(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}

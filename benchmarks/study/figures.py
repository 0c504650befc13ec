"""What the study keeps of a finished run: figures of its report as they stand there, and differences from gradient boosting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clinjepa.evaluation.comparisons import not_below
from clinjepa.evaluation.differences.between_runs import Method, run_differences

REFERENCE, COLUMN = "lightgbm", "history_only"
KEPT_HORIZON = ("vs_mean", "mase", "change", "change_of_space", "change_of_prediction")


def kept_figures(run: Path) -> dict[str, Any]:
    """Figures of the run in a folder of `<storage>/runs/`.

    Raises:
        FileNotFoundError: The run has no report.
    """
    report = json.loads((run / "report.json").read_text())
    kept: dict[str, Any] = {
        "dataset": {name: report["dataset"][name] for name in ("name", "num_stays", "num_hours", "splits")},
        "claims": report["claims"],
        "costs": report["costs"],
        "roundtrip": {recipe: _r2(of["variables"]) for recipe, of in report["roundtrip"].items()},
        "auroc": {task: _history(methods) for task, methods in report["downstream"].items()},
        "rollout_auroc": {task: _columns(methods) for task, methods in report["downstream"].items()},
        "over_lightgbm": over_lightgbm(run),
        "drift": {recipe: {hours: _drift(of) for hours, of in contexts.items()} for recipe, contexts in report["drift"].items()},
        "geometry": {recipe: _geometry(of) for recipe, of in report["geometry"].items()},
        "added_value": report.get("added_value", {}),
    }
    for name in ("coverage_90", "mase", "model_over_lightgbm"):
        kept[f"forecast_{name}"] = {
            recipe: {hours: horizon.get(name) for hours, horizon in of["horizons"].items()}
            for recipe, of in report.get("forecasts", {}).items()
        }
    return kept


def over_lightgbm(run: Path, num_bootstrap: int = 1000) -> dict[str, Any]:
    """{task: {method: paired difference in AUROC from LightGBM, from the history alone, with whether it is not below by 0.005}}."""
    found = run_differences(
        {"run": pq.read_table(run / "predictions.parquet")}, Method("run", REFERENCE), COLUMN, num_bootstrap=num_bootstrap
    )
    return {
        task: {row["method"]: {**row, "not_below": not_below(row["difference"])} for row in rows} for task, rows in found["tasks"].items()
    }


def _history(methods: dict[str, Any]) -> dict[str, Any]:
    return {method: columns[COLUMN]["auroc"] for method, columns in methods.items() if COLUMN in columns}


def _columns(methods: dict[str, Any]) -> dict[str, Any]:
    """The other columns: rollouts with actions carried forward, and with the recorded ones (an upper bound)."""
    return {
        method: {column: of["auroc"] for column, of in columns.items() if column != COLUMN}
        for method, columns in methods.items()
        if len(columns) > 1
    }


def _r2(variables: dict[str, float | None]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in variables.items() if value is not None}


def _drift(context: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: context.get(name) for name in ("h_max", "num_stays", "drift", "drift_survivors", "actions")},
        "horizons": {hours: {name: of[name] for name in KEPT_HORIZON if name in of} for hours, of in context["horizons"].items()},
    }


def _geometry(of: dict[str, Any]) -> dict[str, Any]:
    names = ("cohort", "num_pairs", "ratio", "plain_ratio", "mean_displacement_ratio", "farther_share", "p_length", "reason", "space")
    return {name: of[name] for name in names if name in of} | {
        "cohorts": {
            name: {key: cohort.get(key) for key in ("ratio", "farther_share", "num_pairs")}
            for name, cohort in of.get("cohorts", {}).items()
        }
    }

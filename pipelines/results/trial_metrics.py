"""The figures of a trial by name, as the results table and a search read them.

`downstream.<task>.<probe>.<column>.auroc`, `drift.<context>.horizons.<h>.vs_mean`, `geometry.ratio`, `roundtrip.r2`: the path of a figure
in the evaluation's `result.json`. `tuning_l1` is measured on tuning windows while a phase trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clinjepa.config import Config
from clinjepa.evaluation.figures import is_figure
from pipelines.graph.artifacts import RESULT, Artifact

TUNING_L1 = "tuning_l1"
"""L1 of the teacher-forced predictions on tuning windows after a phase; comparable between trials of equal encoders."""

_NO_TERMS = ("step", "loss", "grad_norm", "lr_")
"""Beginnings of a step's figures that are no loss terms."""

_LEFT_OUT = {"starts", "actions", "controls", "variables", "figures", "by_k", "cohorts", "umap", "pictures", "space", "shares"}
"""Parts of a result that are no headline: hundreds of columns."""


def tuning_l1(artifact: Artifact) -> float | None:
    """The last tuning L1 of a finished phase; None where it measured none."""
    measured = artifact.folder.read_json("metrics.json")["diagnostics"]
    found = [row["l1"] for row in measured if row.get("l1") is not None]
    return float(found[-1]) if found else None


def phase_metrics(name: str, artifact: Artifact) -> dict[str, float]:
    """Of a finished phase: TUNING_L1 where it was measured, and `loss.<phase>.<term>`, the mean of every term in the last step."""
    content = artifact.folder.read_json("metrics.json")
    last = content["steps"][-1] if content["steps"] else {}
    terms = {f"loss.{name}.{term}": float(value) for term, value in last.items() if not term.startswith(_NO_TERMS)}
    measured = [row["l1"] for row in content["diagnostics"] if row.get("l1") is not None]
    return terms | ({TUNING_L1: float(measured[-1])} if measured else {})


def evaluation_metrics(name: str, artifact: Artifact) -> dict[str, float]:
    """The figures of a finished evaluation: path -> value. Figures that could not be estimated are not there."""
    return {path: value for path, value in _figures(artifact.folder.read_json(RESULT), name)}


def _figures(result: Any, path: str) -> Iterator[tuple[str, float]]:
    if is_figure(result):
        yield path, float(result["value"])
    elif isinstance(result, Mapping):
        for name, value in result.items():
            if name not in _LEFT_OUT:
                yield from _figures(value, f"{path}.{name}")


def metric_names(config: Config) -> list[str]:
    """What a search may optimise: figures that the configured evaluations report, where there are enough patients for them."""
    from clinjepa.evaluation.downstream.point_features import COLUMNS  # here: it loads torch, which a trial's process may not need

    downstream, drift = config.evaluation.downstream, config.evaluation.drift
    names = [TUNING_L1, "roundtrip.r2", "geometry.ratio"]
    names += [
        f"downstream.{task}.{probe}.{column}.{measure}"
        for task in downstream.tasks
        for probe in downstream.probe.kinds
        for column in COLUMNS
        for measure in ("auroc", "auprc")
    ]
    names += [
        f"drift.{context}.horizons.{hours}.{measure}"
        for context in drift.contexts
        for hours in drift.horizons
        for measure in ("vs_mean", "mase")
    ]
    return names

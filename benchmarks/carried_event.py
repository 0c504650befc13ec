"""What the rule for a carried event does to labels and to AUROC: `negatives_only` beside `unknown` (docs/clinical.md).

CinC 2012 and 2019 (simulated patients with `--quick`). For each task with the switches-only rule LightGBM is trained on the labels of each
rule, on the report's features, points and split, and scored on held-out patients. Three figures a task: each model on labels of its own
rule, and the model of `negatives_only` on the points that also have a label under `unknown`. Intervals are over patients.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from benchmarks.support.harness import Report, arguments, publish
from clinjepa.clinical import CarriedEvent, Task, load_tasks
from clinjepa.config import Config
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.baselines.protocol import Inputs, Problem, TaskPoints
from clinjepa.evaluation.baselines.tabular.lightgbm import BASELINE
from clinjepa.evaluation.downstream.prediction_points import Cell, Points, prediction_points, score_cell, union, why_not
from clinjepa.evaluation.downstream.tabular_features import tabular_features
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from clinjepa.trajectory.settings import IngestSettings

RULES: tuple[CarriedEvent, ...] = get_args(CarriedEvent)
TASKS = "hypotension_8h,hyperglycaemia_8h,hyperkalaemia_24h,hypoxaemia_8h"
SPLIT = "held_out"
_USED = ("train", "tuning", SPLIT)


@dataclass(frozen=True)
class Ingested:
    """A finished ingest artifact and its table of stays."""

    folder: Folder
    stays: pa.Table


def ingest(source: dict[str, Any], out: Folder) -> Ingested:
    """The ingest artifact of a source, with the default cohort and split."""
    config = Config.model_validate({"source": source})
    opened, settings = open_source(config.source), IngestSettings.of(config)
    for place, partition in enumerate(opened.partitions()):
        build_partition(opened, partition, settings, out, f"part-{place:05d}")
    finish_ingest(out, settings)
    return Ingested(out, out.read_table("stays.parquet"))


def compare(data: Ingested, tasks: Sequence[Task], settings: DownstreamConfig) -> dict[str, dict[str, Any]]:
    """task -> counts of labels by rule and the three cells; a task without enough patients gets its reason."""
    points = {rule: _points(data, [replace(task, carried_event=rule) for task in tasks], settings) for rule in RULES}
    result: dict[str, dict[str, Any]] = {}
    for task in tasks:
        own = {rule: points[rule][task.name] for rule in RULES}
        reasons = [reason for one in own.values() if (reason := why_not(one, SPLIT, settings.min_positives))]
        result[task.name] = {"labels": {rule: _counts(one) for rule, one in own.items()}}
        result[task.name] |= {"reason": reasons[0]} if reasons else {"auroc": _figures(data, task, own, settings)}
    return result


def _points(data: Ingested, tasks: Sequence[Task], settings: DownstreamConfig) -> dict[str, Points]:
    labels = compute_labels(data.folder, list(tasks), settings.stay_prediction_hour)
    return {task.name: prediction_points(labels, data.stays, task, settings) for task in tasks}


def _counts(points: Points) -> dict[str, float]:
    return {"num_labels": len(points), "num_positive": points.num_positive, "share_positive": points.num_positive / max(len(points), 1)}


def _figures(data: Ingested, task: Task, own: dict[CarriedEvent, Points], settings: DownstreamConfig) -> dict[str, Any]:
    """AUROC with its interval of each model on its own labels, and of the first one on the points of the second."""
    used = [own[rule].where(np.isin(own[rule].split_N, _USED)) for rule in RULES]
    stay_N, hour_N, found = union(used)
    inputs = Inputs(stay_N, hour_N, tabular_features(data.folder, data.stays, stay_N, hour_N))
    cells: dict[str, Cell] = {}
    for rule, (points, rows_N) in zip(RULES, found, strict=True):
        problem = Problem((TaskPoints(task, points, rows_N),), inputs)
        scores = BASELINE.fit(problem, BASELINE.defaults, [SPLIT], 0)[task.name][SPLIT]
        scored = points.of(SPLIT)
        cells[rule] = score_cell(scored, scores, settings.num_bootstrap, 0)
        if rule == RULES[0]:
            common = _among(scored, used[1].of(SPLIT))
            cells[f"{rule} on the points of {RULES[1]}"] = score_cell(scored.where(common), scores[common], settings.num_bootstrap, 0)
    return {name: {"auroc": cell["auroc"], "num_points": cell["num_total"]} for name, cell in cells.items()}


def _among(points: Points, others: Points) -> np.ndarray:
    """Which points are also among the others."""
    known = set(zip(others.stay_N.tolist(), others.hour_N.tolist(), strict=True))
    return np.array([pair in known for pair in zip(points.stay_N.tolist(), points.hour_N.tolist(), strict=True)], dtype=bool)


def sources(options: Any) -> dict[str, dict[str, Any]]:
    """Name -> settings of the sources that are at hand."""
    if options.quick:
        return {"simulator": {"kind": "simulator", "simulator": {"num_patients": 200}}}
    folder = Path(options.data or os.environ.get("CLINJEPA_DATA", "/nonexistent"))
    kinds = [kind for kind in ("cinc2012", "cinc2019") if (folder / kind).is_dir()]
    if not kinds:
        raise SystemExit("no folder cinc2012 or cinc2019 in --data or CLINJEPA_DATA; get them with `clinjepa data get`")
    return {kind: {"kind": kind, "path": str(folder / kind), "max_stays": options.stays} for kind in kinds}


def main() -> None:
    options = arguments(__doc__ or "", data=None, stays=4000, tasks=TASKS)
    settings = DownstreamConfig(min_positives=5, num_bootstrap=100) if options.quick else DownstreamConfig()
    details: dict[str, Any] = {}
    for name, source in sources(options).items():
        with tempfile.TemporaryDirectory() as scratch:
            data = ingest(source, Folder(scratch))
            details[name] = {"num_stays": data.stays.num_rows, "tasks": compare(data, load_tasks(options.tasks.split(",")), settings)}
    measured = {
        f"{name}_{task}_auroc_{rule.replace(' ', '_')}": figure["auroc"]["value"]
        for name, found in details.items()
        for task, one in found["tasks"].items()
        for rule, figure in one.get("auroc", {}).items()
        if figure["auroc"] is not None
    }
    publish(Report("carried_event", measured, {}, dict.fromkeys(measured, "AUROC"), details), options.quick)


if __name__ == "__main__":
    main()

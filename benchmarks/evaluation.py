"""The evaluations of a run: rollouts, forecasts, probes and paired statistics on simulated latents, and those of the demo.

Each part has the one-by-one computation beside it:

* Drift and forecasts of 1,000 scored stays of 48 h, one after the other on `--threads` threads; beside it rollouts without cached keys
  and values, and of single windows.
* Probes of 34 tasks from three input columns, with the figures and the paired differences of all of them. Beside it, on every ninth task of
  each column and scaled to all: probes of single tasks (scikit-learn once per strength, an MLP differentiated by torch). Beside the
  statistics: scikit-learn on the repeated rows of one draw after the other, on some draws and scaled.
* `evaluate` of the demo's four recipes under Ray, beyond a start of Ray. `--demo STORAGE/runs/NAME` is a finished run of a demo, whose
  storage is copied; without it `configs/demo_simulator.yaml` is run first. `--demo none` and the quick form leave this part out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import forecasts, rollout
from benchmarks.support.demo_evaluations import CONFIG, demo_evaluations
from benchmarks.support.harness import Cost, Report, arguments, publish, timed
from benchmarks.support.simulated_tasks import SimulatedTasks, simulated_tasks
from benchmarks.support.single_probes import single_linear, single_mlp
from clinjepa.config.schema import DriftConfig, ProbeConfig
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.downstream.prediction_points import score_cell
from clinjepa.evaluation.downstream.probe_rows import ProbeTask
from clinjepa.evaluation.downstream.probes import scores_of_tasks
from clinjepa.evaluation.drift import evaluate_drift
from clinjepa.evaluation.metrics import Ranking, patient_draws, patient_index
from clinjepa.evaluation.predictions import KeptPredictions, cell_predictions, compare_predictions, mean_over_tasks
from clinjepa.model.predictor import build_predictor
from clinjepa.storage import Folder

KINDS = ("linear", "mlp")
NUM_BOOTSTRAP = 1000
EVERY = 9
"""One task of so many is fitted alone too."""
LOOP_DRAWS = 20
"""Draws that the loop scores one after the other."""


class Size(NamedTuple):
    """How much is simulated: scored stays of the rollouts; stays, tasks and features of the probes; epochs of the MLPs at most."""

    rollout_stays: int
    probe_stays: int
    num_tasks: int
    width: int
    max_epochs: int


FULL, QUICK = Size(1000, 1700, 34, 128, 100), Size(60, 300, 5, 16, 5)


def rollouts(num_stays: int) -> dict[str, float]:
    """Seconds of the drift and of the forecasts of `num_stays` scored stays, and speed over doing the same one by one."""
    found = forecasts.seconds(num_stays, 48, time.perf_counter)
    predictor, settings = build_predictor(forecasts.SPEC, seed=0), DriftConfig(contexts=[6, 12, 24])
    with tempfile.TemporaryDirectory() as scratch:
        stays, _ = forecasts.world(Folder(Path(scratch)), num_stays, 48)
        cost = timed(lambda: evaluate_drift(predictor, forecasts.RandomLatents(), stays, settings))
    found |= {"drift": cost.wall_seconds, "drift_cpu_seconds": cost.cpu_seconds}
    found["cached_over_recomputed"] = rollout.compare(forecasts.SPEC, 64, rounds=1)["speedup"]
    return found


class Probed(NamedTuple):
    """Scores of every (column, kind) by task, and the cost of each."""

    scores: dict[tuple[str, str], dict[str, np.ndarray]]
    costs: dict[tuple[str, str], Cost]


def probes(world: SimulatedTasks, config: ProbeConfig) -> Probed:
    """All tasks together, column by column."""
    problems = [ProbeTask.of(points, rows_N, "held_out") for points, rows_N in world.tasks.values()]
    found = Probed({}, {})
    for column in COLUMNS:
        x_NF = world.features.column(column)
        for kind in KINDS:

            def fit(kind: str = kind, x_NF: np.ndarray = x_NF, column: str = column) -> None:
                scores = scores_of_tasks(kind, x_NF, problems, config, 0)
                found.scores[column, kind] = dict(zip(world.tasks, scores, strict=True))

            found.costs[column, kind] = timed(fit)
    return found


def single_probes(world: SimulatedTasks, config: ProbeConfig, together: Probed) -> tuple[dict[str, Cost], dict[str, float]]:
    """By kind: the cost of every EVERY-th task of each column alone, scaled to all tasks; correlation with the scores of the joint fit."""
    some = list(world.tasks)[::EVERY]
    scale = len(world.tasks) / len(some)
    costs, alike = {}, {}
    for kind in KINDS:
        wall = cpu = 0.0
        correlations = []
        for column in COLUMNS:
            x_NF = world.features.column(column)
            for name in some:
                task = ProbeTask.of(*world.tasks[name], "held_out")
                alone: list[np.ndarray] = []
                fit: Callable[[], np.ndarray] = {
                    "linear": lambda x_NF=x_NF, task=task: single_linear(x_NF, task),
                    "mlp": lambda x_NF=x_NF, task=task: single_mlp(x_NF, task, config, 0),
                }[kind]
                cost = timed(lambda fit=fit, alone=alone: alone.append(fit()))
                wall, cpu = wall + cost.wall_seconds, cpu + cost.cpu_seconds
                correlations.append(float(np.corrcoef(alone[0], together.scores[column, kind][name])[0, 1]))
        costs[kind], alike[kind] = Cost(wall * scale, cpu * scale), min(correlations)
    return costs, alike


def statistics(world: SimulatedTasks, probed: Probed) -> dict[str, Cost]:
    """Figures of every cell, then paired differences and their mean over tasks in every column."""
    kept = KeptPredictions()

    def figures() -> None:
        for (column, kind), by_task in probed.scores.items():
            for name, scores_N in by_task.items():
                scored = world.tasks[name][0].of("held_out")
                kept.add(name, kind, column, scored, scores_N)
                score_cell(scored, scores_N, NUM_BOOTSTRAP, 0)

    def differences(table: pa.Table) -> None:
        for column in COLUMNS:
            methods = {kind: [cell_predictions(table, kind, column)] for kind in KINDS}
            compare_predictions(methods, KINDS[0], NUM_BOOTSTRAP)
            mean_over_tasks(methods, KINDS[0], NUM_BOOTSTRAP)

    return {"figures": timed(figures), "differences": timed(lambda: differences(kept.table()))}


def bootstrap_speedup(world: SimulatedTasks, probed: Probed) -> float:
    """Seconds of the AUROC in NUM_BOOTSTRAP draws of one task, one draw after the other (scaled) over all at once."""
    name = next(iter(world.tasks))
    scored, scores_N = world.tasks[name][0].of("held_out"), probed.scores[COLUMNS[0], KINDS[0]][name]
    index_N, num_patients = patient_index(scored.subject_N)
    counts_RP = patient_draws(num_patients, NUM_BOOTSTRAP, 0)
    together: list[np.ndarray] = []
    at_once = timed(lambda: together.append(Ranking(scored.label_N, scores_N).over_draws("auroc", counts_RP, index_N)))
    looped: list[float] = []

    def loop() -> None:
        for counts_P in counts_RP[:LOOP_DRAWS]:
            rows_N = np.repeat(np.arange(len(index_N)), counts_P[index_N].astype(np.int64))
            looped.append(float(roc_auc_score(scored.label_N[rows_N], scores_N[rows_N])))

    one_by_one = timed(loop)
    np.testing.assert_allclose(together[0][:LOOP_DRAWS], looped, rtol=1e-9)
    return one_by_one.cpu_seconds * NUM_BOOTSTRAP / LOOP_DRAWS / at_once.cpu_seconds


def main() -> None:
    options = arguments(__doc__ or "", threads=2, demo="")
    size = QUICK if options.quick else FULL
    torch.set_num_threads(options.threads)
    rolled = rollouts(size.rollout_stays)
    config = ProbeConfig(max_epochs=size.max_epochs)
    world = simulated_tasks(size.probe_stays, size.num_tasks, size.width)
    probed = probes(world, config)
    computed = statistics(world, probed)
    alone, alike = single_probes(world, config, probed)
    by_kind = {kind: sum(cost.wall_seconds for (_, own), cost in probed.costs.items() if own == kind) for kind in KINDS}
    measured = {
        "drift_and_forecasts": rolled["drift"] + rolled["forecasts"],
        "probes_and_statistics": sum(by_kind.values()) + sum(cost.wall_seconds for cost in computed.values()),
        "cached_rollout_speedup": rolled["cached_over_recomputed"],
        "batched_rollout_speedup": rolled["rollouts_one_by_one"] / rolled["rollouts_batched"],
        **{f"{kind}_probe_speedup": alone[kind].wall_seconds / by_kind[kind] for kind in KINDS},
        "bootstrap_speedup": bootstrap_speedup(world, probed),
    }
    goal = {"drift_and_forecasts": "<= 60", "probes_and_statistics": "<= 300"}
    unit = {"drift_and_forecasts": "s", "probes_and_statistics": "s", **{name: "times" for name in measured if "speedup" in name}}
    details = {
        "threads": options.threads,
        "size": size._asdict(),
        "num_points": world.num_points,
        "num_points_by_task": [len(points) for points, _ in world.tasks.values()],
        "rollouts_seconds": rolled,
        "probes_seconds": {f"{kind}, {column}": cost.wall_seconds for (column, kind), cost in probed.costs.items()},
        "probes_cpu_seconds": sum(cost.cpu_seconds for cost in probed.costs.values()),
        "statistics_seconds": {name: cost.wall_seconds for name, cost in computed.items()},
        "single_probes_scaled_seconds": {kind: cost.wall_seconds for kind, cost in alone.items()},
        "least_correlation_with_single_probes": alike,
    }
    if not options.quick and options.demo != "none":
        with tempfile.TemporaryDirectory() as scratch:
            demo = demo_evaluations(Path(options.demo) if options.demo else None, Path(scratch))
        measured["demo_evaluations"] = demo.evaluations.cpu_seconds - demo.ray.cpu_seconds
        goal["demo_evaluations"], unit["demo_evaluations"] = "<= 60", "CPU s"
        details["demo"] = {
            "evaluations": asdict(demo.evaluations),
            "ray": asdict(demo.ray),
            "num_stages": demo.num_stages,
            "run": Path(options.demo).name or CONFIG,
        }
    publish(Report("evaluation", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()

"""Risk tasks from frozen features: a probe per task, input column and kind, fitted on train, chosen on tuning, scored once.

The probes are fitted by `fitting` and scored by `frozen`, as on the patients of another data set: what is scored has no part in a fit.

The three input columns differ in what they use: the history only; a rollout with the last known actions carried forward; a rollout with
the actions recorded after the prediction time, which is an upper bound and not a forecast.
Tasks whose labels are numbers have the same points and columns, and mean absolute error and R² in place of AUROC and AUPRC.
Protocol: Clin-JEPA (arXiv 2605.10840), downstream evaluation; 95 % bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.fitting import fit_probes
from clinjepa.evaluation.downstream.frozen import LabelledLatents, score_frozen
from clinjepa.evaluation.downstream.prediction_points import TaskTables
from clinjepa.evaluation.downstream.task_cells import DownstreamResults
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor


def evaluate_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> TaskTables:
    """The tables of the tasks with 0/1 labels. The arguments are those of `score_downstream`, which also gives the other tasks."""
    return score_downstream(predictor, latents, labels, stays, [task for task in tasks if task.is_classification], settings, split).tables


def score_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> DownstreamResults:
    """The tables of all tasks, the predictions behind them, and the probes; rollouts run on the predictor's device.

    Neither history nor rollout uses a position that training could not reach. A rollout that needs more is cut to half of the reachable
    hours, a history to the rest; the cells then have a sentence `cut`.
    A task with fewer than `min_positives` patients of a class in train or `split`, or with a label where labels are numbers, has figures
    of None and a `reason`; one that lacks them in `split` alone has probes. A rollout has `rollout_hours` hours, or the task's horizon
    where that is shorter.

    Args:
        predictor: The trained predictor.
        latents: The latents of the stays, from the encoder that the predictor was trained with.
        labels: Label table with stay_id, task, hour, label.
        stays: Stays with stay_id, subject_id, split, num_hours.
        tasks: Tasks to evaluate.
        settings: Prediction points, rollout, pooling, probes and bootstrap.
        split: The split that is scored.
    """
    data = LabelledLatents(latents, labels, stays)
    probes = fit_probes(predictor, data, tasks, settings)
    return score_frozen(probes, predictor, data, tasks, settings, split)._replace(probes=probes)

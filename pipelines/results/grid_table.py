"""The results table of a grid: one row a trial, one column a setting of the axes, a cost and a figure; as Parquet and as CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv

from clinjepa.config import Config
from clinjepa.config.axes import in_words
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial
from pipelines.results.costs import trial_costs
from pipelines.results.trial_metrics import evaluation_metrics, phase_metrics

TABLE = "grid"
"""Name of the table's files in the run's folder, without the ending."""


def write_table(config: Config, experiment: Experiment) -> str:
    """Write `grid.parquet` and `grid.csv` into `<storage>/runs/<name>/`; returns the CSV's address.

    Every trial has a row. Figures of stages that are not finished are empty.
    """
    table = grid_table(config, experiment)
    out = Folder(config.storage) / f"runs/{config.name}"
    out.write_table(f"{TABLE}.parquet", table)
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    out.write_bytes(f"{TABLE}.csv", text.getvalue())
    return f"{out.address}/{TABLE}.csv"


def grid_table(config: Config, experiment: Experiment) -> pa.Table:
    """The table: name, recipe, seed, a column a setting of the axes, state of the trial, costs, figures."""
    storage = Folder(config.storage)
    artifacts = {stage.key: Artifact.at(storage, stage.kind, stage.key) for stage in experiment.stages}
    manifests = {key: artifact.manifest() for key, artifact in artifacts.items() if artifact.is_complete()}
    known: dict[str, Mapping[str, float]] = {}

    def figures(stage: Stage, name: str) -> Mapping[str, float]:
        if stage.key not in known:
            known[stage.key] = _figures_of(stage, name, artifacts[stage.key]) if stage.key in manifests else {}
        return known[stage.key]

    rows = []
    for trial in experiment.trials:
        found: dict[str, float] = {}
        for phase in trial.phases:
            found |= figures(phase, str(phase.settings["phase"]["name"]))
        for name, stage in trial.evaluations.items():
            found |= figures(stage, name)
        rows.append(_row(experiment, trial, manifests) | found)
    return table_of(rows)


def _figures_of(stage: Stage, name: str, artifact: Artifact) -> Mapping[str, float]:
    if stage.kind == "phase":
        return phase_metrics(name, artifact)
    return evaluation_metrics(name, artifact) if stage.kind != "sync" else {}


def _row(experiment: Experiment, trial: Trial, manifests: Mapping[str, Any]) -> dict[str, object]:
    stages = trial.stages
    return {
        "trial": trial.name,
        "recipe": trial.recipe,
        "seed": trial.seed,
        **trial.point.values,
        "num_stages": len(stages),
        "num_finished": sum(stage.key in manifests for stage in stages),
        "num_shared": sum(len(experiment.users[stage.key]) > 1 for stage in stages),
        **trial_costs(trial, manifests).to_json(),
    }


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of rows with different columns; values of one column that are not of one plain type are written as YAML words."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Iterable[Any]) -> pa.Array:
    listed = list(values)
    kinds = {type(value) for value in listed if value is not None}
    if kinds <= {int, float} or len(kinds) == 1 and kinds <= {str, bool}:
        return pa.array([float(value) if value is not None and float in kinds else value for value in listed])
    return pa.array([None if value is None else in_words(value) for value in listed])

"""The evaluations as stages: each reads artifacts, runs one plain function in a Ray task, and writes its result as JSON.

An executor parses its settings from the stage. Of the configuration it reads `execution` alone, for the number of CPUs. Evaluations and
their libraries are imported by the task that computes them: a trial's process, which waits for it, loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from clinjepa.clinical import load_tasks
from clinjepa.evaluation.settings import (
    AddedValueSettings,
    BaselineSettings,
    DirectForecastSettings,
    DownstreamSettings,
    DriftSettings,
    ForecastSettings,
    GeometrySettings,
    RoundtripSettings,
    ShiftSettings,
)
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.changed_actions import ChangedActionReader
from clinjepa.trajectory.tokens.latent_store import LatentReader
from pipelines.graph.artifacts import RESULT, Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.saved_run import FITTED
from pipelines.graph.stage import Stage
from pipelines.stages.tasks import run_remotely

if TYPE_CHECKING:
    from clinjepa.evaluation.baselines.tuning import Runner
    from clinjepa.evaluation.downstream.fitted import FittedProbes
    from clinjepa.evaluation.space import Latents

REGRESSION, TUNING, TIMING = "regression.json", "tuning.json", "timing.json"
"""Figures of the tasks whose labels are numbers, of probes and of baselines; how each baseline was tuned, and seconds by method."""
_Inputs = dict[str, Folder]


@dataclass(frozen=True)
class _Outcome:
    """What an evaluation writes: its result as JSON, the tables behind it by file name, and files of what it fitted by name."""

    result: Mapping[str, object]
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Further JSON files by name."""
    probes: FittedProbes | None = None
    """Probes that the evaluation fitted."""
    fitted: Mapping[str, bytes] = field(default_factory=dict)
    """Files of what else it fitted, by name."""


_Measure = Callable[[_Inputs], _Outcome]
"""Computes an evaluation's outcome from its input artifacts."""


def run_drift_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `drift` stages."""
    return _evaluate(context, stage, artifact, partial(_drift, DriftSettings.model_validate(stage.settings)))


def run_geometry_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `geometry` stages."""
    return _evaluate(context, stage, artifact, partial(_geometry, GeometrySettings.model_validate(stage.settings)))


def run_roundtrip_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `roundtrip` stages."""
    return _evaluate(context, stage, artifact, partial(_roundtrip, RoundtripSettings.model_validate(stage.settings)))


def run_downstream_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `downstream` stages."""
    return _evaluate(context, stage, artifact, partial(_downstream, DownstreamSettings.model_validate(stage.settings)))


def run_forecasts_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `forecasts` stages."""
    return _evaluate(context, stage, artifact, partial(_forecasts, ForecastSettings.model_validate(stage.settings)))


def run_direct_forecasts_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `direct_forecasts` stages."""
    return _evaluate(context, stage, artifact, partial(_direct_forecasts, DirectForecastSettings.model_validate(stage.settings)))


def run_baselines_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `baselines` stages."""
    from clinjepa.evaluation.baselines.tuning import InProcessRunner
    from pipelines.stages.baseline_trials import TuneRunner

    runner = TuneRunner() if context.config.execution.tune_baselines else InProcessRunner()
    return _evaluate(context, stage, artifact, partial(_baselines, BaselineSettings.model_validate(stage.settings), runner))


def run_added_value_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `added_value` stages."""
    settings = AddedValueSettings.model_validate(stage.settings)
    return _evaluate(context, stage, artifact, partial(_added_value, settings, _num_threads(context)))


def run_shift_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `shift` stages."""
    return _evaluate(context, stage, artifact, partial(_shift, ShiftSettings.model_validate(stage.settings)))


def _evaluate(context: RunContext, stage: Stage, artifact: Artifact, measure: _Measure) -> dict[str, object]:
    inputs = {name: context.artifact(upstream).folder for name, upstream in stage.inputs.items()}
    return run_remotely(context, _write_result, measure, _num_threads(context), inputs, _encoder_of(context, stage), artifact.folder)


def _num_threads(context: RunContext) -> int:
    return max(1, int(context.config.execution.evaluation_cpus))


def _encoder_of(context: RunContext, stage: Stage) -> _Inputs:
    """Folders of the encoder whose latents the stage reads; empty where these latents or their encoder are no longer stored."""
    embed = stage.inputs.get("latents")
    upstream = {name: context.artifact(embed.inputs[name]) for name in ("base", "encoder") if name in embed.inputs} if embed else {}
    return {name: each.folder for name, each in upstream.items()} if all(each.is_complete() for each in upstream.values()) else {}


def _write_result(measure: _Measure, threads: int, inputs: _Inputs, encoder: _Inputs, out: Folder) -> dict[str, object]:
    import torch

    from clinjepa.evaluation.fitted_files import write_files
    from clinjepa.evaluation.predictions import PREDICTIONS, with_times
    from clinjepa.model.pretrained.identity import check_predictor, encoder_digest

    torch.set_num_threads(threads)
    if encoder:
        named = " and ".join(folder.address for folder in encoder.values())
        LatentReader(inputs["latents"]).check_encoder(encoder_digest(encoder["base"], encoder.get("encoder")), named)
    if "predictor" in inputs and "latents" in inputs:
        latents = inputs["latents"]
        check_predictor(inputs["predictor"], LatentReader(latents).encoder_digest, f"that of the latents in {latents.address}")
    outcome = measure(inputs)
    for name, table in outcome.tables.items():
        out.write_table(name, with_times(table, inputs["ingest"].read_table("stays.parquet")) if name == PREDICTIONS else table)
    for name, content in outcome.more.items():
        out.write_json(name, content)
    if outcome.probes is not None:
        outcome.probes.write(out)
    write_files(out, outcome.fitted)
    out.write_json(RESULT, outcome.result)
    return {}


def _drift(settings: DriftSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.drift import evaluate_drift
    from clinjepa.evaluation.drift_doses import LatentsWithDoses
    from clinjepa.evaluation.fitted_files import mean_files, read_mean
    from clinjepa.evaluation.space import train_mean_latent
    from clinjepa.model.predictor import load_predictor

    stays = inputs["ingest"].read_table("stays.parquet")
    predictor, recorded = load_predictor(inputs["predictor"]), LatentReader(inputs["latents"])
    latents: Latents = recorded
    if "other_doses" in inputs:
        changed = ChangedActionReader(inputs["other_doses"])
        changed.check_encoder(recorded.encoder_digest, inputs["latents"].address)
        latents = LatentsWithDoses(recorded, changed)
    mean_D = read_mean(inputs[FITTED]) if FITTED in inputs else train_mean_latent(recorded, stays)
    result = evaluate_drift(predictor, latents, stays, settings.drift, split=settings.split, mean_D=mean_D)
    return _Outcome(result, fitted=mean_files(mean_D))


def _geometry(settings: GeometrySettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.geometry.evaluate import evaluate_geometry, geometry_cohorts
    from clinjepa.evaluation.geometry.severity import read_severity, severity_fault
    from clinjepa.trajectory.labels.artifact import read_labels

    onsets = {task.name: task.horizon_hours for task in load_tasks(settings.onset_tasks) if task.horizon_hours is not None}
    stays, labels = inputs["ingest"].read_table("stays.parquet"), read_labels(inputs["labels"], settings.onset_tasks)
    fault = severity_fault(inputs["ingest"])
    severity = None if fault else read_severity(inputs["ingest"], stays, settings.split)
    cohorts = geometry_cohorts(stays, labels, onsets, severity, settings.split)
    latents = LatentReader(inputs["latents"])
    reason, known = fault or "", severity or None
    return _Outcome(evaluate_geometry(latents, stays, cohorts, settings.geometry, known, severity_reason=reason, split=settings.split))


def _roundtrip(settings: RoundtripSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.roundtrip import RoundtripFit, evaluate_roundtrip, fit_roundtrip

    latents, ingest, stays = LatentReader(inputs["latents"]), inputs["ingest"], inputs["ingest"].read_table("stays.parquet")
    fitted = RoundtripFit.read(inputs[FITTED]) if FITTED in inputs else fit_roundtrip(latents, ingest, stays, settings.num_hours)
    result = evaluate_roundtrip(latents, ingest, stays, settings.num_hours, split=settings.split, fitted=fitted)
    return _Outcome(result, fitted=fitted.files())


def _downstream(settings: DownstreamSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.downstream.evaluate import score_downstream
    from clinjepa.evaluation.downstream.fitted import FittedProbes
    from clinjepa.evaluation.downstream.frozen import LabelledLatents, score_frozen
    from clinjepa.evaluation.predictions import PREDICTIONS
    from clinjepa.model.predictor import load_predictor
    from clinjepa.trajectory.labels.artifact import read_labels

    tasks = load_tasks(settings.downstream.tasks, settings.given)
    predictor, latents = load_predictor(inputs["predictor"]), LatentReader(inputs["latents"])
    labels, stays = read_labels(inputs["labels"], settings.downstream.tasks), inputs["ingest"].read_table("stays.parquet")
    if FITTED in inputs:
        probes, data = FittedProbes.read(inputs[FITTED]), LabelledLatents(latents, labels, stays)
        found = score_frozen(probes, predictor, data, tasks, settings.downstream, split=settings.split)
    else:
        found = score_downstream(predictor, latents, labels, stays, tasks, settings.downstream, split=settings.split)
    return _Outcome(found.tables, {PREDICTIONS: found.predictions}, {REGRESSION: found.regression}, found.probes)


def _baselines(settings: BaselineSettings, runner: Runner, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.baselines.evaluate import LabelledStays, score_baselines
    from clinjepa.evaluation.predictions import PREDICTIONS
    from clinjepa.trajectory.labels.artifact import read_labels

    tasks = settings.downstream.tasks
    data = LabelledStays(inputs["ingest"], inputs["ingest"].read_table("stays.parquet"), read_labels(inputs["labels"], tasks))
    found = score_baselines(data, load_tasks(tasks, settings.given), settings.downstream, split=settings.split, runner=runner)
    more: dict[str, Mapping[str, object]] = {REGRESSION: found.regression, TUNING: found.tuning, TIMING: found.seconds}
    return _Outcome(found.tables, {PREDICTIONS: found.predictions}, more)


def _added_value(settings: AddedValueSettings, num_threads: int, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.added_value.evaluate import AddedValueData, evaluate_added_value
    from clinjepa.evaluation.predictions import PREDICTIONS
    from clinjepa.trajectory.labels.artifact import read_labels

    stays, labels = inputs["ingest"].read_table("stays.parquet"), read_labels(inputs["labels"], settings.tasks)
    data = AddedValueData(LatentReader(inputs["latents"]), inputs["ingest"], stays, labels)
    result, predictions = evaluate_added_value(data, load_tasks(settings.tasks, settings.given), settings, num_threads)
    return _Outcome(result, {PREDICTIONS: predictions})


def _forecasts(settings: ForecastSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.forecasts.evaluate import ForecastInputs, evaluate_forecasts, without_forecasts
    from clinjepa.evaluation.forecasts.forecaster import NAME, Forecaster
    from clinjepa.evaluation.forecasts.points.direct import DIRECT_FILE
    from clinjepa.evaluation.forecasts.tables import EVENTS_FILE, FORECASTS_FILE
    from clinjepa.model.predictor import load_predictor
    from clinjepa.trajectory.labels.artifact import read_labels

    read = ForecastInputs(
        load_predictor(inputs["predictor"]),
        LatentReader(inputs["latents"]),
        inputs["ingest"],
        inputs["ingest"].read_table("stays.parquet"),
        read_labels(inputs["labels"], settings.event_tasks),
        inputs["direct"].read_table(DIRECT_FILE) if "direct" in inputs else None,
    )
    if FITTED in inputs and not inputs[FITTED].exists(f"{NAME}.json"):
        reason = f"the run has no forecasts: {inputs[FITTED].read_json(RESULT).get('reason', 'none was fitted')}"
        none = without_forecasts(settings.forecasts.context, reason)
        return _Outcome(none.result, {FORECASTS_FILE: none.forecasts, EVENTS_FILE: none.events})
    frozen = Forecaster.read(inputs[FITTED]) if FITTED in inputs else None
    found = evaluate_forecasts(read, load_tasks(settings.event_tasks), settings.forecasts, split=settings.split, forecaster=frozen)
    fitted = found.forecaster.files() if found.forecaster is not None and frozen is None else {}
    return _Outcome(found.result, {FORECASTS_FILE: found.forecasts, EVENTS_FILE: found.events}, fitted=fitted)


def _direct_forecasts(settings: DirectForecastSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.forecasts.points.direct import DIRECT_FILE, direct_forecasts

    table = direct_forecasts(inputs["ingest"], inputs["ingest"].read_table("stays.parquet"), settings)
    return _Outcome({"num_windows": table.num_rows, "variables": table.column_names[3:]}, {DIRECT_FILE: table})


def _shift(settings: ShiftSettings, inputs: _Inputs) -> _Outcome:
    from clinjepa.evaluation.shift import measure_shift

    return _Outcome(measure_shift(inputs["ingest"], inputs["trained_on"], settings.reach_hours, split=settings.split))

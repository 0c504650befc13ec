"""The stages of a frozen run on patients that it never saw.

Text, tokenizer, encoder, predictor, probes and forecaster are those of the run; only the source is another. Stages of the new data have
the kinds of the run's own, so each is run once, resumes and is shared by trials in the same way. An evaluation gets the run's evaluation
as its input `fitted`: it fits nothing and reads no training patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from clinjepa.config import Config
from clinjepa.config.schema import SourceConfig, SplitConfig
from clinjepa.config.section import result_fields
from clinjepa.sources import source_class
from clinjepa.sources.extraction import has_extractions
from pipelines.graph.experiment import Experiment, extract_definitions, stored_format
from pipelines.graph.saved_run import FITTED, SavedRun
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import DataStages, Trial

Patients = Literal["all", "held_out"]
"""Who is scored: every patient of the new data; or the patients that the run's own rule puts into held_out, for data that hold its training
patients as well."""
_WITH_PREDICTOR = ("drift", "downstream", "forecasts")
_WITH_LABELS = ("geometry", "downstream", "forecasts")


def scoring_config(run: Config, source: SourceConfig, name: str, patients: Patients) -> Config:
    """The configuration of the new patients: the run's, with another source and name, and without what would be fitted again."""
    evaluation = run.evaluation.model_copy(
        update={"added_value": run.evaluation.added_value.model_copy(update={"enabled": False}), "split": "held_out"}
    )
    everyone = run.split if patients == "held_out" else SplitConfig(everyone="held_out")
    return run.model_copy(update={"name": name, "source": source, "split": everyone, "evaluation": evaluation})


def scoring_experiment(run: SavedRun, trials: Sequence[Trial], config: Config, source_digest: str) -> Experiment:
    """The stages that score the new patients.

    Args:
        run: The finished run.
        trials: Its trials that score.
        config: As `scoring_config` makes it.
        source_digest: Content digest of the new source's files.

    Returns:
        An experiment whose trials have the phases of the run and the evaluations of the new data.
    """
    made: dict[int, DataStages] = {}
    scored = []
    for trial in trials:
        data = made.setdefault(id(trial.data), _data_stages(trial.data, config, source_digest))
        scored.append(_scored(trial, data, config))
    return Experiment(tuple(made.values()), tuple(scored), run.experiment.recipes)


def shift_stage(run: SavedRun, experiment: Experiment) -> Stage:
    """The comparison of the new patients with the training patients of the run's first trial."""
    windows = run.trials[0].data.trajectories.settings["windows"]
    settings = {"split": "held_out", "reach_hours": windows["max_hours"]}
    inputs = {"ingest": experiment.ingest, "trained_on": run.trials[0].data.ingest}
    return Stage("shift", "new patients and training", settings, inputs)


def score_stage(trial: Trial) -> Stage:
    """Probabilities and forecasts of the new patients by a trial of `scoring_experiment`."""
    downstream, forecasts = trial.evaluations["downstream"], trial.evaluations.get("forecasts")
    inputs = {
        "latents": trial.embed,
        "ingest": trial.data.ingest,
        "predictor": downstream.inputs["predictor"],
        "probes": downstream.inputs[FITTED],
    }
    events: list[str] = []
    if forecasts is not None:
        inputs["forecaster"] = forecasts.inputs[FITTED]
        events = forecasts.settings["event_tasks"]
    return Stage("scores", "scores", {"event_tasks": events}, inputs)


def _data_stages(own: DataStages, config: Config, source_digest: str) -> DataStages:
    """The run's data stages with another source. What the source does not decide is taken from the run's stages as it stands there."""
    source: dict[str, Any] = result_fields(config.source) | {"digest": source_digest}
    if config.source.kind != "simulator":
        del source["simulator"]
    inputs: dict[str, Stage] = {}
    if has_extractions(source_class(config.source)):
        extracted = {name: value for name, value in source.items() if name != "event_time"}
        definitions = own.ingest.inputs["extract"].settings["definitions"] if "extract" in own.ingest.inputs else extract_definitions()
        inputs = {"extract": Stage("extract", "extract", {"source": extracted, "definitions": definitions})}
    kept = {name: value for name, value in own.ingest.settings.items() if name != "stored_format"}
    settings = kept | {"source": source, "split": result_fields(config.split)} | stored_format(config.source)
    ingest = Stage("ingest", "ingest", settings, inputs)
    read = {"ingest": ingest, "tokenizer": own.tokenizer}
    trajectories = Stage("trajectories", "trajectories", own.trajectories.settings, read)
    asked = dict(own.labels.settings)
    if source_digest != own.ingest.settings["source"]["digest"]:
        asked.pop("files", None)  # a label file belongs to the patients of the run
    labels = Stage("labels", "labels", asked, {"ingest": ingest})
    baselines = Stage("baselines", "baselines", own.baselines.settings, {"ingest": ingest, "labels": labels})
    return DataStages(ingest, own.tokenizer, trajectories, labels, baselines)


def _scored(trial: Trial, data: DataStages, config: Config) -> Trial:
    """The trial with latents and evaluations of the new data."""
    embed = Stage("embed", "latents", trial.embed.settings, trial.embed.inputs | {"trajectories": data.trajectories})
    evaluations = {}
    for name, own in trial.evaluations.items():
        if name == "added_value":
            continue
        inputs = {"latents": embed, "ingest": data.ingest, FITTED: own}
        if name in _WITH_PREDICTOR:
            inputs["predictor"] = own.inputs["predictor"]
        if name in _WITH_LABELS:
            inputs["labels"] = data.labels
        if "other_doses" in own.inputs:
            other = own.inputs["other_doses"]
            changed = other.inputs | {"trajectories": data.trajectories, "ingest": data.ingest}
            inputs["other_doses"] = Stage("shifted_actions", "other doses", other.settings | {"split": "held_out"}, changed)
        if "direct" in own.inputs and data.ingest.key == own.inputs["ingest"].key:
            inputs["direct"] = own.inputs["direct"]  # forecasts of these very patients by gradient boosting
        if name == "geometry":
            del inputs[FITTED]  # nothing of it is fitted on other patients
        evaluations[name] = Stage(own.kind, own.label.partition(" · ")[0], own.settings | {"split": config.evaluation.split}, inputs)
    return replace(trial, data=data, embed=embed, evaluations=evaluations)

"""Hospital tables to trajectories, labels and latents with Ray Data: one partition is one row, one task, and the unit of resuming."""

from __future__ import annotations

from typing import Any

import ray
import ray.data

from clinjepa.clinical import load_tasks
from clinjepa.sources import open_source
from clinjepa.sources.extraction import ExtractionPlan, extracted_source, extraction_counts, item_report
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import build_labels, finish_labels
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import Executor, RunContext, one_cpu, one_task
from pipelines.graph.stage import Stage
from pipelines.scheduling.progress import console
from pipelines.stages.tasks import map_parts, run_remotely


def run_extract_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Tables of a source that cannot be read by patient -> the same rows laid down by patient, one table per task."""
    config, out = context.config, artifact.folder
    source = extracted_source(open_source(config.source))
    pieces = source.extractions()
    console.print(f"{stage.label}: {item_report(source.check_items())}", highlight=False)
    plan = ExtractionPlan.of(pieces, config.execution.memory_mb, ray.cluster_resources().get("CPU", 1))
    console.print(f"{stage.label}: {plan}", highlight=False)

    def build(index: int) -> None:
        extracted_source(open_source(config.source)).extract(pieces[index], out, plan.memory_mb_each)

    map_parts(context, stage, len(pieces), build, plan.at_a_time)
    return {"left_out": extraction_counts(out), "memory_mb": config.execution.memory_mb, "estimate_mb": plan.estimate_mb}


def run_ingest_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Partitions of the source -> hours, grid, stays; then cohort, split and the data card."""
    config, out = context.config, artifact.folder
    partitions = open_source(config.source).partitions()
    extracted = context.artifact(stage.inputs["extract"]).folder if "extract" in stage.inputs else None

    def build(index: int) -> None:
        build_partition(open_source(config.source), partitions[index], config, out, f"part-{index:05d}", extracted)

    map_parts(context, stage, len(partitions), build)
    return dict(finish_ingest(out, config, extraction_counts(extracted) if extracted is not None else None))


def run_tokenizer_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """One tokenizer from the training split's texts, or the pretrained model's own."""
    ingest = context.artifact(stage.inputs["ingest"]).folder
    return run_remotely(context, build_tokenizer, ingest, context.config, artifact.folder)


def run_trajectories_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Texts -> token ids, shard by shard; then the index and the windows."""
    config, out = context.config, artifact.folder
    ingest = context.artifact(stage.inputs["ingest"]).folder
    tokenizer = context.artifact(stage.inputs["tokenizer"]).folder
    parts = _parts(ingest)

    def build(index: int) -> None:
        build_trajectories(ingest, parts[index], tokenizer, config, out)

    map_parts(context, stage, len(parts), build)
    return dict(finish_trajectories(ingest, out, config))


def run_labels_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Grid, history and stays -> labels of every task, part by part; then prevalence and the MEDS label files."""
    ingest, out = context.artifact(stage.inputs["ingest"]).folder, artifact.folder
    tasks, hour, parts = load_tasks(stage.settings["tasks"]), stage.settings["stay_prediction_hour"], _parts(ingest)

    def build(index: int) -> None:
        build_labels(ingest, parts[index], tasks, hour, out)

    map_parts(context, stage, len(parts), build)
    return run_remotely(context, finish_labels, ingest, tasks, out)


def _parts(ingest: Folder) -> list[str]:
    return [name.removesuffix(".json") for name in ingest.names("parts")]


DATA_EXECUTORS: dict[str, Executor] = {
    "extract": Executor(run_extract_stage, one_cpu),
    "ingest": Executor(run_ingest_stage, one_cpu),
    "tokenizer": Executor(run_tokenizer_stage, one_task),
    "trajectories": Executor(run_trajectories_stage, one_cpu),
    "labels": Executor(run_labels_stage, one_task),
}
"""By stage kind; apart from the others, so that an ingest does not load torch and what evaluations need."""

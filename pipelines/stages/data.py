"""Hospital tables to trajectories and labels with Ray Data: one partition is one row, one task, and the unit of resuming.

Executors take what changes a result from their stage's settings, which are in its key. `_placed_source` and `run_tokenizer_stage` add from
the configuration what changes no result: where the data lie, under which name and terms, and whether a download is allowed.
"""

from __future__ import annotations

import ray
import ray.data
from pydantic import TypeAdapter

from clinjepa.clinical import load_tasks
from clinjepa.config.schema import SourceConfig
from clinjepa.config.section import execution_fields
from clinjepa.errors import SourceError
from clinjepa.sources import open_source
from clinjepa.sources.extraction import ExtractionPlan, extracted_source, extraction_counts, item_report
from clinjepa.sources.mapped_meds.coverage import read_coverage
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.code_coverage import describe_coverage
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.hours.odd_medians import describe_odd
from clinjepa.trajectory.hours.range_losses import describe
from clinjepa.trajectory.labels.artifact import build_labels, finish_labels
from clinjepa.trajectory.labels.label_files import LabelFile, in_words
from clinjepa.trajectory.settings import IngestSettings, LabelSettings, PretrainedTokenizer, TokenizerSettings, TrajectorySettings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.progress import console
from pipelines.stages.tasks import map_parts, run_remotely

_TOKENIZER: TypeAdapter[TokenizerSettings] = TypeAdapter(TokenizerSettings)


def run_extract_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Tables of a source that cannot be read by patient -> the same rows ordered by patient, one table per task."""
    config, execution, out = _placed_source(stage, context.config.source), context.config.execution, artifact.folder
    source = extracted_source(open_source(config))
    pieces = source.extractions()
    console.print(f"{stage.label}: {item_report(source.check_items())}", highlight=False)
    plan = ExtractionPlan.of(pieces, execution.memory_mb, ray.cluster_resources().get("CPU", 1))
    console.print(f"{stage.label}: {plan}", highlight=False)

    def build(index: int) -> None:
        extracted_source(open_source(config)).extract(pieces[index], out, plan.memory_mb_each)

    map_parts(context, stage, len(pieces), build, plan.at_a_time)
    return {"left_out": extraction_counts(out), "memory_mb": execution.memory_mb, "estimate_mb": plan.estimate_mb}


def run_ingest_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Partitions of the source -> hours, grid, stays; then cohort, split and the data card."""
    settings = _ingest_settings(stage, context.config.source)
    out, partitions = artifact.folder, open_source(settings.source).partitions()
    extracted = context.artifact(stage.inputs["extract"]).folder if "extract" in stage.inputs else None

    def build(index: int) -> None:
        build_partition(open_source(settings.source), partitions[index], settings, out, f"part-{index:05d}", extracted)

    map_parts(context, stage, len(partitions), build)
    left_out, codes = (extraction_counts(extracted), read_coverage(extracted)) if extracted is not None else (None, None)
    card = finish_ingest(out, settings, left_out, codes)
    if codes is not None:
        console.print(f"{stage.label}: {describe_coverage(codes)}", highlight=False)
    for loss in card["range_losses"]:
        console.print(f"{stage.label}: {describe(loss)}", highlight=False)
    for odd in card["odd_medians"]:
        console.print(f"{stage.label}: {describe_odd(odd)}", highlight=False)
    return dict(card)


def run_tokenizer_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """A tokenizer trained on the training split's texts, or that of a pretrained model."""
    settings = _TOKENIZER.validate_python(stage.settings)
    if isinstance(settings, PretrainedTokenizer):
        settings = settings.model_copy(update={"allow_download": context.config.encoder.allow_download})
    return run_remotely(context, build_tokenizer, context.artifact(stage.inputs["ingest"]).folder, settings, artifact.folder)


def run_trajectories_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Texts -> token ids, shard by shard; then the index and the windows."""
    settings, out = TrajectorySettings.model_validate(stage.settings), artifact.folder
    ingest = context.artifact(stage.inputs["ingest"]).folder
    tokenizer = context.artifact(stage.inputs["tokenizer"]).folder
    parts = _parts(ingest)

    def build(index: int) -> None:
        build_trajectories(ingest, parts[index], tokenizer, settings, out)

    map_parts(context, stage, len(parts), build)
    return dict(finish_trajectories(ingest, out, settings))


def run_labels_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Grid, history and stays -> labels of every task, part by part; then prevalence and the MEDS label files."""
    settings = LabelSettings.model_validate(_without_digests(stage))
    ingest, out = context.artifact(stage.inputs["ingest"]).folder, artifact.folder
    tasks, parts, files = load_tasks(settings.tasks), _parts(ingest), given_label_files(context, stage, settings)

    def build(index: int) -> None:
        build_labels(ingest, parts[index], tasks, settings.stay_prediction_hour, out, files)

    map_parts(context, stage, len(parts), build)
    metrics = run_remotely(context, finish_labels, ingest, tasks, out, files)
    for name, counts in out.read_json("prevalence.json").get("files", {}).items():
        console.print(in_words(name, counts), highlight=False, markup=False)
    return metrics


def given_label_files(context: RunContext, stage: Stage, settings: LabelSettings) -> list[LabelFile]:
    """The label files of a labels stage, where this run's configuration says they are.

    Those beside a source whose times are UTC (CLIF) get the hospital's zone.

    Raises:
        SourceError: A file has other content than the key's, or its place is not known.
    """
    found, source = [], stage.inputs["ingest"].settings["source"]
    zone = str(source.get("time_zone", "UTC")) if source["kind"] == "clif" else None
    for name, given in settings.files.items():
        place = context.config.labels.files.get(name)
        if place is None:
            raise SourceError(f"the labels of {name} are not computed yet and labels.files.{name} is not set; set its path")
        file = LabelFile(name, place.path, given.column, zone)
        if file.content_digest() != given.digest:
            raise SourceError(f"{place.path}: the labels of {name} changed since this run was planned; run again")
        found.append(file)
    return found


def _ingest_settings(stage: Stage, place: SourceConfig) -> IngestSettings:
    return IngestSettings.model_validate(_without_digests(stage) | {"source": _placed_source(stage, place)})


def _placed_source(stage: Stage, place: SourceConfig) -> SourceConfig:
    """The source of an extract or ingest stage.

    Fields that change results come from the stage. The others (`path`, `name`, `access`) come from `place`, the configuration of this run:
    the key holds the digest of the files instead of their place, so data that were moved have the same key.
    """
    stated = {name: value for name, value in stage.settings["source"].items() if name != "digest"}
    return SourceConfig.model_validate(execution_fields(place) | stated)


def _without_digests(stage: Stage) -> dict[str, object]:
    """A stage's settings without the digest of the clinical definitions, which are read from the installed package, and further formats."""
    return {name: value for name, value in stage.settings.items() if name not in ("definitions", "stored_format")}


def _parts(ingest: Folder) -> list[str]:
    return [name.removesuffix(".json") for name in ingest.names("parts")]

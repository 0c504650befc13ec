"""What `clinjepa plan` expects of the stages `shifted_actions`: the action texts of the evaluated stays that are encoded with other doses.

Which texts hold a dose is known only when the stage reads them. So the plan gives upper bounds: every hour of the evaluated split counts
as a changed action text of the recorded length. The arithmetic is that of a latent store (`estimates.py`).
"""

from __future__ import annotations

import math

from clinjepa.capacity.duration import pass_time
from clinjepa.capacity.memory import RunSizes
from clinjepa.capacity.model_sizes import Architecture, known_gpus
from clinjepa.config import Config
from clinjepa.errors import ClinJepaError, ConfigError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.data_sizes import DataSizes, data_sizes
from pipelines.graph.estimates import PlanPart, architecture, text_sizes
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import read_start
from pipelines.graph.stage import Stage

_SPLITS = ("train", "tuning", "held_out")


class ChangedActionEstimate(PlanPart):
    """The action texts with other doses (`evaluation.drift.dose_factor`), for every latent store that a trial is evaluated on.

    Not part of the sums of `grid` and `latents`.
    """

    unknown: str | None
    """Why bytes and time are not known; null when they are."""
    num_stores: int
    """Number of stages `shifted_actions`."""
    num_done: int
    """Finished ones; their bytes and texts are counted."""
    most_texts: int
    """Upper bound of the texts of a store: the hours of the evaluated split. Only those with a dose are encoded."""
    basis: str
    """What this bound comes from."""
    most_tokens: float
    """most_texts times the mean tokens of an action text."""
    most_bytes: int
    """most_texts * width * value_bytes of a latent store."""
    most_seconds: float | None
    """Upper bound of the time of a store; null unless `execution.use_gpu=true`."""
    most_total_bytes: int
    """Sum over the stores: of the vectors of finished ones, and `most_bytes` for the others."""


def changed_action_estimate(config: Config, experiment: Experiment | None) -> ChangedActionEstimate | None:
    """Texts, tokens, bytes and time of the stages `shifted_actions`; None without `evaluation.drift.dose_factor`.

    Args:
        config: The configuration.
        experiment: Its stages; None when the source was not read.

    Raises:
        ConfigError: As `build_experiment`.
        SourceError: The source cannot be read.
    """
    graph = experiment or build_experiment(
        config, "", label_digests={}, start=read_start(config)
    )  # the source decides keys, not how many stores there are
    stages = [stage for stage in graph.stages if stage.kind == "shifted_actions"]
    if not stages:
        return None
    sizes = data_sizes(config, experiment)
    most_texts, basis = _most_texts(config, sizes)
    tokens = most_texts * text_sizes(config, experiment, sizes).tokens_per_action
    unknown, model = None, None
    try:
        model = architecture(config)
    except ConfigError as error:
        unknown = str(error)
    per_text = model.hidden * (2 if config.encoder.dtype == "bfloat16" else 4) if model else 0
    written = [count for count in (_written_texts(config, stage) for stage in stages if experiment) if count is not None]
    return ChangedActionEstimate(
        unknown=unknown,
        num_stores=len(stages),
        num_done=len(written),
        most_texts=most_texts,
        basis=basis,
        most_tokens=tokens,
        most_bytes=most_texts * per_text,
        most_seconds=_seconds(config, model, tokens) if model and config.execution.use_gpu else None,
        most_total_bytes=(sum(written) + (len(stages) - len(written)) * most_texts) * per_text,
    )


def _most_texts(config: Config, sizes: DataSizes) -> tuple[int, str]:
    """(hours of the evaluated split at most, what they come from)."""
    split = config.evaluation.split
    if sizes.hours_of:
        return sizes.hours_of.get(split, 0), f"hours of {split}, {sizes.basis}"
    if config.split.use_source_split:
        return sizes.most_hours, f"all hours, since the source has its own split; {sizes.basis}"
    share = config.split.fractions[_SPLITS.index(split)]
    return math.ceil(share * sizes.most_hours), f"{share:.0%} of the hours, by split.fractions; {sizes.basis}"


def _written_texts(config: Config, stage: Stage) -> int | None:
    """Changed texts of a finished store; None when it is not finished, or damaged, which the table of stages shows."""
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    try:
        return int(artifact.manifest()["metrics"]["num_changed"]) if artifact.is_complete() else None
    except (ClinJepaError, KeyError):
        return None


def _seconds(config: Config, model: Architecture, tokens: float) -> float:
    sections, gpu = config.model_dump(mode="json"), known_gpus()[config.execution.gpu_kind]
    run = RunSizes.from_settings(model, sections, config.execution.gpu_memory_gb or gpu["memory_gib"])
    peak = config.execution.gpu_tflops or gpu["bf16_tflops"]
    return pass_time(run, "shifted_actions", tokens, sections, peak, gpu["fp32_tflops"]).seconds

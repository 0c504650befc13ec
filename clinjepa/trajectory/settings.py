"""Settings of the stages that build trajectories and labels, as they stand in a stage's key.

A stage's settings are the `result_fields` of one of these sections; the stage's executor parses the same section from the stage. Fields
marked `Execution` say where data lie or what may be downloaded: they enter no key and come from the configuration of the run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clinjepa.config.schema import CohortConfig, Config, LabelColumn, SourceConfig, SplitConfig, TextConfig, WindowConfig
from clinjepa.config.section import Added, Execution, Section


class IngestSettings(Section):
    """What the hours, the cohort and the split of an ingest artifact depend on."""

    source: SourceConfig
    cohort: CohortConfig
    split: SplitConfig
    text: TextConfig

    @classmethod
    def of(cls, config: Config) -> IngestSettings:
        """Those of a configuration."""
        return cls(source=config.source, cohort=config.cohort, split=config.split, text=config.text)


class TrainedTokenizer(Section):
    """A byte-level BPE trained on the training split's texts."""

    init: Literal["train"] = "train"
    vocab_size: int = Field(ge=300)
    """Most pieces of the vocabulary."""


class PretrainedTokenizer(Section):
    """The tokenizer of a public model."""

    init: Literal["pretrained"] = "pretrained"
    model: str
    """Model id or folder."""

    revision: str | None
    allow_download: bool = Execution(False)
    """Let Hugging Face's hub be reached."""


TokenizerSettings = TrainedTokenizer | PretrainedTokenizer


def tokenizer_settings(config: Config) -> TokenizerSettings:
    """The settings of the tokenizer that a configuration asks for."""
    if config.tokenizer.init == "train":
        return TrainedTokenizer(vocab_size=config.tokenizer.vocab_size)
    encoder = config.encoder
    return PretrainedTokenizer(model=encoder.model or "", revision=encoder.revision, allow_download=encoder.allow_download)


class TrajectorySettings(Section):
    """How texts are cut into tokens and stays into windows."""

    windows: WindowConfig
    max_tokens: int = Field(ge=8)
    """Longer texts are cut at the end, and counted."""

    @classmethod
    def of(cls, config: Config) -> TrajectorySettings:
        """Those of a configuration."""
        return cls(windows=config.windows, max_tokens=config.tokenizer.max_tokens)


class GivenLabels(Section):
    """Labels of a task that are read from a file of the user."""

    column: LabelColumn
    """The column of the labels."""

    digest: str
    """Content digest of the files (`clinjepa.trajectory.labels.label_files`)."""


class LabelSettings(Section):
    """Which tasks get labels."""

    tasks: list[str]
    """Names of files in `clinjepa/clinical/tasks/`."""

    stay_prediction_hour: int = Field(ge=1)
    """Stay-level tasks are predicted once, from the first this many hours."""

    files: dict[str, GivenLabels] = Added({})
    """Tasks whose labels are read from files."""

"""What benchmarks of the training train on: the stores of a demo configuration, made in this process, and phase jobs on them.

Real patients where a folder holds them (`--data`, or `CLINJEPA_DATA`, with the folders that `clinjepa data get` makes), else the simulator.
The base is the configuration's own with random weights: what is measured does not depend on what it has learnt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clinjepa.config import Config, load_config, result_fields
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob, PhaseJob
from clinjepa.curriculum.recipes import Recipe, load_recipe, phase_steps
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.latent_store import finish_latents
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

ROOT = Path(__file__).parents[2]
_REAL = {"mimic_iv_demo": ("demo.yaml", "mimic-iv-demo-meds"), "cinc2012": ("demo_cinc2012.yaml", "cinc2012")}


def demo_config(dataset: str, data: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The demo's configuration of `mimic_iv_demo` or `cinc2012` where the data are at hand, else (or for simulator) of simulated ones.

    data: the folder that holds the data sets' folders; None looks at CLINJEPA_DATA. overrides: settings by dotted name; those of
    `source` only count for the data set they were meant for.
    """
    changes = dict(overrides or {})
    file = "demo_simulator.yaml"
    if dataset in _REAL:
        name, folder = _REAL[dataset]
        path = Path(data or os.environ.get("CLINJEPA_DATA", "/nonexistent"), folder)
        if path.is_dir():
            file, changes["source.path"] = name, str(path)
        else:
            changes = {key: value for key, value in changes.items() if not key.startswith("source.")}
    return load_config(ROOT / "configs" / file, [f"{key}={value}" for key, value in changes.items()])


@dataclass
class Counts:
    """What encoding a store took: texts and tokens that went through the encoder."""

    num_texts: int = 0
    num_tokens: int = 0


@dataclass
class DemoStores:
    """Trajectory store and base of a configuration under `root`; latent stores are made when asked for."""

    root: Path
    config: Config
    embedded: dict[str, Counts] = field(default_factory=dict)
    """By latent store's address."""

    def __post_init__(self) -> None:
        config = self.config
        ingest, tokenizer, out = (Folder(self.root / name) for name in ("ingest", "tokenizer", "trajectories"))
        source = open_source(config.source)
        parts = [f"part-{index:05d}" for index in range(len(source.partitions()))]
        for part, partition in zip(parts, source.partitions(), strict=True):
            build_partition(source, partition, config, ingest, part)
        finish_ingest(ingest, config)
        build_tokenizer(ingest, tokenizer_settings(config), tokenizer)
        for part in parts:
            build_trajectories(ingest, part, tokenizer, TrajectorySettings.of(config), out)
        finish_trajectories(ingest, out, TrajectorySettings.of(config))
        make_base(encoder_spec(self.encoder_settings, out), 0, Folder(self.root / "base"))

    @property
    def encoder_settings(self) -> EncoderSettings:
        return EncoderSettings.from_json(result_fields(self.config.encoder))

    @property
    def trajectories(self) -> str:
        return Folder(self.root / "trajectories").address

    @property
    def base(self) -> str:
        return Folder(self.root / "base").address

    @cached_property
    def reader(self) -> TrajectoryReader:
        return TrajectoryReader(Folder(self.trajectories), cached_row_groups=256)

    def embed(self, out: Path, encoder: str | None = None) -> str:
        """A latent store in `out` of the base, or of the online adapters in the folder `encoder`; returns its address."""
        settings = self.encoder_settings
        job = EmbedJob(
            Folder(out).address, self.trajectories, self.base, encoder, settings.base, settings.reading(adapted=encoder is not None)
        )
        embedder, counts = Embedder(job), Counts()
        for shard in Folder(self.trajectories).names("shards"):
            done = embedder.embed_shard(shard.removesuffix(".parquet"))
            counts.num_texts, counts.num_tokens = counts.num_texts + done["num_texts"], counts.num_tokens + done["num_tokens"]
        finish_latents(Folder(out))
        self.embedded[job.out] = counts
        return job.out

    @cached_property
    def latents(self) -> str:
        """The latent store of the base."""
        return self.embed(self.root / "latents")

    def job(self, phase: str, out: Path, num_steps: int, **changes: Any) -> PhaseJob:
        """A job of one phase of `clin_jepa` with the configuration's settings; `changes`: fields of the job or its curriculum settings."""
        curriculum = result_fields(self.config.curriculum)
        settings = CurriculumSettings.from_section({name: changes.pop(name, value) for name, value in curriculum.items()})
        execution = self.config.curriculum
        fields: dict[str, Any] = {
            "out": Folder(out).address,
            "trajectories": self.trajectories,
            "base": self.base,
            "phase": next(each for each in self.recipe.phases if each.name == phase),
            "num_steps": num_steps,
            "first_step": 0,
            "total_steps": num_steps,
            "seed": 0,
            "encoder_settings": self.encoder_settings,
            "predictor_settings": PredictorSettings.from_json(result_fields(self.config.predictor)),
            "curriculum_settings": settings,
            "checkpoint_every_steps": execution.checkpoint_every_steps,
            "keep_checkpoints": execution.keep_checkpoints,
            "log_every_steps": execution.log_every_steps,
        }
        return PhaseJob(**{**fields, **changes})

    @property
    def recipe(self) -> Recipe:
        return load_recipe("clin_jepa")

    def steps(self, num_steps: int) -> dict[str, int]:
        """Steps of each phase when the curriculum has this many."""
        steps = phase_steps(self.recipe, num_steps, self.config.curriculum.shares)
        return {phase.name: own for phase, own in zip(self.recipe.phases, steps, strict=True)}

    def describe(self) -> dict[str, Any]:
        """What a result was measured on."""
        return {
            "dataset": self.config.source.name,
            "num_stays": self.reader.stays.num_rows,
            "num_windows": self.reader.windows.num_rows,
            "hidden_size": self.config.encoder.hidden_size,
            "num_layers": self.config.encoder.num_layers,
        }

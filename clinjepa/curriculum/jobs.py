"""What one training job needs, with a JSON form: SFT, a phase of the curriculum, or the hard sync between two phases.

A job names folders by address and holds typed settings, so a launcher can send it to a worker on any machine. It holds only settings
that are in its stage's key (`pipelines/graph/trial_stages.py`), and fields that change how a result is computed but not the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from clinjepa.curriculum.recipes.phases import Phase, reads_values
from clinjepa.curriculum.settings import (
    BaseSettings,
    CurriculumSettings,
    EncoderSettings,
    LoraSettings,
    PredictorSettings,
    ReadingSettings,
    Recompute,
    Settings,
    SftSettings,
)
from clinjepa.curriculum.terms.table import TermTable
from clinjepa.errors import ConfigError

_ADDRESSES = ("out", "trajectories", "latents", "base", "encoder", "target", "predictor", "heads", "ingest")
_EXECUTION = (
    "checkpoint_every_steps",
    "keep_checkpoints",
    "asynchronous_checkpoints",
    "log_every_steps",
    "reencode",
    "activation_checkpointing",
    "label",
)
COST = "cost.json"
"""What a phase cost: `predictor_tokens`, for comparisons of budgets. No result depends on it."""
ALIGNMENT_RULE = 4.0
"""Steps of alignment times (1 − EMA momentum) must reach this, or the target never arrives (method: EMA when runs are short)."""


@dataclass(frozen=True)
class TrainingJob(Settings, ABC):
    """What SFT and the phases have in common. Folders are addresses (local or fsspec URLs); None means that there is none."""

    KIND: ClassVar[str]
    """Value of `kind` in the job's JSON form."""
    MICRO_BATCH_SETTING: ClassVar[str]
    """Setting that decides how many micro-batches a step has."""

    out: str
    trajectories: str
    seed: int
    base: str | None = field(default=None, kw_only=True)
    """Folder of a base made here or of a public base's name."""
    checkpoint_every_steps: int = field(default=50, kw_only=True)
    keep_checkpoints: int = field(default=2, kw_only=True)
    asynchronous_checkpoints: bool = field(default=True, kw_only=True)
    """Write checkpoints while training continues; otherwise training waits until each is whole."""
    log_every_steps: int = field(default=10, kw_only=True)
    activation_checkpointing: Recompute = field(default="none", kw_only=True)

    @classmethod
    def from_json(cls, value: object, where: str | None = None) -> Self:
        """Build and validate a job; raises ConfigError before any work is done."""
        job = super().from_json(_without_kind(value, cls.KIND), where or f"{cls.KIND} job")
        job.validate()
        return job

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the job's kind."""
        return {"kind": self.KIND, **super().to_json()}

    @property
    @abstractmethod
    def name(self) -> str:
        """The job in messages."""

    @property
    @abstractmethod
    def num_micro_batches(self) -> int:
        """Micro-batches that every optimizer step is cut into, whatever the number of workers."""

    @property
    def start_step(self) -> int:
        """Number of the job's first optimizer step, counted over all phases; SFT counts from 0."""
        return 0

    @property
    @abstractmethod
    def expected_steps(self) -> int:
        """Optimizer steps of the job as far as its settings alone say."""

    def validate(self) -> None:
        """Raise ConfigError for values that cannot work."""
        for name in ("checkpoint_every_steps", "keep_checkpoints", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed")


@dataclass(frozen=True)
class PhaseJob(TrainingJob):
    """One phase of a recipe that trains something."""

    KIND: ClassVar[str] = "phase"
    MICRO_BATCH_SETTING: ClassVar[str] = "curriculum.micro_batch"

    phase: Phase
    num_steps: int
    first_step: int
    """Number of the phase's first optimizer step, counted over all phases."""
    total_steps: int
    """Steps of all phases together: the length of the learning-rate schedule."""
    encoder_settings: EncoderSettings
    predictor_settings: PredictorSettings
    curriculum_settings: CurriculumSettings
    latents: str | None = None
    """Latent store of the online encoder, for phases in which it is frozen."""
    encoder: str | None = None
    """Folder with `online.safetensors`; None starts adapters as the base itself."""
    target: str | None = None
    """Folder with `target.safetensors`; None makes the target a copy of online (joint refinement)."""
    predictor: str | None = None
    """Folder with `predictor.*` and `optimizer.*` of the phase before; None initialises a new predictor from `seed`."""
    heads: str | None = None
    """Folder of the last phase that trained heads; those that this phase has too continue from it, others start fresh."""
    ingest: str | None = None
    """Ingest artifact of the trajectories, for phases with a term that reads the hours' values."""
    label: str | None = None
    """The phase in messages, with the recipe that it belongs to; None: its name alone."""
    terms_source: str | None = None
    """Python source of the recipe's own loss terms; None where the phase uses none."""
    reencode: bool = False
    """Run the encoder at every step of a frozen phase instead of reading the latent store; the losses are the same."""

    @property
    def name(self) -> str:
        return f"phase {self.label or self.phase.name}"

    @property
    def num_micro_batches(self) -> int:
        return -(-self.curriculum_settings.global_batch // self.curriculum_settings.micro_batch)

    @property
    def start_step(self) -> int:
        return self.first_step

    @property
    def expected_steps(self) -> int:
        return self.num_steps

    @property
    def last_step(self) -> int:
        """The number of steps that are done, over all phases, when this one is complete."""
        return self.first_step + self.num_steps

    @property
    def trains_encoder(self) -> bool:
        return self.phase.trains_encoder

    @property
    def terms(self) -> TermTable:
        """The loss terms that the phase may name. Raises ConfigError when the recipe's own source fails."""
        return TermTable.of(self.terms_source)

    @property
    def reads_latents(self) -> bool:
        """Online latents come from the latent store."""
        return not self.trains_encoder and not self.reencode

    @property
    def reads_values(self) -> bool:
        """A term of the loss reads the measured numbers of the hours."""
        return reads_values(self.phase, self.terms)

    @property
    def needs_encoder(self) -> bool:
        """Some step runs the encoder."""
        return self.trains_encoder or self.reencode or self.phase.needs_target

    def validate(self) -> None:
        """Raise ConfigError for values that cannot work; warn when alignment is too short for its target to arrive."""
        super().validate()
        if self.phase.trains == "nothing":
            raise ConfigError(f"{self.name} takes no training steps; it is an operation on checkpoints (a sync job, see hard_sync)")
        if self.num_steps < 1:
            raise ConfigError(f"{self.name}: num_steps is {self.num_steps}; at least 1 is needed")
        if self.first_step < 0 or self.last_step > self.total_steps:
            raise ConfigError(f"{self.name}: steps {self.first_step} to {self.last_step} do not fit into total_steps={self.total_steps}")
        if self.reads_latents and not self.latents:
            raise ConfigError(f"{self.name}: the encoder is frozen, so latents (a latent store) is needed; or set reencode")
        if self.phase.needs_target and not self.trains_encoder and not self.target:
            raise ConfigError(f"{self.name}: its target is the EMA encoder of an earlier phase, so target is needed")
        if self.reads_values and not self.ingest:
            raise ConfigError(f"{self.name}: a term of its loss reads the hours' values, so ingest (the artifact with the grid) is needed")
        shortfall = alignment_shortfall(self.phase, self.num_steps, self.curriculum_settings.ema_momentum)
        if shortfall is not None:
            warnings.warn(f"phase {shortfall}", stacklevel=2)


@dataclass(frozen=True)
class SftJob(TrainingJob):
    """Next-token fine-tuning of the encoder on the pooled hour texts of the training stays."""

    KIND: ClassVar[str] = "sft"
    MICRO_BATCH_SETTING: ClassVar[str] = "sft.micro_tokens"

    base_settings: BaseSettings
    sft_settings: SftSettings
    lora: LoraSettings | None = None
    """Adapters to train on a frozen base; None trains all weights of the base in fp32."""

    @property
    def name(self) -> str:
        return "SFT"

    @property
    def num_micro_batches(self) -> int:
        return -(-self.sft_settings.tokens_per_step // self.sft_settings.micro_tokens)

    @property
    def expected_steps(self) -> int:
        return self.sft_settings.max_steps or 1  # without max_steps the number of steps follows from the texts


@dataclass(frozen=True)
class SyncJob(Settings):
    """The hard sync: target := online, on the tensors of two folders. It builds no model and takes no settings."""

    KIND: ClassVar[str] = "sync"

    out: str
    online: str
    """Folder with `online.safetensors`."""
    target: str | None = None
    """Folder with the `target.safetensors` of the phase before; None when the gap before the sync is not to be measured."""

    @classmethod
    def from_json(cls, value: object, where: str | None = None) -> Self:
        """Build a job; raises ConfigError."""
        return super().from_json(_without_kind(value, cls.KIND), where or f"{cls.KIND} job")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the job's kind."""
        return {"kind": self.KIND, **super().to_json()}


@dataclass(frozen=True)
class EmbedJob(Settings):
    """Everything an encoder worker of a latent store needs, with a JSON form."""

    out: str
    trajectories: str
    base: str
    encoder: str | None
    """Folder with `online.safetensors`; None when the base itself encodes."""

    base_settings: BaseSettings
    reading: ReadingSettings
    use_gpu: bool | None = None
    """Whether to compute on a GPU; None: where torch sees one."""


Job = PhaseJob | SftJob
"""A job that trains."""


def load_job(value: object) -> PhaseJob | SftJob | SyncJob:
    """The job that `to_json` wrote; raises ConfigError."""
    kinds: dict[str, type[PhaseJob] | type[SftJob] | type[SyncJob]] = {job.KIND: job for job in (PhaseJob, SftJob, SyncJob)}
    if not isinstance(value, Mapping) or value.get("kind") not in kinds:
        raise ConfigError(f"a job is a JSON object with kind: {' or '.join(kinds)}")
    return kinds[value["kind"]].from_json(value)


def load_training_job(value: object) -> Job:
    """As `load_job`, for a job that trains; raises ConfigError for a hard sync."""
    job = load_job(value)
    if isinstance(job, SyncJob):
        raise ConfigError("a hard sync is not a training job; run it with hard_sync")
    return job


def job_digest(job: TrainingJob) -> str:
    """SHA-256 over what determines the job's result apart from its inputs' content: no addresses, nothing about execution."""
    kept = {key: value for key, value in job.to_json().items() if key not in _ADDRESSES and key not in _EXECUTION}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def alignment_shortfall(phase: Phase, num_steps: int, ema_momentum: float) -> str | None:
    """The fault and its remedy when an alignment is too short for its target to arrive (`ALIGNMENT_RULE`); None when it is long enough."""
    reached = num_steps * (1.0 - ema_momentum)
    if not phase.ema_moves or phase.trains_encoder or reached >= ALIGNMENT_RULE - 1e-9:
        return None
    # Rounded down: a momentum rounded up would be too high by the same rule.
    momentum = math.floor((1 - ALIGNMENT_RULE / num_steps) * 1e4) / 1e4 if num_steps > ALIGNMENT_RULE else 0.0
    remedy = f"set curriculum.ema_momentum <= {momentum:g} or give" if momentum > 0 else "give"
    return (
        f"{phase.name}: num_steps * (1 - ema_momentum) = {num_steps} * {1 - ema_momentum:.4g} = {reached:.4g} is under {ALIGNMENT_RULE:g}, "
        f"the target does not arrive at the online encoder; {remedy} the phase more steps (curriculum.num_steps)"
    )


def pack_places(micro_tokens: int) -> int:
    """Token places that an SFT pack may take: an eighth more than `micro_tokens`.

    A text may extend beyond the plan's cut and rows have gaps. Without the extra places the rest would make a small second pack, for
    which a GPU launches as many operations as for a full one and FSDP2 gathers the whole model again.
    """
    return micro_tokens + micro_tokens // 8


def check_workers(job: TrainingJob, world_size: int) -> None:
    """Raise ConfigError when there are more workers than micro-batches in a step."""
    available = job.num_micro_batches
    if world_size > available:
        raise ConfigError(
            f"{world_size} workers share {available} micro-batches of a step; use at most {available} workers "
            f"or lower {job.MICRO_BATCH_SETTING}"
        )


def _without_kind(value: object, kind: str) -> object:
    if not isinstance(value, Mapping):
        return value
    if value.get("kind", kind) != kind:
        raise ConfigError(f"not a {kind} job: its kind is {value['kind']!r}")
    return {key: item for key, item in value.items() if key != "kind"}

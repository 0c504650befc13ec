"""What one training job needs to know, as plain JSON: a phase of the curriculum, or the SFT stage before it.

A job names folders and settings, never objects, so that a launcher can hand it to a worker on any machine. Settings are
the result-changing fields of the configuration's sections (`encoder_settings`, …).
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from clinjepa.curriculum.recipes import Phase
from clinjepa.errors import ConfigError

_ADDRESSES = ("out", "trajectories", "latents", "base", "encoder", "target", "predictor")
_EXECUTION = (
    "checkpoint_every_steps",
    "keep_checkpoints",
    "asynchronous_checkpoints",
    "log_every_steps",
    "reencode",
    "activation_checkpointing",
)
ALIGNMENT_RULE = 4.0
"""Steps of alignment times (1 − EMA momentum) must reach this, or the target never arrives (method: EMA when runs are short)."""


@dataclass(frozen=True)
class PhaseJob:
    """One phase of a recipe. Folders are addresses (local or fsspec URLs); None means that there is none yet."""

    out: str
    trajectories: str
    phase: dict[str, Any]
    num_steps: int
    first_step: int
    """Number of the phase's first optimizer step, counted over all phases."""
    total_steps: int
    """Steps of all phases together: the length of the learning-rate schedule."""
    seed: int
    encoder_settings: dict[str, Any]
    predictor_settings: dict[str, Any]
    curriculum_settings: dict[str, Any]
    latents: str | None = None
    """Latent store of the online encoder, for phases in which it is frozen."""
    base: str | None = None
    encoder: str | None = None
    """Folder with `online.safetensors`; None starts adapters as the base itself."""
    target: str | None = None
    """Folder with `target.safetensors`; None makes the target a copy of online (joint refinement)."""
    predictor: str | None = None
    """Folder with `predictor.*` and `optimizer.*` of the phase before; None initialises a new predictor from `seed`."""
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    asynchronous_checkpoints: bool = True
    """Write checkpoints beside the training; otherwise it stands still until each is whole."""
    log_every_steps: int = 10
    reencode: bool = False
    """Run the encoder at every step of a frozen phase instead of reading the latent store; the losses are the same."""
    activation_checkpointing: str = "none"
    """`none`, `selective` or `full`: what the encoder's layers compute again in their backward pass; the losses are the same."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PhaseJob:
        """Validate and build; raises ConfigError before any work is done."""
        return _from_json(cls, value, "phase")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the job's kind."""
        return {"kind": "phase", **asdict(self)}

    @property
    def parsed_phase(self) -> Phase:
        return Phase.from_dict(self.phase)

    @property
    def last_step(self) -> int:
        """The number of steps that are done, over all phases, when this one is complete."""
        return self.first_step + self.num_steps

    @property
    def trains_encoder(self) -> bool:
        return self.parsed_phase.trains == "both"

    @property
    def reads_latents(self) -> bool:
        """Online latents come from the latent store."""
        return not self.trains_encoder and not self.reencode

    @property
    def needs_encoder(self) -> bool:
        """Some step runs the encoder."""
        return self.trains_encoder or self.reencode or self.parsed_phase.needs_target

    def validate(self) -> None:
        """Raise ConfigError for what cannot work; warn when alignment is too short to align."""
        phase = self.parsed_phase
        _check_counts(self)
        if phase.trains == "nothing":
            if self.num_steps:
                raise ConfigError(f"phase {phase.name} is an operation on checkpoints and takes no steps; num_steps is {self.num_steps}")
            if not self.encoder:
                raise ConfigError(f"phase {phase.name} copies online to target: encoder (a folder with online.safetensors) is needed")
            return
        if self.num_steps < 1:
            raise ConfigError(f"phase {phase.name}: num_steps is {self.num_steps}; at least 1 is needed")
        if self.first_step < 0 or self.last_step > self.total_steps:
            raise ConfigError(
                f"phase {phase.name}: steps {self.first_step} to {self.last_step} do not fit into total_steps={self.total_steps}"
            )
        if self.reads_latents and not self.latents:
            raise ConfigError(f"phase {phase.name}: the encoder is frozen, so latents (a latent store) is needed; or set reencode")
        if phase.needs_target and not self.trains_encoder and not self.target:
            raise ConfigError(f"phase {phase.name}: its target is the EMA encoder of an earlier phase, so target is needed")
        shortfall = alignment_shortfall(phase, self.num_steps, float(self.curriculum_settings["ema_momentum"]))
        if shortfall is not None:
            warnings.warn(f"phase {shortfall}", stacklevel=2)


@dataclass(frozen=True)
class SftJob:
    """Next-token fine-tuning of the encoder on the pooled hour texts of the training stays."""

    out: str
    trajectories: str
    seed: int
    encoder_settings: dict[str, Any]
    sft_settings: dict[str, Any]
    base: str | None = None
    """Folder of a base made here; None when `encoder_settings` names a public model."""
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    asynchronous_checkpoints: bool = True
    """Write checkpoints beside the training; otherwise it stands still until each is whole."""
    log_every_steps: int = 10
    activation_checkpointing: str = "none"
    """As in `PhaseJob`."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SftJob:
        """Validate and build; raises ConfigError before any work is done."""
        return _from_json(cls, value, "sft")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the job's kind."""
        return {"kind": "sft", **asdict(self)}

    def validate(self) -> None:
        """Raise ConfigError for what cannot work."""
        _check_counts(self)


Job = PhaseJob | SftJob


def alignment_shortfall(phase: Phase, num_steps: int, ema_momentum: float) -> str | None:
    """What to say, with the remedy, of an alignment too short for its target to arrive (`ALIGNMENT_RULE`); None when it is long enough."""
    reached = num_steps * (1.0 - ema_momentum)
    if not phase.ema_moves or phase.trains == "both" or reached >= ALIGNMENT_RULE - 1e-9:
        return None
    # Rounded down: rounded up, what is advised would be warned of again.
    momentum = math.floor((1 - ALIGNMENT_RULE / num_steps) * 1e4) / 1e4 if num_steps > ALIGNMENT_RULE else 0.0
    remedy = f"set curriculum.ema_momentum <= {momentum:g} or give" if momentum > 0 else "give"
    return (
        f"{phase.name}: num_steps * (1 - ema_momentum) = {num_steps} * {1 - ema_momentum:.4g} = {reached:.4g} is under {ALIGNMENT_RULE:g}, "
        f"the target does not arrive at the online encoder; {remedy} the phase more steps (curriculum.num_steps)"
    )


def load_job(value: Mapping[str, Any]) -> Job:
    """The job that `to_json` wrote; raises ConfigError."""
    kinds: dict[str, type[PhaseJob] | type[SftJob]] = {"phase": PhaseJob, "sft": SftJob}
    if not isinstance(value, Mapping) or value.get("kind") not in kinds:
        raise ConfigError(f"a job is a JSON object with kind: {' or '.join(kinds)}")
    return kinds[value["kind"]].from_json(value)


def job_digest(job: Job) -> str:
    """SHA-256 over what determines the job's result apart from its inputs' content: no addresses, nothing about execution."""
    kept = {key: value for key, value in job.to_json().items() if key not in _ADDRESSES and key not in _EXECUTION}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def num_micro_batches(job: Job) -> int:
    """Micro-batches that every optimizer step is cut into, whatever the number of workers."""
    if isinstance(job, SftJob):
        return -(-int(job.sft_settings["tokens_per_step"]) // int(job.sft_settings["micro_tokens"]))
    return -(-int(job.curriculum_settings["global_batch"]) // int(job.curriculum_settings["micro_batch"]))


def pack_places(micro_tokens: int) -> int:
    """Token places that an SFT pack may take: a text overhangs where the plan cuts and rows have gaps, and what is left over would make
    a small second pack, for which a GPU is told as many operations as for a full one and FSDP2 gathers the whole model again."""
    return micro_tokens + micro_tokens // 8


def check_workers(job: Job, world_size: int) -> None:
    """Raise ConfigError when there are more workers than micro-batches in a step."""
    available = num_micro_batches(job)
    if world_size > available:
        cut = "sft.micro_tokens" if isinstance(job, SftJob) else "curriculum.micro_batch"
        raise ConfigError(f"{world_size} workers share {available} micro-batches of a step; use at most {available} workers or lower {cut}")


def _check_counts(job: Job) -> None:
    for name in ("checkpoint_every_steps", "keep_checkpoints", "log_every_steps"):
        if getattr(job, name) < 1:
            raise ConfigError(f"{name} is {getattr(job, name)}; at least 1 is needed")


def _from_json(cls: Any, value: Mapping[str, Any], kind: str) -> Any:
    names = {field.name for field in fields(cls)}
    given = {key: item for key, item in value.items() if key != "kind"}
    if value.get("kind", kind) != kind or set(given) - names:
        raise ConfigError(f"not a {kind} job: unknown {', '.join(sorted(set(given) - names)) or 'kind ' + str(value.get('kind'))}")
    try:
        job = cls(**given)
    except TypeError:
        raise ConfigError(f"a {kind} job lacks some of its fields; it needs: {', '.join(sorted(names))}") from None
    job.validate()
    return job

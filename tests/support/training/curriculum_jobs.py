"""Jobs for the curriculum's tests, with every field that does not matter filled in."""

from __future__ import annotations

from typing import Any

from clinjepa.curriculum.jobs import PhaseJob, SftJob
from clinjepa.curriculum.recipes import load_recipe
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings, SftSettings
from tests.support.models.model_encoders import SETTINGS

CURRICULUM = {
    "global_batch": 6,
    "micro_batch": 2,
    "predictor_lr": 2e-3,
    "encoder_lr": 1e-3,
    "weight_decay": 0.04,
    "warmup_fraction": 0.1,
    "encoder_warmup_steps": 0,
    "clip_norm": 1.0,
    "ema_momentum": 0.9,
    "rollout_steps": 2,
    "rollout_weight": 1.0,
    "shared_k": False,
    "collapse_rankme": 1.5,
    "stop_on_collapse": False,
}
PREDICTOR = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_size": 64,
    "dropout": 0.15,
    "attention_dropout": 0.1,
    "max_hours": 72,
    "mode": "absolute",
}
ENCODER = SETTINGS | {"num_heads": 2, "num_kv_heads": 1}
SFT = {
    "num_epochs": 1.0,
    "max_steps": 2,
    "tokens_per_step": 700,
    "micro_tokens": 150,
    "learning_rate": 1e-2,
    "warmup_fraction": 0.1,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
}
PHASES = {phase.name: phase for phase in load_recipe("clin_jepa").phases}


def encoder_settings(**changes: Any) -> EncoderSettings:
    """The encoder of the curriculum's tests with some settings changed."""
    return EncoderSettings.from_json(ENCODER | changes)


def phase_job(phase: str = "warmup", **changes: Any) -> PhaseJob:
    """A job of one phase; `changes` are fields of the job or of its curriculum settings."""
    settings = {**CURRICULUM, **{key: changes.pop(key) for key in list(changes) if key in CURRICULUM}}
    fields: dict[str, Any] = {
        "out": "out",
        "trajectories": "trajectories",
        "latents": "latents",
        "phase": PHASES[phase],
        "num_steps": 4,
        "first_step": 0,
        "total_steps": 12,
        "seed": 0,
        "encoder_settings": encoder_settings(),
        "predictor_settings": PredictorSettings.from_json(PREDICTOR),
        "curriculum_settings": CurriculumSettings.from_json(settings),
    }
    return PhaseJob(**{**fields, **changes})


def sft_job(out: object = "out", trajectories: str = "trajectories", encoder: EncoderSettings | None = None, **changes: Any) -> SftJob:
    """A job of SFT of a base, or of the adapters of a public one; `changes` are fields of the job or of its SFT settings."""
    settings = SftSettings.from_json({**SFT, **{key: changes.pop(key) for key in list(changes) if key in SFT}})
    encoder = encoder or encoder_settings()
    lora = encoder.lora if encoder.init == "pretrained" and encoder.adaptation == "lora" else None
    return SftJob(
        **{"out": str(out), "trajectories": trajectories, "seed": 0, "base_settings": encoder.base, "sft_settings": settings, "lora": lora}
        | changes
    )

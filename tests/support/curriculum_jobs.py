"""Jobs for the curriculum's tests, with every field that does not matter filled in."""

from __future__ import annotations

from typing import Any

from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.recipes import load_recipe
from tests.support.model_encoders import SETTINGS

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
PHASES = {phase.name: phase.to_dict() for phase in load_recipe("clin_jepa").phases}


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
        "encoder_settings": ENCODER,
        "predictor_settings": PREDICTOR,
        "curriculum_settings": settings,
    }
    return PhaseJob(**{**fields, **changes})

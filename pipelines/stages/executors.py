"""Which function runs which kind of stage, and what it asks for."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.graph.context import Executor, one_task
from pipelines.stages.base_model import run_base_stage
from pipelines.stages.data import DATA_EXECUTORS
from pipelines.stages.evaluation import (
    run_baselines_stage,
    run_direct_forecasts_stage,
    run_downstream_stage,
    run_drift_stage,
    run_forecasts_stage,
    run_geometry_stage,
    run_roundtrip_stage,
)
from pipelines.stages.latents import embed_needs, least_embed_needs, run_embed_stage
from pipelines.stages.ray_train import least_training_needs, training_needs
from pipelines.stages.training import run_phase_stage, run_sft_stage, run_sync_stage


def _max_workers(config: Config) -> int:
    return config.execution.max_workers


EXECUTORS: dict[str, Executor] = {
    **DATA_EXECUTORS,
    "base": Executor(run_base_stage, one_task),
    "sft": Executor(run_sft_stage, training_needs, _max_workers, least_training_needs),
    "phase": Executor(run_phase_stage, training_needs, _max_workers, least_training_needs),
    "sync": Executor(run_sync_stage, one_task),
    "embed": Executor(run_embed_stage, embed_needs, lambda config: config.execution.embed_workers, least_embed_needs),
    "roundtrip": Executor(run_roundtrip_stage, one_task),
    "drift": Executor(run_drift_stage, one_task),
    "geometry": Executor(run_geometry_stage, one_task),
    "forecasts": Executor(run_forecasts_stage, one_task),
    "direct_forecasts": Executor(run_direct_forecasts_stage, one_task),
    "downstream": Executor(run_downstream_stage, one_task),
    "baselines": Executor(run_baselines_stage, one_task),
}
"""By stage kind."""

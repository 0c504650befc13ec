"""Which function runs which kind of stage, and what it asks for."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.base_stage import run_base_stage
from pipelines.coordinator import Needs
from pipelines.data_stages import run_extract_stage, run_ingest_stage, run_labels_stage, run_tokenizer_stage, run_trajectories_stage
from pipelines.embed import embed_needs, least_embed_needs, run_embed_stage
from pipelines.evaluation_stages import run_baselines_stage, run_downstream_stage, run_drift_stage, run_geometry_stage, run_roundtrip_stage
from pipelines.runner import Executor
from pipelines.training import least_training_needs, run_phase_stage, run_sft_stage, run_sync_stage, training_needs


def _one_cpu(config: Config) -> Needs:
    return {"CPU": 1.0}


def _one_task(config: Config) -> Needs:
    return {"CPU": config.execution.evaluation_cpus}


def _max_workers(config: Config) -> int:
    return config.execution.max_workers


EXECUTORS: dict[str, Executor] = {
    "extract": Executor(run_extract_stage, _one_cpu),
    "ingest": Executor(run_ingest_stage, _one_cpu),
    "tokenizer": Executor(run_tokenizer_stage, _one_task),
    "trajectories": Executor(run_trajectories_stage, _one_cpu),
    "labels": Executor(run_labels_stage, _one_task),
    "base": Executor(run_base_stage, _one_task),
    "sft": Executor(run_sft_stage, training_needs, _max_workers, least_training_needs),
    "phase": Executor(run_phase_stage, training_needs, _max_workers, least_training_needs),
    "sync": Executor(run_sync_stage, _one_task),
    "embed": Executor(run_embed_stage, embed_needs, lambda config: config.execution.embed_workers, least_embed_needs),
    "roundtrip": Executor(run_roundtrip_stage, _one_task),
    "drift": Executor(run_drift_stage, _one_task),
    "geometry": Executor(run_geometry_stage, _one_task),
    "downstream": Executor(run_downstream_stage, _one_task),
    "baselines": Executor(run_baselines_stage, _one_task),
}
"""By stage kind."""

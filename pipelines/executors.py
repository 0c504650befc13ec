"""Which function runs which kind of stage, and the CPUs it asks for."""

from __future__ import annotations

from pipelines.base_stage import run_base_stage
from pipelines.data_stages import run_extract_stage, run_ingest_stage, run_labels_stage, run_tokenizer_stage, run_trajectories_stage
from pipelines.embed import WORKER_CPUS, embed_cpus, run_embed_stage
from pipelines.evaluation_stages import run_baselines_stage, run_downstream_stage, run_drift_stage, run_geometry_stage, run_roundtrip_stage
from pipelines.runner import Executor
from pipelines.training import least_training_cpus, run_phase_stage, run_sft_stage, run_sync_stage, training_cpus

EXECUTORS: dict[str, Executor] = {
    "extract": Executor(run_extract_stage, lambda config: 1),
    "ingest": Executor(run_ingest_stage, lambda config: 1),
    "tokenizer": Executor(run_tokenizer_stage, lambda config: config.execution.evaluation_cpus),
    "trajectories": Executor(run_trajectories_stage, lambda config: 1),
    "labels": Executor(run_labels_stage, lambda config: config.execution.evaluation_cpus),
    "base": Executor(run_base_stage, lambda config: config.execution.evaluation_cpus),
    "sft": Executor(run_sft_stage, training_cpus, lambda config: config.execution.max_workers, least_training_cpus),
    "phase": Executor(run_phase_stage, training_cpus, lambda config: config.execution.max_workers, least_training_cpus),
    "sync": Executor(run_sync_stage, lambda config: config.execution.evaluation_cpus),
    "embed": Executor(run_embed_stage, embed_cpus, lambda config: config.execution.embed_workers, lambda config: WORKER_CPUS),
    "roundtrip": Executor(run_roundtrip_stage, lambda config: config.execution.evaluation_cpus),
    "drift": Executor(run_drift_stage, lambda config: config.execution.evaluation_cpus),
    "geometry": Executor(run_geometry_stage, lambda config: config.execution.evaluation_cpus),
    "downstream": Executor(run_downstream_stage, lambda config: config.execution.evaluation_cpus),
    "baselines": Executor(run_baselines_stage, lambda config: config.execution.evaluation_cpus),
}
"""By stage kind."""

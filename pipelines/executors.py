"""Which function runs which kind of stage, and the CPUs it asks for."""

from __future__ import annotations

from pipelines.base_stage import run_base_stage
from pipelines.data_stages import DATA_EXECUTORS
from pipelines.embed import embed_cpus, run_embed_stage
from pipelines.evaluation_stages import run_baselines_stage, run_downstream_stage, run_drift_stage, run_geometry_stage, run_roundtrip_stage
from pipelines.runner import Executor
from pipelines.training import run_phase_stage, run_sft_stage, run_sync_stage, training_cpus

EXECUTORS: dict[str, Executor] = {
    **DATA_EXECUTORS,
    "base": Executor(run_base_stage, lambda config: config.execution.evaluation_cpus),
    "sft": Executor(run_sft_stage, training_cpus, lambda config: config.execution.num_workers),
    "phase": Executor(run_phase_stage, training_cpus, lambda config: config.execution.num_workers),
    "sync": Executor(run_sync_stage, lambda config: config.execution.evaluation_cpus),
    "embed": Executor(run_embed_stage, embed_cpus, lambda config: config.execution.embed_workers),
    "roundtrip": Executor(run_roundtrip_stage, lambda config: config.execution.evaluation_cpus),
    "drift": Executor(run_drift_stage, lambda config: config.execution.evaluation_cpus),
    "geometry": Executor(run_geometry_stage, lambda config: config.execution.evaluation_cpus),
    "downstream": Executor(run_downstream_stage, lambda config: config.execution.evaluation_cpus),
    "baselines": Executor(run_baselines_stage, lambda config: config.execution.evaluation_cpus),
}
"""By stage kind."""

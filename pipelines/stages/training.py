"""SFT and the phases as Ray Train stages: one `TorchTrainer` each, fed by Ray Data, run by the same loop as under `torchrun`.

The loop keeps its own checkpoints in the artifact's folder (safetensors, manifest last) and resumes from the newest whole one by
itself, so a restarted worker group, a restarted driver and another cluster all go on at the same step. Ray Train is handed a
pointer to each, which is what its metrics ride on.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.torch.config import TorchConfig, _TorchBackend

from clinjepa import errors
from clinjepa.config import Config, result_fields
from clinjepa.curriculum.jobs import Job, PhaseJob, SftJob, load_job
from clinjepa.curriculum.phase import hard_sync
from clinjepa.storage import Folder
from clinjepa.storage.faults import translated
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import Needs, RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.session import WATCHER_VARIABLE
from pipelines.scheduling.trackers import open_trackers, tracker_settings
from pipelines.stages.feed import ray_data_feed
from pipelines.stages.tasks import run_remotely

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def run_phase_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Executor of `phase` stages."""
    settings = stage.settings
    execution = context.config.curriculum
    address = {name: context.artifact(upstream).folder.address for name, upstream in stage.inputs.items()}
    job = PhaseJob(
        out=artifact.folder.address,
        trajectories=address["trajectories"],
        latents=address.get("latents"),
        base=address["base"],
        encoder=address.get("encoder"),
        target=address.get("target"),
        predictor=address.get("predictor"),
        phase=settings["phase"] | {"shares": [settings["phase"]["name"]]},
        num_steps=settings["num_steps"],
        first_step=settings["first_step"],
        total_steps=settings["total_steps"],
        seed=settings["seed"],
        encoder_settings=settings["encoder"],
        predictor_settings=settings["predictor"],
        curriculum_settings=settings["curriculum"],
        checkpoint_every_steps=execution.checkpoint_every_steps,
        keep_checkpoints=execution.keep_checkpoints,
        asynchronous_checkpoints=execution.asynchronous_checkpoints,
        log_every_steps=execution.log_every_steps,
        activation_checkpointing=context.config.encoder.activation_checkpointing,
    )
    return run_training(context, stage, artifact, job)


def run_sft_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Executor of the `sft` stage."""
    execution = context.config.curriculum
    job = SftJob(
        out=artifact.folder.address,
        trajectories=context.artifact(stage.inputs["trajectories"]).folder.address,
        base=context.artifact(stage.inputs["base"]).folder.address,
        seed=stage.settings["seed"],
        encoder_settings=result_fields(context.config.encoder),
        sft_settings=stage.settings["sft"],
        checkpoint_every_steps=execution.checkpoint_every_steps,
        keep_checkpoints=execution.keep_checkpoints,
        asynchronous_checkpoints=execution.asynchronous_checkpoints,
        log_every_steps=execution.log_every_steps,
        activation_checkpointing=context.config.encoder.activation_checkpointing,
    )
    return run_training(context, stage, artifact, job)


def run_sync_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """Executor of `sync` stages: target := online, checked; an operation on checkpoints."""
    address = {name: context.artifact(upstream).folder.address for name, upstream in stage.inputs.items()}
    job = PhaseJob(
        out=artifact.folder.address,
        trajectories=address["trajectories"],
        base=address["base"],
        encoder=address["online"],
        target=address["target"],
        phase=stage.settings["phase"] | {"shares": []},
        num_steps=0,
        first_step=0,
        total_steps=0,
        seed=0,
        encoder_settings=result_fields(context.config.encoder),
        predictor_settings={},
        curriculum_settings={},
    )
    return run_remotely(context, hard_sync, job)


def training_needs(config: Config) -> Needs:
    """What as many workers as a training stage may have use, their readers included."""
    return {name: amount * config.execution.max_workers for name, amount in _worker_needs(config).items()}


def least_training_needs(config: Config) -> Needs:
    """What a training stage does not start without."""
    return {name: amount * config.execution.min_workers for name, amount in _worker_needs(config).items()}


def _worker_needs(config: Config) -> Needs:
    # A worker's reader is inside its own share: the elastic scheduler gives all CPUs to workers, and a reader that asked for one would
    # wait for ever.
    execution = config.execution
    return {"CPU": execution.cpus_per_worker + execution.data_cpus} | ({"GPU": 1.0} if execution.use_gpu else {})


def run_training(context: RunContext, stage: Stage, artifact: Artifact, job: Job) -> dict[str, Any]:
    """Train a job with Ray Train into `artifact` (`job.out`), from its newest checkpoint; returns its summary.

    Lost workers and nodes cost a restart from the last checkpoint; what a restart cannot mend is raised as the worker raised it.
    Raises TrainingError when the workers failed more often than `execution.max_worker_failures`.
    """
    execution = context.config.execution
    name = f"{stage.key}-{context.run_id}"
    ray.get(context.coordinator.forget_fault.remote(name))
    os.environ[_START_TIMEOUT] = str(execution.start_timeout_seconds)
    state = context.storage / "ray_train"
    context.report(stage, 0, job.num_steps if isinstance(job, PhaseJob) else context.config.sft.max_steps or 1, "starting workers")
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "job": job.to_json(),
            "name": name,
            "stage_key": stage.key,
            "label": stage.label,
            "threads": execution.threads_per_worker,
            "nodes_may_leave": os.environ.get(WATCHER_VARIABLE, "1") != "0",
            "trackers": tracker_settings(context.config, stage.label, stage.key),
        },
        torch_config=_CheckedTorchConfig(name=name, use_gpu=execution.use_gpu),
        scaling_config=ScalingConfig(
            num_workers=execution.num_workers if execution.min_workers < execution.max_workers else execution.max_workers,
            elastic_resize_monitor_interval_s=execution.resize_interval_seconds,
            use_gpu=execution.use_gpu,
            resources_per_worker=_worker_needs(context.config),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=state.path(),
            storage_filesystem=None if state.is_local else PyFileSystem(FSSpecHandler(state.fs)),
            failure_config=FailureConfig(max_failures=execution.max_worker_failures, max_preemption_failures=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=job.keep_checkpoints),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        _raise_fault(context, name)
        raise _failed_for_good(f"{artifact.kind} {artifact.key}", state, error) from error
    _raise_fault(context, name)
    summary = artifact.folder.read_json("metrics.json")
    (state / name).remove()
    artifact.folder.remove("checkpoints")
    return summary.get("summary", {}) | {"steps_by_workers": artifact.folder.read_json("timing.json")["steps_by_workers"]}


@dataclass
class _CheckedTorchConfig(TorchConfig):
    """Ray's own, after every worker has looked whether torch can use the GPU it was given: NCCL would refuse in its own words."""

    name: str = ""
    """Of the training, under which a fault is noted."""
    use_gpu: bool = False

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _CheckedTorchBackend


class _CheckedTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: _CheckedTorchConfig) -> None:
        # A fault raised here would be tried again without end; noted, it ends the training loop before it begins.
        if backend_config.use_gpu and not all(worker_group.execute(_can_use_gpu, backend_config.name)):
            backend_config = replace(backend_config, backend="gloo")
        super().on_start(worker_group, backend_config)


def _can_use_gpu(name: str) -> bool:
    """Runs in every Ray Train worker that was given a GPU, before Ray starts CUDA there; notes the fault when torch cannot use it."""
    from clinjepa.curriculum.dist import require_gpu, set_up_gpu

    set_up_gpu()
    try:
        require_gpu()
    except errors.ResourceError as error:
        _note(name, error)
        return False
    return True


def _train_loop(work: dict[str, Any]) -> None:
    """Runs in every Ray Train worker."""
    import torch

    from clinjepa.curriculum.dist import Dist

    torch.set_num_threads(work["threads"])
    watcher = coordinator()
    if ray.get(watcher.fault.remote(work["name"])) is not None:
        return  # of an earlier attempt, which another would meet again; the driver asks for it
    job = load_job(work["job"])
    rank = ray.train.get_context().get_world_rank()
    first_step = job.first_step if isinstance(job, PhaseJob) else 0
    trackers = open_trackers(work["trackers"]) if rank == 0 else []

    def on_report(step: int, metrics: dict[str, Any], checkpoint: str | None) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        for tracker in trackers:
            tracker.log(step, numbers)
        if rank == 0:
            note = f"loss {metrics['loss']:.4g}" if metrics.get("loss") is not None else ""
            total = job.num_steps if isinstance(job, PhaseJob) else metrics["num_steps"]
            watcher.report.remote(work["stage_key"], work["label"], step - first_step, total, note)
        if checkpoint is None:
            return
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "pointer.json").write_text(json.dumps({"address": checkpoint, "step": step}))
            ray.train.report(numbers | {"step": step}, checkpoint=Checkpoint.from_directory(scratch) if rank == 0 else None)

    try:
        from clinjepa.curriculum.phase import run_phase
        from clinjepa.curriculum.sft import run_sft

        run = run_phase if isinstance(job, PhaseJob) else run_sft
        notice = _leaving_nodes if work["nodes_may_leave"] else None
        run(job, Dist.current(), ray_data_feed(job), on_report, notice)  # type: ignore[arg-type]
        for tracker in trackers:
            tracker.close()
    except errors.TornCheckpointError:
        raise  # the next attempt takes the one before
    except errors.ClinJepaError as error:
        _note(work["name"], error)
        raise


def _leaving_nodes() -> list[str]:
    """All workers ask alike and get the same answer."""
    info = ray.train.get_preemption_info()
    return [] if info is None else info.preempted_node_ids


def _note(name: str, error: errors.ClinJepaError) -> None:
    """Leave word for the driver of a fault that a restart cannot mend; not by way of the storage, which may be what is full or away."""
    ray.get(coordinator().note_fault.remote(name, type(error).__name__, str(error)))


def _failed_for_good(stage: str, state: Folder, error: TrainingFailedError) -> errors.ClinJepaError:
    """What to raise when Ray Train gave up and no worker noted why. Its controller writes to the storage, too, and may be the first that
    finds it full or away. stage: its kind and key; state: where the controller writes."""
    of_controller = getattr(error, "controller_failure", None)
    if isinstance(of_controller, errors.StorageError):
        return errors.StorageError(f"{state.address}: {of_controller}")
    if of_controller is not None and (fault := translated(state.address, of_controller, state.is_local, writes=True)) is not None:
        return fault
    first = next(iter(getattr(error, "worker_failures", {}).values()), of_controller or error)
    return errors.TrainingError(
        f"{stage}: the training workers failed for good ({errors.in_safe_words(first)}); run again to go on from the last checkpoint"
    )


def _raise_fault(context: RunContext, name: str) -> None:
    """Raise what a worker met that a restart cannot mend, if any did."""
    fault = ray.get(context.coordinator.fault.remote(name))
    if fault is not None:
        raise errors.retold(*fault)

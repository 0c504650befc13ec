"""Trains a job with Ray Train: one `TorchTrainer`, fed by Ray Data, with the same step loop as under `torchrun`.

The loop writes its checkpoints into the artifact's folder (safetensors, manifest last) and resumes from the newest whole one, so a
restarted worker group, a restarted driver and another cluster all resume at the same step. Ray Train gets a pointer to each checkpoint,
with which it reports metrics.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import ray
import ray.data
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    ValidationConfig,
    ValidationTaskConfig,
)
from ray.train.torch import TorchTrainer

from clinjepa import errors
from clinjepa.curriculum.checkpoints.history import Row
from clinjepa.curriculum.jobs import COST, Job, PhaseJob, load_training_job
from clinjepa.curriculum.validation import can_validate, validation_drift
from clinjepa.curriculum.workers.profiling import profiled_steps
from clinjepa.storage import Folder
from clinjepa.storage.faults import translated
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.session import WATCHER_VARIABLE
from pipelines.scheduling.trackers import TrackerSettings, open_trackers, stage_folder, tracker_settings
from pipelines.stages.feed import ray_data_feed
from pipelines.stages.needs import worker_needs
from pipelines.stages.worker_checks import CheckedTorchConfig, guard_collectives, note_fault

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_VALIDATION_TIMEOUT_SECONDS = 600.0


def run_training(context: RunContext, stage: Stage, artifact: Artifact, job: Job) -> dict[str, object]:
    """Train a job with Ray Train into `artifact` (`job.out`), from its newest checkpoint.

    After a lost worker or node, training restarts from the last checkpoint.

    Args:
        context: of the run; its configuration's execution settings decide the workers.
        stage: named in reports of progress.
        artifact: where the job writes.
        job: the job, with `out` the artifact's address.

    Returns:
        The job's summary and how many steps were taken by how many workers.

    Raises:
        ClinJepaError: the fault of a worker that a restart cannot mend, as the worker raised it.
        TrainingError: the workers failed more often than `execution.max_worker_failures`.
    """
    execution = context.config.execution
    name = f"{stage.key}-{context.run_id}"
    ray.get(context.coordinator.forget_fault.remote(name))
    os.environ[_START_TIMEOUT] = str(execution.start_timeout_seconds)
    guard_collectives(execution.use_gpu)
    state = _train_state(context)
    context.report(stage, 0, job.expected_steps, "starting workers")
    trainer = _trainer(context, stage, job, name)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        _raise_fault(context, name)
        raise _failed_for_good(f"{artifact.kind} {artifact.key}", state, error) from error
    _raise_fault(context, name)
    metrics, timing = artifact.folder.read_json("metrics.json"), artifact.folder.read_json("timing.json")
    (state / name).remove()
    artifact.folder.remove("checkpoints")
    cost = artifact.folder.read_json(COST) if artifact.folder.exists(COST) else {}
    return {**metrics["summary"], "steps_by_workers": timing["steps_by_workers"], **cost}


def _trainer(context: RunContext, stage: Stage, job: Job, name: str) -> TorchTrainer:
    """Ray Train's trainer of a job; name: of the training, under which its state lies in the storage."""
    execution, state = context.config.execution, _train_state(context)
    state.make()
    work: _Work = {
        "job": job.to_json(),
        "name": name,
        "stage_key": stage.key,
        "label": stage.label,
        "threads": execution.threads_per_worker,
        "nodes_may_leave": os.environ.get(WATCHER_VARIABLE, "1") != "0",
        "trackers": tracker_settings(context.config, stage.label, stage.key),
        "run_folder": (context.storage / f"runs/{context.config.name}").address,
        "profile_steps": execution.profile_steps,
        "validates": execution.validate_checkpoints and isinstance(job, PhaseJob) and can_validate(job),
    }
    return TorchTrainer(
        _train_loop,  # type: ignore[arg-type]  # a TypedDict is a dict
        train_loop_config={**work},
        torch_config=CheckedTorchConfig(name=name, use_gpu=execution.use_gpu),
        # The annotations of ray.train's configurations are those of Ray Train V1; at run time V2 replaces the classes.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=execution.num_workers if execution.min_workers < execution.max_workers else execution.max_workers,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=execution.resize_interval_seconds,
            use_gpu=execution.use_gpu,
            resources_per_worker=worker_needs(context.config),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=state.path(),
            storage_filesystem=None if state.is_local else PyFileSystem(FSSpecHandler(state.fs)),
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=execution.max_worker_failures,
                max_preemption_failures=-1,
                relax_collectives_on_preemption=True,
                preemption_grace_s=execution.preemption_grace_seconds,
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=job.keep_checkpoints),
        ),
        validation_config=_validation(work, execution.evaluation_cpus) if work["validates"] else None,
    )


def _validation(work: _Work, num_cpus: float) -> ValidationConfig:
    # Ray keeps these arguments as JSON.
    arguments = {"work": {name: value for name, value in work.items() if name != "trackers"}, "trackers": asdict(work["trackers"])}
    task = ValidationTaskConfig(arguments, timeout_s=_VALIDATION_TIMEOUT_SECONDS)
    return ValidationConfig(_validate, task, {"num_cpus": num_cpus, "num_gpus": 0, "scheduling_strategy": "DEFAULT", "max_retries": 1})


def _train_state(context: RunContext) -> Folder:
    """Where Ray Train's controller writes."""
    return context.storage / "ray_train"


class _Work(TypedDict):
    """What every worker gets; plain values, because Ray Train sends it."""

    job: Mapping[str, object]
    name: str
    """Of the training, under which a fault is noted."""
    stage_key: str
    label: str
    threads: int
    nodes_may_leave: bool
    trackers: TrackerSettings
    run_folder: str
    """Folder of the run in the storage."""
    profile_steps: int
    validates: bool
    """Whether every checkpoint is validated in a task of its own."""


def _train_loop(work: _Work) -> None:
    """Runs in every Ray Train worker."""
    import torch

    from clinjepa.curriculum.dispatch import run_training_job
    from clinjepa.curriculum.training_loop import Launch
    from clinjepa.curriculum.workers.dist import Dist

    torch.set_num_threads(work["threads"])
    watcher = coordinator()
    if ray.get(watcher.fault.remote(work["name"])) is not None:
        return  # a fault of an earlier attempt, which would occur again; the driver raises it
    job = load_training_job(work["job"])
    rank = ray.train.get_context().get_world_rank()
    trackers = open_trackers(work["trackers"]) if rank == 0 else []

    def on_report(step: int, metrics: Row, checkpoint: str | None) -> None:
        numbers = {name: float(value) for name, value in metrics.items()}
        for tracker in trackers:
            tracker.log(step, numbers)
        if rank == 0:
            note = f"loss {metrics['loss']:.4g}" if metrics.get("loss") is not None else ""
            total = int(metrics["num_steps"]) - job.start_step
            watcher.report.remote(work["stage_key"], work["label"], step - job.start_step, total, note)
        if checkpoint is None:
            return
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "pointer.json").write_text(json.dumps({"address": checkpoint, "step": step}))
            pointer = Checkpoint.from_directory(scratch) if rank == 0 else None
            ray.train.report(numbers | {"step": step}, checkpoint=pointer, validation=work["validates"] and rank == 0)

    try:
        notice = _leaving_nodes if work["nodes_may_leave"] else None
        with profiled_steps(_own_folder(work, "profiles"), rank, work["profile_steps"]) as after_step:
            run_training_job(job, Launch(Dist.current(), ray_data_feed(job), on_report, notice, after_step))
        for tracker in trackers:
            tracker.close()
    except errors.TornCheckpointError:
        raise  # the next attempt restores the previous checkpoint
    except errors.ClinJepaError as error:
        note_fault(work["name"], error)
        raise


def _own_folder(work: _Work, what: str) -> Folder:
    """A stage's folder `<run>/<what>/<stage>`, named as TensorBoard's."""
    return Folder(work["run_folder"]) / what / stage_folder(work["label"], work["stage_key"])


def _validate(checkpoint: Checkpoint, **kwargs: Any) -> dict[str, float]:
    """Runs in a task beside the training: the drift of one checkpoint, for trackers and the run's folder. `work`: of the training."""
    import torch

    torch.set_num_threads(1)
    work: _Work = kwargs["work"]
    job = load_training_job(work["job"])
    assert isinstance(job, PhaseJob)  # `validates` says so
    with checkpoint.as_directory() as folder:
        pointer = json.loads(Path(folder, "pointer.json").read_text())
    try:
        with errors.values_hidden():
            figures = validation_drift(job, Folder(pointer["address"]))
    except errors.CheckpointError:
        return {}  # newer checkpoints have replaced it
    step = int(pointer["step"])
    _own_folder(work, "validation").write_json(f"step-{step:08d}.json", {"step": step, **figures})
    for tracker in open_trackers(TrackerSettings(**kwargs["trackers"])):
        tracker.log(step, {f"validation/{name}": value for name, value in figures.items()})
        tracker.close()
    return figures


def _leaving_nodes() -> list[str]:
    """Nodes that are about to leave; all workers call it alike and get the same answer."""
    info = ray.train.get_preemption_info()
    return [] if info is None else info.preempted_node_ids


def _failed_for_good(stage: str, state: Folder, error: TrainingFailedError) -> errors.ClinJepaError:
    """The error to raise when Ray Train gave up and no worker noted a fault.

    Ray Train's controller writes to the storage too, and may be the first to find it full or unreachable.

    Args:
        stage: kind and key of the stage.
        state: where the controller writes.
        error: of Ray Train.
    """
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
    """Raise the fault that a worker noted, if there is one."""
    fault = ray.get(context.coordinator.fault.remote(name))
    if fault is not None:
        raise errors.retold(*fault)

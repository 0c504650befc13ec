"""Losses and diagnostics of a training stage, sent to TensorBoard or MLflow while it runs where `execution.trackers` names them.

Only numbers are sent, under the stage's label. Reports and `metrics.json` do not depend on trackers. Some figures always go to Ray's
metrics ports (`metrics`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from clinjepa.config import Config
from clinjepa.errors import ConfigError
from clinjepa.storage import Folder
from pipelines.scheduling.metrics import TrainingMetrics


class Tracker(Protocol):
    """Receives numbers; one object per training stage, in its first worker."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers after `step` optimizer steps, counted over all phases. A resumed stage sends repeated steps again."""
        ...

    def close(self) -> None:
        """Send what is buffered."""
        ...


@dataclass(frozen=True)
class TrackerSettings:
    """What a worker needs to open the trackers of a stage."""

    kinds: tuple[str, ...]
    uri: str | None
    """Address of the MLflow server."""

    folder: str
    """Where TensorBoard's event files go."""

    run: str
    label: str
    key: str


def tracker_settings(config: Config, label: str, key: str) -> TrackerSettings:
    """Settings of the trackers of one stage.

    Args:
        config: The configuration.
        label: The stage's label.
        key: The stage's key.
    """
    execution = config.execution
    folder = (Folder(config.storage) / f"runs/{config.name}/tensorboard").address
    return TrackerSettings(tuple(execution.trackers), execution.tracker_uri, folder, config.name, label, key)


def stage_folder(label: str, key: str) -> str:
    """Name of a stage's folder among what a run leaves to look at."""
    return f"{label.replace(' · ', '-').replace(' ', '_')}-{key[:8]}"


def check_trackers(config: Config) -> None:
    """Raise ConfigError for a tracker that is not installed, has no address or cannot write to the storage."""
    kinds = config.execution.trackers
    if "tensorboard" in kinds and not Folder(config.storage).is_local:
        raise ConfigError(f"execution.trackers: tensorboard writes to local folders only, storage is {config.storage}; use mlflow")
    if "mlflow" in kinds:
        if not config.execution.tracker_uri:
            raise ConfigError("execution.trackers: mlflow needs execution.tracker_uri, the address of your own tracking server")
        _mlflow()


def open_trackers(settings: TrackerSettings) -> list[Tracker]:
    """The trackers of a stage, ready to log."""
    kinds: dict[str, type[TensorBoardTracker] | type[MlflowTracker]] = {"tensorboard": TensorBoardTracker, "mlflow": MlflowTracker}
    return [TrainingMetrics(settings.label), *(kinds[kind](settings) for kind in settings.kinds)]


class TensorBoardTracker:
    """Writes event files to `<storage>/runs/<name>/tensorboard/<stage>/`; show them with `tensorboard --logdir`."""

    def __init__(self, settings: TrackerSettings) -> None:
        from tensorboardX import SummaryWriter

        folder = Folder(settings.folder) / stage_folder(settings.label, settings.key)
        folder.make()
        self._writer = SummaryWriter(folder.path(), flush_secs=10, write_to_disk=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MlflowTracker:
    """One MLflow run per stage in the experiment `clinjepa/<name>`; a resumed stage continues its run."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._client = _mlflow().MlflowClient(tracking_uri=settings.uri)
        title = f"clinjepa/{settings.run}"
        found = self._client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else self._client.create_experiment(title)
        begun = self._client.search_runs([experiment], f"tags.stage = '{settings.key}'", max_results=1)
        if begun:
            self._run = begun[0].info.run_id
        else:
            self._run = self._client.create_run(experiment, run_name=settings.label, tags={"stage": settings.key}).info.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ImportError:
        raise ConfigError("execution.trackers: mlflow is not installed; install it with `pip install 'clinjepa[trackers]'`") from None
    return mlflow

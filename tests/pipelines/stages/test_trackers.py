"""Trackers receive a stage's numbers, and only when the configuration asks for them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from clinjepa.config import Config
from clinjepa.errors import ConfigError
from pipelines.scheduling.trackers import check_trackers, open_trackers, tracker_settings

STEPS = {10: {"loss": 2.5, "rankme": 3.0}, 20: {"loss": 1.5, "rankme": 4.0}}


def configured(storage: Path | str, **execution: object) -> Config:
    return Config.model_validate({"name": "tracked", "storage": str(storage), "execution": execution})


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of all event files below a folder."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            place += 16 + length
    return found


def track(config: Config, steps: dict[int, dict[str, float]]) -> None:
    for tracker in open_trackers(tracker_settings(config, "joint refinement · clin_jepa", "abcdef0123456789")):
        for step, numbers in steps.items():
            tracker.log(step, numbers)
        tracker.close()


def test_nothing_is_tracked_unless_asked_for(tmp_path: Path) -> None:
    track(configured(tmp_path), STEPS)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_number_at_its_step(tmp_path: Path) -> None:
    track(configured(tmp_path, trackers=["tensorboard"]), STEPS)
    found = scalars(tmp_path / "runs/tracked/tensorboard")
    assert found == {"loss": [(10, 2.5), (20, 1.5)], "rankme": [(10, 3.0), (20, 4.0)]}


def test_a_resumed_stage_goes_on_in_its_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server here; the client speaks to a folder as to a server
    mlflow = pytest.importorskip("mlflow", reason="the optional tracker mlflow is not installed")
    config = configured(tmp_path, trackers=["mlflow"], tracker_uri=(tmp_path / "mlruns").as_uri())
    track(config, {10: STEPS[10]})
    track(config, {20: STEPS[20]})
    client = mlflow.MlflowClient(tracking_uri=config.execution.tracker_uri)
    experiment = client.get_experiment_by_name("clinjepa/tracked")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")] == [(10, 2.5), (20, 1.5)]


def test_a_tracker_that_cannot_write_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="tensorboard writes to local folders only"):
        check_trackers(configured("s3://bucket/prefix", trackers=["tensorboard"]))
    with pytest.raises(ConfigError, match="execution.tracker_uri"):
        check_trackers(configured("runs", trackers=["mlflow"]))

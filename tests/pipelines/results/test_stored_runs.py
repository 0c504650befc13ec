"""`clinjepa runs` says of every run how far it is, what it cost, how large it is and what resumes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clinjepa.errors import StoreError, TrainingError
from clinjepa.storage import Folder
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.results.stored_runs import RunEntry, stored_runs
from pipelines.scheduling.attempting import attempted
from pipelines.scheduling.lease import LeaseQueue
from pipelines.scheduling.typed import _typed, note_typed
from tests.support.data.stored_storages import finish_run, publish, run_config, write_record
from tests.support.machines.cli import call_here, python_without


@pytest.fixture(autouse=True)
def typed() -> Iterator[None]:
    yield
    _typed.clear()


def entry(root: Path, name: str = "first") -> RunEntry:
    (found,) = [run for run in stored_runs(Folder(root)).runs if run.name == name]
    return found


def begun(root: Path, *overrides: str) -> tuple[object, Experiment]:
    config = run_config(str(root), "first", *overrides)
    note_typed(["configs/mine.yaml", f"storage={root}"])
    return config, build_experiment(config, "files")


def test_a_run_that_works_is_running_and_one_that_was_killed_is_interrupted(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with pytest.raises(KeyboardInterrupt), attempted(config, "run", experiment.stages):  # type: ignore[arg-type]
        publish(Folder(tmp_path), experiment.stages[:5])
        assert entry(tmp_path).state == "running"
        raise KeyboardInterrupt
    found = entry(tmp_path)
    assert (found.state, found.num_done, found.num_stages) == ("interrupted", 5, len(experiment.stages))
    assert found.resume == f"clinjepa run configs/mine.yaml storage={tmp_path}"
    assert found.wall_seconds == 10.0 and found.cpu_seconds == 20.0 and found.gpu_seconds == 0.0


def test_a_driver_that_was_killed_without_a_word_is_not_running(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with attempted(config, "run", experiment.stages):  # type: ignore[arg-type]
        files = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    for path, content in files.items():
        record = json.loads(content)
        path.write_text(json.dumps(record | ({"pid": 2**22 + 1} if "pid" in record else {})))  # of no process
    assert entry(tmp_path).state == "interrupted" and entry(tmp_path).ended is None


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with pytest.raises(TrainingError), attempted(config, "grid", experiment.stages):  # type: ignore[arg-type]
        raise TrainingError("phase joint: the loss is not finite")
    found = entry(tmp_path)
    assert (found.state, found.fault) == ("failed", "phase joint: the loss is not finite")
    assert found.resume == f"clinjepa grid configs/mine.yaml storage={tmp_path}"


def test_a_run_whose_trials_failed_is_no_finished_run(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with attempted(config, "run", experiment.stages):  # type: ignore[arg-type]
        publish(Folder(tmp_path), experiment.stages[:-1])
    write_record(config, experiment)  # type: ignore[arg-type]
    assert entry(tmp_path).state == "failed"
    publish(Folder(tmp_path), experiment.stages)
    assert entry(tmp_path).state == "finished" and entry(tmp_path).resume is None
    (tmp_path / "runs/first/run.json").unlink()
    assert entry(tmp_path).state == "interrupted", "its report is not written"


def test_a_stage_under_work_elsewhere_makes_a_run_running(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with pytest.raises(KeyboardInterrupt), attempted(config, "run", experiment.stages):  # type: ignore[arg-type]
        raise KeyboardInterrupt
    training = experiment.trials[0].phases[0]
    lease = LeaseQueue(Folder(tmp_path) / f"artifacts/{training.kind}/{training.key}", 20.0).try_acquire()
    assert lease is not None
    with lease.held():
        assert entry(tmp_path).state == "running"
    assert entry(tmp_path).state == "interrupted"


def test_a_run_of_an_older_version_is_read_from_its_report(tmp_path: Path) -> None:
    experiment = finish_run(run_config(str(tmp_path), "first", "execution.use_gpu=true"))
    found = entry(tmp_path)
    trial = experiment.trials[0]
    assert (found.state, found.num_done, found.num_stages) == ("finished", len(trial.stages), len(trial.stages))
    with_gpu = sum(stage.kind in ("sft", "phase", "embed", "shifted_actions") for stage in trial.stages)
    assert found.gpu_seconds == 4.0 * with_gpu and found.cpu_seconds == 4.0 * (len(trial.stages) - with_gpu)


def test_bytes_of_shared_stages_are_not_a_runs_own(tmp_path: Path) -> None:
    finish_run(run_config(str(tmp_path), "first"))
    alone = entry(tmp_path)
    assert alone.own_bytes == alone.num_bytes
    finish_run(run_config(str(tmp_path), "second", "curriculum.num_steps=24"))
    assert 0 < entry(tmp_path).own_bytes < alone.num_bytes == entry(tmp_path).num_bytes
    shutil.rmtree(tmp_path / "runs/second")
    assert entry(tmp_path).own_bytes == alone.num_bytes


def test_a_damaged_record_is_told_and_the_other_runs_are_shown(tmp_path: Path) -> None:
    finish_run(run_config(str(tmp_path), "first"))
    finish_run(run_config(str(tmp_path), "second", "curriculum.num_steps=24"))
    (tmp_path / "runs/first/run.json").write_text("{")
    assert entry(tmp_path).state == "damaged" and "not valid JSON" in str(entry(tmp_path).fault)
    assert entry(tmp_path, "second").state == "finished"


def test_the_command_prints_a_table_and_what_resumes(tmp_path: Path) -> None:
    config, experiment = begun(tmp_path)
    with pytest.raises(KeyboardInterrupt), attempted(config, "run", experiment.stages):  # type: ignore[arg-type]
        raise KeyboardInterrupt
    said = call_here("runs", str(tmp_path))
    assert said.returncode == 0 and "interrupted" in said.stdout and "clinjepa run configs/mine.yaml" in said.stdout
    told = json.loads(call_here("runs", str(tmp_path), "--json").stdout)
    assert told["schema_version"] == 1 and [run["name"] for run in told["runs"]] == ["first"]


def test_a_storage_that_is_away_is_one_line(tmp_path: Path) -> None:
    said = call_here("runs", str(tmp_path / "nowhere"))
    assert said.returncode == 2 and "is no storage of clinjepa" in " ".join(said.stdout.split())


def test_the_runs_of_a_storage_are_listed_without_ray_and_torch(tmp_path: Path) -> None:
    finish_run(run_config(str(tmp_path), "first"))
    code = f"from pipelines.cli import app\nimport sys\nsys.argv = ['clinjepa', 'runs', {str(tmp_path)!r}]\napp()"
    done = python_without(("ray", "torch", "transformers"), code)
    assert done.returncode == 0 and "finished" in done.stdout, done.stderr[-2000:]


@pytest.mark.s3
def test_runs_of_an_object_store(s3_address: str) -> None:
    finish_run(run_config(s3_address, "first"))
    (found,) = stored_runs(Folder(s3_address)).runs
    assert found.state == "finished" and found.num_bytes > 1000 * found.num_stages
    with pytest.raises(StoreError, match="is no storage"):
        stored_runs(Folder("s3://no-such-bucket-of-ours/x"))

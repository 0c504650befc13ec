"""`clinjepa gc` deletes what no run needs and nothing else, also beside runs that start and when it is interrupted."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import StorageError, StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import MANIFEST, Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import open_saved_run, read_start
from pipelines.graph.scoring import score_stage, scoring_config, scoring_experiment, shift_stage
from pipelines.results import garbage
from pipelines.results.garbage import delete_garbage, find_garbage
from pipelines.scheduling.attempting import GC_FOLDER, SEARCH, attempted
from pipelines.scheduling.lease import LeaseQueue
from tests.support.data.stored_storages import finish_run, make_old, names_of, publish, run_config, stored, write_record
from tests.support.machines.cli import call_here


def two_runs(storage: str) -> tuple[Experiment, Experiment]:
    """Two runs that share the data stages, the base and SFT."""
    first = finish_run(run_config(storage, "first"))
    second = finish_run(run_config(storage, "second", "curriculum.num_steps=24"))
    assert names_of(first.stages) & names_of(second.stages) and names_of(first.stages) - names_of(second.stages)
    return first, second


def found(storage: Folder, days: float = 0.0) -> set[str]:
    return {f"{each.kind}/{each.folder.address.rpartition('/')[2]}" for each in find_garbage(storage, days, time.time() + 5).dispensable}


def test_of_a_removed_run_only_what_no_other_run_shares_is_deleted(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    first, second = two_runs(str(tmp_path))
    assert found(storage) == set()
    shutil.rmtree(tmp_path / "runs/first")
    assert found(storage) == names_of(first.stages) - names_of(second.stages)
    delete_garbage(storage, 0.0)
    assert stored(storage) == names_of(second.stages)
    assert (tmp_path / "runs/second/report.html").exists()
    for stage in second.stages:
        Artifact.at(storage, stage.kind, stage.key).verify(contents=True)


def test_stages_that_share_a_label_in_the_record_are_kept(tmp_path: Path) -> None:
    experiment = finish_run(run_config(str(tmp_path), "first"))
    record = json.loads((tmp_path / "runs/first/run.json").read_text())
    named = set(record["trials"][0]["artifacts"].values())
    assert names_of(experiment.trials[0].stages) - named, "no two stages of this trial share a label: the test tests nothing"
    assert not found(Folder(tmp_path)) & names_of(experiment.trials[0].stages)


def test_what_changed_of_late_is_kept_finished_or_not(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    experiment = finish_run(run_config(str(tmp_path), "first"))
    shutil.rmtree(tmp_path / "runs/first")
    half = storage / "artifacts/phase/00000000000000000000"
    half.write_bytes("checkpoints/step-1/state.bin", b"x" * 10)
    make_old(tmp_path / "artifacts", 8)
    (tmp_path / "artifacts/ingest" / experiment.ingest.key / "content.bin").touch()
    assert found(storage, 7.0) == (names_of(experiment.stages) | {"phase/00000000000000000000"}) - {f"ingest/{experiment.ingest.key}"}
    assert find_garbage(storage, 7.0).kept_young_bytes > 0
    assert found(storage, 9.0) == set()


def test_unfinished_work_under_a_live_lease_is_kept(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    finish_run(run_config(str(tmp_path), "first"))
    half = storage / "artifacts/phase/00000000000000000000"
    half.write_bytes("checkpoints/step-1/state.bin", b"x" * 10)
    (storage / "ray_train").write_bytes("00000000000000000000-run/controller.bin", b"x")
    (storage / "ray_train").write_bytes("11111111111111111111-run/controller.bin", b"x")
    lease = LeaseQueue(half, 20.0).try_acquire()
    assert lease is not None
    with lease.held():
        assert found(storage) == {"ray_train/11111111111111111111-run"}
        assert find_garbage(storage, 0.0).kept_held_bytes > 10
    assert found(storage) == {"phase/00000000000000000000", "ray_train/00000000000000000000-run", "ray_train/11111111111111111111-run"}


def test_the_unfinished_work_of_an_interrupted_run_is_kept_however_old(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    config = run_config(str(tmp_path), "first")
    experiment = build_experiment(config, "files")
    with pytest.raises(KeyboardInterrupt), attempted(config, "run", experiment.stages):
        publish(storage, experiment.stages[:4])
        training = experiment.trials[0].phases[0]
        Artifact.at(storage, training.kind, training.key).folder.write_bytes("checkpoints/step-1/state.bin", b"x")
        raise KeyboardInterrupt
    make_old(tmp_path, 400)
    assert found(storage) == set()
    shutil.rmtree(tmp_path / "runs/first")
    assert found(storage) == names_of([*experiment.stages[:4], training])


def test_a_search_keeps_what_its_invocations_made(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    config = run_config(str(tmp_path), "first")
    base = build_experiment(config, "files")
    point = build_experiment(run_config(str(tmp_path), "first", "curriculum.num_steps=24"), "files")
    for run_id in ("one", "two"):
        with attempted(config, SEARCH, base.data_stages) as record:
            record.joined(run_id)
            publish(storage, point.stages[: 8 if run_id == "one" else None], run_id)
    assert found(storage) == set()
    publish(storage, base.stages, "another")
    assert found(storage) == names_of(base.stages) - names_of(point.stages)


def test_what_a_run_continues_stays_when_the_continued_run_is_removed(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    first = finish_run(run_config(str(tmp_path), "first"))
    continues = run_config(str(tmp_path), "second", f"init_from.run={tmp_path}/runs/first", "grid.recipes=[continued]")
    second = build_experiment(continues, "other files", start=read_start(continues))
    publish(storage, second.stages)
    write_record(continues, second)
    shutil.rmtree(tmp_path / "runs/first")
    shared = names_of(first.stages) & names_of(second.stages)
    assert any(name.startswith("phase/") for name in shared)
    assert found(storage) == names_of(first.stages) - names_of(second.stages)


def test_scores_stay_with_the_run_that_they_were_made_with(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    finish_run(run_config(str(tmp_path), "first"))
    run = open_saved_run(f"{tmp_path}/runs/first")
    source = SourceConfig(kind="clif", path="/elsewhere", name="CLIF", time_zone="US/Central")
    experiment = scoring_experiment(run, run.trials, scoring_config(run.config, source, "scored", "all"), "new files")
    scores, shift = score_stage(experiment.trials[0]), shift_stage(run, experiment)
    publish(storage, [*scores.closure(), *shift.closure()])
    assert found(storage) == set()
    shutil.rmtree(tmp_path / "runs/first")
    assert {scores.kind, shift.kind, "ingest", "embed"} <= {name.partition("/")[0] for name in found(storage)}


@pytest.mark.parametrize("broken", ["manifest", "inputs", "record", "attempt"])
def test_nothing_is_deleted_when_what_a_run_needs_cannot_be_read(tmp_path: Path, broken: str) -> None:
    storage = Folder(tmp_path)
    two_runs(str(tmp_path))
    shutil.rmtree(tmp_path / "runs/first")
    drift = _needed(tmp_path, "drift")
    if broken == "manifest":
        drift.write_text("{")
    elif broken == "inputs":
        drift.write_text(json.dumps(json.loads(drift.read_text()) | {"inputs": None}))
    elif broken == "record":
        (tmp_path / "runs/second/run.json").write_text('{"schema_version": 99}')
    else:
        (storage / "runs/second").write_bytes("attempts/run.json", b"[]")
    before = stored(storage)
    assert find_garbage(storage, 0.0).dispensable == [] and find_garbage(storage, 0.0).blocked
    with pytest.raises(StoreError, match="nothing was deleted"):
        delete_garbage(storage, 0.0)
    assert stored(storage) == before


def _needed(root: Path, kind: str) -> Path:
    """The manifest of the second run's artifact of a kind."""
    record = json.loads((root / "runs/second/run.json").read_text())
    (name,) = [name for name in record["trials"][0]["artifacts"].values() if name.startswith(f"{kind}/")]
    return root / "artifacts" / name / MANIFEST


def test_a_broken_manifest_that_no_run_needs_is_deleted_with_its_folder(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    first, second = two_runs(str(tmp_path))
    shutil.rmtree(tmp_path / "runs/first")
    name = sorted(names_of(first.stages) - names_of(second.stages))[0]
    (tmp_path / "artifacts" / name / MANIFEST).write_text("{")
    delete_garbage(storage, 0.0)
    assert stored(storage) == names_of(second.stages)


def test_an_interrupted_deletion_leaves_no_artifact_without_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Folder(tmp_path)
    first, second = two_runs(str(tmp_path))
    shutil.rmtree(tmp_path / "runs/first")
    folders, remove = [], Folder.remove

    def dies(folder: Folder, name: str = "") -> None:
        folders.extend([folder] if not name else [])
        if len(folders) == 2:
            remove(folder, "content.bin")
            raise KeyboardInterrupt
        remove(folder, name)

    monkeypatch.setattr(Folder, "remove", dies)
    with pytest.raises(KeyboardInterrupt):
        delete_garbage(storage, 0.0)
    monkeypatch.undo()
    for stage in first.stages:
        artifact = Artifact.at(storage, stage.kind, stage.key)
        assert not artifact.is_complete() or artifact.verify()
    delete_garbage(storage, 0.0)
    assert stored(storage) == names_of(second.stages)


def test_the_oldest_is_deleted_first(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    for age, name in ((3, "b"), (9, "a"), (5, "c")):
        (storage / f"artifacts/phase/{name}").write_bytes("x.bin", b"x")
        make_old(tmp_path / f"artifacts/phase/{name}", age)
    told: list[str] = []
    delete_garbage(storage, 1.0, lambda each: told.append(each.folder.address[-1]))
    assert told == ["a", "c", "b"]


def test_a_run_that_starts_while_others_are_deleted_keeps_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes what it needs and looks for the deletion; the deletion takes its lease and reads what runs need."""
    storage = Folder(tmp_path)
    config = run_config(str(tmp_path), "first")
    experiment = finish_run(config)
    shutil.rmtree(tmp_path / "runs/first")
    began, at_work, find = threading.Event(), threading.Event(), garbage.find_garbage

    def slow(*arguments: object) -> object:
        at_work.set()
        began.wait(5.0)
        time.sleep(1.0)  # the run would be at work by now if it did not wait
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(garbage, "find_garbage", slow)
    deletion = threading.Thread(target=delete_garbage, args=(storage, 0.0))
    deletion.start()
    at_work.wait(5.0)
    began.set()
    with attempted(config, "run", experiment.stages):
        assert not deletion.is_alive(), "the run went to work while files were deleted"
        assert stored(storage) == names_of(experiment.stages)
    deletion.join()


def test_two_deletions_do_not_run_beside_each_other(tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    finish_run(run_config(str(tmp_path), "first"))
    lease = LeaseQueue(storage / GC_FOLDER, 20.0).try_acquire()
    assert lease is not None
    with lease.held(), pytest.raises(StoreError, match="another clinjepa gc"):
        delete_garbage(storage, 0.0)


def test_a_deletion_that_lost_its_lease_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Folder(tmp_path)
    finish_run(run_config(str(tmp_path), "first"))
    shutil.rmtree(tmp_path / "runs/first")
    find = garbage.find_garbage

    def overtaken(*arguments: object) -> object:
        (storage / GC_FOLDER).write_bytes("lease/00000099.json", b"{}")
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(garbage, "find_garbage", overtaken)
    before = stored(storage)
    with pytest.raises(StorageError, match="took this stage over"):
        delete_garbage(storage, 0.0)
    assert stored(storage) == before


def test_the_command_changes_nothing_without_being_asked_to(tmp_path: Path) -> None:
    first, second = two_runs(str(tmp_path))
    shutil.rmtree(tmp_path / "runs/first")
    make_old(tmp_path, 8)
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    said = call_here("gc", str(tmp_path))
    assert said.returncode == 0 and "nothing was deleted: give --delete" in said.stdout and "drift" in said.stdout
    assert {path: path.stat().st_mtime for path in tmp_path.rglob("*")} == before
    told = json.loads(call_here("gc", str(tmp_path), "--json").stdout)
    only = names_of(first.stages) - names_of(second.stages)
    assert sum(kind["num_artifacts"] for kind in told["kinds"]) == len(only) and not told["deleted"]
    size = sum(path.stat().st_size for name in only for path in (tmp_path / "artifacts" / name).rglob("*") if path.is_file())
    assert told["num_bytes"] == size
    assert call_here("gc", str(tmp_path), "--delete").returncode == 0
    assert stored(Folder(tmp_path)) == names_of(second.stages)


def test_a_folder_that_is_no_storage_is_refused(tmp_path: Path) -> None:
    said = call_here("gc", str(tmp_path))
    assert said.returncode == 2 and "is no storage of clinjepa" in said.stdout


@pytest.mark.s3
def test_an_object_store_is_cleaned_in_the_same_way(s3_address: str) -> None:
    storage = Folder(s3_address)
    first, second = two_runs(s3_address)
    storage.remove("runs/first")
    assert found(storage) == names_of(first.stages) - names_of(second.stages)
    assert found(storage, 1.0) == set()
    delete_garbage(storage, -1.0)
    assert stored(storage) == names_of(second.stages)

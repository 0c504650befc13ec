"""Stages run once however many ask, wait without holding CPUs, and never deadlock a small cluster."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import ray

from clinjepa.config import Config
from clinjepa.errors import SourceError, StorageError, StoreError
from pipelines.graph.context import Executor, RunContext, one_cpu
from pipelines.graph.stage import Stage
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.runner import ensure

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def context(cluster, tmp_path) -> RunContext:
    return RunContext(Config(storage=str(tmp_path / "store")), "run-a", coordinator())


def counting(folder: Path, cpus: float = 1.0, seconds: float = 0.3) -> dict[str, Executor]:
    """Executors that write one line per execution and how many ran at once."""
    lock, alive = threading.Lock(), [0]

    def run(context: RunContext, stage: Stage, artifact) -> dict:
        with lock:
            alive[0] += 1
            with open(folder / "log", "a") as log:
                log.write(f"{stage.label} {alive[0]}\n")
        time.sleep(seconds)
        artifact.folder.write_bytes("out.bin", stage.key.encode())
        with lock:
            alive[0] -= 1
        return {}

    return dict.fromkeys(("ingest", "tokenizer", "phase"), Executor(run, lambda config: {"CPU": cpus}))


def together(*actions) -> list[BaseException]:
    faults: list[BaseException] = []

    def guarded(action) -> None:
        try:
            action()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a caller is still waiting"
    return faults


def test_a_stage_that_four_callers_want_runs_once(context: RunContext, tmp_path) -> None:
    prefix = Stage("ingest", "prefix", {"x": 1})
    wanted = [Stage("phase", f"tail {i % 2}", {"i": i % 2}, {"prefix": prefix}) for i in range(4)]
    executors = counting(tmp_path)
    assert together(*(lambda stage=stage: ensure(context, stage, executors) for stage in wanted)) == []
    ran = sorted(line.rsplit(" ", 1)[0] for line in (tmp_path / "log").read_text().splitlines())
    assert ran == ["prefix", "tail 0", "tail 1"]


def test_stages_that_need_the_whole_cluster_run_one_after_the_other(context: RunContext, tmp_path) -> None:
    executors = counting(tmp_path, cpus=2.0)
    stages = [Stage("phase", f"stage {i}", {"i": i}) for i in range(3)]
    assert together(*(lambda stage=stage: ensure(context, stage, executors) for stage in stages)) == []
    assert all(line.endswith(" 1") for line in (tmp_path / "log").read_text().splitlines())


def test_a_stage_larger_than_the_cluster_still_gets_its_turn_alone(context: RunContext, tmp_path) -> None:
    ensure(context, Stage("phase", "huge", {"i": 9}), counting(tmp_path, cpus=64.0))
    assert (tmp_path / "log").read_text() == "huge 1\n"


def test_an_elastic_stage_starts_with_what_is_left_and_a_fixed_one_waits_for_all_it_needs(context: RunContext) -> None:
    def asks(holder: str, cpus: float, budget: float, least: float | None = None, **more: float) -> bool:
        needs = {"CPU": cpus} | more
        few = None if least is None else {"CPU": least}
        return ray.get(context.coordinator.request.remote(holder, needs, 0, {"CPU": budget, "GPU": 1.0}, few))

    assert asks("small", 1.5, budget=2.0, GPU=1.0)
    assert not asks("fixed", 1.0, budget=2.0)
    ray.get(context.coordinator.release.remote("fixed"))
    assert not asks("second on the one GPU", 0.1, budget=2.0, GPU=0.5)
    ray.get(context.coordinator.release.remote("second on the one GPU"))
    assert asks("elastic", 4.0, budget=2.0, least=0.5)  # it is granted the half CPU that is left
    assert not asks("fixed", 0.25, budget=2.0)
    ray.get(context.coordinator.release.remote("fixed"))
    assert asks("elastic", 4.0, budget=3.0, least=0.5)  # the cluster has grown by one, and nobody waits: it takes it
    assert not asks("fixed", 0.25, budget=3.0)
    for holder in ("small", "elastic", "fixed"):
        ray.get(context.coordinator.release.remote(holder))


def test_a_finished_stage_is_not_run_again_by_another_run(context: RunContext, tmp_path) -> None:
    stage, executors = Stage("phase", "once", {}), counting(tmp_path)
    first = ensure(context, stage, executors)
    later = ensure(RunContext(context.config, "run-b", context.coordinator), stage, executors)
    assert later == first and later["run_id"] == "run-a"
    assert (tmp_path / "log").read_text() == "once 1\n"


def test_a_failed_stage_leaves_no_manifest_frees_its_cpus_and_can_be_run_again(context: RunContext, tmp_path) -> None:
    def fail(context: RunContext, stage: Stage, artifact) -> dict:
        raise SourceError("x.csv: column 'time' is missing")

    stage = Stage("phase", "fragile", {"i": 4})
    with pytest.raises(SourceError, match="column 'time'"):
        ensure(context, stage, {"phase": Executor(fail, lambda config: {"CPU": 2.0})})
    assert not context.artifact(stage).is_complete()
    ensure(context, stage, counting(tmp_path, cpus=2.0))
    assert context.artifact(stage).is_complete()


def test_a_finished_stage_whose_file_was_altered_is_refused(context: RunContext, tmp_path) -> None:
    stage, executors = Stage("phase", "altered", {"i": 5}), counting(tmp_path)
    ensure(context, stage, executors)
    context.artifact(stage).folder.write_bytes("out.bin", b"cut")
    with pytest.raises(StoreError, match="out.bin was altered"):
        ensure(context, stage, executors)


def test_an_owner_that_lost_its_lease_while_it_worked_publishes_nothing(context: RunContext, tmp_path) -> None:
    def overtaken(context: RunContext, stage: Stage, artifact) -> dict:
        artifact.folder.write_bytes("out.bin", b"1")
        artifact.folder.write_bytes("lease/00000009.json", b"{}")
        return {}

    stage = Stage("phase", "overtaken", {"i": 7})
    with pytest.raises(StorageError, match="took this stage over"):
        ensure(context, stage, {"phase": Executor(overtaken, one_cpu)})
    assert not context.artifact(stage).is_complete()


def test_an_artifact_of_another_schema_version_is_refused(context: RunContext, tmp_path) -> None:
    stage, executors = Stage("phase", "old", {"i": 6}), counting(tmp_path)
    ensure(context, stage, executors)
    folder = context.artifact(stage).folder
    folder.write_json("manifest.json", folder.read_json("manifest.json") | {"schema_version": 0})
    with pytest.raises(StoreError, match="schema version 0"):
        ensure(context, stage, executors)


def test_the_same_settings_give_the_same_key_and_other_settings_another() -> None:
    upstream = Stage("ingest", "a", {"x": 1})
    assert (
        Stage("phase", "one name", {"i": 1}, {"u": upstream}).key
        == Stage("phase", "another", {"i": 1}, {"u": Stage("ingest", "b", {"x": 1})}).key
    )
    assert Stage("phase", "n", {"i": 1}, {"u": upstream}).key != Stage("phase", "n", {"i": 1}, {"u": Stage("ingest", "a", {"x": 2})}).key

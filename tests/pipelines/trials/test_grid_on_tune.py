"""Grids and searches on a real Ray with simulated stages: what is shared runs once, a fault stays with its trials, nothing repeats."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from clinjepa.config import Config, load_config
from clinjepa.errors import ClinJepaError
from pipelines.graph.context import RunContext
from pipelines.graph.experiment import build_experiment
from pipelines.results.grid_table import write_table
from pipelines.scheduling.coordinator import coordinator
from pipelines.trials.running import raise_faults, run_trials
from pipelines.trials.search_checks import check_search, search_config
from pipelines.trials.searching import run_search
from tests.support.machines.cli import ROOT, environment
from tests.support.training.simulated_stages import lines, simulated_executors

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, log_to_driver=False)
    yield
    ray.shutdown()


def config(storage: Path, grid: dict[str, Any]) -> Config:
    raw = load_config("tests/e2e/small.yaml").model_dump(mode="json")
    return Config.model_validate(
        raw | {"storage": str(storage), "grid": {"recipes": ["clin_jepa", "no_alignment"], "max_concurrent_trials": 2, **grid}}
    )


def manifests(storage: Path) -> set[str]:
    return {f"{path.parent.parent.name} {path.parent.name}" for path in storage.glob("artifacts/*/*/manifest.json")}


def test_a_failed_trial_fails_alone_says_why_and_the_next_attempt_repeats_nothing(cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked = config(tmp_path / "store", {"seeds": [0, 1], "axes": {"curriculum.rollout_steps": [1, 2]}})
    experiment = build_experiment(asked, "content")
    fails = "SFT · seed 1"  # shared by four of the eight trials
    faults = run_trials(RunContext(asked, "first", coordinator()), experiment, simulated_executors({}, log, fails))
    assert {fault.name for fault in faults} == {trial.name for trial in experiment.trials if trial.seed == 1}
    with pytest.raises(ClinJepaError, match=r"seed 1 and 1 more trials: SFT · seed 1 was meant to fail \(finished stages are kept"):
        raise_faults(faults)
    failed = next(stage for stage in experiment.stages if stage.label == fails)
    begun = Counter(lines(log, "begun"))
    assert set(begun.values()) == {1}, "also the stage that failed ran once, although four trials need it"
    table = pq.read_table(Path(write_table(asked, experiment)).with_suffix(".parquet")).to_pylist()
    assert [row["trial"] for row in table] == [trial.name for trial in experiment.trials]
    finished = {row["trial"] for row in table if row["num_finished"] == row["num_stages"]}
    assert finished == {trial.name for trial in experiment.trials if trial.seed == 0}
    assert run_trials(RunContext(asked, "second", coordinator()), experiment, simulated_executors({}, log)) == []
    again = Counter(lines(log, "begun")) - begun
    assert set(again) == {
        f"{stage.kind} {stage.key}" for stage in experiment.stages if failed.key in {each.key for each in stage.closure()}
    }


def test_the_table_of_results_has_a_column_a_setting_a_cost_and_a_figure(
    cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(tmp_path / "store", {"axes": {"curriculum.predictor_lr": [1e-4, 1e-3]}, "recipes": ["untrained"]})
    experiment = build_experiment(asked, "content")
    assert run_trials(RunContext(asked, "run", coordinator()), experiment, simulated_executors({}, tmp_path / "log")) == []
    assert "trial untrained · predictor_lr=0.001, seed 0: done" in capsys.readouterr().err
    path = Path(write_table(asked, experiment))
    rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
    assert [(row["curriculum.predictor_lr"], row["tuning_l1"], row["roundtrip.r2"]) for row in rows] == [(1e-4, 1.0, 0.5), (1e-3, 0.0, 0.5)]
    assert all((row["num_steps"], row["encoder_tokens"], row["latent_tokens"], row["predictor_tokens"]) == (48, 10, 5, 3) for row in rows)
    losses = {name: row[name] for row in rows for name in row if name.startswith("loss.")}
    assert losses == {"loss.predictor.teacher_forcing": 1.0, "loss.predictor.rollout": 2.0}
    assert path.read_text().splitlines()[0].startswith('"trial","recipe","seed","curriculum.predictor_lr"')


def test_a_grid_without_evaluation_runs_the_phases_and_what_they_need(cluster, tmp_path: Path) -> None:
    asked = config(tmp_path / "store", {"recipes": ["clin_jepa", "sft"]})
    experiment = build_experiment(asked, "content")
    assert run_trials(RunContext(asked, "run", coordinator()), experiment, simulated_executors({}, tmp_path / "log"), evaluates=False) == []
    needed = {f"{each.kind} {each.key}" for trial in experiment.trials for phase in trial.phases for each in phase.closure()}
    data = {f"{stage.kind} {stage.key}" for stage in experiment.data_stages}
    assert manifests(tmp_path / "store") == needed | data
    rows = pq.read_table(Path(write_table(asked, experiment)).with_suffix(".parquet")).to_pylist()
    assert all("tuning_l1" in row and not any(name.startswith(("drift.", "downstream.")) for name in row) for row in rows)


def test_a_grid_whose_driver_is_killed_goes_on_and_runs_no_finished_stage_again(tmp_path: Path) -> None:
    asked = config(tmp_path / "store", {"seeds": [0, 1], "recipes": ["clin_jepa", "no_alignment", "sft"]})
    asked = asked.model_copy(update={"execution": asked.execution.model_copy(update={"local_num_cpus": 4, "progress": False})})
    log, spec = tmp_path / "log", tmp_path / "spec.json"
    spec.write_text(json.dumps({"config": asked.model_dump(mode="json"), "seconds": {"phase": 1.0, "sft": 1.0}, "log": str(log)}))
    command = [sys.executable, "-m", "tests.support.training.simulated_stages", str(spec)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150
    while len(lines(log, "done")) < 12:
        assert process.poll() is None and time.monotonic() < deadline, "it ended or hung before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2.0)  # its workers end after it
    finished, before = manifests(tmp_path / "store"), Counter(lines(log, "begun"))
    done = subprocess.run(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["faults"] == []
    assert len(finished) >= 10 and not finished & set(Counter(lines(log, "begun")) - before)
    assert manifests(tmp_path / "store") == {f"{stage.kind} {stage.key}" for stage in build_experiment(asked, "content").stages}


AXES = {"curriculum.predictor_lr": {"low": 1e-5, "high": 1e-1, "scale": "log"}}


def searched(storage: Path, log: Path, **search: Any) -> tuple[Config, list[dict[str, Any]]]:
    """Run a search; its configuration and the rows of its table."""
    asked = config(storage, {"recipes": ["sft"], "axes": AXES, "search": {"num_samples": 6, **search}})
    check_search(asked)
    experiment = build_experiment(search_config(asked), "content")
    assert run_search(RunContext(asked, "run", coordinator()), experiment, simulated_executors({}, log)) == []
    return asked, pq.read_table(storage / "runs" / asked.name / "search.parquet").to_pylist()


def test_a_search_finds_the_best_point_on_the_tuning_split_and_repeats_nothing(cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked, rows = searched(tmp_path / "store", log, metric="roundtrip.r2", mode="max")
    splits = {line.split()[3] for line in log.read_text().splitlines()}
    assert splits == {"tuning", "-"}, "a search evaluates no held-out patient"
    assert {line.split()[0] for line in log.read_text().splitlines()} & {"drift", "downstream", "geometry"} == set()
    before = lines(log, "begun")
    assert searched(tmp_path / "store", log, metric="roundtrip.r2", mode="max")[1] == rows and lines(log, "begun") == before
    _, rows = searched(tmp_path / "store", log, metric="tuning_l1", mode="min")
    best = yaml.safe_load((tmp_path / "store/runs" / asked.name / "best.yaml").read_text())
    assert best["curriculum"]["predictor_lr"] == rows[0]["curriculum.predictor_lr"]
    assert [row["tuning_l1"] for row in rows] == sorted(row["tuning_l1"] for row in rows)


def test_optuna_proposes_the_points_of_a_killed_search_first(cluster, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    log = tmp_path / "log"
    _, rows = searched(tmp_path / "store", log, metric="tuning_l1", algorithm="optuna")
    before = lines(log, "begun")
    _, again = searched(tmp_path / "store", log, metric="tuning_l1", algorithm="optuna")
    assert len(rows) == len(again) == 6 and lines(log, "begun") == before


def test_asha_stops_bad_points_after_a_phase(cluster, tmp_path: Path) -> None:
    asked = config(tmp_path / "store", {"axes": AXES, "recipes": ["clin_jepa"], "max_concurrent_trials": 1})
    search = {"metric": "tuning_l1", "scheduler": "asha", "num_samples": 6}
    asked = asked.model_copy(update={"grid": asked.grid.model_copy(update={"search": asked.grid.search.model_copy(update=search)})})
    check_search(asked)
    log = tmp_path / "log"
    assert (
        run_search(RunContext(asked, "run", coordinator()), build_experiment(search_config(asked), "c"), simulated_executors({}, log)) == []
    )
    phases = Counter(line.split()[0] for line in lines(log, "done"))
    assert phases["phase"] < 6 * 4, "points that are worse after warmup do not go on"
    assert (tmp_path / "store/runs" / asked.name / "best.yaml").exists()

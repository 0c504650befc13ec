"""Stages of a run with labels from files: what their keys hold, and what a finished run knows of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from clinjepa.config import Config, load_config
from clinjepa.errors import ConfigError, SourceError
from clinjepa.storage import Folder
from clinjepa.trajectory.settings import LabelSettings
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import open_saved_run
from pipelines.scheduling.locations import absolute
from pipelines.stages.data import given_label_files
from tests.pipelines.graph.test_scoring_graph import DIGEST, saved, scored
from tests.pipelines.graph.test_stage_graph import DEMO
from tests.support.data.meds_examples import ADMITTED


def write_labels(path: Path, label: bool = True) -> str:
    rows = {"subject_id": [1], "prediction_time": [ADMITTED], "boolean_value": [label]}
    pl.DataFrame(rows).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(path)
    return str(path)


def config(path: str, *overrides: str) -> Config:
    tasks = "evaluation.downstream.tasks=[outside, in_hospital_death]"
    return load_config(DEMO, [f"labels.files.outside.path={path}", tasks, "grid.recipes=[clin_jepa]", *overrides])


def experiment(path: str, *overrides: str) -> Experiment:
    return build_experiment(config(path, *overrides), DIGEST)


def keys(path: str) -> dict[str, str]:
    return {stage.label: stage.key for stage in experiment(path).stages}


def test_the_content_of_a_label_file_is_in_the_key_of_the_labels_and_its_place_is_not(tmp_path: Path) -> None:
    first = keys(write_labels(tmp_path / "one.parquet"))
    (tmp_path / "moved").mkdir()
    assert keys(write_labels(tmp_path / "moved" / "one.parquet")) == first
    other = keys(write_labels(tmp_path / "one.parquet", label=False))
    assert {label for label in first if other[label] != first[label]} == {
        "labels", "baselines", "geometry", "downstream", "forecasts",
    }  # fmt: skip


def test_a_task_from_a_file_is_no_definition_and_gets_no_cohort_or_event_forecast(tmp_path: Path) -> None:
    found = experiment(write_labels(tmp_path / "one.parquet"))
    evaluations = found.trials[0].evaluations
    assert "outside" not in found.labels.settings["tasks"]
    assert found.labels.settings["files"]["outside"]["column"] == "boolean_value"
    assert evaluations["downstream"].settings["given"] == {"outside": "boolean_value"} == found.baselines.settings["given"]
    assert evaluations["forecasts"].settings["event_tasks"] == evaluations["geometry"].settings["onset_tasks"] == []


def test_a_run_without_label_files_has_the_keys_that_it_had(tmp_path: Path) -> None:
    plain = build_experiment(load_config(DEMO), DIGEST)
    assert all("files" not in stage.settings and "given" not in stage.settings for stage in plain.stages)


def test_the_name_of_a_definition_is_refused_and_an_unknown_task_says_that_files_add_tasks(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.parquet")
    with pytest.raises(ConfigError, match="labels.files names icu_death, which has a definition"):
        build_experiment(load_config(DEMO, [f"labels.files.icu_death.path={path}"]), DIGEST)
    with pytest.raises(ConfigError, match="elsewhere, which is no task; .*labels.files adds tasks"):
        build_experiment(config(path, "evaluation.downstream.tasks=[elsewhere]"), DIGEST)
    with pytest.raises(ConfigError, match="labels.files"):
        load_config(DEMO, [f"labels.files.Upper.path={path}"])


def test_a_missing_label_file_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no .parquet file there; set labels.files.outside.path"):
        experiment(str(tmp_path / "nowhere"))


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labels(tmp_path / "one.parquet")
    monkeypatch.chdir(tmp_path)
    assert absolute(config("one.parquet")).labels.files["outside"].path == str(tmp_path / "one.parquet")
    assert keys("one.parquet") == keys(str(tmp_path / "one.parquet"))


def test_a_finished_run_opens_without_its_label_files_and_other_patients_have_none(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.parquet")
    overrides = [f"labels.files.outside.path={path}", "evaluation.downstream.tasks=[outside, in_hospital_death]"]
    _, made, address = saved(tmp_path / "storage", *overrides)
    Artifact.at(Folder(tmp_path / "storage"), "labels", made.labels.key).publish(
        WorkRecord("labels", {"ingest": made.ingest.key}, made.labels.settings, {}, 1.0)
    )
    Path(path).unlink()
    run = open_saved_run(address)
    assert run.experiment.labels.key == made.labels.key
    assert "files" not in scored(run).labels.settings
    assert "files" in scored(run, run.config.source, DIGEST, "held_out").labels.settings


@pytest.mark.parametrize(
    ("source", "zone"),
    [
        (["source.kind=clif", "source.path=x", "source.time_zone=US/Central"], "US/Central"),
        (["source.kind=clif", "source.path=x"], "UTC"),
        ([], None),
        (["source.kind=mimic_iv", "source.path=x"], None),
    ],
)
def test_label_files_beside_clif_have_the_hospital_s_zone_and_others_none(tmp_path: Path, source: list[str], zone: str | None) -> None:
    own = config(write_labels(tmp_path / "one.parquet"), *source)
    stage = build_experiment(own, DIGEST).labels
    settings = LabelSettings.model_validate({name: value for name, value in stage.settings.items() if name != "definitions"})
    (file,) = given_label_files(SimpleNamespace(config=own), stage, settings)  # type: ignore[arg-type]  # reads the configuration only
    assert file.time_zone == zone

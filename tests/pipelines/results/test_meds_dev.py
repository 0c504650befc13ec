"""The entry in MEDS-DEV: a training on a MEDS data set with a label file as its only task, and predictions at exactly its rows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import torch

from clinjepa.config import Config, load_config
from clinjepa.config.yaml_text import parse_yaml
from clinjepa.errors import EvaluationError, SourceError, StoreError
from clinjepa.evaluation.given_rows import ROW_PREDICTIONS
from clinjepa.evaluation.predictions import MEDS_COLUMNS, PREDICTIONS
from clinjepa.storage import Folder
from pipelines.cli import app
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.results.meds_dev import TASK, benchmark_config, predict_split, read_storage, write_training
from tests.support.data.meds_examples import ADMITTED, row, stay_rows, write_meds
from tests.support.training.stages_in_process import run_stage, without_ray

ENTRY = Path(__file__).parents[3] / "benchmarks" / "meds_dev" / "clinjepa"
SMALL = ["grid.recipes=[untrained]", "curriculum.num_steps=8", "source.num_partitions=2"]
SUBJECTS = range(1, 21)
HOURS = 12


def split_of(subject: int) -> str:
    return "held_out" if subject > 16 else "tuning" if subject > 12 else "train"


def data_set(folder: Path) -> Path:
    """Twenty subjects with a stay of 12 hours each; the heart rate of every second one is high."""
    rows = []
    for subject in SUBJECTS:
        rows += stay_rows(HOURS, subject, 100 + subject)
        place = {"subject_id": subject, "icustay_id": 100 + subject, "hadm_id": 100 + subject}
        rows += [row("LAB//220045//bpm", hour + 0.5, 60.0 + 60 * (subject % 2) + hour, **place) for hour in range(HOURS)]
    write_meds(folder, rows)
    (folder / "metadata").mkdir()
    splits = {"subject_id": list(SUBJECTS), "split": [split_of(subject) for subject in SUBJECTS]}
    pl.DataFrame(splits).write_parquet(folder / "metadata" / "subject_splits.parquet")
    return folder


def label_shards(folder: Path) -> Path:
    """In MEDS-DEV's layout. Of every subject: at the end of hour 5, later in hour 6, in the first hour, a day before."""
    for split in ("train", "tuning", "held_out"):
        own = [subject for subject in SUBJECTS if split_of(subject) == split]
        hours = (6.0, 6.4, 0.5, -24.0)
        table = {
            "subject_id": [subject for subject in own for _ in hours],
            "prediction_time": [ADMITTED + timedelta(hours=hour) for _ in own for hour in hours],
            "boolean_value": [subject % 2 == 1 for subject in own for _ in hours],
        }
        (folder / split).mkdir(parents=True)
        pl.DataFrame(table).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(folder / split / "0.parquet")
    return folder


class Trained:
    """A finished training, made in this process."""

    def __init__(self, folder: Path) -> None:
        self.dataset, self.labels = data_set(folder / "data_set"), label_shards(folder / "labels")
        self.model = Folder(folder / "model")
        self.config = benchmark_config(str(ENTRY / "demo.yaml"), SMALL, str(self.dataset), str(folder / "storage"), str(self.labels))
        experiment = plan_experiment(self.config)
        storage = Folder(self.config.storage)
        for stage in experiment.trials[0].evaluations["downstream"].closure():
            run_stage(stage, self.config, storage)
        write_training(self.model, self.config, experiment)
        self.experiment = experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        yield Trained(tmp_path_factory.mktemp("meds_dev"))


def test_every_label_row_of_the_split_has_a_prediction_in_its_place(trained: Trained) -> None:
    table, line = predict_split(trained.model, str(trained.dataset), str(trained.labels), "held_out")
    assert table.schema == ROW_PREDICTIONS and tuple(table.column_names) == MEDS_COLUMNS
    given = pl.read_parquet(trained.labels / "held_out" / "0.parquet")
    found = pl.DataFrame(table)
    assert found.select(given.columns).equals(given)
    assert "16 rows of held_out: 8 at an hour" in line and "4 in the first hour of a stay, 4 outside" in line
    of_subject = found.partition_by("subject_id")
    share = 6 / 12
    for rows in of_subject:
        same_hour, later, early, before = rows["predicted_boolean_probability"].to_list()
        assert same_hour == later != early == before == share
    assert (found["predicted_boolean_value"] == (found["predicted_boolean_probability"] >= 0.5)).all()


def test_the_predictions_are_those_of_the_evaluation_at_the_same_hours(trained: Trained) -> None:
    stage = trained.experiment.trials[0].evaluations["downstream"]
    kept = pl.DataFrame(Artifact.at(Folder(trained.config.storage), stage.kind, stage.key).folder.read_table(PREDICTIONS))
    own = kept.filter((pl.col("column") == "history_only") & (pl.col("method") == "linear")).sort("subject_id")
    table, _ = predict_split(trained.model, str(trained.dataset), str(trained.labels), "held_out")
    ours = pl.DataFrame(table).filter(pl.col("prediction_time") == ADMITTED + timedelta(hours=6)).sort("subject_id")
    assert own["task"].unique().to_list() == [TASK] and own["hour"].unique().to_list() == [5]
    assert ours["subject_id"].to_list() == own["subject_id"].to_list()
    assert ours["predicted_boolean_probability"].to_list() == pytest.approx(own["predicted_boolean_probability"].to_list(), abs=1e-5)


def test_the_split_is_that_of_the_data_set(trained: Trained) -> None:
    stays = pl.DataFrame(
        Artifact.at(Folder(trained.config.storage), "ingest", trained.experiment.ingest.key).folder.read_table("stays.parquet")
    )
    assert {subject: split_of(subject) for subject in SUBJECTS} == dict(stays.select("subject_id", "split").iter_rows())


def test_another_data_set_split_or_training_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = data_set(tmp_path / "other")
    pl.read_parquet(other / "data/train/0.parquet").head(-1).write_parquet(other / "data/train/0.parquet")
    with pytest.raises(StoreError, match="is not the data set that"):
        predict_split(trained.model, str(other), str(trained.labels), "held_out")
    with pytest.raises(StoreError, match="holds no meds_dev.json; run `clinjepa meds-dev train"):
        predict_split(Folder(tmp_path), str(trained.dataset), str(trained.labels), "held_out")
    with pytest.raises(SourceError, match="no .parquet file there"):
        predict_split(trained.model, str(trained.dataset), str(tmp_path / "nothing"), "held_out")


def test_a_training_without_labels_predicts_nothing_and_lends_its_storage(trained: Trained, tmp_path: Path) -> None:
    config = benchmark_config(str(ENTRY / "demo.yaml"), SMALL, str(trained.dataset), trained.config.storage)
    experiment = plan_experiment(config)
    assert experiment.trials[0].embed.key == trained.experiment.trials[0].embed.key
    write_training(Folder(tmp_path), config, experiment)
    assert read_storage(str(tmp_path)) == trained.config.storage
    with pytest.raises(StoreError, match="a training without labels; run `clinjepa meds-dev train` first"):
        predict_split(Folder(tmp_path), str(trained.dataset), str(trained.labels), "held_out")


def test_a_task_that_could_not_be_fitted_is_said_instead_of_predicted(trained: Trained) -> None:
    from clinjepa.evaluation.downstream.fitted import FittedProbes
    from clinjepa.evaluation.given_rows import predict_rows

    stage = trained.experiment.trials[0].evaluations["downstream"]
    probes = FittedProbes.read(Artifact.at(Folder(trained.config.storage), stage.kind, stage.key).folder)
    object.__setattr__(probes.tasks[TASK], "reason", "3 patients with a positive label in train")
    with pytest.raises(EvaluationError, match="no probe of meds_dev predicts a probability: 3 patients with a positive label"):
        predict_rows(None, None, None, probes, TASK, pl.DataFrame())  # type: ignore[arg-type]  # not read


@pytest.mark.parametrize("name", ["demo", "full"])
def test_both_configurations_are_valid_for_the_benchmark(name: str, tmp_path: Path) -> None:
    config: Config = benchmark_config(str(ENTRY / f"{name}.yaml"), [], str(tmp_path), str(tmp_path), "labels")
    assert config.split.use_source_split and config.source.kind == "meds" and config.evaluation.downstream.tasks == [TASK]
    assert load_config(ENTRY / f"{name}.yaml").evaluation.downstream.probe.kinds == ["linear"]


def test_the_command_lines_of_the_entry_are_commands_of_this_project() -> None:
    """Filled in as MEDS-DEV does; every option exists and everything that a command needs is given."""
    import typer.main

    places = ("dataset_dir", "labels_dir", "output_dir", "model_dir", "model_initialization_dir")
    values = {name: f"/{name}" for name in places} | {"split": "held_out", "demo": "True"}
    entry = parse_yaml((ENTRY / "model.yaml").read_text(encoding="utf-8"))
    group = typer.main.get_command(app).commands["meds-dev"]  # type: ignore[attr-defined]
    seen = set()
    for by_mode in entry["commands"].values():
        for script in by_mode.values():
            text = re.sub(r"\\\n", " ", script.format(**values))
            (line,) = [line for line in text.splitlines() if line.startswith("clinjepa ")]
            _, _, name, *words = shlex.split(line)
            group.commands[name].make_context(name, words)
            seen.add(name)
    assert seen == set(group.commands)

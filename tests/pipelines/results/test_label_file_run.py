"""A whole run with tasks from label files, in this process: probes, baselines, added value and the report treat them like the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from clinjepa.config import Config
from clinjepa.errors import SourceError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.results.run_report import write_report
from pipelines.stages import data
from tests.pipelines.graph.test_golden_results import Stays, tiny_config
from tests.support.training.stages_in_process import run_stage, without_ray

TASK = "in_hospital_death"


class Finished:
    """A tiny run without label files, and one with its labels of two tasks as files."""

    def __init__(self, folder: Path) -> None:
        self.storage = Folder(folder)
        raw = tiny_config(self.storage.address).model_dump(mode="json")
        plain = build_experiment(Config.model_validate(raw), "content")
        self.run([plain.labels], Config(storage=self.storage.address))
        labels = self.folder(plain, "labels")
        raw["labels"]["files"] = {
            "death_given": {"path": f"{labels.address}/meds/{TASK}.parquet"},
            "map_given": {"path": f"{labels.address}/meds/map_8h.parquet", "column": "float_value"},
        }
        raw["evaluation"]["downstream"]["tasks"] = [TASK, "death_given", "map_given"]
        raw["evaluation"]["forecasts"]["enabled"] = False
        self.config = Config.model_validate(raw)
        self.experiment = build_experiment(self.config, "content")
        self.run(self.experiment.stages, self.config)
        self.report: dict[str, Any] = json.loads(self.written(write_report(self.config, self.experiment, None)))

    def run(self, stages: list[Any], config: Config) -> None:
        for stage in (each for last in stages for each in last.closure()):
            if not Artifact.at(self.storage, stage.kind, stage.key).is_complete():
                run_stage(stage, config, self.storage)

    def folder(self, experiment: Experiment, kind: str) -> Folder:
        (stage,) = (stage for stage in experiment.stages if stage.kind == kind)
        return Artifact.at(self.storage, kind, stage.key).folder

    def written(self, address: str) -> str:
        return Path(address).with_name("report.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(data, "open_source", lambda config: Stays())
        yield Finished(tmp_path_factory.mktemp("storage"))


def test_labels_that_went_through_a_file_give_the_figures_of_the_task_itself(finished: Finished) -> None:
    """The same labels at the same points: every method of the risk table has the same figures."""
    tables = finished.folder(finished.experiment, "downstream").read_json("result.json")
    assert tables["death_given"] == tables[TASK] and tables[TASK]["linear"]["history_only"]["auroc"] is not None
    baselines = finished.folder(finished.experiment, "baselines").read_json("result.json")
    assert baselines["death_given"] == baselines[TASK]


def test_a_file_of_numbers_is_a_regression_at_every_point_of_the_file(finished: Finished) -> None:
    cells = finished.folder(finished.experiment, "downstream").read_json("regression.json")["map_given"]
    labels = pl.read_parquet(finished.config.labels.files["map_given"].path)
    assert cells["linear"]["history_only"]["mae"] is not None
    kept = pl.DataFrame(finished.folder(finished.experiment, "downstream").read_table("predictions.parquet"))
    points = kept.filter((pl.col("task") == "map_given") & (pl.col("method") == "linear") & (pl.col("column") == "history_only"))
    held_out = points["subject_id"].unique()
    assert points.height == labels.filter(pl.col("subject_id").is_in(held_out.implode())).height  # no stride


def test_the_report_has_the_tasks_without_alarms(finished: Finished) -> None:
    risk = finished.report["risk"]["tasks"]["death_given"]
    assert "begins" in risk["events"]["reason"] and set(risk["methods"]) == set(finished.report["risk"]["tasks"][TASK]["methods"])
    assert any(cell["unit"] == "" for method in finished.report["regression"]["map_given"].values() for cell in method.values())


def test_a_file_that_changed_after_planning_is_refused(finished: Finished, tmp_path: Path) -> None:
    changed = tmp_path / "changed.parquet"
    table = pl.read_parquet(finished.config.labels.files["death_given"].path)
    table.with_columns(~pl.col("boolean_value")).write_parquet(changed)
    raw = finished.config.model_dump(mode="json")
    raw["labels"]["files"]["death_given"]["path"] = str(changed)
    with pytest.raises(SourceError, match="the labels of death_given changed since this run was planned; run again"):
        run_stage(finished.experiment.labels, Config.model_validate(raw), finished.storage)

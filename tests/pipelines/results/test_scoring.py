"""A finished run scores other patients: with its own held-out patients the figures are its own, and nothing is fitted on new ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from clinjepa.config import Config
from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ConfigError, StoreError
from clinjepa.evaluation.predictions import MEDS_COLUMNS, PREDICTIONS, PREDICTIONS_SCHEMA
from clinjepa.evaluation.scores import finish_scores
from clinjepa.storage import Folder
from pipelines.graph.artifacts import RESULT, Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import FITTED, SavedRun, open_saved_run
from pipelines.graph.scoring import Patients, score_stage, scoring_config, scoring_experiment, shift_stage
from pipelines.graph.stage import Stage
from pipelines.results.run_report import write_report
from pipelines.score import _check_name, _check_results
from pipelines.stages import data
from tests.pipelines.graph.test_golden_results import NUM_PARTS, Stays, tiny_config
from tests.support.training.stages_in_process import run_stage, without_ray


class OtherStays(Stays):
    """Two parts of the stays, as the patients of another hospital."""

    def partitions(self) -> list[dict[str, int]]:
        return [{"part": 0}, {"part": 3}]


class Finished:
    """A finished tiny run, and what is scored with it."""

    def __init__(self, storage: Path) -> None:
        self.config = tiny_config(str(storage))
        experiment = build_experiment(self.config, "content")
        self.finish(experiment.stages, "the run's")
        self.report = write_report(self.config, experiment, None)
        self.run: SavedRun = open_saved_run(f"{storage}/runs/{self.config.name}")

    def scored(self, patients: Patients, digest: str, name: str) -> Experiment:
        config = scoring_config(self.run.config, SourceConfig(name=name), name, patients)
        found = scoring_experiment(self.run, self.run.trials, config, digest)
        trial = found.trials[0]
        self.finish([shift_stage(self.run, found), score_stage(trial), found.labels, *trial.evaluations.values()], name)
        write_report(config, found, None)
        return found

    def folder(self, stage: Stage) -> Folder:
        return Artifact.at(Folder(self.config.storage), stage.kind, stage.key).folder

    def finish(self, stages: list[Stage], name: str) -> None:
        """name: of the source, which says whose stays are read."""
        execution = Config(storage=self.config.storage, source={"name": name})
        for stage in (each for last in stages for each in last.closure()):
            if not Artifact.at(Folder(self.config.storage), stage.kind, stage.key).is_complete():
                run_stage(stage, execution, Folder(self.config.storage))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(data, "open_source", lambda config: OtherStays() if config.name == "elsewhere" else Stays())
        yield Finished(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def own(finished: Finished) -> Experiment:
    return finished.scored("held_out", "content", "own")


@pytest.fixture(scope="module")
def elsewhere(finished: Finished) -> Experiment:
    return finished.scored("all", "other content", "elsewhere")


def read(folder: Folder, name: str) -> Any:
    return folder.read_table(name) if name.endswith(".parquet") else folder.read_json(name)


@pytest.mark.parametrize(
    ("evaluation", "files"),
    [
        ("drift", [RESULT]),
        ("roundtrip", [RESULT]),
        ("geometry", [RESULT]),
        ("downstream", [RESULT, "regression.json", PREDICTIONS]),
        ("forecasts", [RESULT, "forecasts.parquet", "events.parquet"]),
    ],
)
def test_its_own_held_out_patients_have_the_figures_of_the_run(
    finished: Finished, own: Experiment, evaluation: str, files: list[str]
) -> None:
    before, after = finished.run.trials[0].evaluations[evaluation], own.trials[0].evaluations[evaluation]
    assert (before.key == after.key) == (evaluation == "geometry")
    for name in files:
        old, new = (read(finished.folder(stage), name) for stage in (before, after))
        if name == RESULT and evaluation == "forecasts":  # windows of train and tuning, which a frozen evaluation does not see
            assert old.pop("num_windows").items() >= new.pop("num_windows").items()
        assert old.equals(new) if isinstance(old, pa.Table) else json.dumps(old) == json.dumps(new), name


def test_new_patients_are_all_scored_and_nothing_is_fitted_on_them(finished: Finished, elsewhere: Experiment) -> None:
    trial = elsewhere.trials[0]
    stays = finished.folder(elsewhere.ingest).read_table("stays.parquet")
    assert set(stays["split"].to_pylist()) == {"held_out"} and 0 < stays.num_rows < 8 * NUM_PARTS
    predicted = finished.folder(trial.evaluations["downstream"]).read_table(PREDICTIONS)
    assert set(predicted["stay_id"].to_pylist()) <= set(stays["stay_id"].to_pylist())
    for name, stage in trial.evaluations.items():
        written = set(finished.folder(stage).files())
        assert not written & {"probes.json", "forecaster.json"}
        if name == "drift":  # the mean of the training latents, not of these
            kept = (finished.folder(each).read_bytes("train_mean.safetensors") for each in (stage, stage.inputs[FITTED]))
            assert len(set(kept)) == 1


def test_scores_need_no_label_and_are_those_of_the_evaluation(finished: Finished, elsewhere: Experiment) -> None:
    trial = elsewhere.trials[0]
    scores = finished.folder(score_stage(trial))
    risk = pq.ParquetDataset(scores.path("risk")).read()
    assert set(MEDS_COLUMNS) <= set(risk.column_names)
    risk = risk.select(PREDICTIONS_SCHEMA.names)
    assert risk["boolean_value"].null_count == risk["float_value"].null_count == risk.num_rows > 0
    judged = finished.folder(trial.evaluations["downstream"]).read_table(PREDICTIONS)
    keys = ["task", "method", "column", "stay_id", "hour"]
    both = risk.select([*keys, "score"]).join(judged.select([*keys, "score"]), keys, join_type="inner", right_suffix="_judged")
    assert both.num_rows == judged.filter(pc.not_equal(judged["column"], "recorded_actions")).num_rows > 0
    np.testing.assert_allclose(both["score"].to_numpy(), both["score_judged"].to_numpy(), rtol=1e-4, atol=1e-4)
    totals = scores.read_json(RESULT)
    assert totals["num_predictions"] == risk.num_rows and totals["num_forecasts"] > 0


def test_scores_resume_and_missing_parts_are_found(finished: Finished, elsewhere: Experiment) -> None:
    stage = score_stage(elsewhere.trials[0])
    scores, ingest = finished.folder(stage), finished.folder(elsewhere.ingest)
    before = {name: scores.read_bytes(name) for name in scores.files() if name.startswith("risk/")}
    part, _ = scores.names("parts")
    record = scores.read_json(f"parts/{part}")
    scores.remove(f"parts/{part}")
    with pytest.raises(StoreError, match="1 parts are not scored"):
        finish_scores(scores, ingest)
    run_stage(stage, Config(storage=finished.config.storage), Folder(finished.config.storage))
    assert scores.read_json(f"parts/{part}") == record
    assert before == {name: scores.read_bytes(name) for name in before}


def test_the_report_says_that_nothing_was_fitted_and_compares_no_baseline(finished: Finished, elsewhere: Experiment) -> None:
    report = Folder(finished.config.storage) / "runs/elsewhere"
    content = report.read_json("report.json")
    assert content["dataset"]["name"] == "elsewhere"
    assert all(set(methods) <= {"clin_jepa · linear", "clin_jepa · mlp"} for methods in content["downstream"].values())
    assert report.exists("report.html")


def test_a_run_without_probes_names_the_remedy(finished: Finished, elsewhere: Experiment) -> None:
    stage = score_stage(elsewhere.trials[0])
    probes = finished.folder(stage.inputs["probes"])
    kept = probes.read_bytes("probes.json")
    probes.remove("probes.json")
    try:
        with pytest.raises(StoreError, match="clinjepa evaluate"):
            run_stage(stage, Config(storage=finished.config.storage), Folder(finished.config.storage))
    finally:
        probes.write_bytes("probes.json", kept)


@pytest.mark.parametrize(
    ("name", "words"), [("run", "is the run itself"), ("../x", "letters, digits"), ("a/b", "letters, digits"), ("", "letters")]
)
def test_a_name_that_would_write_elsewhere_or_over_the_run_is_refused(finished: Finished, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _check_name(name, finished.run)


def test_results_of_other_data_are_not_replaced(finished: Finished, elsewhere: Experiment, own: Experiment) -> None:
    config = scoring_config(finished.run.config, SourceConfig(name="elsewhere"), "elsewhere", "all")
    _check_results(config, elsewhere)
    with pytest.raises(ConfigError, match="holds the report of other data"):
        _check_results(config, own)

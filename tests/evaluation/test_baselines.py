"""Every baseline on a small grid with a planted signal: it finds it, looks at no later hour, and repeats itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.clinical import load_task, load_tasks
from clinjepa.config.schema import BaselinesConfig, DownstreamConfig
from clinjepa.errors import ConfigError
from clinjepa.evaluation.baselines.evaluate import BaselineResults, LabelledStays, score_baselines
from clinjepa.evaluation.baselines.inputs import build_inputs
from clinjepa.evaluation.baselines.names import COLUMN, baseline_names
from clinjepa.evaluation.baselines.protocol import Problem, TaskPoints
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.baselines.tuning import InProcessRunner, Trial, draw_trials, fit_averaged, tuning_loss
from clinjepa.evaluation.downstream.prediction_points import prediction_points, union
from tests.support.data.planted_grid import Ingest, label_table

EVENT, NUMBER = load_task("hypotension_8h"), load_task("map_8h")
POINT_HOURS = (11, 19)
SHORT = {"max_epochs": 12, "learning_rate": 1e-2, "hidden_size": 32, "dropout": 0.0, "batch_hours": 512, "min_data_in_leaf": 5}
"""Settings that make the fits of the test short."""
CONTROLS = {"hours_in_icu", "sofa"}


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Ingest:
    """Labels follow the MAP of the prediction hour; it is always there."""
    made = Ingest(tmp_path_factory.mktemp("ingest"), 180, with_score=True)
    made.values["map"] = np.nan_to_num(made.values["map"], nan=80.0)
    made.write()
    return made


def labels_of(ingest: Ingest) -> pa.Table:
    points = [(stay, hour) for stay in range(ingest.stays.num_rows) for hour in POINT_HOURS]
    events = [(stay, hour, float(ingest.values["map"][stay, hour] < 75)) for stay, hour in points]
    numbers = [(stay, hour, float(ingest.values["map"][stay, hour])) for stay, hour in points]
    return pa.concat_tables([label_table(events, EVENT.name), label_table(numbers, NUMBER.name)])


def settings_of(**baselines: Any) -> DownstreamConfig:
    return DownstreamConfig(min_positives=5, num_bootstrap=50, baselines=BaselinesConfig(**baselines))


def problem_of(ingest: Ingest, name: str) -> Problem:
    """All tasks that a baseline answers, with labels of every split."""
    baseline, labels = load_baseline(name), labels_of(ingest)
    tasks = [task for task in (EVENT, NUMBER) if baseline.answers(task)]
    points = [prediction_points(labels, ingest.stays, task, settings_of()) for task in tasks]
    stay_P, hour_P, found = union(points)
    inputs = build_inputs(ingest.folder, ingest.stays, stay_P, hour_P, baseline.reads)
    return Problem(tuple(TaskPoints(task, own, rows) for task, (own, rows) in zip(tasks, found, strict=True)), inputs)


def predictions(problem: Problem, name: str) -> dict[str, np.ndarray]:
    """task -> predictions on held-out points."""
    baseline = load_baseline(name)
    known = {setting: value for setting, value in SHORT.items() if setting in baseline.defaults or setting in baseline.space}
    groups = [problem] if baseline.together else [problem.of([one.task.name]) for one in problem.tasks]
    found = [baseline.fit(group, {**baseline.defaults, **known}, ["held_out"], 0) for group in groups]
    return {task: own["held_out"] for one in found for task, own in one.items()}


@pytest.mark.parametrize("name", [name for name in baseline_names() if name not in CONTROLS])
def test_a_baseline_finds_a_planted_signal(ingest: Ingest, name: str) -> None:
    if name == "xgboost":
        pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")
    problem = problem_of(ingest, name)
    for task, found_N in predictions(problem, name).items():
        truth_N = problem.of([task]).only.points.of("held_out").label_N
        assert np.corrcoef(found_N, truth_N)[0, 1] > 0.6, task


@pytest.mark.parametrize("name", baseline_names())
def test_a_baseline_looks_at_no_hour_after_the_prediction(tmp_path: Path, name: str) -> None:
    """Held-out stays are changed in hours that follow the prediction; training stays are as they were."""
    if name == "xgboost":
        pytest.importorskip("xgboost", reason="xgboost-cpu is not installed")
    made = Ingest(tmp_path, 60, with_score=True)
    made.values["map"] = np.nan_to_num(made.values["map"], nan=80.0)
    made.write()
    labels = problem_of(made, name)
    before = predictions(labels, name)
    held_out = np.array([split == "held_out" for split in made.stays["split"].to_pylist()])
    for values in made.values.values():
        values[held_out, max(POINT_HOURS) + 1 :] = 55.0
    made.write()
    changed = replace(problem_of(made, name), tasks=labels.tasks)
    for task, found_N in predictions(changed, name).items():
        np.testing.assert_array_equal(found_N, before[task])


def results_of(ingest: Ingest, **baselines: Any) -> BaselineResults:
    data = LabelledStays(ingest.folder, ingest.stays, labels_of(ingest))
    return score_baselines(data, load_tasks([EVENT.name, NUMBER.name]), settings_of(**baselines))


@pytest.fixture(scope="module")
def results(ingest: Ingest) -> BaselineResults:
    names = ["logistic", "ridge", "lightgbm", "gru", "last_value", "sofa", "hours_in_icu"]
    return results_of(ingest, names=names, num_trials=2, num_sequence_trials=1)


def test_the_tables_have_a_cell_for_every_baseline_that_answers(results: BaselineResults) -> None:
    events, numbers = results.tables[EVENT.name], results.regression[NUMBER.name]
    assert list(events) == ["logistic", "lightgbm", "gru", "last_value", "sofa", "hours_in_icu", "ensemble"]
    assert list(numbers) == ["ridge", "lightgbm", "gru", "last_value", "ensemble"]
    assert events["lightgbm"][COLUMN]["auroc"]["value"] > 0.9 > 0.7 > events["hours_in_icu"][COLUMN]["auroc"]["value"]
    assert numbers["last_value"]["r2"]["value"] > 0.99 and numbers["last_value"]["mae"]["value"] < 0.1
    kept = set(zip(results.predictions["task"].to_pylist(), results.predictions["method"].to_pylist(), strict=True))
    assert kept == {(EVENT.name, name) for name in events} | {(NUMBER.name, name) for name in numbers}


def test_the_record_of_a_model_has_the_loss_of_every_trial(results: BaselineResults) -> None:
    record = results.tuning["lightgbm"][EVENT.name]
    assert len(record["tuning_losses"]) == 2 and min(record["tuning_losses"]) < 0.7
    assert results.tuning["gru"]["all tasks"]["tuning_losses"] == []
    assert sum(results.tuning["ensemble"][EVENT.name]["weights"].values()) == pytest.approx(1)
    assert set(results.seconds) == {"logistic", "ridge", "lightgbm", "gru", "last_value", "sofa", "hours_in_icu"}


def test_labels_of_the_scored_split_change_no_prediction(ingest: Ingest) -> None:
    """Turned labels of held-out stays leave every score and every choice as it was."""
    settings = settings_of(names=["logistic", "lightgbm"], num_trials=3)
    held_out = set(ingest.stays.filter(pa.array([s == "held_out" for s in ingest.stays["split"].to_pylist()]))["stay_id"].to_pylist())
    plain = labels_of(ingest)
    turned = [1 - y if stay in held_out else y for stay, y in zip(plain["stay_id"].to_pylist(), plain["label"].to_pylist(), strict=True)]
    other = plain.set_column(plain.schema.get_field_index("label"), "label", pa.array(turned, pa.float32()))
    a, b = (score_baselines(LabelledStays(ingest.folder, ingest.stays, labels), [EVENT], settings) for labels in (plain, other))
    assert a.predictions["score"].to_pylist() == b.predictions["score"].to_pylist()
    assert a.tuning == b.tuning


def test_a_task_without_labels_is_null_with_a_reason(ingest: Ingest) -> None:
    data = LabelledStays(ingest.folder, ingest.stays, label_table([], EVENT.name))
    found = score_baselines(data, [EVENT, NUMBER], settings_of())
    assert found.tables[EVENT.name]["lightgbm"][COLUMN]["auroc"] is None
    assert "patients" in found.tables[EVENT.name]["lightgbm"][COLUMN]["reason"]
    assert found.regression[NUMBER.name]["lightgbm"]["r2"] is None


def test_data_without_a_score_give_no_score_and_a_reason(tmp_path: Path) -> None:
    made = Ingest(tmp_path, 60)
    made.values["map"] = np.nan_to_num(made.values["map"], nan=80.0)
    made.write()
    cell = results_of(made, names=["sofa", "hours_in_icu"]).tables[EVENT.name]["sofa"][COLUMN]
    assert cell["auroc"] is None and cell["reason"] == "the data lack what sofa reads"


def test_the_best_settings_by_tuning_are_kept(ingest: Ingest) -> None:
    """Trained alone, the settings that were kept have the lowest losses of all trials."""
    found = results_of(ingest, names=["logistic"], num_trials=5, num_averaged=2).tuning["logistic"][EVENT.name]
    problem = problem_of(ingest, "logistic")
    baseline = load_baseline("logistic")
    losses = {
        trial.settings["strength"]: tuning_loss(problem, baseline.fit(problem, trial.settings, ["tuning"], 0))
        for trial in draw_trials("logistic", baseline, 5, 0)
    }
    assert [each["strength"] for each in found["settings"]] == sorted(losses, key=losses.__getitem__)[:2]
    assert found["tuning_losses"] == pytest.approx(list(losses.values()))


def test_several_best_settings_are_averaged_where_points_are_few(ingest: Ingest) -> None:
    problem = problem_of(ingest, "logistic")
    alone = [load_baseline("logistic").fit(problem, {"strength": c}, ["held_out"], 0)[EVENT.name]["held_out"] for c in (1e-3, 1e-1)]
    kept = [Trial("logistic", {"strength": c}, place) for place, c in enumerate((1e-3, 1e-1))]
    both = fit_averaged(problem, kept, ["held_out"], 0, InProcessRunner())[EVENT.name]["held_out"]
    np.testing.assert_allclose(both, np.mean(alone, axis=0))
    for most_points, kept in ((10_000, 3), (100, 1)):
        found = results_of(ingest, names=["logistic"], num_trials=5, max_trial_points=most_points).tuning["logistic"][EVENT.name]
        assert len(found["settings"]) == kept


def test_trials_are_the_defaults_and_then_draws_from_the_space() -> None:
    baseline = load_baseline("lightgbm")
    trials = draw_trials("lightgbm", baseline, 20, 0)
    assert trials[0].settings == dict(baseline.defaults) and trials[:5] == draw_trials("lightgbm", baseline, 5, 0)
    leaves = [trial.settings["num_leaves"] for trial in trials[1:]]
    assert all(isinstance(each, int) and 4 <= each <= 64 for each in leaves) and len(set(leaves)) > 10


def test_a_trial_has_whole_patients_and_both_classes(ingest: Ingest) -> None:
    one = problem_of(ingest, "logistic").limited(60, 0).only
    train = one.points.of("train")
    assert 40 < len(train) <= 60 and set(train.label_N) == {0.0, 1.0}
    assert all((train.subject_N == subject).sum() == len(POINT_HOURS) for subject in train.subject_N)
    assert len(one.points.of("tuning")) == len(problem_of(ingest, "logistic").only.points.of("tuning"))


def test_no_trial_starts_after_the_time_is_over(ingest: Ingest) -> None:
    found = results_of(ingest, names=["logistic"], num_trials=50, max_seconds=1e-9).tuning["logistic"][EVENT.name]
    assert len(found["tuning_losses"]) == 1


def test_an_unknown_name_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"names: catboost is no baseline; use some of .*lightgbm") as fault:
        load_baseline("catboost")
    assert "\n" not in str(fault.value)

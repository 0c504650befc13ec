"""Subgroups and the whole risk result, from kept predictions and stays."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from clinjepa.config.schema import RiskConfig
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.predictions import KeptPredictions, Meaning
from clinjepa.evaluation.risk.evaluate import ORDER_ONLY, RiskSettings, risk_evaluation
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints
from clinjepa.evaluation.risk.subgroups import AGE_BANDS, MAX_GROUPS, group_counts, groups_of, subgroups

NUM = 240
SETTINGS = RiskSettings(RiskConfig(), 100, 4, "history_only")


def stays(**changed: list[object]) -> pa.Table:
    rng = np.random.default_rng(0)
    columns = {
        "stay_id": list(range(NUM)),
        "age_years": rng.uniform(20, 95, NUM).tolist(),
        "sex": rng.choice(["F", "M"], NUM).tolist(),
        "care_unit": rng.choice(["MICU", "SICU"], NUM, p=[0.97, 0.03]).tolist(),
    }
    return pa.table({**columns, **changed})


def points_and_scores(seed: int = 0, per_stay: int = 6) -> tuple[Points, np.ndarray]:
    rng = np.random.default_rng(seed)
    stay_N = np.repeat(np.arange(NUM), per_stay)
    log_odds_N = np.repeat(rng.normal(size=NUM), per_stay) + rng.normal(size=len(stay_N)) - 1
    label_N = (rng.random(len(stay_N)) < 1 / (1 + np.exp(-log_odds_N))).astype(float)
    hour_N = np.tile(np.arange(3, 3 + 4 * per_stay, 4), NUM).astype(np.int32)
    return Points(stay_N, hour_N, label_N, stay_N // 2, np.full(len(stay_N), "held_out", dtype=object)), log_odds_N


def kept(task: str, points: Points, score_N: np.ndarray, meaning: Meaning = "log_odds") -> pa.Table:
    found = KeptPredictions()
    found.add(task, "linear", "history_only", points, score_N, meaning)
    return found.table()


def test_groups_have_the_auroc_of_their_points_and_small_ones_a_reason() -> None:
    plain, score_N = points_and_scores()
    points = RiskPoints.of(plain.stay_N, plain.hour_N, plain.label_N, plain.subject_N, 200)
    groups = groups_of(points, stays())
    assert list(groups) == ["age", "sex", "unit"] and set(groups["age"]) == {name for _, name in AGE_BANDS}
    assert all(np.sum(list(by_group.values()), axis=0).max() == 1 for by_group in groups.values())
    counts = group_counts(points, groups, 10)
    found = subgroups(points, MethodScores(score_N[None], True), groups, counts)
    for name, row in found["sex"]["groups"].items():
        of_N = groups["sex"][name]
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(plain.label_N[of_N], score_N[of_N]))
        expected = plain.label_N[of_N].mean() - (1 / (1 + np.exp(-score_N[of_N]))).mean()
        assert row["observed_minus_predicted"]["value"] == pytest.approx(expected)
    sex = found["sex"]
    assert sex["groups"][sex["best_auroc"]]["auroc_gap"] is None
    worst = sex["groups"][sex["worst_auroc"]]
    assert worst["auroc_gap"]["value"] == pytest.approx(worst["auroc"]["value"] - sex["groups"][sex["best_auroc"]]["auroc"]["value"])
    assert "patients with a positive label" in counts["unit"]["SICU"]["reason"]
    assert list(found["unit"]["groups"]) == ["MICU"] and found["unit"]["best_auroc"] is None


def test_gap_of_equal_groups_lies_in_its_interval_and_a_worse_group_is_found() -> None:
    plain, score_N = points_and_scores(1)
    noisy_N = np.isin(plain.stay_N, np.flatnonzero(np.array(stays()["sex"].to_pylist()) == "M"))
    worse_N = np.where(noisy_N, np.random.default_rng(0).permutation(score_N), score_N)
    points = RiskPoints.of(plain.stay_N, plain.hour_N, plain.label_N, plain.subject_N, 300)
    groups = groups_of(points, stays())
    counts = group_counts(points, groups, 10)
    gap = subgroups(points, MethodScores(worse_N[None], True), groups, counts)["sex"]["groups"]["M"]["auroc_gap"]
    assert gap["ci95"][1] < 0


def test_columns_that_the_stays_lack_and_unknown_values() -> None:
    plain, _ = points_and_scores()
    points = RiskPoints.of(plain.stay_N, plain.hour_N, plain.label_N, plain.subject_N, 10)
    nothing = [None] * NUM
    units = [f"unit {number % 20:02d}" for number in range(NUM)]
    found = groups_of(points, stays(age_years=nothing, sex=[None] + ["F"] * (NUM - 1), care_unit=units))
    assert list(found) == ["sex", "unit"] and found["sex"]["not recorded"].sum() == 6
    assert len(found["unit"]) == MAX_GROUPS and np.sum(list(found["unit"].values()), axis=0).tolist() == [1] * len(points)
    assert groups_of(points, stays().select(["stay_id"])) == {}


def test_result_has_every_task_and_method_and_is_plain_json() -> None:
    points, score_N = points_and_scores()
    number = kept("log_lactate_4h", points, score_N, "number")
    methods = {
        "ours": [pa.concat_tables([kept("hypotension_8h", points, score_N + seed, "log_odds"), number]) for seed in (0, 1)],
        "sofa": [pa.concat_tables([kept("hypotension_8h", points, score_N, "order"), kept("in_hospital_death", points, score_N)])],
    }
    found = risk_evaluation(methods, stays(), SETTINGS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["tasks"]) == ["hypotension_8h", "in_hospital_death"]
    hourly, once = found["tasks"]["hypotension_8h"], found["tasks"]["in_hospital_death"]
    assert set(hourly["methods"]) == {"ours", "sofa"} and set(once["methods"]) == {"sofa"}
    assert hourly["num_total"] == len(points) and hourly["num_patients"] == NUM // 2
    assert hourly["prevalence"] == pytest.approx(points.label_N.mean())
    assert hourly["methods"]["ours"]["calibration"]["brier"]["num_seeds"] == 2
    assert hourly["methods"]["sofa"]["reason"] == ORDER_ONLY and hourly["methods"]["sofa"]["decisions"] == {}
    assert set(hourly["methods"]["sofa"]["alarms"]) == {"0.5", "1", "2"}
    assert once["events"]["reason"] == "predicted once per stay, not hour by hour" and once["methods"]["sofa"]["alarms"] == {}


def test_no_method_gives_no_task() -> None:
    assert risk_evaluation({"ours": [KeptPredictions().table()]}, stays(), SETTINGS)["tasks"] == {}

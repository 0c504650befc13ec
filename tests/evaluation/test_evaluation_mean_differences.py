"""The mean difference over tasks: by hand, against the figures of the single tasks, and its interval in worlds with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from clinjepa.evaluation.differences.over_tasks import TaskScores, mean_differences


def tasks(seed: int, num_patients: int = 120, gain: float = 0.0) -> dict[str, TaskScores]:
    """Two tasks of the same patients, who are easy or hard in both; `better` adds `gain` to the separation."""
    rng = np.random.default_rng([seed, 1])
    ease = 0.5 * rng.normal(size=num_patients)
    found = {}
    for name in ("a", "b"):
        label = (rng.random(num_patients) < 0.4).astype(float)
        shared = ease + rng.normal(size=num_patients)
        gaps = {"base": 1.0, "better": 1.0 + gain}
        scores = {method: label * gap + shared + 0.5 * rng.normal(size=num_patients) for method, gap in gaps.items()}
        found[name] = TaskScores(label, np.arange(num_patients), scores)
    return found


def test_the_mean_is_that_of_the_single_differences_and_equal_scores_give_zero() -> None:
    world = tasks(0, gain=1.0)
    world = {name: one._replace(scores={**one.scores, "same": one.scores["base"]}) for name, one in world.items()}
    found = mean_differences(world, "base", num_bootstrap=200)
    single = [roc_auc_score(one.label_N, one.scores["better"]) - roc_auc_score(one.label_N, one.scores["base"]) for one in world.values()]
    assert found["better"]["difference"]["value"] == pytest.approx(np.mean(single))
    assert (found["better"]["num_tasks"], found["better"]["difference"]["num_patients"]) == (2, 120)
    assert found["same"]["difference"]["ci95"] == [0.0, 0.0] and found["same"]["p_value"] == 1.0


def test_the_difference_of_each_seed_is_from_the_same_seed_of_the_reference() -> None:
    worlds = [tasks(0, gain=0.5), tasks(1, gain=0.5)]
    both = {
        name: one._replace(scores={method: np.stack([world[name].scores[method] for world in worlds]) for method in one.scores})
        for name, one in worlds[0].items()
    }
    found = mean_differences(both, "base", num_bootstrap=50)["better"]["difference"]
    expected = [
        np.mean(
            [
                roc_auc_score(one.label_N, one.scores["better"][s]) - roc_auc_score(one.label_N, one.scores["base"][s])
                for one in both.values()
            ]
        )
        for s in (0, 1)
    ]
    assert found["seeds"] == pytest.approx(expected) and found["value"] == pytest.approx(np.mean(expected))


def test_only_tasks_that_both_methods_have_are_compared() -> None:
    world = tasks(0)
    world["b"] = world["b"]._replace(scores={"base": world["b"].scores["base"]})
    found = mean_differences(world, "base", num_bootstrap=50)
    assert found["better"]["num_tasks"] == 1
    assert mean_differences({"b": world["b"]}, "base") == {} == mean_differences({"b": world["b"]}, "unknown")


def test_a_class_of_one_patient_gives_no_interval() -> None:
    world = tasks(0)
    label = np.zeros(120)
    label[0] = 1
    world["b"] = world["b"]._replace(label_N=label)
    found = mean_differences(world, "base", num_bootstrap=50)["better"]
    assert found["difference"]["ci95"] is None and found["p_value"] is None and found["interval_reason"].startswith("b: 1 patient")


def test_intervals_of_the_mean_cover_the_known_difference_about_as_often_as_they_say() -> None:
    """Score of a positive minus that of a negative is normal: AUROC = Φ(gap / sd), with the variances of the world above."""
    sd = np.sqrt(2 * (0.25 + 1.0 + 0.25))
    truth = norm.cdf(1.5 / sd) - norm.cdf(1.0 / sd)
    covered = []
    for seed in range(200):
        low, high = mean_differences(tasks(seed, gain=0.5), "base", num_bootstrap=200)["better"]["difference"]["ci95"]
        covered.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.98

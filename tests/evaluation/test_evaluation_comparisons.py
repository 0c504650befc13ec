"""Paired differences between methods: exact where the answer is known, and of the stated error rates in worlds with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.comparisons import Difference, Measure, equivalence, holm, not_below, paired_differences, two_sided_p
from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.metrics import discrimination


def world(seed: int, num_patients: int = 80, gain: float = 0.0) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Two scores that share most of their noise, two rows a patient; `gain` is what b knows more than a."""
    rng = np.random.default_rng(seed)
    labels_P = (np.arange(num_patients) % 2).astype(float)
    shared_P = labels_P + rng.normal(size=num_patients)
    scores = {
        name: np.repeat(shared_P + more * labels_P + 0.3 * rng.normal(size=num_patients), 2) for name, more in (("a", 0.0), ("b", gain))
    }
    return np.repeat(labels_P, 2), scores, np.repeat(np.arange(num_patients), 2)


def difference(seed: int, gain: float = 0.0, num_bootstrap: int = 300) -> Difference:
    labels_N, scores, subjects_N = world(seed, gain=gain)
    return paired_differences(labels_N, scores, "a", subjects_N, num_bootstrap=num_bootstrap, seed=seed)["b"]


@pytest.mark.parametrize("measure", ["auroc", "auprc"])
def test_identical_scores_differ_by_exactly_zero(measure: Measure) -> None:
    labels_N, scores, subjects_N = world(0)
    same = {"a": scores["a"], "again": scores["a"].copy(), "scaled": 3 * scores["a"] + 7}  # only the order counts
    for found in paired_differences(labels_N, same, "a", subjects_N, measure=measure).values():
        assert (found["difference"]["value"], found["difference"]["ci95"], found["p_value"]) == (0.0, [0.0, 0.0], 1.0)


@pytest.mark.parametrize(("measure", "library"), [("auroc", roc_auc_score), ("auprc", average_precision_score)])
def test_the_difference_is_that_of_the_library(measure: Measure, library) -> None:  # type: ignore[no-untyped-def]
    labels_N, scores, subjects_N = world(1, gain=0.5)
    found = paired_differences(labels_N, scores, "a", subjects_N, measure=measure, num_bootstrap=20)["b"]
    assert found["difference"]["value"] == pytest.approx(library(labels_N, scores["b"]) - library(labels_N, scores["a"]))
    assert (found["num_positive"], found["num_total"], found["num_positive_patients"]) == (80, 160, 40)


def test_a_paired_interval_is_narrower_than_that_of_two_figures() -> None:
    labels_N, scores, subjects_N = world(2)
    paired = paired_differences(labels_N, scores, "a", subjects_N)["b"]["difference"]["ci95"]
    alone = [discrimination(labels_N, scores[name], subjects_N, 1000, seed=0)["auroc"]["ci95"] for name in "ab"]
    assert paired is not None and alone[0] is not None and alone[1] is not None
    assert paired[1] - paired[0] < 0.7 * np.hypot(alone[0][1] - alone[0][0], alone[1][1] - alone[1][0])


def test_the_order_of_methods_and_of_patients_changes_nothing() -> None:
    labels_N, scores, subjects_N = world(3, gain=0.3)
    found = paired_differences(labels_N, scores, "a", subjects_N)
    order = np.random.default_rng(0).permutation(len(labels_N))
    shuffled = {name: scores[name][order] for name in ("b", "a")}
    assert paired_differences(labels_N[order], shuffled, "a", subjects_N[order]) == found


def test_paired_intervals_hold_the_truth_in_95_percent_of_500_worlds() -> None:
    """The truth is the mean of the differences of 500 further worlds."""
    truth = np.mean([difference(1000 + seed, gain=0.4, num_bootstrap=10)["difference"]["value"] for seed in range(500)])
    intervals = [difference(seed, gain=0.4)["difference"]["ci95"] for seed in range(500)]
    held = np.mean([low <= truth <= high for low, high in intervals])  # type: ignore[misc]  # each has an interval
    assert 0.93 <= held <= 0.97


def test_p_values_of_worlds_without_a_difference_are_uniform() -> None:
    p_values = np.array([difference(seed)["p_value"] for seed in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=2.6 * np.sqrt(level * (1 - level) / 400))


def test_a_p_value_is_below_5_percent_where_the_interval_excludes_zero() -> None:
    for seed in range(40):
        found = difference(seed, gain=0.25)
        assert found["difference"]["ci95"] is not None and found["p_value"] is not None
        low, high = found["difference"]["ci95"]
        assert (found["p_value"] < 0.05) == (low > 0 or high < 0) or 0.04 < found["p_value"] < 0.06
    assert two_sided_p(np.full(99, 1.0)) == pytest.approx(2 / 100)


def test_one_patient_of_a_class_gives_a_difference_without_interval_and_p_value() -> None:
    labels_N, scores, subjects_N = world(4)
    labels_N = np.where(subjects_N == 7, 1.0, 0.0)
    found = paired_differences(labels_N, scores, "a", subjects_N)["b"]
    assert (found["difference"]["ci95"], found["p_value"]) == (None, None)
    assert "1 patient with a positive label" in found["interval_reason"]


def test_a_score_that_is_not_finite_is_an_error() -> None:
    labels_N, scores, subjects_N = world(5)
    scores["b"][3] = np.nan
    with pytest.raises(EvaluationError, match="1 of 160"):
        paired_differences(labels_N, scores, "a", subjects_N)


def test_holm_is_the_step_down_of_the_textbook() -> None:
    """Values of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), method = "holm")."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": None, "c": 0.02}) == {"a": 0.7, "b": None, "c": 0.04}
    assert holm({}) == {}


def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(0)
    wrong = [min(holm({str(i): p for i, p in enumerate(rng.random(20))}).values()) <= 0.05 for _ in range(2000)]  # type: ignore[type-var]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.015)


def interval(low: float, high: float) -> Figure:
    return {"value": (low + high) / 2, "ci95": [low, high], "num_patients": 9, "num_seeds": 1}


@pytest.mark.parametrize(
    ("low", "high", "below", "same"),
    [
        (-0.004, 0.02, "not_below", "cannot_tell"),
        (-0.005, 0.005, "not_below", "equivalent"),
        (0.0, 0.0, "not_below", "equivalent"),
        (-0.02, 0.02, "cannot_tell", "cannot_tell"),
        (-0.02, -0.004, "cannot_tell", "cannot_tell"),
        (-0.03, -0.01, "below", "different"),
        (0.01, 0.03, "not_below", "different"),
    ],
)
def test_answers_follow_the_interval_and_the_margin(low: float, high: float, below: str, same: str) -> None:
    assert (not_below(interval(low, high)), equivalence(interval(low, high))) == (below, same)


def test_without_an_interval_nothing_can_be_told() -> None:
    alone: Figure = {"value": 0.1, "ci95": None, "num_patients": 9, "num_seeds": 1}
    assert (not_below(alone), equivalence(alone)) == ("cannot_tell", "cannot_tell")

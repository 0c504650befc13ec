"""Discrimination figures: exact values, patient-level intervals, combination over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import log_loss as library_log_loss

from clinjepa.errors import EvaluationError
from clinjepa.evaluation import metrics
from clinjepa.evaluation.figures import figure
from clinjepa.evaluation.metrics import Ranking, auprc, auroc, discrimination, log_loss, patient_draws, ratio_draws
from clinjepa.evaluation.seeds import combine_seeds


@pytest.fixture
def tied_scores() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.3).astype(float)
    return labels, np.round(rng.random(400) + 0.3 * labels, 1)


def test_auroc_and_auprc_are_exact_with_ties(tied_scores: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = tied_scores
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auprc(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 12])
def test_a_draw_of_the_bootstrap_equals_repeating_the_drawn_patients_rows(decimals: int) -> None:
    """With many ties (and more patients than rows of a class) and without any; scores of scikit-learn on the repeated rows."""
    rng = np.random.default_rng(3)
    labels = (rng.random(400) < 0.3).astype(float)
    scores, patients = np.round(rng.random(400) + 0.3 * labels, decimals), rng.integers(0, 90, 400)
    counts = rng.integers(0, 4, size=(5, 90)).astype(float)
    ranking = Ranking(labels, scores)
    for measure, library in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        found = ranking.over_draws(measure, counts, patients)
        for draw, of_patients in zip(found, counts, strict=True):
            repeated = np.repeat(np.arange(400), of_patients[patients].astype(int))
            assert draw == pytest.approx(library(labels[repeated], scores[repeated]), abs=1e-12)


def test_chunks_of_draws_change_nothing(tied_scores: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = tied_scores
    counts, patients = patient_draws(100, 37, 0), np.arange(400) // 4
    whole = [Ranking(labels, scores).over_draws(measure, counts, patients) for measure in ("auroc", "auprc")]
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 1)
    for measure, expected in zip(("auroc", "auprc"), whole, strict=True):
        np.testing.assert_allclose(Ranking(labels, scores).over_draws(measure, counts, patients), expected, rtol=1e-12)


def test_a_draw_without_a_class_has_no_measure() -> None:
    ranking, counts = Ranking(np.array([1.0, 0, 0]), np.array([0.4, 0.2, 0.6])), np.array([[0.0, 1, 1], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(ranking.over_draws("auroc", counts, np.arange(3)), [np.nan, np.nan, 1.0])
    np.testing.assert_array_equal(ranking.over_draws("auprc", counts, np.arange(3)), [np.nan, 1.0, 1.0])
    assert np.isnan(Ranking(np.zeros(3), np.arange(3.0)).over_draws("auroc", np.ones((2, 3)), np.arange(3))).all()


def test_log_loss_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, log_odds = (rng.random(50) < 0.4).astype(float), 3 * rng.normal(size=50)
    assert log_loss(labels, log_odds) == pytest.approx(library_log_loss(labels, 1 / (1 + np.exp(-log_odds))))


def test_interval_widens_when_rows_come_from_few_patients(tied_scores: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = tied_scores
    order = np.argsort(scores)  # neighbours in score share a patient: rows are anything but independent
    labels, scores = labels[order], scores[order]
    alone = discrimination(labels, scores, np.arange(400), num_bootstrap=500, seed=0)["auroc"]
    clustered = discrimination(labels, scores, np.arange(400) // 20, num_bootstrap=500, seed=0)["auroc"]
    assert clustered["num_patients"] == 20
    assert clustered["ci95"][1] - clustered["ci95"][0] > 1.2 * (alone["ci95"][1] - alone["ci95"][0])


def test_interval_is_as_wide_as_the_spread_over_fresh_samples() -> None:
    values, widths = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = (rng.random(300) < 0.4).astype(float)
        found = discrimination(labels, rng.normal(size=300) + labels, np.arange(300), num_bootstrap=300, seed=seed)["auroc"]
        values.append(found["value"])
        widths.append(found["ci95"][1] - found["ci95"][0])
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values, ddof=1), rel=0.25)


def test_same_seed_gives_the_same_interval(tied_scores: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = tied_scores
    patients = np.arange(400) // 4
    assert discrimination(labels, scores, patients, 200, seed=3) == discrimination(labels, scores, patients, 200, seed=3)


def test_a_mean_over_patients_weights_them_by_their_rows() -> None:
    draws = ratio_draws(np.array([10.0, 1.0]), np.array([10.0, 2.0]), np.array([[1.0, 1.0], [2.0, 0.0]]))
    np.testing.assert_allclose(draws, [11 / 12, 1.0])


def test_interval_is_null_when_most_draws_cannot_be_computed() -> None:
    assert figure(0.5, np.array([np.nan, np.nan, 0.5]), num_patients=3)["ci95"] is None


@pytest.mark.parametrize("rare", [0, 1])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_one_patient_of_a_class_gives_no_interval_whatever_its_number_of_rows(rare: int, num_rows: int) -> None:
    patients = np.repeat(np.arange(40), 5)
    labels = np.full(200, 1.0 - rare)
    labels[50 : 50 + num_rows] = rare  # rows of patient 10; in hourly tasks a patient has rows of both classes
    found = discrimination(labels, np.random.default_rng(0).normal(size=200), patients, num_bootstrap=200, seed=0)
    assert (found["auroc"]["ci95"], found["auprc"]["ci95"]) == (None, None)
    assert "1 patient with a" in found["interval_reason"]
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels, np.random.default_rng(0).normal(size=200)))


def test_two_patients_of_a_class_have_an_interval() -> None:
    labels = np.zeros(40)
    labels[[3, 20]] = 1
    found = discrimination(labels, np.random.default_rng(0).normal(size=40), np.arange(40), num_bootstrap=200, seed=0)
    assert found["auroc"]["ci95"][0] < found["auroc"]["value"] < found["auroc"]["ci95"][1]
    assert "interval_reason" not in found


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_separation_has_no_interval_of_no_width(sign: int) -> None:
    labels = (np.arange(60) >= 50).astype(float)
    found = discrimination(labels, sign * np.arange(60.0), np.arange(60), num_bootstrap=100, seed=0)
    assert found["auroc"] == {"value": float(sign > 0), "ci95": None, "num_patients": 60, "num_seeds": 1}
    assert "no width" in found["interval_reason"]


def test_an_interval_over_one_patient_is_null() -> None:
    assert figure(0.5, np.full(20, 0.5), num_patients=1)["ci95"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_count(bad: float, tied_scores: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = tied_scores
    scores[[7, 9]] = bad
    for measure in (auroc, auprc, lambda *given: discrimination(*given, np.arange(400), 20, seed=0)):
        with pytest.raises(EvaluationError, match="2 of 400"):
            measure(labels, scores)


@pytest.mark.parametrize("bad", [np.nan, 2.0, 0.5])
def test_a_label_that_is_neither_0_nor_1_is_an_error(bad: float, tied_scores: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = tied_scores
    labels[3] = bad
    with pytest.raises(EvaluationError, match="neither 0 nor 1"):
        auroc(labels, scores)


def test_seeds_combine_to_their_mean_with_an_interval_over_patients_and_each_seed_apart() -> None:
    def one(value: float) -> dict:
        return {"task": {"auroc": {"value": value, "ci95": [value - 0.1, value + 0.1], "num_patients": 7, "num_seeds": 1}, "num_total": 9}}

    combined = combine_seeds([one(0.6), one(0.7), one(0.8)])
    assert combined["task"]["auroc"]["value"] == pytest.approx(0.7)
    assert combined["task"]["auroc"]["num_seeds"] == 3
    assert combined["task"]["auroc"]["seeds"] == [0.6, 0.7, 0.8]
    assert combined["task"]["auroc"]["ci95"] == pytest.approx([0.6, 0.8], abs=0.005)  # each seed's half-width is 0.1
    assert combined["task"]["num_total"] == 9


def _seeds(name: str, *figures: tuple[float, float, float]) -> list[dict]:
    """Results of seeds with one figure: value and ends of its interval."""
    return [{name: {"value": value, "ci95": [low, high], "num_patients": 40, "num_seeds": 1}} for value, low, high in figures]


@pytest.mark.parametrize(
    ("name", "figures", "bounds"),
    [
        ("mase", [(4.0, 3.5, 4.6), (5.6, 5.0, 6.3)], (0, np.inf)),
        ("coverage_90", [(0.93, 0.9, 0.96), (0.86, 0.8, 0.91)], (0, 1)),
        ("auroc", [(0.52, 0.45, 0.6), (0.77, 0.7, 0.83)], (0, 1)),
        ("brier", [(0.03, 0.02, 0.05), (0.08, 0.06, 0.1)], (0, 1)),
        ("centred_cosine", [(0.9, 0.88, 0.92), (0.6, 0.5, 0.7)], (-1, 1)),
        ("drift", [(-0.8, -0.85, -0.7), (0.1, 0.0, 0.2)], (-1, np.inf)),
        ("r2", [(0.9, 0.85, 0.93), (0.2, 0.1, 0.3)], (-np.inf, 1)),
    ],
)
def test_an_interval_over_two_seeds_keeps_within_the_bounds_of_its_figure(name, figures, bounds) -> None:
    found = combine_seeds(_seeds(name, *figures))[name]
    low, high = found["ci95"]
    assert found["value"] == pytest.approx(np.mean([value for value, _, _ in figures]))
    assert bounds[0] < min(one[1] for one in figures) <= low < found["value"] < high <= max(one[2] for one in figures) < bounds[1]


def test_the_scale_of_a_table_holds_for_its_methods_and_hours_and_for_nothing_below_another_name() -> None:
    wide = _seeds("model", (0.93, 0.9, 0.96), (0.7, 0.6, 0.8))
    shares = combine_seeds([{"measured": one} for one in wide])["measured"]["model"]["ci95"]
    plain = combine_seeds([{"measured": {"difference": one}} for one in wide])["measured"]["difference"]["model"]["ci95"]
    assert shares == plain == pytest.approx([0.75, 0.88])
    late = _seeds("24", (-0.5, -0.6, -0.4), (0.4, 0.3, 0.5))
    assert combine_seeds([{"actions": {"late": one}} for one in late])["actions"]["late"]["24"]["ci95"][0] > -1


def test_the_interval_over_seeds_is_the_mean_of_their_intervals() -> None:
    found = combine_seeds(_seeds("mae", (2.0, 1.6, 2.5), (2.0, 1.6, 2.5)))["mae"]  # equal seeds: the patients' part alone
    assert found["ci95"] == pytest.approx([1.6, 2.5])
    found = combine_seeds(_seeds("mae", (2.0, 1.0, 4.0), (3.0, 2.0, 8.0)))["mae"]
    assert found["ci95"] == pytest.approx([1.5, 6.0]) and found["seeds"] == [2.0, 3.0]


def test_a_figure_at_its_bound_keeps_the_plain_scale() -> None:
    found = combine_seeds(_seeds("recall", (1.0, 0.9, 1.0), (0.5, 0.3, 0.7)))["recall"]
    assert found["value"] == 0.75 and found["ci95"] == pytest.approx([0.6, 0.85])


def test_a_seed_without_a_figure_does_not_hide_those_that_have_it() -> None:
    known = {"auroc": {"value": 0.6, "ci95": None, "num_patients": 7, "num_seeds": 1}}
    combined = combine_seeds([{"auroc": None, "reason": "no positives"}, known])
    assert combined == known


def test_figures_null_in_every_seed_keep_their_reason() -> None:
    assert combine_seeds([{"auroc": None, "reason": "no positives"}] * 2) == {"auroc": None, "reason": "no positives"}

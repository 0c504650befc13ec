"""Events, alarms and net benefit: by hand, and in simulated stays whose hours of onset are known."""

from __future__ import annotations

import numpy as np
import pytest

from clinjepa.evaluation.risk.alarms import alarms, raise_alarms, weighted_medians
from clinjepa.evaluation.risk.decisions import net_benefits
from clinjepa.evaluation.risk.events import StayEvents, first_events
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints


def points_of(stays: dict[int, list[tuple[int, int]]], num_bootstrap: int = 20) -> RiskPoints:
    """{stay: [(hour, label)]}; a stay is a patient."""
    rows = [(stay, hour, label) for stay, points in stays.items() for hour, label in points]
    stay_N, hour_N, label_N = np.array(rows).T
    return RiskPoints.of(stay_N, hour_N, label_N, stay_N, num_bootstrap)


def simulated(seed: int, stride: int, horizon: int = 8, num: int = 60) -> tuple[RiskPoints, np.ndarray]:
    """Stays of 48 h with one event of 3 h (−1: none) and labels by the rule of an early event; onset_S."""
    rng = np.random.default_rng(seed)
    onset_S = np.where(rng.random(num) < 0.6, rng.integers(10, 40, num), -1)
    stays = {}
    for stay, onset in enumerate(onset_S):
        state_H = (np.arange(48) >= onset) & (np.arange(48) < onset + 3) & (onset >= 0)
        stays[stay] = [(h, int(state_H[h + 1 : h + 1 + horizon].any())) for h in range(3, 47, stride) if not state_H[h]]
    return points_of(stays, 200), onset_S


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_onset_is_the_earliest_hour_that_the_labels_allow(stride: int) -> None:
    points, truth_S = simulated(0, stride)
    events = first_events(points, 8, stride)
    has_S = truth_S >= 0
    assert ((events.onset_S >= 0) == has_S).all()
    late_S = (truth_S - events.onset_S)[has_S]
    assert late_S.min() >= 0 and late_S.max() <= stride - 1
    assert (points.label_N[events.warns_N] == 1).all()


def test_points_from_the_first_onset_on_do_not_count() -> None:
    points = points_of({7: [(3, 0), (7, 1), (11, 1), (19, 0), (23, 1)], 8: [(3, 0), (7, 0)]})
    events = first_events(points, 8, 4)
    assert events.onset_S.tolist() == [12, -1]
    assert events.counts_N.tolist() == [True, True, True, False, False, True, True]
    assert events.warns_N.tolist() == [False, True, True, False, False, False, False]
    assert events.counts() == {"num_events": 1, "num_event_patients": 1, "num_stays": 2, "patient_days": pytest.approx(5 * 4 / 24)}


def test_run_without_a_negative_label_before_it_ends_at_the_onset() -> None:
    events = first_events(points_of({1: [(3, 1), (7, 1)], 2: [(3, 1), (7, 1), (11, 1), (15, 1)]}), 8, 4)
    assert events.onset_S.tolist() == [8, 11]  # the second run is longer than one horizon: at most the hour 3 + 8


def made(points: RiskPoints, score_N: np.ndarray, threshold: float, silence: int) -> tuple[int, list[int], StayEvents]:
    events = first_events(points, 8, 4)
    outcome = raise_alarms(points.hour_N, score_N, events, np.array([threshold]), silence)
    return int(outcome.false_PK.sum()), outcome.first_SK[:, 0].tolist(), events


def test_alarms_are_silent_after_an_alarm_and_true_only_in_the_run_of_the_event() -> None:
    points = points_of({1: [(3, 0), (7, 0), (11, 0), (15, 1), (19, 1)], 2: [(3, 0), (7, 0), (11, 0)]})
    always_N = np.ones(len(points))
    assert made(points, always_N, 0.5, 0)[:2] == (6, [15, -1])
    assert made(points, always_N, 0.5, 8)[:2] == (4, [19, -1])  # stay 1: 3, 11, 19; stay 2: 3, 11
    assert made(points, always_N, 0.5, 100)[:2] == (2, [-1, -1])
    assert made(points, np.array([0, 0, 0, 0, 1, 0, 0, 0]), 0.5, 8)[:2] == (0, [19, -1])


def test_an_alarm_depends_on_no_later_score() -> None:
    points, _ = simulated(1, 4)
    events = first_events(points, 8, 4)
    score_N = np.random.default_rng(0).normal(size=len(points))
    later_N = points.hour_N > 20
    changed_N = np.where(later_N, score_N + 3, score_N)
    first, second = (raise_alarms(points.hour_N, each, events, np.array([0.5]), 8).first_SK[:, 0] for each in (score_N, changed_N))
    early_S = (first >= 0) & (first <= 20)
    assert early_S.any() and (second[early_S] == first[early_S]).all()


def test_a_perfect_score_catches_every_event_without_a_false_alarm_and_with_the_true_lead() -> None:
    points, truth_S = simulated(2, 1)
    found = alarms(points, MethodScores(points.label_N[None], False), first_events(points, 8, 1), [0.5], 4)["0.5"]
    assert found["recall"]["value"] == 1 and found["recall"]["ci95"] is None and "interval_reason" in found
    assert found["false_alarms_per_day"]["value"] == 0
    assert found["lead_hours"]["value"] == 7  # first true alarm at onset − 8, at the end of that hour
    assert found["threshold"] is None  # no probability


def test_a_score_at_chance_catches_little_more_than_chance() -> None:
    """Every point alarms with the same probability q, so false alarms per day are at most q · 24 / 4."""
    points, _ = simulated(3, 4, num=400)
    score_N = np.random.default_rng(1).normal(size=len(points))
    events = first_events(points, 8, 4)
    found = alarms(points, MethodScores(score_N[None], True), events, [1.0], 0)["1"]
    negative_share = 1 - events.warns_N.sum() / events.counts_N.sum()
    q = 1.0 / 6 / negative_share
    points_per_event = events.warns_N.sum() / (events.onset_S >= 0).sum()
    assert found["recall"]["value"] == pytest.approx(1 - (1 - q) ** points_per_event, abs=0.08)
    assert 0.9 < found["false_alarms_per_day"]["value"] <= 1.0
    assert 0 < found["threshold"] < 1


def test_no_rate_is_exceeded_and_recall_grows_with_it() -> None:
    points, _ = simulated(4, 4)
    score_N = points.label_N + np.random.default_rng(2).normal(size=len(points))
    found = alarms(points, MethodScores(score_N[None], True), first_events(points, 8, 4), [0.25, 1.0, 10.0], 8)
    rates = [one["false_alarms_per_day"]["value"] for one in found.values()]
    recalls = [one["recall"]["value"] for one in found.values()]
    assert rates[0] <= 0.25 and rates[1] <= 1 and sorted(rates) == rates and sorted(recalls) == recalls


def test_weighted_median_is_that_of_the_repeated_values() -> None:
    rng = np.random.default_rng(0)
    value_E, weight_RE = rng.integers(0, 9, 15), rng.integers(0, 3, (20, 15)).astype(float)
    expected = [np.median(np.repeat(value_E, weights.astype(int))) for weights in weight_RE]
    np.testing.assert_array_equal(weighted_medians(value_E, weight_RE), expected)
    assert np.isnan(weighted_medians(value_E, np.zeros((1, 15)))).all()


def test_net_benefit_by_hand() -> None:
    """At 0.2: two of three positives and one of five negatives are above it, so 2/8 − 1/8 · 0.25; treating all gives 3/8 − 5/8 · 0.25."""
    label_N = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probability_N = np.array([0.9, 0.3, 0.1, 0.4, 0.1, 0.1, 0.05, 0.15])
    points = RiskPoints.of(np.arange(8), np.zeros(8, int), label_N, np.arange(8), 100)
    found = net_benefits(points, MethodScores(np.log(probability_N / (1 - probability_N))[None], True), [0.2])["0.2"]
    assert found["net_benefit"]["value"] == pytest.approx(2 / 8 - 1 / 8 * 0.25)
    assert found["over_default"]["value"] == pytest.approx((2 / 8 - 1 / 8 * 0.25) - (3 / 8 - 5 / 8 * 0.25))


def test_net_benefit_of_a_right_forecaster_is_not_below_treating_all_or_none() -> None:
    rng = np.random.default_rng(5)
    log_odds_N = rng.normal(size=4000) * 1.5 - 2
    label_N = rng.random(4000) < 1 / (1 + np.exp(-log_odds_N))
    points = RiskPoints.of(np.arange(4000), np.zeros(4000, int), label_N, np.arange(4000), 50)
    found = net_benefits(points, MethodScores(log_odds_N[None], True), [0.05, 0.1, 0.2, 0.5])
    assert all(one["over_default"]["value"] > 0 for one in found.values())
    chance = net_benefits(points, MethodScores(np.full((1, 4000), -2.0), True), [0.5])["0.5"]
    assert chance["net_benefit"]["value"] == 0 and chance["net_benefit"]["ci95"] is None

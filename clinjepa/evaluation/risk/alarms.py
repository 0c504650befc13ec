"""Alarms at event level: share of events caught and lead time, at stated rates of false alarms per patient-day.

An alarm is raised at a prediction point whose score reaches the threshold, unless one was raised in the same stay fewer than
`silence_hours` earlier. Whether it is raised depends on scores up to that point only. It is true at a point of the run of positive labels
before the stay's first event, and false at every other point before that event. An event is caught by the first true alarm, and the
lead time goes from the end of the hour of that alarm to the beginning of the hour of onset.

Event recall, alarms with a silence and rates per patient-day follow Hyland et al. (Nature Medicine 26, 2020; circEWS), who count every
event of a stay; here the first one counts. The threshold is the lowest one at which it and every higher one stay within the rate, on the
patients that are evaluated, as a point of a ROC curve is. It is chosen anew in every draw, so an interval contains its uncertainty. In use
a threshold is set on earlier patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clinjepa.evaluation.figures import MIN_INTERVAL_PATIENTS
from clinjepa.evaluation.risk.events import StayEvents
from clinjepa.evaluation.risk.points import NO_WIDTH, MethodScores, RiskPoints, has_no_width, seed_mean
from clinjepa.evaluation.risk.result import AlarmFigures

NUM_THRESHOLDS = 200
_NEVER = -1_000_000


class Outcome(NamedTuple):
    """What alarms at K thresholds did: false alarms [P, K] by patient; hour of the first true alarm [S, K] by stay, −1 without one."""

    false_PK: np.ndarray
    first_SK: np.ndarray


class _Reached(NamedTuple):
    """At one rate, each [1 + R]: recall, false alarms per patient-day, median lead in hours, number of the threshold."""

    recall_R: np.ndarray
    rate_R: np.ndarray
    lead_R: np.ndarray
    threshold_R: np.ndarray


def raise_alarms(hour_N: np.ndarray, score_N: np.ndarray, events: StayEvents, thresholds_K: np.ndarray, silence_hours: int) -> Outcome:
    """What alarms at every threshold do.

    Args:
        hour_N: Hour of each point; points are sorted by (stay, hour).
        score_N: Score of each point.
        events: First events of the stays.
        thresholds_K: Scores at which an alarm is raised.
        silence_hours: Hours after an alarm in which the stay raises no other.
    """
    rows = np.flatnonzero(events.counts_N)
    stay_M = events.stay_N[rows]
    new_M = np.concatenate([[True], stay_M[1:] != stay_M[:-1]])
    place_M = np.arange(len(rows)) - np.maximum.accumulate(np.where(new_M, np.arange(len(rows)), 0))
    num_stays, num = len(events.onset_S), len(thresholds_K)
    last_SK = np.full((num_stays, num), _NEVER)
    first_SK = np.full((num_stays, num), -1)
    false_SK = np.zeros((num_stays, num), dtype=np.int64)
    order = np.argsort(place_M, kind="stable")
    for at in np.split(order, np.flatnonzero(np.diff(place_M[order])) + 1):
        stay, row = stay_M[at], rows[at]
        hour = hour_N[row][:, None]
        alarm = (score_N[row][:, None] >= thresholds_K) & (hour - last_SK[stay] >= silence_hours)
        last_SK[stay] = np.where(alarm, hour, last_SK[stay])
        warns = events.warns_N[row][:, None]
        false_SK[stay] += alarm & ~warns
        first_SK[stay] = np.where(alarm & warns & (first_SK[stay] < 0), hour, first_SK[stay])
    false_PK = np.zeros((events.patient_S.max() + 1, num))
    np.add.at(false_PK, events.patient_S, false_SK)
    return Outcome(false_PK, first_SK)


def alarms(
    points: RiskPoints, scores: MethodScores, events: StayEvents, rates: Sequence[float], silence_hours: int
) -> dict[str, AlarmFigures]:
    """Event recall, reached rate and lead time at each rate of false alarms per patient-day.

    Args:
        points: The scored points.
        scores: Scores of every seed.
        events: First events of the stays, at least one.
        rates: Most false alarms per patient-day.
        silence_hours: Hours after an alarm in which the stay raises no other.
    """
    by_rate: dict[float, list[_Reached]] = {rate: [] for rate in rates}
    levels: dict[float, list[float]] = {rate: [] for rate in rates}
    for score_N in scores.score_SN:
        counted_N = score_N[events.counts_N]
        thresholds_K = np.append(np.unique(np.quantile(counted_N, np.linspace(0, 1, NUM_THRESHOLDS), method="higher")), np.inf)
        outcome = raise_alarms(points.hour_N, score_N, events, thresholds_K, silence_hours)
        curves = _curves(points.draws.counts_RP, outcome, events)
        for rate in rates:
            reached = _at_rate(points.draws.counts_RP, curves, rate)
            by_rate[rate].append(reached)
            levels[rate].append(float(thresholds_K[reached.threshold_R[0]]))
    return {f"{rate:g}": _figures(points, events, by_rate[rate], levels[rate], scores.is_log_odds) for rate in rates}


class _Curves(NamedTuple):
    """False alarms per patient-day and event recall at every threshold, each [1 + R, K]; what happened to each event [E]."""

    rate_RK: np.ndarray
    recall_RK: np.ndarray
    patient_E: np.ndarray
    first_EK: np.ndarray
    onset_E: np.ndarray


def _curves(counts_RP: np.ndarray, outcome: Outcome, events: StayEvents) -> _Curves:
    num_patients = counts_RP.shape[1]
    has_S = events.onset_S >= 0
    patient_E, first_EK = events.patient_S[has_S], outcome.first_SK[has_S]
    caught_PK = np.zeros((num_patients, first_EK.shape[1]))
    np.add.at(caught_PK, patient_E, first_EK >= 0)
    events_P = np.bincount(patient_E, minlength=num_patients)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_RK = (counts_RP @ outcome.false_PK) / (counts_RP @ events.days_P)[:, None]
        recall_RK = (counts_RP @ caught_PK) / (counts_RP @ events_P)[:, None]
    return _Curves(rate_RK, recall_RK, patient_E, first_EK, events.onset_S[has_S])


def _at_rate(counts_RP: np.ndarray, curves: _Curves, rate: float) -> _Reached:
    """The lowest threshold at which it and all higher ones stay within the rate, in every draw; the highest one raises no alarm."""
    too_many_RK = curves.rate_RK > rate * (1 + 1e-9)
    chosen_R = too_many_RK.shape[1] - np.argmax(too_many_RK[:, ::-1], axis=1)
    chosen_R[~too_many_RK.any(1)] = 0
    row_R = np.arange(len(counts_RP))
    lead_R = np.full(len(counts_RP), np.nan)
    for threshold in np.unique(chosen_R):
        first_E = curves.first_EK[:, threshold]
        caught_E = first_E >= 0
        if caught_E.any():
            of_R = chosen_R == threshold
            lead_E = (curves.onset_E - first_E - 1)[caught_E]
            lead_R[of_R] = weighted_medians(lead_E, counts_RP[of_R][:, curves.patient_E[caught_E]])
    return _Reached(curves.recall_RK[row_R, chosen_R], curves.rate_RK[row_R, chosen_R], lead_R, chosen_R)


def weighted_medians(value_E: np.ndarray, weight_RE: np.ndarray) -> np.ndarray:
    """Median of whole numbers ≥ 0 in which value e occurs weight_RE[r, e] times: [R], as `numpy.median`; NaN where all weights are 0."""
    totals_RV = np.stack([weight_RE[:, value_E == value].sum(1) for value in range(int(value_E.max()) + 1)], axis=1)
    below_RV = np.cumsum(totals_RV, axis=1)
    half_R = below_RV[:, -1:] / 2
    median_R = (np.argmax(below_RV >= half_R, axis=1) + np.argmax(below_RV > half_R, axis=1)) / 2
    return np.where(half_R[:, 0] > 0, median_R, np.nan)


def _figures(points: RiskPoints, events: StayEvents, seeds: Sequence[_Reached], levels: Sequence[float], is_log_odds: bool) -> AlarmFigures:
    num = len(np.unique(events.patient_S[events.onset_S >= 0]))
    recall_SR = np.stack([seed.recall_R for seed in seeds])
    lead_SR = np.stack([seed.lead_R for seed in seeds])
    enough = num >= MIN_INTERVAL_PATIENTS
    is_flat = enough and has_no_width(recall_SR)
    raised = bool(np.isfinite(levels).all())
    found: AlarmFigures = {
        "recall": seed_mean(recall_SR, num, enough and not is_flat),
        "false_alarms_per_day": seed_mean(np.stack([seed.rate_R for seed in seeds]), points.draws.num_patients, False),
        "lead_hours": seed_mean(lead_SR, num, enough),
        "threshold": float(np.mean(1 / (1 + np.exp(-np.array(levels))))) if is_log_odds and raised else None,
    }
    if found["lead_hours"] is None:
        found["reason"] = "no event is caught at this rate"
    if not enough:
        found["interval_reason"] = f"{num} patient with an event: an interval over patients needs {MIN_INTERVAL_PATIENTS}"
    elif is_flat:
        found["interval_reason"] = NO_WIDTH
    return found

"""Calibration of a method's probabilities over one bootstrap of the patients: Brier score, calibration error, slope, reliability curve.

Sources: Brier (Monthly Weather Review 78, 1950); expected calibration error over bins with equally many predictions (Nixon et al.,
Measuring calibration in deep learning, 2019); slope and intercept: `recalibration`.
"""

from __future__ import annotations

import numpy as np

from clinjepa.evaluation.forecasts.scoring.calibration import brier_draws, reliability
from clinjepa.evaluation.metrics import interval_fault
from clinjepa.evaluation.resampling import ratio
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints, seed_mean
from clinjepa.evaluation.risk.recalibration import recalibration
from clinjepa.evaluation.risk.result import Calibration, ReliabilityBin

NO_SOLUTION = "a logistic model of the outcome on the log-odds has no finite solution"


def calibration(points: RiskPoints, scores: MethodScores, num_bins: int) -> Calibration:
    """Calibration of log-odds. Figures have no interval where a class has rows of fewer than 2 patients, with the reason.

    Args:
        points: The scored points.
        scores: Log-odds of a positive label, of every seed.
        num_bins: Bins of the calibration error and the reliability curve, with equally many predictions.
    """
    fault = interval_fault(points.label_N, points.draws.index_N)
    probability_SN = scores.probability_SN
    fits = [recalibration(points.label_N, score_N, points.draws) for score_N in scores.score_SN]
    drawn = {
        "brier": np.stack([brier_draws(points.label_N, p_N, points.draws) for p_N in probability_SN]),
        "ece": np.stack([_about_estimate(_ece(points, p_N, num_bins)) for p_N in probability_SN]),
        "slope": np.stack([fit.slope_R for fit in fits]),
        "intercept": np.stack([fit.intercept_R for fit in fits]),
    }
    figures = {name: seed_mean(values_SR, points.draws.num_patients, fault is None) for name, values_SR in drawn.items()}
    found: Calibration = {
        "brier": figures["brier"],
        "ece": figures["ece"],
        "slope": figures["slope"],
        "intercept": figures["intercept"],
        "reliability": reliability_bins(points, probability_SN[0], num_bins),
    }
    if None in figures.values():
        found["reason"] = NO_SOLUTION
    if fault:
        found["interval_reason"] = fault
    return found


def _ece(points: RiskPoints, probability_N: np.ndarray, num_bins: int) -> np.ndarray:
    """Expected calibration error [1 + R]: mean over points of |mean prediction − share of events| in their bin; the bins are those of all
    points. It is above 0 in every finite sample, also of a right forecaster.
    """
    index_N = reliability(points.label_N, probability_N, num_bins).index_N
    every_N = np.ones(len(points), dtype=bool)
    gaps = [np.abs(points.draws.total(probability_N - points.label_N, index_N == number)) for number in range(index_N.max() + 1)]
    return ratio(np.sum(gaps, axis=0), points.draws.total(np.ones(len(points)), every_N))


def _about_estimate(values_R: np.ndarray) -> np.ndarray:
    """A positive estimate and its draws [1 + R], the draws multiplied so that their median is the estimate.

    A mean of absolute gaps is larger in a resampled sample than in the sample, often so much that the percentile interval leaves the
    estimate out. What is kept is the relative spread; the estimate's own bias stays.
    """
    median = np.nanmedian(values_R[1:])
    scaled_R = values_R[1:] * (values_R[0] / median) if median > 0 else values_R[1:]
    return np.concatenate([values_R[:1], scaled_R])


def reliability_bins(points: RiskPoints, probability_N: np.ndarray, num_bins: int) -> list[ReliabilityBin]:
    """The reliability curve: in bins with about equally many predictions, the mean prediction and the share of positive labels.

    A bin's share has no interval where a class has fewer than 2 patients in it. Equal predictions are never divided, so there may be fewer
    bins.
    """
    bins = reliability(points.label_N, probability_N, num_bins)
    found: list[ReliabilityBin] = []
    for number in range(len(bins.number_B)):
        in_bin_N = bins.index_N == number
        share_R = ratio(points.draws.total(points.label_N, in_bin_N), points.draws.total(np.ones(len(points)), in_bin_N))
        fault = interval_fault(points.label_N[in_bin_N], points.draws.index_N[in_bin_N])
        observed = seed_mean(share_R, points.num_patients(in_bin_N), fault is None)
        assert observed is not None  # a bin has points
        found.append({"predicted": float(bins.predicted_B[number]), "observed": observed, "num_total": int(bins.number_B[number])})
    return found


def mean_gap_draws(points: RiskPoints, probability_N: np.ndarray, of_N: np.ndarray) -> np.ndarray:
    """Share of positive labels minus mean predicted probability over the points in `of_N` (bool): [1 + R]."""
    return ratio(points.draws.total(points.label_N - probability_N, of_N), points.draws.total(np.ones(len(points)), of_N))

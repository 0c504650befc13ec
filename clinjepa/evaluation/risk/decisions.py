"""Net benefit of acting on predictions above a threshold probability (decision curve; Vickers and Elkin, Medical Decision Making 26, 2006).

Net benefit = TP/n − FP/n · t/(1 − t) over n prediction points: true positives minus false positives, weighted by the odds of the threshold
t, at which a decision maker finds acting and not acting equally good. Treating nobody has net benefit 0; treating all has the
prevalence − (1 − prevalence) · t/(1 − t).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.evaluation.metrics import interval_fault
from clinjepa.evaluation.resampling import ratio
from clinjepa.evaluation.risk.points import NO_WIDTH, MethodScores, RiskPoints, has_no_width, seed_mean
from clinjepa.evaluation.risk.result import DecisionFigures


def net_benefits(points: RiskPoints, scores: MethodScores, thresholds: Sequence[float]) -> dict[str, DecisionFigures]:
    """Net benefit at each threshold probability, and its difference from the better one of treating all and treating none.

    Args:
        points: The scored points.
        scores: Log-odds of every seed.
        thresholds: Probabilities inside (0, 1).
    """
    draws, num = points.draws, points.draws.num_patients
    every_N = np.ones(len(points), dtype=bool)
    number_R = draws.total(np.ones(len(points)), every_N)
    fault = interval_fault(points.label_N, draws.index_N)
    found: dict[str, DecisionFigures] = {}
    for threshold in thresholds:
        weight_N = np.where(points.label_N == 1, 1.0, -threshold / (1 - threshold))
        all_R = ratio(draws.total(weight_N, every_N), number_R)
        level = np.log(threshold) - np.log1p(-threshold)
        benefit_SR = np.stack([ratio(draws.total(weight_N, score_N >= level), number_R) for score_N in scores.score_SN])
        over_SR = benefit_SR - np.maximum(all_R, 0.0)
        is_flat = has_no_width(benefit_SR)
        row: DecisionFigures = {
            "net_benefit": seed_mean(benefit_SR, num, fault is None and not is_flat),
            "over_default": seed_mean(over_SR, num, fault is None and not has_no_width(over_SR)),
        }
        if fault or is_flat:
            row["interval_reason"] = fault or NO_WIDTH
        found[f"{threshold:g}"] = row
    return found

"""Discrimination and mean calibration in groups of stays: age bands, sex, unit.

All groups share the draws of patients, so a gap has the interval of the gap. Mean calibration is the share of positive labels minus
the mean predicted probability, also called calibration-in-the-large (Van Calster et al., BMC Medicine 17:230, 2019). The best and the
worst group are chosen by their estimates: of several equal groups one is best by chance, so a gap is slightly too large on average,
and its interval does not correct for the choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.evaluation.metrics import Ranking
from clinjepa.evaluation.risk.calibration import mean_gap_draws
from clinjepa.evaluation.risk.points import NO_WIDTH, MethodScores, RiskPoints, has_no_width, seed_mean
from clinjepa.evaluation.risk.result import AttributeFigures, GroupCounts, GroupFigures

AGE_BANDS = ((45, "under 45"), (65, "45 to 64"), (80, "65 to 79"), (np.inf, "80 and older"))
"""(first age in years beyond the band, name)."""
NOT_RECORDED = "not recorded"
OTHERS = "others"
MAX_GROUPS = 12
"""Most groups of an attribute; the smaller ones are one group, `others`."""
_ORDER_ONLY = "the method's scores are no probabilities"

Groups = dict[str, dict[str, np.ndarray]]
"""{attribute: {group: bool [N]}}."""


def groups_of(points: RiskPoints, stays: pa.Table) -> Groups:
    """The groups of the points by `age`, `sex` and `unit`; an attribute that no stay of the points has is left out.

    Args:
        points: The scored points.
        stays: stay_id, and of age_years, sex, care_unit those that the data have.
    """
    row_N = pc.index_in(pa.array(points.stay_N), stays["stay_id"]).to_numpy(zero_copy_only=False)
    found: Groups = {}
    for attribute, column in (("age", "age_years"), ("sex", "sex"), ("unit", "care_unit")):
        if column not in stays.column_names:
            continue
        values = np.asarray(stays[column].to_pylist(), dtype=object)[row_N.astype(np.int64)]
        known_N = np.array([value is not None for value in values])
        if not known_N.any():
            continue
        if attribute == "age":
            age_N = np.where(known_N, values, np.nan).astype(np.float64)
            known_N &= np.isfinite(age_N)
            names = [name for _, name in AGE_BANDS]
            band_N = np.searchsorted([end for end, _ in AGE_BANDS], age_N, side="right").clip(0, len(names) - 1)
            groups = {name: known_N & (band_N == number) for number, name in enumerate(names)}
        else:
            groups = _by_name(points, np.where(known_N, values, "").astype(str), known_N)
        groups = {name: of_N for name, of_N in groups.items() if of_N.any()}
        found[attribute] = groups | ({NOT_RECORDED: ~known_N} if not known_N.all() else {})
    return found


def _by_name(points: RiskPoints, value_N: np.ndarray, known_N: np.ndarray) -> dict[str, np.ndarray]:
    """A group per value, the one with most patients first; beyond MAX_GROUPS the rest is one group."""
    groups = {str(name): known_N & (value_N == name) for name in np.unique(value_N[known_N])}
    order = sorted(groups, key=lambda name: (-points.num_patients(groups[name]), name))
    if len(order) <= MAX_GROUPS:
        return {name: groups[name] for name in order}
    kept, rest = order[: MAX_GROUPS - 1], order[MAX_GROUPS - 1 :]
    return {name: groups[name] for name in kept} | {OTHERS: np.any([groups[name] for name in rest], axis=0)}


def group_counts(points: RiskPoints, groups: Groups, min_patients: int) -> dict[str, dict[str, GroupCounts]]:
    """Counts of every group, with the reason where a class has fewer than `min_patients` patients."""
    found: dict[str, dict[str, GroupCounts]] = {}
    for attribute, by_group in groups.items():
        found[attribute] = {}
        for name, of_N in by_group.items():
            row: GroupCounts = {**points.counts(of_N)}  # type: ignore[typeddict-item]  # Counts is what GroupCounts requires
            for kind, value in (("a positive", 1), ("a negative", 0)):
                number = points.num_patients(of_N & (points.label_N == value))
                if number < min_patients and "reason" not in row:
                    row["reason"] = f"{number} patients with {kind} label; at least {min_patients} are needed"
            found[attribute][name] = row
    return found


def subgroups(
    points: RiskPoints, scores: MethodScores, groups: Groups, counts: Mapping[str, Mapping[str, GroupCounts]]
) -> dict[str, AttributeFigures]:
    """The figures of one method in every group whose counts have no reason.

    Args:
        points: The scored points.
        scores: The method's scores; only log-odds have a mean calibration.
        groups: Of `groups_of`.
        counts: Of `group_counts`.
    """
    return {
        attribute: _attribute(points, scores, {name: of_N for name, of_N in by_group.items() if "reason" not in counts[attribute][name]})
        for attribute, by_group in groups.items()
    }


def _attribute(points: RiskPoints, scores: MethodScores, groups: Mapping[str, np.ndarray]) -> AttributeFigures:
    aurocs = {
        name: np.stack(
            [
                Ranking(points.label_N[of_N], s_N[of_N]).over_draws("auroc", points.draws.counts_RP, points.draws.index_N[of_N])
                for s_N in scores.score_SN
            ]
        )
        for name, of_N in groups.items()
    }
    means: dict[str, np.ndarray] = {}
    if scores.is_log_odds:
        probability_SN = scores.probability_SN
        means = {name: np.stack([mean_gap_draws(points, p_N, of_N) for p_N in probability_SN]) for name, of_N in groups.items()}
    by_auroc = sorted(aurocs, key=lambda name: -aurocs[name][:, 0].mean()) if len(groups) > 1 else []
    by_mean = sorted(means, key=lambda name: abs(means[name][:, 0].mean())) if len(groups) > 1 else []
    found: dict[str, GroupFigures] = {}
    for name, of_N in groups.items():
        num = points.num_patients(of_N)
        is_flat = has_no_width(aurocs[name])
        row: GroupFigures = {
            "auroc": seed_mean(aurocs[name], num, not is_flat),
            "auroc_gap": None,
            "observed_minus_predicted": seed_mean(means[name], num) if means else None,
            "calibration_gap": None,
        }
        if by_auroc and name != by_auroc[0]:
            widths = not (is_flat or has_no_width(aurocs[by_auroc[0]]))
            row["auroc_gap"] = seed_mean(aurocs[name] - aurocs[by_auroc[0]], num, widths)
        if by_mean and name != by_mean[0]:
            row["calibration_gap"] = seed_mean(means[name] - means[by_mean[0]], num)
        if is_flat:
            row["interval_reason"] = NO_WIDTH
        if not means:
            row["reason"] = _ORDER_ONLY
        found[name] = row
    return {
        "best_auroc": by_auroc[0] if by_auroc else None,
        "worst_auroc": by_auroc[-1] if by_auroc else None,
        "best_calibrated": by_mean[0] if by_mean else None,
        "worst_calibrated": by_mean[-1] if by_mean else None,
        "groups": found,
    }

"""Scores of all variables at one horizon: errors, distributions and next measurements, with one bootstrap over patients.

What is scored is what is shown (`distributions.shown`): the point of a forecast is the median of its predictive distribution, that of the
last value and of the training mean the number itself. A median is the best point for the MAE; the RMSE is that of the same point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.forecasts.result import (
    LAST_VALUE,
    LIGHTGBM,
    MEASURED_SHARE,
    MODEL,
    REPEATED,
    TRAIN_MEAN,
    AllVariables,
    ByMethod,
    VariableHorizon,
)
from clinjepa.evaluation.forecasts.scoring.distributions import (
    LEVELS,
    MIN_ERRORS,
    MIN_PATIENTS,
    Distribution,
    Estimates,
    Kind,
    PlausibleRange,
    Shown,
    choose_kind,
    fit_distribution,
    shown,
)
from clinjepa.evaluation.forecasts.scoring.scores import mean_draws, spearman_draws
from clinjepa.evaluation.metrics import Ranking
from clinjepa.evaluation.resampling import PatientBootstrap, ratio

MIN_VALUES = 20
"""Fewest measured values of a variable at a horizon, of MIN_PATIENTS patients."""


@dataclass(frozen=True)
class Horizon:
    """W windows of a split at one horizon: estimates [W, V] by method, the values observed (NaN where not measured), hours since the
    last measurement, share of given hours with one, whether the window reaches the horizon, patients, and plausible ranges by variable."""

    estimates: Mapping[str, np.ndarray]
    observed_WV: np.ndarray
    hours_since_WV: np.ndarray
    share_WV: np.ndarray
    inside_W: np.ndarray
    subject_W: np.ndarray
    ranges: Sequence[PlausibleRange]

    def known(self, method: str, column: int) -> np.ndarray:
        """Whether a window [W] has a measured value of a variable and the method an estimate of it."""
        return np.asarray(np.isfinite(self.observed_WV[:, column]) & np.isfinite(self.estimates[method][:, column]))

    def of(self, method: str, column: int) -> Estimates:
        """The measured values of a variable that a method has an estimate of."""
        estimate_W, observed_W, known_W = self.estimates[method][:, column], self.observed_WV[:, column], self.known(method, column)
        return Estimates(estimate_W[known_W], observed_W[known_W], self.hours_since_WV[known_W, column], self.subject_W[known_W])


@dataclass(frozen=True)
class Scored:
    """Figures of all variables at one horizon, the draws [1 + R, V] behind some of them, and what was scored, in the variables' units:
    points [W, V] by method and intervals [L, W, V, 2] of the model, NaN where no value was measured."""

    cells: list[VariableHorizon]
    mase: Mapping[str, np.ndarray]
    crps: Mapping[str, np.ndarray]
    coverage: Mapping[float, np.ndarray]
    measured: Mapping[str, np.ndarray]
    inside_W: np.ndarray
    points: Mapping[str, np.ndarray]
    intervals: np.ndarray


def fit_distributions(tuning: Sequence[Horizon]) -> dict[str, list[list[Distribution | None]]]:
    """{method: [horizon][variable] distribution}; a kind is chosen over all horizons on tuning windows. None where there are too few."""
    methods, number, ranges = tuning[0].estimates, tuning[0].observed_WV.shape[1], tuning[0].ranges
    kinds = {
        (method, column): choose_kind({place: own.of(method, column) for place, own in enumerate(tuning)}, ranges[column])
        for method in methods
        for column in range(number)
    }
    return {
        method: [
            [_distribution(own.of(method, column), kinds[method, column], ranges[column]) for column in range(number)] for own in tuning
        ]
        for method in methods
    }


def score_horizon(
    scored: Horizon, distributions: Mapping[str, Sequence[Distribution | None]], head_WV: np.ndarray, draws: PatientBootstrap
) -> Scored:
    """The figures of all variables.

    Args:
        scored: Windows that are scored.
        distributions: The predictive distribution of each variable at this horizon by method.
        head_WV: Log-odds that a variable is measured; NaN where there are none.
        draws: Draws of patients over the scored windows.
    """
    number = scored.observed_WV.shape[1]
    crps, models = _crps(scored, distributions), distributions[MODEL]
    points, intervals = _points_and_intervals(scored, distributions)
    errors = {method: scored.observed_WV - point_WV for method, point_WV in points.items()}
    mae = {method: mean_draws(draws, np.abs(error_WV)) for method, error_WV in errors.items()}
    ranked = {method: point_WV for method, point_WV in points.items() if method != TRAIN_MEAN}
    by_method = {
        "mae": mae,
        "rmse": {method: np.sqrt(mean_draws(draws, error_WV**2)) for method, error_WV in errors.items()},
        "mase": {method: ratio(own, mae[LAST_VALUE]) for method, own in mae.items()},
        "spearman": {method: spearman_draws(draws, point_WV, scored.observed_WV) for method, point_WV in ranked.items()},
        "crps": {method: mean_draws(draws, own) for method, own in crps.items()},
        "measured": _measured(scored, head_WV, draws),
    }
    plain = {}
    for level, (low_WV, high_WV) in zip(LEVELS, intervals.transpose(0, 3, 1, 2), strict=True):
        inside_WV = (scored.observed_WV >= low_WV) & (scored.observed_WV <= high_WV)
        plain[f"coverage_{round(100 * level)}"] = mean_draws(draws, np.where(np.isfinite(low_WV), inside_WV, np.nan))
        plain[f"width_{round(100 * level)}"] = mean_draws(draws, high_WV - low_WV)
    cells = []
    for column in range(number):
        own = {name: {method: values_RV[:, column] for method, values_RV in of.items()} for name, of in by_method.items()}
        cells.append(_cell(scored, column, own, {name: of[:, column] for name, of in plain.items()}, models[column], draws))
    coverage = {level: plain[f"coverage_{round(100 * level)}"] for level in LEVELS}
    return Scored(cells, by_method["mase"], by_method["crps"], coverage, by_method["measured"], scored.inside_W, points, intervals)


def _crps(scored: Horizon, distributions: Mapping[str, Sequence[Distribution | None]]) -> dict[str, np.ndarray]:
    """CRPS [W, V] by method; NaN where there is no distribution or no value."""
    found = {method: np.full(scored.observed_WV.shape, np.nan) for method in scored.estimates}
    for method, crps_WV in found.items():
        for column, own in enumerate(distributions[method]):
            if own is not None:
                crps_WV[scored.known(method, column), column] = own.crps(scored.of(method, column))
    return found


def _distribution(tuning: Estimates, kind: Kind, plausible: PlausibleRange) -> Distribution | None:
    """The distribution of the chosen kind, or of all errors where a group has too few; None where there are too few errors or patients."""
    if len(tuning.estimate_N) < MIN_ERRORS or len(np.unique(tuning.subject_N)) < MIN_PATIENTS:
        return None
    return fit_distribution(kind, tuning, plausible) or fit_distribution("residuals", tuning, plausible)


def _points_and_intervals(
    scored: Horizon, distributions: Mapping[str, Sequence[Distribution | None]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Points [W, V] of every method, and bounds [L, W, V, 2] of the model's intervals; NaN where no value was measured."""
    points = {method: np.full(scored.observed_WV.shape, np.nan) for method in scored.estimates}
    bounds = np.full((len(LEVELS), *scored.observed_WV.shape, 2), np.nan)
    for method, point_WV in points.items():
        for column, own in enumerate(distributions[method]):
            known_W = scored.known(method, column)
            found: Shown = shown(None if method in REPEATED else own, scored.ranges[column], scored.of(method, column))
            point_WV[known_W, column] = found.point_N
            if method == MODEL:
                bounds[:, known_W, column] = np.stack([found.low_LN, found.high_LN], axis=2)
    return points, bounds


def _measured(scored: Horizon, head_WV: np.ndarray, draws: PatientBootstrap) -> dict[str, np.ndarray]:
    """AUROC [1 + R, V] of whether a variable is measured; NaN where a class has fewer than MIN_PATIENTS patients."""
    known_WV = np.isfinite(scored.observed_WV)
    found = {name: np.full((len(draws.counts_RP), known_WV.shape[1]), np.nan) for name in (MODEL, MEASURED_SHARE)}
    for name, score_WV in ((MODEL, head_WV), (MEASURED_SHARE, scored.share_WV)):
        for column in range(known_WV.shape[1]):
            of_W = scored.inside_W & np.isfinite(score_WV[:, column])
            label_W = known_WV[:, column]
            if min(len(np.unique(scored.subject_W[of_W & each_W])) for each_W in (label_W, ~label_W)) >= MIN_PATIENTS:
                ranking = Ranking(label_W[of_W].astype(np.float64), score_WV[of_W, column])
                found[name][:, column] = ranking.over_draws("auroc", draws.counts_RP, draws.index_N[of_W])
    return found


def _cell(
    scored: Horizon,
    column: int,
    by_method: Mapping[str, Mapping[str, np.ndarray]],
    plain: Mapping[str, np.ndarray],
    model: Distribution | None,
    draws: PatientBootstrap,
) -> VariableHorizon:
    known_W = np.isfinite(scored.observed_WV[:, column])
    num_values, num_patients = int(known_W.sum()), len(np.unique(scored.subject_W[known_W]))
    enough = num_values >= MIN_VALUES and num_patients >= MIN_PATIENTS

    def figure(values_R: np.ndarray, of_W: np.ndarray = known_W) -> Figure | None:
        return draws.figure(values_R, of_W) if enough or of_W is not known_W else None

    figures = {name: {method: figure(values_R) for method, values_R in of.items()} for name, of in by_method.items() if name != "measured"}
    figures["measured"] = {method: figure(values_R, scored.inside_W) for method, values_R in by_method["measured"].items()}
    pit = model.pit(scored.of(MODEL, column)).tolist() if model is not None and enough else None
    found: VariableHorizon = {
        **figures,  # type: ignore[typeddict-item]  # the names are VariableHorizon's
        **{name: figure(values_R) for name, values_R in plain.items()},
        "num_values": num_values,
        "distribution": model.kind if model is not None else None,
        "pit": pit,
        "num_measured": num_values,
        "num_hours": int(scored.inside_W.sum()),
    }
    if not enough:
        found["reason"] = f"{num_values} values of {num_patients} patients; {MIN_VALUES} of {MIN_PATIENTS} are needed"
    elif model is None:
        found["reason"] = f"fewer than {MIN_ERRORS} tuning values of {MIN_PATIENTS} patients: no distribution"
    elif any(value is None for of in figures.values() for value in of.values()):
        found["reason"] = (
            "a forecast could not be fitted or is always the same, or hours with or without a measurement are of too few patients"
        )
    return found


def all_variables(found: Scored, draws: PatientBootstrap) -> AllVariables:
    """Geometric means over the variables that every method has a figure of: a ratio of 2 and one of ½ cancel."""
    methods = list(found.mase)
    has_V = np.array([all(cell["mase"][method] is not None for method in methods) for cell in found.cells], dtype=bool)
    spread_V = has_V & np.array([all(cell["crps"][method] is not None for method in methods) for cell in found.cells], dtype=bool)
    head_V = np.array([all(value is not None for value in cell["measured"].values()) for cell in found.cells], dtype=bool)

    def mean(values_RV: np.ndarray, of_V: np.ndarray) -> Figure | None:
        return draws.figure(values_RV[:, of_V].mean(1), found.inside_W) if of_V.any() else None

    def geometric(ratio_RV: np.ndarray, of_V: np.ndarray) -> Figure | None:
        with np.errstate(divide="ignore", invalid="ignore"):
            return draws.figure(np.exp(np.log(ratio_RV[:, of_V]).mean(1)), found.inside_W) if of_V.any() else None

    crps: ByMethod = {method: geometric(ratio(own, found.crps[LAST_VALUE]), spread_V) for method, own in found.crps.items()}
    result: AllVariables = {
        "num_variables": int(has_V.sum()),
        "num_windows": int(found.inside_W.sum()),
        "mase": {method: geometric(own, has_V) for method, own in found.mase.items()},
        "crps_ratio": crps,
        "model_over_lightgbm": geometric(ratio(found.mase[MODEL], found.mase[LIGHTGBM]), has_V) if LIGHTGBM in found.mase else None,
        "coverage_50": mean(found.coverage[0.5], spread_V),
        "coverage_90": mean(found.coverage[0.9], spread_V),
        "measured": {name: mean(own, head_V) for name, own in found.measured.items()},
    }
    if not spread_V.any() or not head_V.any():
        result["reason"] = "no variable has enough values of enough patients, in tuning and here, for every method"
    return result

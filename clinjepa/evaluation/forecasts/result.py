"""The records of a forecast evaluation. Every number is a figure with its interval over patients; docs/report.md explains them."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from clinjepa.evaluation.figures import Figure

MODEL, LAST_VALUE, TRAIN_MEAN, LIGHTGBM = "model", "last_value", "train_mean", "lightgbm"
METHODS = (MODEL, LAST_VALUE, TRAIN_MEAN, LIGHTGBM)
"""Decoded from rolled-out latents; the last measured value (the training mean before the first measurement); the mean over training hours;
gradient boosting on hand-made features. The point of the first and the last is the median of the distribution that its errors on tuning
patients make."""
REPEATED = (LAST_VALUE, TRAIN_MEAN)
"""Their point is the repeated number itself, so that a MASE is over plain copying."""
MEASURED_SHARE = "measured_share"
"""Score of a variable's next measurement: the share of the given hours in which it was measured."""

ByMethod = dict[str, Figure | None]


class VariableHorizon(TypedDict):
    """Forecasts of one variable at one horizon, on the hours in which it was measured. Errors, widths and CRPS are in its unit."""

    num_values: int
    """Measured values that are scored."""
    mae: ByMethod
    """Mean absolute error of the points, which are medians."""
    rmse: ByMethod
    """Root of the mean squared error of the same points: medians, not the means that would minimise it."""
    mase: ByMethod
    """MAE over that of the last value."""
    spearman: ByMethod
    crps: ByMethod
    """Mean CRPS of the predictive distribution; of every method by the same procedure."""
    coverage_50: Figure | None
    """Share of values inside the model's 50 % interval."""
    width_50: Figure | None
    coverage_90: Figure | None
    width_90: Figure | None
    distribution: str | None
    """Kind of the model's predictive distribution, chosen on tuning patients."""
    pit: list[float] | None
    """Shares of the model's probability integral transform in ten equal bins."""
    measured: ByMethod
    """AUROC of whether the variable is measured in that hour: by a head on the rolled-out latent, and by the share of given hours."""
    num_measured: int
    num_hours: int
    """Hours of that horizon inside the stays, and those of them with a measurement."""
    reason: NotRequired[str]
    """Why a figure is None."""


class AllVariables(TypedDict):
    """Means at one horizon over the variables that every method has a figure of; geometric means of ratios."""

    num_variables: int
    num_windows: int
    mase: ByMethod
    crps_ratio: ByMethod
    """CRPS over that of the last value's distribution."""
    model_over_lightgbm: Figure | None
    """MAE of the model over that of gradient boosting; paired."""
    coverage_50: Figure | None
    coverage_90: Figure | None
    measured: ByMethod
    """Mean AUROC over the variables that have one."""
    reason: NotRequired[str]


class Reliability(TypedDict):
    """Mean prediction, share of events and number of predictions in bins with about equally many."""

    predicted: list[float]
    observed: list[float]
    number: list[int]


class EventForecast(TypedDict):
    """Probabilities of one method for one task."""

    auroc: Figure | None
    brier: Figure | None
    brier_skill: Figure | None
    """1 − Brier score over that of the prevalence as constant prediction."""
    ece: Figure | None
    slope: Figure | None
    intercept: Figure | None
    reliability: Reliability
    reason: NotRequired[str]
    interval_reason: NotRequired[str]


class TaskForecast(TypedDict):
    """Zero-shot probabilities of one event task."""

    horizon_hours: int | None
    methods: dict[str, EventForecast]
    num_positive: int
    num_total: int
    num_positive_patients: int
    prevalence: float | None
    reason: NotRequired[str]
    """Why there is no method."""


class ForecastResult(TypedDict):
    """The result of a forecast evaluation."""

    context: int
    """Given hours of every window."""
    num_windows: dict[str, int]
    """Windows by split."""
    horizons: dict[str, AllVariables]
    variables: dict[str, dict[str, VariableHorizon]]
    """{variable: {horizon in hours: figures}}."""
    events: dict[str, TaskForecast]
    reason: NotRequired[str]
    """Why nothing could be forecast."""
    cut: NotRequired[str]
    """Which horizons training could not reach."""

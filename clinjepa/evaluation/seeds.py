"""One result from the results of several training seeds of a recipe; used when a report is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clinjepa.evaluation.figures import Figure, is_figure


class Scale(NamedTuple):
    """A scale without bounds for a figure that has them: to it, and back."""

    there: Callable[[Any], Any]
    back: Callable[[Any], Any]


PLAIN = Scale(lambda value: value, lambda value: value)
POSITIVE = Scale(np.log, np.exp)
"""Errors, widths and ratios: above 0."""
SHARE = Scale(lambda value: np.log(value / (1 - value)), lambda value: 1 / (1 + np.exp(-value)))
"""Probabilities, AUROC, coverage: between 0 and 1."""
CORRELATION = Scale(np.arctanh, np.tanh)
"""Correlations and cosines: between -1 and 1."""
CHANGE = Scale(np.log1p, np.expm1)
"""Relative changes of something positive: above -1."""
EXPLAINED = Scale(lambda value: -np.log1p(-value), lambda value: -np.expm1(-value))
"""R2 and skill scores: below 1."""

_SCALES = (
    dict.fromkeys(
        ("l1", "l1_per_dimension", "mae", "rmse", "mase", "crps", "crps_ratio", "model_over_lightgbm", "width_50", "width_90"), POSITIVE
    )
    | dict.fromkeys(("vs_mean", "norm_ratio", "variance_ratio", "false_alarms_per_day"), POSITIVE)
    | dict.fromkeys(("ratio", "plain_ratio", "mean_displacement_ratio"), POSITIVE)
    | dict.fromkeys(
        ("auroc", "auprc", "coverage_50", "coverage_90", "brier", "ece", "recall", "farther_share", "measured", "observed"), SHARE
    )
    | dict.fromkeys(("spearman", "centred_cosine", "coherence"), CORRELATION)
    | dict.fromkeys(("change", "change_of_space", "change_of_prediction", "drift", "drift_survivors", "actions"), CHANGE)
    | dict.fromkeys(("r2", "brier_skill"), EXPLAINED)
)
"""Name of a figure, or of the table of it by method -> its scale; other figures have the plain one."""

_VERSIONS = ("carried_forward", "none", "shuffled", "late", "other_doses")
"""Tables by hour inside the table `actions`."""


def combine_seeds(results: Sequence[Any]) -> Any:
    """One result from the JSON results of several training seeds, all of one shape.

    A figure becomes the mean over the seeds that have it, and `seeds` has the value of each. Its interval is over patients alone: all seeds
    are scored on the same patients, so each end is the mean of the seeds' ends. That is the interval of seeds whose errors move together
    over patients, and too wide where they do not; means of ends keep within the bounds of their figure. The spread of the seeds is not in
    the interval: of two seeds it has one degree of freedom.

    Of p-values (names that begin with `p_`) the largest is kept, since a mean of p-values is none. Other numbers that differ become their
    mean; of other values the first is kept.
    """
    return _combined(results)


def _combined(results: Sequence[Any]) -> Any:
    present = [result for result in results if result is not None]
    if not present:
        return None
    first = present[0]
    if is_figure(first):
        return _combine_figures([result for result in present if is_figure(result)])
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(name for result in present if isinstance(result, Mapping) for name in result))
        by_name = {name: [result.get(name) for result in present if isinstance(result, Mapping)] for name in names}
        combined = {name: _largest_p(values) if name.startswith("p_") else _combined(values) for name, values in by_name.items()}
        if "reason" in combined and all(value is not None for value in combined.values()):
            del combined["reason"]
        return combined
    if isinstance(first, int | float) and not isinstance(first, bool) and any(result != first for result in present):
        return float(np.mean(present))
    return first


def scale_of(name: str, values: Sequence[Any], outer: Scale) -> Scale:
    """The scale of an entry: by its name; figures without a name of their own (by method, by hour) have that of their table."""
    if name in _SCALES:
        return _SCALES[name]
    return outer if any(is_figure(value) for value in values) or name in _VERSIONS else PLAIN


def _largest_p(values: Sequence[float | None]) -> float | None:
    return None if None in values else max(value for value in values if value is not None)


def _combine_figures(figures: Sequence[Figure]) -> Figure:
    values = np.array([one["value"] for one in figures])
    mean, num_seeds = float(values.mean()), sum(one["num_seeds"] for one in figures)
    intervals = [one["ci95"] for one in figures if one["ci95"] is not None]
    interval = None
    if len(intervals) == len(figures) == 1:
        interval = list(intervals[0])
    elif len(intervals) == len(figures):
        interval = [float(end) for end in np.array(intervals).mean(0)]
    found: Figure = {"value": mean, "ci95": interval, "num_patients": min(one["num_patients"] for one in figures), "num_seeds": num_seeds}
    if len(figures) > 1:
        found["seeds"] = [float(value) for value in values]
    return found

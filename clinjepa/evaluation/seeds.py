"""One result from the results of several training seeds of a recipe; used when a report is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from clinjepa.evaluation.figures import Figure, is_figure


def combine_seeds(results: Sequence[Any]) -> Any:
    """One result from the JSON results of several training seeds, all of one shape.

    A figure becomes the mean over the seeds that have it. All seeds are scored on the same patients, so the patients' part of an interval
    is the mean of the seeds' half-widths; the part of the seeds, t(0.975) · sd / √seeds, is added in quadrature. Of p-values (names
    that begin with `p_`) the largest is kept, since a mean of p-values is none. Other numbers that differ become their mean; of other
    values the first is kept.
    """
    present = [result for result in results if result is not None]
    if not present:
        return None
    first = present[0]
    if is_figure(first):
        return _combine_figures([result for result in present if is_figure(result)])
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(name for result in present if isinstance(result, Mapping) for name in result))
        by_name = {name: [result.get(name) for result in present if isinstance(result, Mapping)] for name in names}
        combined = {name: (_largest_p if name.startswith("p_") else combine_seeds)(values) for name, values in by_name.items()}
        if "reason" in combined and all(value is not None for value in combined.values()):
            del combined["reason"]
        return combined
    if isinstance(first, int | float) and not isinstance(first, bool) and any(result != first for result in present):
        return float(np.mean(present))
    return first


def _largest_p(values: Sequence[float | None]) -> float | None:
    return None if None in values else max(value for value in values if value is not None)


def _combine_figures(figures: Sequence[Figure]) -> Figure:
    values = np.array([one["value"] for one in figures])
    mean, num_seeds = float(values.mean()), sum(one["num_seeds"] for one in figures)
    intervals = [(one["value"] - one["ci95"][0], one["ci95"][1] - one["value"]) for one in figures if one["ci95"] is not None]
    interval = None
    if len(intervals) == len(figures):
        below, above = np.mean(intervals, axis=0)
        spread = 0.0
        if len(figures) > 1:
            spread = float(scipy_stats.t.ppf(0.975, len(figures) - 1) * values.std(ddof=1) / np.sqrt(len(figures)))
        interval = [mean - float(np.hypot(below, spread)), mean + float(np.hypot(above, spread))]
    return {"value": mean, "ci95": interval, "num_patients": min(one["num_patients"] for one in figures), "num_seeds": num_seeds}

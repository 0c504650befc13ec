"""What of a search is refused before anything runs, and the configuration that its points share. Needs neither data, Ray nor a cluster."""

from __future__ import annotations

import difflib
import importlib.util

from clinjepa.config import Config
from clinjepa.config.axes import check_names, with_values, without_axes
from clinjepa.config.grid import AxisRange
from clinjepa.curriculum.recipes import load_recipes
from clinjepa.errors import ConfigError
from pipelines.results.trial_metrics import TUNING_L1, metric_names

PACKAGES = {
    "optuna": "optuna",
    "hyperopt": "hyperopt",
    "bayesopt": "bayes_opt",
    "nevergrad": "nevergrad",
    "ax": "ax",
    "hebo": "hebo",
    "zoopt": "zoopt",
}
"""Searcher -> the module that it needs."""


def search_config(config: Config) -> Config:
    """The configuration of every point of a search: no axes, and everything measured on the tuning split, so that no held-out patient has
    a part in the choice."""
    alone = without_axes(config)
    return alone.model_copy(update={"evaluation": alone.evaluation.model_copy(update={"split": "tuning"})})


def check_search(config: Config) -> None:
    """Refuse a search that cannot work. Needs neither data nor a cluster.

    Raises:
        ConfigError: no axes, several recipes, a metric that no trial reports, a searcher whose package is not installed, a scheduler with a
            metric that only finished trials report, more points than `grid.max_trials`, or an end of an axis that the schema refuses.
    """
    grid, search = config.grid, config.grid.search
    if not grid.axes:
        raise ConfigError("grid.search.metric is set, but grid.axes is empty: a search needs at least one setting to vary")
    if len(grid.recipes) > 1:
        raise ConfigError(
            f"grid.search tunes one recipe and grid.recipes has {len(grid.recipes)}; give one, and compare tuned recipes in a grid without "
            "grid.search.metric"
        )
    num_trials = search.num_samples * len(grid.seeds)
    if num_trials > grid.max_trials:
        raise ConfigError(
            f"grid.search: {search.num_samples} samples x {len(grid.seeds)} seeds = {num_trials} trials, more than "
            f"grid.max_trials={grid.max_trials}; lower grid.search.num_samples, or raise grid.max_trials"
        )
    check_names(config)
    known = metric_names(config)
    if search.metric not in known:
        near = difflib.get_close_matches(str(search.metric), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"for example {known[0]} or {known[3]}"
        raise ConfigError(f"grid.search.metric: no trial reports {search.metric}; {hint}")
    _check_algorithm(config)
    load_recipes(grid.recipes)
    alone = without_axes(config)
    for name, axis in grid.axes.items():
        for value in (axis.low, axis.high) if isinstance(axis, AxisRange) else axis:
            with_values(alone, {name: value})


def _check_algorithm(config: Config) -> None:
    """Raise ConfigError for a searcher that is not installed, or a scheduler that would never see the metric."""
    grid, search = config.grid, config.grid.search
    package = PACKAGES.get(search.algorithm)
    if package is not None and importlib.util.find_spec(package) is None:
        name = "clinjepa[search]" if search.algorithm == "optuna" else package
        raise ConfigError(
            f"grid.search.algorithm: {search.algorithm} is not installed; `pip install '{name}'`, or use grid.search.algorithm=random"
        )
    if search.scheduler != "none" and search.metric != TUNING_L1:
        raise ConfigError(
            f"grid.search.scheduler: {search.scheduler} compares trials after every phase, and {search.metric} is known at the end only; "
            f"use grid.search.metric={TUNING_L1}, or grid.search.scheduler=none"
        )
    if search.scheduler != "none" and len(grid.seeds) > 1:
        raise ConfigError(
            f"grid.search.scheduler: {search.scheduler} compares trials after every phase, and a point of {len(grid.seeds)} seeds has its "
            "metric at the end only; give one seed, or use grid.search.scheduler=none"
        )

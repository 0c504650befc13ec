"""The search space, searcher and scheduler of `grid.search`, as Tune's own objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, create_searcher

from clinjepa.config import Config
from clinjepa.config.grid import AxisRange

STEPS = "num_steps"
"""What is reported as the time of a search: optimizer steps done."""


def search_space(axes: Mapping[str, Sequence[Any] | AxisRange]) -> dict[str, object]:
    """Tune's distributions by dotted name: a list is a choice; a range is uniform, or uniform in its logarithm."""
    return {name: _range(axis) if isinstance(axis, AxisRange) else ray.tune.choice(list(axis)) for name, axis in axes.items()}


def _range(axis: AxisRange) -> Any:
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        draw = ray.tune.lograndint if axis.scale == "log" else ray.tune.randint
        return draw(axis.low, axis.high + 1)
    return (ray.tune.loguniform if axis.scale == "log" else ray.tune.uniform)(float(axis.low), float(axis.high))


def searcher(config: Config, tried: Sequence[Mapping[str, Any]], at_once: int) -> Any:
    """Tune's searcher.

    Args:
        config: with `grid.search`.
        tried: points of an earlier attempt at the same search, which are proposed first: their stages are finished. The random searcher
            draws the same points again by itself.
        at_once: points that run at once.
    """
    search = config.grid.search
    if search.algorithm == "random":
        return BasicVariantGenerator(random_state=search.seed, max_concurrent=at_once)
    options = {"seed": search.seed, "random_state": search.seed, "random_state_seed": search.seed}
    found = create_searcher(search.algorithm, points_to_evaluate=[dict(each) for each in tried] or None, **options)
    return ConcurrencyLimiter(found, max_concurrent=at_once)


def scheduler(config: Config, num_steps: int, first_phase_steps: int) -> TrialScheduler:
    """Tune's scheduler, which sees a trial after each of its phases.

    Args:
        config: with `grid.search`.
        num_steps: optimizer steps of a whole trial.
        first_phase_steps: those of its first phase, the earliest time at which a trial may be stopped.
    """
    search = config.grid.search
    if search.scheduler == "asha":
        return AsyncHyperBandScheduler(time_attr=STEPS, max_t=num_steps + 1, grace_period=max(1, first_phase_steps), reduction_factor=2)
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr=STEPS, grace_period=first_phase_steps, min_samples_required=2)
    return FIFOScheduler()

"""The section `grid`: which trials there are. Recipes × seeds, crossed with axes over any other setting, or a search over those axes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clinjepa.config.section import IS_ADDRESS, Added, Execution, Section

Algorithm = Literal["random", "optuna", "hyperopt", "bayesopt", "nevergrad", "ax", "hebo", "zoopt"]
"""Tune's searchers that take ranges and lists (`ray.tune.search`)."""


class AxisRange(Section):
    """Values between two ends. In a grid `num` of them are taken; a search draws from the whole range."""

    low: int | float
    """Smallest value. If both ends are whole numbers, so are all values."""

    high: int | float
    """Largest value."""

    num: int | None = Field(None, ge=2)
    """Number of values in a grid, both ends included; a search ignores it."""

    scale: Literal["linear", "log"] = "linear"
    """Whether differences or ratios of neighbouring values are equal."""

    @model_validator(mode="after")
    def _in_order(self) -> AxisRange:
        if not self.low < self.high:
            raise ValueError(f"a range of grid.axes goes from {self.low} to {self.high}; low must be below high")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a range of grid.axes starts at {self.low}; with scale: log it starts above 0")
        return self


class SearchConfig(Section):
    """A search for the values of `grid.axes` with which one recipe does best on tuning patients (docs/grids.md). It compares nothing."""

    metric: str | None = Execution(None)
    """What is optimised: a column of the results table, measured on the tuning split; null: no search, every point of the axes is
    trained."""

    mode: Literal["min", "max"] = Execution("min")
    """Whether small or large values of the metric are good."""

    num_samples: int = Execution(20, ge=1)
    """Points that are tried."""

    algorithm: Algorithm = Execution("random")
    """Tune's searcher. All but `random` are packages of their own: `pip install clinjepa[search]` for `optuna`."""

    scheduler: Literal["none", "asha", "median"] = Execution("none")
    """Tune's scheduler, which may end a point after a phase: `asha` (asynchronous successive halving), `median` (points worse than the
    median). Both need the metric `tuning_l1`."""

    seed: int = Execution(0)
    """Seed of the searcher's draws."""


class GridConfig(Section):
    """Which trials are trained: every recipe with every seed, and with every point of the axes."""

    recipes: list[Annotated[str, IS_ADDRESS]] = Field(["clin_jepa", "no_alignment", "sft", "untrained"], min_length=1)
    """Names of the project's recipes (`clinjepa/curriculum/recipes/`), or paths of recipe files that end in .yaml
    (docs/adding_a_recipe.md), relative to the working folder. `run` trains all of them, `pretrain` the first."""

    seeds: list[int] = Field([0], min_length=1)
    """Seeds of weights, order of windows, dropout and rollout starts. With several, figures are combined over them."""

    axes: dict[str, list[Any] | AxisRange] = Added({})
    """Dotted name of a setting that changes results -> its values: a list, or `{low, high, num, scale}`. Every point is trained with every
    recipe and seed: `{curriculum.encoder_lr: [1.0e-5, 3.0e-5]}` (docs/grids.md)."""

    combine: Literal["crossed", "zipped"] = Added("crossed")
    """`crossed`: every value of an axis with every value of the others. `zipped`: the first values together, the second values together,
    and so on."""

    max_trials: int = Execution(100, ge=1)
    """A larger grid or search is refused."""

    max_concurrent_trials: int | None = Execution(None, ge=1)
    """Trials that run at once; null: twice as many as the cluster's CPUs can train, at least 4. A trial that waits for a stage of another
    one uses no CPU, but its process and its workers' start do: 1 or 2 is enough on two cores."""

    search: SearchConfig = Execution(SearchConfig())

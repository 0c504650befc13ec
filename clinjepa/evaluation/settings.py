"""Settings of the evaluation stages, as they stand in a stage's key: built from the configuration, parsed again by the executor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clinjepa.clinical import Task, load_tasks
from clinjepa.config.schema import BaselinesConfig, Config, DownstreamConfig, DriftConfig, ForecastConfig, GeometryConfig, LabelColumn
from clinjepa.config.section import Added, Section, result_fields
from clinjepa.evaluation.baselines.names import check_names

_FIRST_ONSET_TASKS = ("hypotension_8h", "hyperglycaemia_8h", "hypoxaemia_8h")
"""Onset tasks of a geometry stage that names none. Geometry stages of format 2 named none, so results with these tasks keep their key."""


class _Judged(Section):
    split: Literal["train", "tuning", "held_out"]
    """The stays that are evaluated."""


class _WithGivenTasks(_Judged):
    given: dict[str, LabelColumn] = Added({})
    """Those of the tasks whose labels are read from files, with the column of the labels."""


def defined_tasks(config: Config) -> list[Task]:
    """The tasks among `evaluation.downstream.tasks` that have a definition."""
    return load_tasks([name for name in config.evaluation.downstream.tasks if name not in config.labels.files])


def given_columns(config: Config) -> dict[str, LabelColumn]:
    """The tasks among `evaluation.downstream.tasks` whose labels are read from files, with the column of the labels."""
    return {name: column for name, column in sorted(config.labels.given.items()) if name in config.evaluation.downstream.tasks}


class RoundtripSettings(_Judged):
    """Of the linear read-out of a text's values from its latent."""

    num_hours: int = Field(ge=100)
    """State texts used."""

    @classmethod
    def of(cls, config: Config) -> RoundtripSettings:
        """Those of a configuration."""
        return cls(split=config.evaluation.split, num_hours=config.evaluation.num_roundtrip_hours)


class DriftSettings(_Judged):
    """Of the rollout drift."""

    drift: DriftConfig

    @classmethod
    def of(cls, config: Config) -> DriftSettings:
        """Those of a configuration."""
        return cls(split=config.evaluation.split, drift=config.evaluation.drift)


class GeometrySettings(_Judged):
    """Of the displacements in latent space."""

    geometry: GeometryConfig
    onset_tasks: list[str] = [*_FIRST_ONSET_TASKS]
    """Early-event tasks whose onset makes a cohort beside deaths."""

    @classmethod
    def of(cls, config: Config) -> GeometrySettings:
        """Those of a configuration: the onset tasks are the early-event tasks among `evaluation.downstream.tasks`."""
        onsets = [task.name for task in defined_tasks(config) if task.kind == "event"]
        return cls(split=config.evaluation.split, geometry=config.evaluation.geometry, onset_tasks=onsets)

    def stage_settings(self) -> dict[str, object]:
        """As they stand in a stage: without `onset_tasks` where these are the ones that a stage without the field has."""
        fields = result_fields(self)
        if self.onset_tasks == [*_FIRST_ONSET_TASKS]:
            del fields["onset_tasks"]
        return fields


class DownstreamSettings(_WithGivenTasks):
    """Of the probes. What concerns baselines alone stands at its default, so that it enters no key of a probe."""

    downstream: DownstreamConfig

    @classmethod
    def of(cls, config: Config) -> DownstreamSettings:
        """Those of a configuration."""
        plain = config.evaluation.downstream.model_copy(update={"baselines": BaselinesConfig()})
        return cls(split=config.evaluation.split, downstream=plain, given=given_columns(config))


class BaselineSettings(_WithGivenTasks):
    """Of the baselines beside the probes."""

    downstream: DownstreamConfig

    @classmethod
    def of(cls, config: Config) -> BaselineSettings:
        """Those of a configuration.

        Raises:
            ConfigError: A name is no baseline's.
        """
        check_names(config.evaluation.downstream.baselines.names)
        return cls(split=config.evaluation.split, downstream=config.evaluation.downstream, given=given_columns(config))


class ForecastSettings(_Judged):
    """Of the forecasts of measured values."""

    forecasts: ForecastConfig
    event_tasks: list[str]
    """Early-event tasks whose probability is computed from the forecasts."""

    @classmethod
    def of(cls, config: Config) -> ForecastSettings:
        """Those of a configuration: the event tasks are those among `evaluation.downstream.tasks`."""
        events = [task.name for task in defined_tasks(config) if task.kind == "event"]
        return cls(split=config.evaluation.split, forecasts=config.evaluation.forecasts, event_tasks=events)


class AddedValueSettings(_WithGivenTasks):
    """Of what latents add to hand-made features: fields of `evaluation.added_value`, and those of `evaluation.downstream` that it reads."""

    tasks: list[str]
    hourly_stride: int
    min_history_hours: int
    min_positives: int
    num_bootstrap: int
    shares: list[float]
    estimators: list[Literal["lightgbm", "linear"]]
    max_train_patients: int

    @classmethod
    def of(cls, config: Config) -> AddedValueSettings:
        """Those of a configuration."""
        named = set(cls.model_fields)
        downstream, own = config.evaluation.downstream, config.evaluation.added_value
        fields = downstream.model_dump(include=named) | own.model_dump(include=named)
        return cls(split=config.evaluation.split, given=given_columns(config), **fields)


class DirectForecastSettings(_Judged):
    """Of the gradient-boosting forecasts beside them: the fields of `evaluation.forecasts` that decide them."""

    context: int
    starts: list[int]
    horizons: list[int]
    num_variables: int
    max_stays: int
    max_train_stays: int
    num_trees: int

    @classmethod
    def of(cls, config: Config) -> DirectForecastSettings:
        """Those of a configuration."""
        named = config.evaluation.forecasts.model_dump(include=set(cls.model_fields))
        return cls(split=config.evaluation.split, **named)


class ShiftSettings(_Judged):
    """Of the comparison of new patients with those that a run was trained on."""

    reach_hours: int = Field(ge=1)
    """Hours of the longest training window."""


class ScoreSettings(Section):
    """Of the scores of new patients; all else stands in what the run fitted."""

    event_tasks: list[str]
    """Early-event tasks whose probability is computed from the forecasts."""

"""The body of an answer to a scoring request, as it is described in OpenAPI."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ModelIdentity(_Plain):
    """Which weights answered."""

    run: str
    recipe: str
    seed: int
    digest: str
    """SHA-256 over all weights and fitted parts of the export."""
    version: str
    """Of clinjepa."""


class Risk(_Plain):
    """One risk task, by each kind of probe and each input."""

    task: str
    title: str
    horizon_hours: int | None
    predicted_at: str
    """`hourly`, `prediction_hour` (the probe was fitted after `prediction_hour` hours of a stay) or `icu_discharge`."""
    prediction_hour: int | None
    output: str
    """`probability`, or `number` in `unit`."""
    unit: str
    history_only: dict[str, float]
    """{kind of probe: probability or number} from the hours so far."""
    actions_carried_forward: dict[str, float]
    """The same from these hours and a rollout with the last action repeated."""


class Forecast(_Plain):
    """One variable some hours after the last complete hour, in `unit` and within its plausible range. null: no forecast was fitted, or it
    was never measured."""

    variable: str
    unit: str
    horizon_hours: int
    point: float | None
    """Median of the predictive distribution; the decoder's estimate where there is none."""
    median: float | None
    """The same; null where there is no distribution."""
    low_50: float | None
    high_50: float | None
    low_90: float | None
    high_90: float | None
    last_value: float | None
    hours_since: float | None
    """Hours since the last value."""
    measured_probability: float | None
    """Probability that the variable is measured in that hour."""


class EventProbability(_Plain):
    """An event task from the forecasts alone, without a probe."""

    task: str
    title: str
    horizon_hours: int | None
    probability: float | None
    in_event: bool | None
    """Whether the last known state is the event already."""
    reason: str | None
    """Why there is no probability."""


class ScoreResponse(_Plain):
    """Predictions after the last complete hour of a stay."""

    model: ModelIdentity
    num_hours: int
    """Complete hours that were read, counted from the ICU admission."""
    risks: list[Risk]
    forecasts: list[Forecast]
    events: list[EventProbability]
    dropped: dict[str, int]
    """Rows that no text has, by rule, as `rule` or `rule:variable`."""
    notes: list[str]
    """What was cut, and where the stay differs from those of the training."""

"""The forms of the risk results in `report.json` (field `risk`; docs/report.md explains every figure).

With several training seeds a figure is the mean of the seeds' figures within each draw of patients, so its interval is over patients only.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from clinjepa.evaluation.figures import Figure


class Counts(TypedDict):
    """What a figure rests on."""

    num_total: int
    """Prediction points."""
    num_positive: int
    """Points with a positive label."""
    num_patients: int
    num_positive_patients: int
    """Patients with a positive label."""
    prevalence: float
    """Share of positive labels."""


class ReliabilityBin(TypedDict):
    """One bin of a reliability curve, of the first seed."""

    predicted: float
    """Mean predicted probability."""
    observed: Figure
    """Share of positive labels."""
    num_total: int


class Calibration(TypedDict):
    """How far the predicted probabilities are from the observed shares."""

    brier: Figure | None
    ece: Figure | None
    slope: Figure | None
    intercept: Figure | None
    reliability: list[ReliabilityBin]
    reason: NotRequired[str]
    """Why a figure is None."""
    interval_reason: NotRequired[str]
    """Why figures have no interval."""


class GroupCounts(Counts):
    """A group of the scored points."""

    reason: NotRequired[str]
    """Why no method has figures of this group."""


class GroupFigures(TypedDict):
    """One method in one group. A gap is None for the group that it is taken from."""

    auroc: Figure | None
    auroc_gap: Figure | None
    """AUROC minus that of the group with the highest one."""
    observed_minus_predicted: Figure | None
    """Share of positive labels minus mean predicted probability."""
    calibration_gap: Figure | None
    """`observed_minus_predicted` minus that of the group in which it is nearest to 0."""
    interval_reason: NotRequired[str]
    reason: NotRequired[str]
    """Why a figure is None."""


class AttributeFigures(TypedDict):
    """One method over the groups of one attribute. The names are None where fewer than two groups have figures."""

    best_auroc: str | None
    worst_auroc: str | None
    best_calibrated: str | None
    worst_calibrated: str | None
    groups: dict[str, GroupFigures]


class AlarmFigures(TypedDict):
    """One method at one rate of false alarms."""

    recall: Figure | None
    false_alarms_per_day: Figure | None
    """The rate that is reached, at most the asked one; without an interval, since the threshold is chosen by it."""
    lead_hours: Figure | None
    """Median over the caught events."""
    threshold: float | None
    """Probability at which an alarm is raised, mean over seeds; None where scores are no probabilities or no alarm is raised."""
    reason: NotRequired[str]
    interval_reason: NotRequired[str]


class EventCounts(TypedDict):
    """The events of a task and the time in which alarms count."""

    num_events: int
    num_event_patients: int
    num_stays: int
    patient_days: float
    reason: NotRequired[str]
    """Why there are no figures at event level."""


class DecisionFigures(TypedDict):
    """One method at one threshold probability."""

    net_benefit: Figure | None
    over_default: Figure | None
    """Net benefit minus that of the better one of treating all and treating none."""
    interval_reason: NotRequired[str]


class MethodRisk(TypedDict):
    """One method of one task."""

    calibration: NotRequired[Calibration]
    subgroups: dict[str, AttributeFigures]
    alarms: dict[str, AlarmFigures]
    """By rate of false alarms a patient-day."""
    decisions: dict[str, DecisionFigures]
    """By threshold probability."""
    reason: NotRequired[str]
    """Why there is no calibration and no net benefit."""


class TaskRisk(Counts):
    """One task."""

    groups: dict[str, dict[str, GroupCounts]]
    """Attribute, then group."""
    events: EventCounts
    methods: dict[str, MethodRisk]


class RiskSettingsRow(TypedDict):
    """The settings that the figures depend on."""

    num_bins: int
    alarm_rates: list[float]
    silence_hours: int
    stride_hours: int
    thresholds: list[float]
    min_group_patients: int
    num_bootstrap: int


class RiskResult(TypedDict):
    """The field `risk`."""

    column: str
    """The input column whose predictions are judged."""
    settings: RiskSettingsRow
    tasks: dict[str, TaskRisk]

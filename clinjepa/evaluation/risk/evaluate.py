"""The risk part of a report: every task and method of a run, from the kept predictions of one input column and the stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import LabelColumn, Task, load_tasks
from clinjepa.config.schema import RiskConfig
from clinjepa.evaluation.predictions import task_scores
from clinjepa.evaluation.risk.alarms import alarms
from clinjepa.evaluation.risk.calibration import calibration
from clinjepa.evaluation.risk.decisions import net_benefits
from clinjepa.evaluation.risk.events import StayEvents, first_events, why_no_events
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints
from clinjepa.evaluation.risk.result import EventCounts, GroupCounts, MethodRisk, RiskResult, TaskRisk
from clinjepa.evaluation.risk.subgroups import Groups, group_counts, groups_of, subgroups

ORDER_ONLY = "the method's scores order the points and are no probabilities"


@dataclass(frozen=True)
class RiskSettings:
    """risk: `evaluation.risk`; num_bootstrap, stride_hours: of `evaluation.downstream`; column: the input column of the predictions; given:
    tasks whose labels are read from files."""

    risk: RiskConfig
    num_bootstrap: int
    stride_hours: int
    column: str
    given: Mapping[str, LabelColumn] = field(default_factory=dict)


@dataclass(frozen=True)
class _TaskBasis:
    """What all methods of a task share; `events` is None where there is no figure at event level."""

    points: RiskPoints
    groups: Groups
    counts: dict[str, dict[str, GroupCounts]]
    events: StayEvents | None


def risk_evaluation(methods: Mapping[str, Sequence[pa.Table]], stays: pa.Table, settings: RiskSettings) -> RiskResult:
    """Calibration, subgroups, alarms and net benefit of every method in every task with 0/1 labels.

    Args:
        methods: {method: the kept predictions (PREDICTIONS_SCHEMA) of each of its training seeds, of one input column}.
        stays: The stays with stay_id, and age_years, sex, care_unit where the data have them.
        settings: Of the evaluation.

    Raises:
        StoreError: Two methods of a task scored different points.
        ConfigError: A task is not known.
    """
    labelled = {name: [table.filter(pc.is_valid(table["boolean_value"])) for table in tables] for name, tables in methods.items()}
    names = list(dict.fromkeys(task for tables in labelled.values() for table in tables for task in pc.unique(table["task"]).to_pylist()))
    risk = settings.risk
    return {
        "column": settings.column,
        "settings": {
            "num_bins": risk.num_bins,
            "alarm_rates": list(risk.alarm_rates),
            "silence_hours": risk.silence_hours,
            "stride_hours": settings.stride_hours,
            "thresholds": list(risk.thresholds),
            "min_group_patients": risk.min_group_patients,
            "num_bootstrap": settings.num_bootstrap,
        },
        "tasks": {task.name: _task_risk(task, labelled, stays, settings) for task in load_tasks(names, settings.given)},
    }


def _task_risk(task: Task, methods: Mapping[str, Sequence[pa.Table]], stays: pa.Table, settings: RiskSettings) -> TaskRisk:
    own = {name: [table.filter(pc.equal(table["task"], task.name)) for table in tables] for name, tables in methods.items()}
    own = {name: tables for name, tables in own.items() if all(table.num_rows for table in tables)}
    table, found = task_scores(own, next(iter(own)), task.name)
    stay_N, hour_N, label_N, subject_N = (
        table[name].to_numpy(zero_copy_only=False) for name in ("stay_id", "hour", "boolean_value", "subject_id")
    )
    points = RiskPoints.of(stay_N, hour_N, label_N, subject_N, settings.num_bootstrap)
    groups = groups_of(points, stays)
    reason = why_no_events(task)
    events = None
    if reason is None and task.horizon_hours is not None:
        events = first_events(points, task.horizon_hours, settings.stride_hours)
        reason = None if (events.onset_S >= 0).any() else "no stay has an event"
    basis = _TaskBasis(points, groups, group_counts(points, groups, settings.risk.min_group_patients), None if reason else events)
    no_events: EventCounts = {"num_events": 0, "num_event_patients": 0, "num_stays": len(np.unique(points.stay_N)), "patient_days": 0.0}
    counted: EventCounts = events.counts() if events is not None else no_events
    if reason:
        counted["reason"] = reason
    return {
        **points.counts(np.ones(len(points), dtype=bool)),
        "groups": basis.counts,
        "events": counted,
        "methods": {
            name: _method_risk(basis, MethodScores(score_SN, _has_probabilities(own[name])), settings.risk)
            for name, score_SN in found.items()
        },
    }


def _has_probabilities(tables: Sequence[pa.Table]) -> bool:
    return all(table["predicted_boolean_probability"].null_count == 0 for table in tables)


def _method_risk(basis: _TaskBasis, scores: MethodScores, risk: RiskConfig) -> MethodRisk:
    points = basis.points
    found: MethodRisk = {
        "subgroups": subgroups(points, scores, basis.groups, basis.counts),
        "alarms": alarms(points, scores, basis.events, risk.alarm_rates, risk.silence_hours) if basis.events is not None else {},
        "decisions": net_benefits(points, scores, risk.thresholds) if scores.is_log_odds else {},
    }
    if scores.is_log_odds:
        found["calibration"] = calibration(points, scores, risk.num_bins)
    else:
        found["reason"] = ORDER_ONLY
    return found

"""The first event of every stay, read from the labels of its prediction points, and the points at which an alarm counts.

A label of hour h covers the hours h+1 … h+H, so a run of positive labels stands before an event. The first run of a stay is its event. Its
hour of onset is the earliest hour that the labels allow, so no lead time is too long: the hour after the horizon of the last negative label
before the run, or, where no negative label bounds it, the hour after the run's last label. Labels between the prediction points are not
kept, so the onset is known to within the stride. Points from the onset on are left out: what follows a first event is treated already.

Labels of other kinds (a change of a value, a label of the data set, an outcome of the stay) do not say when something begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinjepa.clinical import Task
from clinjepa.evaluation.risk.points import RiskPoints
from clinjepa.evaluation.risk.result import EventCounts


@dataclass(frozen=True)
class StayEvents:
    """First events of S stays in the order of their ids.

    stay_N: number of each point's stay; counts_N, bool: the point lies before the onset; warns_N, bool: it belongs to the run of the event.
    onset_S: hour of onset, −1 without an event. patient_S: patient of each stay, a column of the draws. stride_hours: hours between points.
    """

    stay_N: np.ndarray
    counts_N: np.ndarray
    warns_N: np.ndarray
    onset_S: np.ndarray
    patient_S: np.ndarray
    stride_hours: int

    @property
    def days_P(self) -> np.ndarray:
        """Patient-days in which alarms count: a point stands for the hours to the next one."""
        patients = self.patient_S[self.stay_N[self.counts_N]]
        return np.bincount(patients, minlength=self.patient_S.max() + 1) * self.stride_hours / 24.0

    def counts(self) -> EventCounts:
        """Numbers of events, patients and stays, and patient-days."""
        has_S = self.onset_S >= 0
        return {
            "num_events": int(has_S.sum()),
            "num_event_patients": len(np.unique(self.patient_S[has_S])),
            "num_stays": len(self.onset_S),
            "patient_days": float(self.days_P.sum()),
        }


def why_no_events(task: Task) -> str | None:
    """Why a task's labels give no hour of onset; None where they do."""
    if not task.is_hourly and task.kind != "given":
        return "predicted once per stay, not hour by hour"
    if task.kind not in ("event", "time") or task.horizon_hours is None:
        return "the task's label does not say in which hour an event begins"
    return None


def first_events(points: RiskPoints, horizon_hours: int, stride_hours: int) -> StayEvents:
    """The first event of every stay.

    Args:
        points: Points sorted by (stay, hour).
        horizon_hours: Hours after the predicted hour that a label covers.
        stride_hours: Hours between two points of a stay; a longer distance ends a run.
    """
    _, first_S, stay_N = np.unique(points.stay_N, return_index=True, return_inverse=True)
    num, hour_N, positive_N = len(first_S), points.hour_N.astype(np.int64), points.label_N == 1
    row_N = np.arange(len(points))
    begin_S = np.full(num, len(points))
    np.minimum.at(begin_S, stay_N[positive_N], row_N[positive_N])
    has_S = begin_S < len(points)
    begin_N = begin_S[stay_N]
    follows_N = np.concatenate([[False], (stay_N[1:] == stay_N[:-1]) & (np.diff(hour_N) <= stride_hours)])
    breaks_N = (row_N >= begin_N) & ((row_N > begin_N) & ~follows_N | ~positive_N)
    end_S = np.append(first_S[1:], len(points))
    np.minimum.at(end_S, stay_N[breaks_N], row_N[breaks_N])
    onset_S = np.full(num, -1)
    for stay in np.flatnonzero(has_S):
        begin, last = begin_S[stay], end_S[stay] - 1
        first_hour = hour_N[begin]
        after_negative = hour_N[begin - 1] + horizon_hours + 1 if begin > first_S[stay] else 0
        onset = after_negative if after_negative > first_hour else hour_N[last] + 1
        onset_S[stay] = min(onset, first_hour + horizon_hours)
    is_before_N = ~has_S[stay_N] | (hour_N < onset_S[stay_N])
    warns_N = has_S[stay_N] & (row_N >= begin_N) & (row_N < end_S[stay_N]) & is_before_N
    counts_N = (~has_S[stay_N] | (row_N < begin_N)) | warns_N
    return StayEvents(stay_N, counts_N, warns_N, onset_S, points.draws.index_N[first_S], stride_hours)

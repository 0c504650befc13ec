"""The record of a job in training: one row per step, diagnostics, alarms and times.

Every checkpoint holds it, so an interrupted job leaves the same record as an uninterrupted one. Clock times are kept apart, in `timing`,
because only they differ from run to run. `check` is the guard that stops a run whose losses or gradients have gone wrong.
"""

from __future__ import annotations

import math
import statistics
from typing import TypedDict

from clinjepa.errors import TrainingError

EXPLODING_FACTOR = 1000.0
"""A gradient norm this many times the median of the last steps stops the job."""
_NORM_HISTORY, _MIN_NORM_HISTORY = 50, 20

Row = dict[str, float]
"""`step`, an integer, and figures by name."""
Alarm = dict[str, str | float]
"""`kind`, `step`, `message` and figures by name."""


class Start(TypedDict):
    """The beginning of an attempt."""

    step: int
    num_workers: int


class Timing(TypedDict):
    """Sums over all attempts, as worker 0 measured them; times in seconds."""

    steps: int
    """Steps, without the first one of each attempt."""
    seconds: float
    waiting_seconds: float
    """Part of `seconds` spent waiting for data."""
    starts: list[Start]
    start_seconds: float
    """Of the first step of each attempt, in which readers are started."""
    reporting_seconds: float
    diagnosing_seconds: float
    num_saves: int
    blocked_seconds: float
    """Part of the wall time that training waited for checkpoints."""
    steps_by_workers: dict[str, int]


class SavedHistory(TypedDict):
    """The history in a checkpoint."""

    steps: list[Row]
    diagnostics: list[Row]
    alarms: list[Alarm]
    tokens_encoded: int
    timing: Timing


class StepSummary(TypedDict):
    """Figures of the whole job, for a manifest. None: there is no step, or nothing was measured."""

    num_steps: int
    loss_first: float | None
    loss_last: float | None
    latent_std: float | None
    rankme: float | None
    num_alarms: int
    tokens_encoded: int


class Metrics(TypedDict):
    """The content of `metrics.json`: no clock times, so it does not depend on interruptions."""

    summary: StepSummary
    steps: list[Row]
    diagnostics: list[Row]
    alarms: list[Alarm]


class TimeSummary(TypedDict):
    """The content of `timing.json`, over all attempts, as worker 0 measured it."""

    seconds_per_step: float
    """Mean wall time; checkpoints, reports, diagnostics and each attempt's first step are not in it."""
    waiting_share: float
    """Share of the steps' time spent waiting for data."""
    timed_steps: int
    """Steps in `seconds_per_step`."""
    start_seconds: float
    """Of first steps."""
    reporting_seconds: float
    diagnosing_seconds: float
    blocked_seconds_per_save: float
    """Mean time that training waited for a checkpoint."""
    steps_by_workers: dict[str, int]
    """Number of steps by the number of workers that took them."""
    starts: list[Start]
    """Every attempt in order; each goes on from a checkpoint of the one before."""


class TrainingHistory:
    """`steps`, `diagnostics` and `alarms` of `metrics.json`, and the times of `timing.json`."""

    def __init__(self, saved: SavedHistory | None = None) -> None:
        """saved: the `to_json` of a checkpoint."""
        self.steps: list[Row] = saved["steps"] if saved else []
        self.diagnostics: list[Row] = saved["diagnostics"] if saved else []
        self.alarms: list[Alarm] = saved["alarms"] if saved else []
        self.tokens_encoded: int = saved["tokens_encoded"] if saved else 0
        self.timing: Timing = saved["timing"] if saved else _no_time()

    def to_json(self) -> SavedHistory:
        """Everything, for a checkpoint."""
        return {
            "steps": self.steps,
            "diagnostics": self.diagnostics,
            "alarms": self.alarms,
            "tokens_encoded": self.tokens_encoded,
            "timing": self.timing,
        }

    def metrics(self) -> Metrics:
        """The content of `metrics.json`."""
        return {"summary": self.summary(), "steps": self.steps, "diagnostics": self.diagnostics, "alarms": self.alarms}

    def check(self, row: Row, job: str, saved_under: str) -> None:
        """Raise TrainingError when a step's losses or gradient norms are not finite or explode; call it before the update.

        Args:
            row: the step's figures; a loss's terms are those without a prefix.
            job: the job in messages.
            saved_under: address of the checkpoints, for the message.
        """
        at = f"{job}, step {row['step']}"
        advice = f"the last good checkpoint is kept under {saved_under}; lower the learning rate or the clip norm and run again"
        bad = sorted(key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value))
        terms = [key for key in bad if key != "loss" and not key.startswith(("grad_norm", "lr_"))]
        found = f"loss term {', '.join(terms)}" if terms else ", ".join(bad)
        if bad and not self.steps:
            cause = "a term divides by 0, or takes a root or logarithm of 0: correct it, or take it out of the phase's loss"
            raise TrainingError(f"{at}: {found} is not finite before the first update; {cause}")
        if bad:
            raise TrainingError(f"{at}: {found} is not finite; {advice}")
        for key in [key for key in row if key.startswith("grad_norm")]:
            past = [earlier[key] for earlier in self.steps[-_NORM_HISTORY:] if key in earlier]
            if len(past) >= _MIN_NORM_HISTORY and row[key] > EXPLODING_FACTOR * max(statistics.median(past), 1e-12):
                times = f"{EXPLODING_FACTOR:g} times the median of the last {len(past)} steps"
                raise TrainingError(f"{at}: {key} is {row[key]:.3g}, more than {times}; {advice}")

    def add(self, row: Row, num_tokens: int) -> None:
        """Record a finished step; num_tokens: tokens through the encoder in it."""
        self.steps.append(row)
        self.tokens_encoded += num_tokens

    def add_time(self, seconds: float, waiting_seconds: float, num_workers: int, starts_at: int | None = None) -> None:
        """Record the wall time of a step.

        Args:
            seconds: wall time of the step.
            waiting_seconds: part of it spent waiting for data.
            num_workers: workers that took the step.
            starts_at: number of the step if it is the first of an attempt; its time is kept apart from that of all other steps.
        """
        if starts_at is not None:
            self.timing["starts"].append({"step": starts_at, "num_workers": num_workers})
            self.timing["start_seconds"] += seconds
        else:
            self.timing["steps"] += 1
            self.timing["seconds"] += seconds
            self.timing["waiting_seconds"] += waiting_seconds
        by_workers = self.timing["steps_by_workers"]
        by_workers[str(num_workers)] = by_workers.get(str(num_workers), 0) + 1

    def add_saves(self, num_saves: int, blocked_seconds: float) -> None:
        """Record checkpoints, and the wall time that training waited for them."""
        self.timing["num_saves"] += num_saves
        self.timing["blocked_seconds"] += blocked_seconds

    def add_diagnosis(self, seconds: float) -> None:
        """Record the wall time of diagnostics."""
        self.timing["diagnosing_seconds"] += seconds

    def add_report(self, seconds: float) -> None:
        """Record the wall time of a report to the launcher."""
        self.timing["reporting_seconds"] += seconds

    def alarm(self, kind: str, step: int, message: str, **values: float) -> None:
        """Record an alarm once per kind."""
        if all(alarm["kind"] != kind for alarm in self.alarms):
            self.alarms.append({"kind": kind, "step": step, "message": message, **values})

    def latest(self) -> Row:
        """The newest row with the newest diagnostics, times and counts, for a progress line and trackers."""
        newest = {**(self.diagnostics[-1] if self.diagnostics else {}), **(self.steps[-1] if self.steps else {})}
        return newest | {
            "seconds_per_step": self.seconds_per_step,
            "training_seconds": self.timing["seconds"] + self.timing["start_seconds"],
            "waiting_seconds": self.timing["waiting_seconds"],
            "tokens_encoded": self.tokens_encoded,
            "num_alarms": len(self.alarms),
            "collapsed": float(any(alarm["kind"] == "collapse" for alarm in self.alarms)),
        }

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step; checkpoints, reports, diagnostics and, as soon as there are others, first steps apart."""
        if not self.timing["steps"]:
            return self.timing["start_seconds"] / max(1, len(self.timing["starts"]))
        return self.timing["seconds"] / self.timing["steps"]

    def summary(self) -> StepSummary:
        """Figures of the whole job."""
        newest: Row = self.diagnostics[-1] if self.diagnostics else {}
        return {
            "num_steps": len(self.steps),
            "loss_first": self.steps[0]["loss"] if self.steps else None,
            "loss_last": self.steps[-1]["loss"] if self.steps else None,
            "latent_std": newest.get("latent_std"),
            "rankme": newest.get("rankme"),
            "num_alarms": len(self.alarms),
            "tokens_encoded": self.tokens_encoded,
        }

    def time_summary(self) -> TimeSummary:
        """The content of `timing.json`."""
        timing = self.timing
        return {
            "seconds_per_step": self.seconds_per_step,
            "waiting_share": timing["waiting_seconds"] / max(1e-9, timing["seconds"]),
            "timed_steps": timing["steps"],
            "start_seconds": timing["start_seconds"],
            "reporting_seconds": timing["reporting_seconds"],
            "diagnosing_seconds": timing["diagnosing_seconds"],
            "blocked_seconds_per_save": timing["blocked_seconds"] / max(1, timing["num_saves"]),
            "steps_by_workers": timing["steps_by_workers"],
            "starts": timing["starts"],
        }


def _no_time() -> Timing:
    return {
        "steps": 0,
        "seconds": 0.0,
        "waiting_seconds": 0.0,
        "starts": [],
        "start_seconds": 0.0,
        "reporting_seconds": 0.0,
        "diagnosing_seconds": 0.0,
        "num_saves": 0,
        "blocked_seconds": 0.0,
        "steps_by_workers": {},
    }

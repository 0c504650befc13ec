"""What a phase measured of itself: one row per step, diagnostics, alarms; kept in every checkpoint so that interruptions leave no trace.

Also the guard that stops a run which must not go on. Clock times are kept apart, in `timing`, because they alone differ from run to run.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from clinjepa.errors import TrainingError

EXPLODING_FACTOR = 1000.0
"""A gradient norm this many times the median of the last steps stops the phase."""
_NORM_HISTORY, _MIN_NORM_HISTORY = 50, 20
_NO_TIME: dict[str, Any] = {
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


class TrainingHistory:
    """`steps`, `diagnostics` and `alarms` of `metrics.json`, and the time it took."""

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        """saved: what `to_json` gave, from a checkpoint."""
        saved = saved or {}
        self.steps: list[dict[str, Any]] = saved.get("steps", [])
        self.diagnostics: list[dict[str, Any]] = saved.get("diagnostics", [])
        self.alarms: list[dict[str, Any]] = saved.get("alarms", [])
        self.tokens_encoded: int = saved.get("tokens_encoded", 0)
        self.timing: dict[str, Any] = {**_NO_TIME, **saved.get("timing", {})}
        self.timing["steps_by_workers"] = dict(self.timing["steps_by_workers"])
        self.timing["starts"] = list(self.timing["starts"])

    def to_json(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "steps": self.steps,
            "diagnostics": self.diagnostics,
            "alarms": self.alarms,
            "tokens_encoded": self.tokens_encoded,
            "timing": self.timing,
        }

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`: no clock in it, so it does not depend on interruptions."""
        return {"summary": self.summary(), "steps": self.steps, "diagnostics": self.diagnostics, "alarms": self.alarms}

    def check(self, row: dict[str, Any], saved_under: str) -> None:
        """Raise TrainingError when a step's losses or gradient norms are not finite or explode; nothing has been updated yet."""
        advice = f"the last good checkpoint is kept under {saved_under}; lower the learning rate or the clip norm and run again"
        bad = sorted(key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value))
        if bad:
            raise TrainingError(f"step {row['step']}: {', '.join(bad)} is not finite; {advice}")
        for key in [key for key in row if key.startswith("grad_norm")]:
            past = [earlier[key] for earlier in self.steps[-_NORM_HISTORY:] if key in earlier]
            if len(past) >= _MIN_NORM_HISTORY and row[key] > EXPLODING_FACTOR * max(statistics.median(past), 1e-12):
                times = f"{EXPLODING_FACTOR:g} times the median of the last {len(past)} steps"
                raise TrainingError(f"step {row['step']}: {key} is {row[key]:.3g}, more than {times}; {advice}")

    def add(self, row: dict[str, Any], num_tokens: int) -> None:
        """A finished step."""
        self.steps.append(row)
        self.tokens_encoded += num_tokens

    def add_time(self, seconds: float, waiting_seconds: float, num_workers: int, starts_at: int | None = None) -> None:
        """Wall time of a step that this many workers took, and the part of it spent waiting for data.

        starts_at: number of the step if it is the first of an attempt, in which readers are started; its time is kept apart from that of
        all other steps.
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
        """Checkpoints, and the wall time that the training stood still for them."""
        self.timing["num_saves"] += num_saves
        self.timing["blocked_seconds"] += blocked_seconds

    def add_diagnosis(self, seconds: float) -> None:
        """Wall time of the diagnostics on tuning windows."""
        self.timing["diagnosing_seconds"] += seconds

    def add_report(self, seconds: float) -> None:
        """Wall time of a report to the launcher."""
        self.timing["reporting_seconds"] += seconds

    def alarm(self, kind: str, step: int, message: str, **values: Any) -> None:
        """Record an alarm once per kind."""
        if all(alarm["kind"] != kind for alarm in self.alarms):
            self.alarms.append({"kind": kind, "step": step, "message": message, **values})

    def latest(self) -> dict[str, Any]:
        """The newest row with the newest diagnostics and the time per step, for a progress line."""
        newest = {**(self.diagnostics[-1] if self.diagnostics else {}), **(self.steps[-1] if self.steps else {})}
        return {**newest, "seconds_per_step": self.seconds_per_step, "num_alarms": len(self.alarms)}

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step; checkpoints, reports, diagnostics and, as soon as there are others, first steps apart."""
        if not self.timing["steps"]:
            return self.timing["start_seconds"] / max(1, len(self.timing["starts"]))
        return self.timing["seconds"] / self.timing["steps"]

    def summary(self) -> dict[str, Any]:
        """Figures of the whole phase, for a manifest."""
        newest = self.diagnostics[-1] if self.diagnostics else {}
        return {
            "num_steps": len(self.steps),
            "loss_first": self.steps[0]["loss"] if self.steps else None,
            "loss_last": self.steps[-1]["loss"] if self.steps else None,
            "latent_std": newest.get("latent_std"),
            "rankme": newest.get("rankme"),
            "num_alarms": len(self.alarms),
            "tokens_encoded": self.tokens_encoded,
        }

    def time_summary(self) -> dict[str, Any]:
        """Over all attempts, as worker 0 saw them: mean seconds per step (checkpoints, reports, diagnostics and each attempt's first step
        apart), the share of them spent waiting for data, how many they are, seconds of first steps, of reports and of diagnostics, mean
        seconds that training stood still for a checkpoint, how many steps were taken by how many workers, and from which step on by how
        many: the attempts in order, of which each goes on from a checkpoint of the one before."""
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

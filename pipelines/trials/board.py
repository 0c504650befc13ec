"""The table of trials on the terminal: state, stage, metric, seconds, shared stages. Elsewhere one line per finished trial."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray.tune
from rich.table import Table

from pipelines.scheduling.progress import console

State = Literal["waiting", "running", "done", "failed"]
_MOST_ROWS = 16
_ORDER: dict[State, int] = {"running": 0, "failed": 1, "done": 2, "waiting": 3}


@dataclass
class _Row:
    num_stages: int
    num_shared: int
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    metric: float | None = None
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


class TrialBoard:
    """What is known of every trial; written by Tune's callbacks in the main thread, read by the thread that shows progress."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], metric: str) -> None:
        """sizes: name of a trial -> (its stages, those of them that other trials use too); metric: the reported figure that is shown."""
        self._rows = {name: _Row(*size) for name, size in sizes.items()}
        self._metric, self._lock = metric, threading.Lock()

    def began(self, name: str) -> None:
        with self._lock:
            row = self._row(name)
            row.state, row.began = "running", row.began or time.monotonic()

    def reported(self, name: str, result: Mapping[str, Any]) -> None:
        with self._lock:
            row = self._row(name)
            row.stage, row.done = str(result.get("stage", row.stage)), int(result.get("num_done", row.done))
            metric = result.get(self._metric)
            row.metric = row.metric if metric is None else float(metric)
            if result.get("fault"):
                row.state = "failed"

    def ended(self, name: str, failed: bool) -> None:
        with self._lock:
            row = self._row(name)
            row.state, row.ended = "failed" if failed or row.state == "failed" else "done", time.monotonic()
        if not console.is_interactive:
            metric = "" if row.metric is None else f", {self._metric} {row.metric:.4g}"
            shared = f"{row.num_shared} of {row.num_stages} stages shared" if row.num_stages else f"{row.done} stages"
            console.print(f"trial {name}: {row.state}, {row.seconds:.0f} s{metric}, {shared}", highlight=False, markup=False)

    def _row(self, name: str) -> _Row:
        return self._rows.setdefault(name, _Row(0, 0))

    def table(self) -> Table:
        """At most 16 trials, running ones first, then those that ended last; the title counts all."""
        with self._lock:
            rows = dict(self._rows)
        counts = {state: sum(row.state == state for row in rows.values()) for state in _ORDER}
        title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        table = Table("trial", "state", "stage", self._metric, "seconds", "shared", title=f"{len(rows)} trials: {title}")
        for name, row in sorted(rows.items(), key=lambda each: (_ORDER[each[1].state], -each[1].ended))[:_MOST_ROWS]:
            metric = "" if row.metric is None else f"{row.metric:.4g}"
            seconds = f"{row.seconds:.0f}" if row.began else ""
            table.add_row(
                name, row.state, row.stage if row.state == "running" else "", metric, seconds, f"{row.num_shared}/{row.num_stages}"
            )
        return table


class BoardCallback(ray.tune.Callback):
    """Tune's events, written to a board. A trial's parameter `trial` is its name; without one the name is made of its parameters."""

    def __init__(self, board: TrialBoard | None) -> None:
        self._board = board or TrialBoard({}, "")

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune saves its callbacks in files that nothing reads here; a board stays in this process."""
        return BoardCallback, (None,)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._board.began(trial_name(trial.config))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._board.reported(trial_name(trial.config), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._board.ended(trial_name(trial.config), failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._board.ended(trial_name(trial.config), failed=True)


def trial_name(parameters: Mapping[str, Any]) -> str:
    """The name of a Tune trial: `trial` in a grid; `encoder_lr=2.3e-05 · …` in a search."""
    if "trial" in parameters:
        return str(parameters["trial"])
    return " · ".join(
        f"{name.rsplit('.', 1)[-1]}={value:.4g}" if isinstance(value, float) else f"{name.rsplit('.', 1)[-1]}={value}"
        for name, value in parameters.items()
    )

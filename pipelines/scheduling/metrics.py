"""The project's own figures for Ray's Prometheus ports: how trainings, stages and slots stand while a run is under way.

A label says the kind of a stage, its name, recipe and seed, never a patient, a path or a run. Ray sends the figures every few seconds from
each process to the agent of its node, so a figure costs a dictionary entry. No fault here ends a run: a figure that cannot be recorded is
left out. `docs/runs.md` lists them, `cluster/monitoring/` has a board.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

STAGE_LABELS = ("stage", "recipe", "seed")
_SEED = re.compile(r"seed (\d+)")


class MetricKind(NamedTuple):
    """What is known of a figure."""

    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    description: str


METRICS: dict[str, MetricKind] = {
    "clinjepa_step": MetricKind("gauge", STAGE_LABELS, "Optimizer steps done, over all phases."),
    "clinjepa_steps_planned": MetricKind("gauge", STAGE_LABELS, "Steps done when the training is complete, over all phases."),
    "clinjepa_loss": MetricKind("gauge", STAGE_LABELS, "The loss of the last step that was logged."),
    "clinjepa_step_seconds": MetricKind("gauge", STAGE_LABELS, "Mean wall time of a step, without checkpoints and diagnostics."),
    "clinjepa_tokens_per_second": MetricKind("gauge", STAGE_LABELS, "Tokens through the encoder a second of wall time, all workers."),
    "clinjepa_data_wait_seconds": MetricKind("gauge", STAGE_LABELS, "Seconds of steps that waited for data, over all attempts."),
    "clinjepa_goodput_ratio": MetricKind("gauge", STAGE_LABELS, "Share of the wall time of this attempt that was spent in steps."),
    "clinjepa_collapse_alarm": MetricKind("gauge", STAGE_LABELS, "1 when the latent space has collapsed, else 0."),
    "clinjepa_stage_running": MetricKind("gauge", STAGE_LABELS, "1 while a stage or phase is under way, 0 after it."),
    "clinjepa_stage_done_ratio": MetricKind("gauge", STAGE_LABELS, "How much of a stage under way is done."),
    "clinjepa_slots_waiting": MetricKind("gauge", (), "Stages that wait for CPUs or GPUs."),
    "clinjepa_slots_granted": MetricKind("gauge", (), "Stages that hold CPUs or GPUs."),
    "clinjepa_slot_wait_seconds": MetricKind("counter", ("kind",), "Seconds that stages waited for CPUs or GPUs."),
    "clinjepa_stages_run": MetricKind("counter", ("kind",), "Stages that were run to their end."),
    "clinjepa_stages_failed": MetricKind("counter", ("kind",), "Stages that ended with a fault."),
    "clinjepa_stages_reused": MetricKind("counter", ("kind",), "Stages that were finished when a command or trial first asked for them."),
    "clinjepa_stages_shared": MetricKind("counter", ("kind",), "Stages that another caller finished while this one waited for them."),
    "clinjepa_stage_seconds": MetricKind("counter", ("kind",), "Seconds that stages ran, without waiting."),
}
"""Every figure by its name. Prometheus shows it as `ray_<name>`, a counter as `ray_<name>_total`."""

_made: dict[str, Any] = {}


def exported_name(name: str) -> str:
    """The name of a figure in Prometheus."""
    return f"ray_{name}" + ("_total" if METRICS[name].kind == "counter" else "")


def record(name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
    """Set a gauge, or add to a counter; does nothing outside a Ray process.

    Args:
        name: One of `METRICS`.
        value: The gauge's value, or what to add.
        labels: One value for each label of the metric.
    """
    try:
        import ray

        if not ray.is_initialized():
            return
        metric, counts = _metric(name), METRICS[name].kind == "counter"
        if not counts:
            metric.set(float(value), tags=dict(labels or {}))
        elif value > 0:
            metric.inc(float(value), tags=dict(labels or {}))
    except Exception:  # a figure to look at is never worth a run
        return


def _metric(name: str) -> Any:
    """Ray's object of a figure, one a process."""
    if name not in _made:
        from ray.util.metrics import Counter, Gauge

        about = METRICS[name]
        make = Counter if about.kind == "counter" else Gauge
        _made[name] = make(name, description=about.description, tag_keys=about.labels)
    return _made[name]


def stage_labels(label: str) -> dict[str, str]:
    """The labels of a stage from its name for users, such as `joint refinement · clin_jepa · seed 1`. Values of axes are left out."""
    stage, *facets = label.split(" · ")
    seed = next((found[1] for facet in facets if (found := _SEED.fullmatch(facet))), "")
    recipe = next((facet for facet in facets if not _SEED.fullmatch(facet) and "=" not in facet), "")
    return {"stage": stage, "recipe": recipe, "seed": seed}


class TrainingMetrics:
    """A tracker (`trackers.Tracker`) that records a training's figures; in its first worker."""

    def __init__(self, label: str) -> None:
        """label: the stage's."""
        self._labels = stage_labels(label)
        self._began = self._last = time.monotonic()
        self._trained: float | None = None
        self._tokens: float | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the figures after `step` steps."""
        try:
            for name, value in self.figures(step, metrics, time.monotonic()).items():
                record(name, value, self._labels)
        except Exception:  # as in `record`
            return

    def close(self) -> None:
        """Nothing is buffered here."""

    def figures(self, step: int, metrics: Mapping[str, float], now: float) -> dict[str, float]:
        """Value of each figure; those that need an earlier report, or are not measured, are left out.

        Args:
            step: Steps that are done.
            metrics: `TrainingHistory.latest` and `num_steps`.
            now: Seconds of a clock that only goes forward.
        """
        given = {
            "clinjepa_steps_planned": "num_steps",
            "clinjepa_loss": "loss",
            "clinjepa_step_seconds": "seconds_per_step",
            "clinjepa_data_wait_seconds": "waiting_seconds",
            "clinjepa_collapse_alarm": "collapsed",
        }
        found = {"clinjepa_step": float(step)} | {name: metrics[key] for name, key in given.items() if key in metrics}
        tokens, trained = metrics.get("tokens_encoded"), metrics.get("training_seconds")
        if tokens is not None and self._tokens is not None and now > self._last:
            found["clinjepa_tokens_per_second"] = (tokens - self._tokens) / (now - self._last)
        if trained is not None and self._trained is not None and now > self._began:
            found["clinjepa_goodput_ratio"] = min(1.0, (trained - self._trained) / (now - self._began))
        if self._trained is None and trained is not None:
            self._trained, self._began = trained, now
        self._tokens, self._last = tokens, now
        return found

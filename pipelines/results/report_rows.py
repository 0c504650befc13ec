"""Rows of `report.json` that come from the stages themselves: the data set, the stages, the phases, who made what and with which packages.

docs/report.md describes every field. Figures of evaluations pass through `run_report.py` unchanged.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NotRequired, TypedDict, cast

import clinjepa
from clinjepa.trajectory.hours.cohort import AttritionRow
from clinjepa.trajectory.hours.data_card import DataCard, SplitCounts
from pipelines.graph.artifacts import Artifact
from pipelines.graph.provenance import by_other_code
from pipelines.graph.stage import Stage

_PACKAGES = ("ray", "torch", "transformers", "peft", "pyarrow", "polars", "lightgbm", "scikit-learn")


class DatasetRow(TypedDict):
    """What the run's data are; counts over all stays that were kept."""

    name: str
    num_stays: int
    num_patients: int
    num_hours: int
    num_windows: int
    attrition: list[AttritionRow]
    splits: dict[str, SplitCounts]


class StageRow(TypedDict):
    """One finished stage."""

    name: str
    key: str
    seconds: float
    reused: bool
    num_workers: int
    code_digest: str
    ended: str
    """When it was finished, ISO 8601."""
    waited_seconds: float | None
    """From the end of its last input that the same invocation computed to its own start; None without such an input."""
    invocation: str
    recipes: NotRequired[list[str]]
    """The finished recipes that use it; absent for data stages and baselines."""


class OtherCodeRow(TypedDict):
    """A stage that another version of the code made."""

    name: str
    key: str
    code_digest: str


class AlarmRow(TypedDict):
    """A diagnostic that left its range."""

    metric: str
    step: int


class PhaseRow(TypedDict):
    """One phase of one trial. Losses are means over the first and the last quarter of its steps."""

    name: str
    num_steps: int
    loss_first: float | None
    loss_last: float | None
    tuning_l1_first: float | None
    tuning_l1_last: float | None
    latent_std: float | None
    rankme: float | None
    alarms: list[AlarmRow]


class _Alarm(TypedDict):
    kind: str
    step: int


class PhaseMetrics(TypedDict):
    """`metrics.json` of a phase, with the phase's name."""

    name: str
    steps: list[dict[str, float]]
    diagnostics: list[dict[str, float]]
    alarms: list[_Alarm]


def dataset_row(name: str, card: DataCard) -> DatasetRow:
    """name: of the source, as the report shows it."""
    return {
        "name": name,
        "num_stays": card["num_stays"],
        "num_patients": card["num_patients"],
        "num_hours": card["num_hours"],
        "num_windows": card["num_windows"],
        "attrition": card["attrition"],
        "splits": card["splits"],
    }


def stage_row(
    manifest: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]], run_id: str | None, recipes: Sequence[str] | None
) -> StageRow:
    """Row of a finished stage.

    Args:
        manifest: Of its artifact.
        manifests: Of all finished stages, by key.
        run_id: The invocation whose stages count as computed; None counts the stage as reused.
        recipes: Finished recipes that use it; None for a data stage or the baselines.
    """
    row: StageRow = {
        "name": manifest["label"],
        "key": manifest["key"],
        "seconds": manifest["seconds"],
        "reused": manifest["run_id"] != run_id,
        "num_workers": manifest["num_workers"],
        "code_digest": manifest["code_digest"],
        "ended": manifest["created"],
        "waited_seconds": waited_seconds(manifest, manifests),
        "invocation": manifest["run_id"],
    }
    if recipes is not None:
        row["recipes"] = list(dict.fromkeys(recipes))
    return row


def waited_seconds(manifest: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Seconds from the end of the stage's last input to its own start, among inputs that the same invocation computed; None without one.

    Times of manifests are whole seconds, so the result is right to about a second.
    """
    inputs = [manifests[key] for key in manifest["inputs"].values() if key in manifests]
    ends = [datetime.fromisoformat(each["created"]) for each in inputs if each["run_id"] == manifest["run_id"]]
    if not ends:
        return None
    between: float = (datetime.fromisoformat(manifest["created"]) - max(ends)).total_seconds() - manifest["seconds"]
    return round(max(between, 0.0), 3)


def other_code_rows(manifests: Mapping[str, Mapping[str, Any]]) -> list[OtherCodeRow]:
    """manifests: by stage key."""
    return [
        {"name": manifest["label"], "key": key, "code_digest": manifest["code_digest"]}
        for key, manifest in manifests.items()
        if by_other_code(manifest)
    ]


def phase_metrics(stage: Stage, artifact: Artifact) -> PhaseMetrics:
    """What a finished phase logged."""
    return cast(PhaseMetrics, {"name": stage.settings["phase"]["name"]} | artifact.folder.read_json("metrics.json"))


def phase_row(metrics: PhaseMetrics) -> PhaseRow:
    """Losses, diagnostics and alarms of a phase; None where the phase has none, as a synchronisation."""
    steps, diagnostics = metrics["steps"], metrics["diagnostics"]
    shown = max(1, len(steps) // 4)
    oldest, newest = (diagnostics[0], diagnostics[-1]) if diagnostics else ({}, {})
    return {
        "name": metrics["name"],
        "num_steps": len(steps),
        "loss_first": _mean([row["loss"] for row in steps[:shown]]),
        "loss_last": _mean([row["loss"] for row in steps[-shown:]]),
        "tuning_l1_first": oldest.get("l1"),
        "tuning_l1_last": newest.get("l1"),
        "latent_std": newest.get("latent_std"),
        "rankme": newest.get("rankme"),
        "alarms": [{"metric": alarm["kind"], "step": alarm["step"]} for alarm in metrics["alarms"]],
    }


def seconds_by_kind(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all stages of a kind together."""
    by_kind: dict[str, float] = {}
    for manifest in manifests.values():
        by_kind[manifest["kind"]] = round(by_kind.get(manifest["kind"], 0.0) + manifest["seconds"], 3)
    return by_kind


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that decide results."""
    found = {"clinjepa": clinjepa.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

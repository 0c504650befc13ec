"""All fitted probes of an evaluation as two files, so that other patients are scored without training data.

`probes.safetensors` has the numbers, as `<task>/<column>/<kind>/<part>` (`FittedProbe.tensors`). `probes.json` has what is needed to use
them: what the features were computed from, when each task is predicted, what its scores are, and why a task has no probes. Reading
them needs torch and safetensors only. They hold no row of a patient; as weights they may reflect the patients that they were fitted on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from clinjepa.errors import StoreError
from clinjepa.evaluation.downstream.fitted_probe import LINEAR, MLP, FittedProbe, Output

if TYPE_CHECKING:
    from clinjepa.model.predictor import Predictor
    from clinjepa.storage import Folder

PROBES, PROBE_TENSORS = "probes.json", "probes.safetensors"
SCHEMA_VERSION = 1
PredictedAt = Literal["hourly", "prediction_hour", "icu_discharge"]
"""When a task is predicted: every `hourly_stride` hours, after `stay_prediction_hour` hours, or at the end of the stay."""


@dataclass(frozen=True)
class ProbeInput:
    """What decides the features of a point."""

    pooling: str
    """How the latents of a history become one vector (`evaluation.downstream.pooling`)."""
    rollout_hours: int
    """Longest rollout (`evaluation.downstream.rollout_hours`)."""
    latent_dim: int
    predictor_digest: str
    """SHA-256 of the predictor (`predictor_digest`)."""


@dataclass(frozen=True)
class PointRule:
    """When tasks were predicted: fields of `evaluation.downstream`."""

    min_history_hours: int
    hourly_stride: int
    stay_prediction_hour: int


@dataclass(frozen=True)
class TrainLabels:
    """Labels of a task in train."""

    num_points: int
    num_patients: int
    mean: float | None
    """Share of positive labels, or the mean number; None without points."""


@dataclass(frozen=True)
class TaskProbes:
    """One task: when and from what it is predicted, and its probes by (column, kind)."""

    output: Output
    """What the scores are."""
    unit: str
    """Unit of a number; empty for log-odds."""
    predicted_at: PredictedAt
    wanted_rollout_hours: int
    """The longest rollout, or the task's horizon where that is shorter."""
    rollout_hours: int
    """Hours of its rollouts: cut to what the predictor's training could reach."""
    train: TrainLabels
    reason: str | None
    """Why it has no probes."""
    probes: Mapping[tuple[str, str], FittedProbe]
    """{(column, kind): probe}: all columns and kinds, or none where there is a reason."""

    def description(self) -> dict[str, object]:
        """All but the probes, as plain JSON values."""
        plain: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "probes"}
        return {**plain, "train": asdict(self.train)}


@dataclass(frozen=True)
class FittedProbes:
    """The probes of all tasks of one evaluation."""

    input: ProbeInput
    points: PointRule
    columns: tuple[str, ...]
    """Inputs of the probes (`point_features.COLUMNS`)."""
    kinds: tuple[str, ...]
    """`linear`, `mlp` or both."""
    tasks: Mapping[str, TaskProbes]
    """By name, in the order of the evaluation."""

    @property
    def num_features(self) -> dict[str, int | None]:
        """{column: features of a point}; None where no task has a probe."""
        sizes = {column: probe.num_features for task in self.tasks.values() for (column, _), probe in task.probes.items()}
        return {column: sizes.get(column) for column in self.columns}

    def check_predictor(self, predictor: Predictor) -> None:
        """Raise StoreError unless the probes were fitted on features of this predictor."""
        if predictor_digest(predictor) != self.input.predictor_digest:
            raise StoreError("the probes were fitted on features of another predictor; use the probes and the predictor of one training")

    def write(self, folder: Folder) -> None:
        """Write `probes.safetensors`, then `probes.json`."""
        named = {
            f"{name}/{column}/{kind}/{part}": tensor
            for name, task in self.tasks.items()
            for (column, kind), probe in task.probes.items()
            for part, tensor in probe.tensors().items()
        }
        data = safetensors.torch.save({name: named[name].contiguous() for name in sorted(named)}, metadata={"format": "pt"})
        folder.write_bytes(PROBE_TENSORS, data)
        folder.write_json(PROBES, self._description(hashlib.sha256(data).hexdigest()))

    def _description(self, digest: str) -> dict[str, object]:
        tasks = [{"name": name, **task.description()} for name, task in self.tasks.items()]
        return {
            "schema_version": SCHEMA_VERSION,
            "tensors_sha256": digest,
            "input": asdict(self.input),
            "points": asdict(self.points),
            "columns": list(self.columns),
            "kinds": list(self.kinds),
            "num_features": self.num_features,
            "tasks": tasks,
        }

    @classmethod
    def read(cls, folder: Folder) -> FittedProbes:
        """The probes that `write` wrote.

        Raises:
            StoreError: A file is missing, cut, altered, of another schema version or not of the other file.
        """
        return _parsed(folder.read_bytes, folder.address)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> FittedProbes:
        """Like `read`, from a local folder, without the storage layer: torch and safetensors are enough."""

        def read(name: str) -> bytes:
            try:
                return Path(folder, name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise StoreError(f"{Path(folder, name)} is missing; give the folder of a finished downstream evaluation") from None

        return _parsed(read, str(Path(folder)))


def predictor_digest(predictor: Predictor) -> str:
    """SHA-256 in hex of a predictor's sizes and weights, wherever they lie."""
    sha = hashlib.sha256(json.dumps(predictor.spec.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(predictor.state_dict().items()):
        whole = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {whole.dtype} {list(whole.shape)}".encode())
        sha.update(whole.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _parsed(read: Callable[[str], bytes], where: str) -> FittedProbes:
    """The probes of a folder. read: the content of one of its files, or a StoreError; where: the folder, for messages."""
    content, data = _json(read(PROBES), f"{where}/{PROBES}"), read(PROBE_TENSORS)
    altered = f"{where}/{PROBE_TENSORS} was altered or cut, or is not of the {PROBES} beside it; get both files again"
    if hashlib.sha256(data).hexdigest() != content.get("tensors_sha256"):
        raise StoreError(altered)
    try:
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for path, tensor in safetensors.torch.load(data).items():
            probe, _, part = path.rpartition("/")
            parts[probe][part] = tensor
    except safetensors.SafetensorError:
        raise StoreError(altered) from None
    try:
        found = _built(content, parts)
    except (KeyError, TypeError, ValueError, AttributeError):
        # Messages of these may quote what the file holds.
        raise StoreError(
            f"{where}/{PROBES} does not describe the probes of {PROBE_TENSORS}: it was altered; get both files again"
        ) from None
    return found


def _json(data: bytes, where: str) -> dict[str, Any]:
    """A description of this schema version."""
    try:
        content = json.loads(data)
    except ValueError:
        raise StoreError(f"{where} is not valid JSON: it was altered or cut; get it again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema version {version}, this clinjepa reads {SCHEMA_VERSION}; run the evaluation again with this one"
        )
    return dict(content)


def _built(content: dict[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> FittedProbes:
    """The object of a description and its tensors; ValueError, KeyError or TypeError where they do not fit each other."""
    columns, kinds = tuple(content["columns"]), tuple(content["kinds"])
    sizes: dict[str, int | None] = content["num_features"]
    if not {*kinds} <= {LINEAR, MLP} or sizes.keys() != {*columns}:
        raise ValueError("unknown kinds or columns")
    tasks: dict[str, TaskProbes] = {}
    for entry in content["tasks"]:
        name, train = entry.pop("name"), TrainLabels(**entry.pop("train"))
        if entry["output"] not in get_args(Output) or entry["predicted_at"] not in get_args(PredictedAt):
            raise ValueError("unknown output or time of prediction")
        cells = [(column, kind) for column in columns for kind in kinds] if entry["reason"] is None else []
        probes = {
            (column, kind): FittedProbe.from_tensors(parts[f"{name}/{column}/{kind}"], kind, entry["output"]) for column, kind in cells
        }
        tasks[name] = TaskProbes(**entry, train=train, probes=probes)
    probes_by_name = {f"{name}/{column}/{kind}": probe for name, task in tasks.items() for (column, kind), probe in task.probes.items()}
    if probes_by_name.keys() != parts.keys() or any(
        probe.num_features != sizes[name.split("/")[-2]] for name, probe in probes_by_name.items()
    ):
        raise ValueError("tensors of other tasks, or of another number of features")
    return FittedProbes(ProbeInput(**content["input"]), PointRule(**content["points"]), columns, kinds, tasks)

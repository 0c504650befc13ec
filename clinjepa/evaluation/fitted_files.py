"""Files of what an evaluation fitted, so that it can be applied to other patients without training data.

Tensors are in `<name>.safetensors`. `<name>.json` has the version, the digest of the content, and what is no tensor. It is written last.
Needs numpy and safetensors only: neither Ray, nor the storage layer, nor a library of tables.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from clinjepa.errors import EvaluationError, StoreError

if TYPE_CHECKING:
    from clinjepa.evaluation.space import Latents
    from clinjepa.storage import Folder

TRAIN_MEAN = "train_mean"
"""Name of the training mean latent: `train_mean.safetensors`, one tensor `mean_D` [D] float32."""


class FittedFiles(NamedTuple):
    """What was read: the JSON without version and digest, the tensors by name, and the address for messages."""

    described: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    where: str


def packed(name: str, version: int, described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The content of both files by file name, tensors first.

    Args:
        name: Name of the files without ending.
        version: Schema version of what they hold.
        described: What is no tensor; JSON-able, without `schema_version` and `sha256`.
        tensors: Arrays by name.
    """
    data = _tensor_bytes(tensors)
    record = {"schema_version": version, "sha256": _digest(described, data), **described}
    return {f"{name}.safetensors": data, f"{name}.json": (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()}


def unpacked(folder: Folder | str | os.PathLike[str], name: str, version: int) -> FittedFiles:
    """What `packed` made, read from a folder.

    Raises:
        StoreError: A file is missing, truncated or altered, the two are not of one writing, or the version is another.
    """
    where = f"{_address(folder)}/{name}"
    try:
        record = json.loads(_read(folder, f"{name}.json"))
    except ValueError:
        raise StoreError(f"{where}.json is not valid JSON: it was altered or cut; evaluate the run again") from None
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found != version:
        raise StoreError(f"{where}.json has schema version {found}, this code reads {version}; evaluate the run again")
    data = _read(folder, f"{name}.safetensors")
    described = {key: value for key, value in record.items() if key not in ("schema_version", "sha256")}
    if _digest(described, data) != record.get("sha256"):
        raise StoreError(
            f"{where}.json and {name}.safetensors are not as they were written: one was altered or cut; evaluate the run again"
        )
    return FittedFiles(described, _tensors(data, where), where)


def encoder_of(latents: object) -> str | None:
    """Content digest of the encoder of some latents; None where they do not tell (`LatentReader` does)."""
    digest = getattr(latents, "encoder_digest", None)
    return digest if isinstance(digest, str) else None


def check_latents(what: str, dim: int, encoder_digest: str | None, latents: Latents) -> None:
    """Raise EvaluationError unless fitted parts and latents have the same width and, where both name one, the same encoder.

    what: the fitted parts, for the message; dim: width of their latents; encoder_digest: of their encoder, or None.
    """
    if dim != latents.dim:
        raise EvaluationError(f"{what} was fitted on latents of {dim} values, these have {latents.dim}; give that of the same encoder")
    if None not in (found := (encoder_digest, encoder_of(latents))) and found[0] != found[1]:
        raise EvaluationError(f"{what} was fitted on latents of another encoder; give that of the same encoder")


def misfit(where: str) -> StoreError:
    """The error for files whose parts contradict each other."""
    return StoreError(f"{where}.json and {where}.safetensors do not fit together: no evaluation wrote them; evaluate the run again")


def write_files(folder: Folder, files: Mapping[str, bytes]) -> None:
    """Write files in their order."""
    for name, data in files.items():
        folder.write_bytes(name, data)


def mean_files(mean_D: np.ndarray) -> dict[str, bytes]:
    """The content of `train_mean.safetensors` by its file name. mean_D: training mean latent."""
    return {f"{TRAIN_MEAN}.safetensors": _tensor_bytes({"mean_D": mean_D})}


def read_mean(folder: Folder | str | os.PathLike[str]) -> np.ndarray:
    """The training mean latent [D] float32 that a drift evaluation kept. Raises StoreError where it is missing, truncated or altered."""
    name = f"{TRAIN_MEAN}.safetensors"
    where = f"{_address(folder)}/{TRAIN_MEAN}"
    mean_D = _tensors(_read(folder, name), where).get("mean_D")
    if mean_D is None or mean_D.ndim != 1:
        raise StoreError(f"{where}.safetensors has no vector mean_D: it was altered; evaluate the run again")
    return mean_D


def _digest(described: Mapping[str, Any], tensors: bytes) -> str:
    """SHA-256 in hex of the content of both files."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode() + tensors).hexdigest()


def _tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save({key: np.ascontiguousarray(tensors[key]) for key in sorted(tensors)})


def _tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, ValueError):
        raise StoreError(f"{where}.safetensors is not a readable safetensors file: it was altered or cut; evaluate the run again") from None


def _address(folder: Folder | str | os.PathLike[str]) -> str:
    return os.fspath(folder) if isinstance(folder, (str, os.PathLike)) else folder.address


def _read(folder: Folder | str | os.PathLike[str], name: str) -> bytes:
    if not isinstance(folder, (str, os.PathLike)):
        return folder.read_bytes(name)
    try:
        return Path(folder, name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{Path(folder, name)} is missing; evaluate the run again") from None

"""Files of a model in an artifact folder: tensors as safetensors, sizes as JSON.

A file that cannot be read, or that does not fit the model it is loaded into, raises a `CheckpointError` that names the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor

from clinjepa.errors import CheckpointError, StoreError

if TYPE_CHECKING:
    from clinjepa.storage import Folder

ONLINE_TENSORS, TARGET_TENSORS = "online.safetensors", "target.safetensors"
HEAD_TENSORS = "heads.safetensors"
"""Weights of the heads of a phase's loss terms, named `<term>.<parameter>`."""


def write_tensors(folder: Folder, name: str, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors under `name` (`online.safetensors`, `target.safetensors`, …), sorted by tensor name."""
    whole = {key: state[key].detach().cpu().contiguous() for key in sorted(state)}
    folder.write_bytes(name, safetensors.torch.save(whole, metadata={"format": "pt"}))


def read_tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    """Read tensors to the CPU. Raises CheckpointError for a truncated or altered file, StoreError for a missing one."""
    return _parse_tensors(folder.read_bytes(name), f"{folder.address}/{name}")


def read_local_json(folder: str | os.PathLike[str], name: str) -> Any:
    """JSON of a local file. Raises StoreError if it is missing, CheckpointError if it is not valid JSON."""
    try:
        return json.loads(_read_local(folder, name))
    except ValueError:
        raise CheckpointError(f"{Path(folder, name)} is not valid JSON: it was altered or cut; get the folder again") from None


def read_local_tensors(folder: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    """Like `read_tensors`, from a local folder, without the storage layer."""
    return _parse_tensors(_read_local(folder, name), str(Path(folder, name)))


def _read_local(folder: str | os.PathLike[str], name: str) -> bytes:
    try:
        return Path(folder, name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{Path(folder, name)} is missing; give the folder that `clinjepa export` wrote") from None


def _parse_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError:
        raise CheckpointError(f"{where} is not a readable safetensors file: it was altered or cut; remove its folder") from None


def check_same_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError unless names and shapes agree; the message names one tensor that does not. what: the file, for the message."""
    missing, surplus = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or surplus:
        example = f"{missing[0]} is missing" if missing else f"{surplus[0]} is not known here"
        raise CheckpointError(f"{what}: {len(missing)} tensors missing, {len(surplus)} unknown ({example}); it is of another model")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(
                f"{what}: {name} has shape {list(given[name].shape)}, this model needs {list(tensor.shape)}; it is of another model"
            )

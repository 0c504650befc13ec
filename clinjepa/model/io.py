"""Tensors as safetensors, sizes as JSON: what a model leaves in an artifact folder.

A file that cannot be read, or does not fit what it is loaded into, is a `CheckpointError` that names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
from torch import Tensor

from clinjepa.errors import CheckpointError
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.sharding import fill, to_shards, whole
from clinjepa.model.specs import PredictorSpec

if TYPE_CHECKING:
    from clinjepa.storage import Folder

PREDICTOR_TENSORS, PREDICTOR_SPEC = "predictor.safetensors", "predictor.json"


def write_tensors(folder: Folder, name: str, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors under `name` (`online.safetensors`, `target.safetensors`, …), sorted by tensor name."""
    whole = {key: state[key].detach().cpu().contiguous() for key in sorted(state)}
    folder.write_bytes(name, safetensors.torch.save(whole, metadata={"format": "pt"}))


def read_tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    """Read tensors on the CPU. Raises CheckpointError on a file that was cut or altered, StoreError on one that is missing."""
    try:
        return safetensors.torch.load(folder.read_bytes(name))
    except safetensors.SafetensorError:
        raise CheckpointError(
            f"{folder.address}/{name} is not a readable safetensors file: it was altered or cut; remove its folder"
        ) from None


def predictor_state(predictor: Predictor) -> dict[str, Tensor]:
    """Whole tensors on the CPU; collective when sharded."""
    to_shards(predictor)
    return {name: whole(parameter) for name, parameter in predictor.named_parameters()}


def load_predictor_state(predictor: Predictor, state: Mapping[str, Tensor]) -> None:
    """Take over whole tensors that every worker holds, into shards or not. Raises CheckpointError when names or shapes differ."""
    to_shards(predictor)
    parameters = dict(predictor.named_parameters())
    check_same_tensors(state, parameters, PREDICTOR_TENSORS)
    for name, parameter in parameters.items():
        fill(parameter, state[name])


def save_predictor(state: Mapping[str, Tensor], spec: PredictorSpec, out: Folder) -> None:
    """Write `predictor.safetensors` and then `predictor.json`. `state`: whole tensors, as `predictor_state` gathers them."""
    write_tensors(out, PREDICTOR_TENSORS, state)
    out.write_json(PREDICTOR_SPEC, spec.to_dict())


def load_predictor(folder: Folder) -> Predictor:
    """The predictor that `save_predictor` wrote, on the CPU, in training mode."""
    written = folder.read_json(PREDICTOR_SPEC)
    try:
        spec = PredictorSpec(**written)
    except TypeError:
        raise CheckpointError(
            f"{folder.address}/{PREDICTOR_SPEC} describes a predictor of another version; train it again with this one"
        ) from None
    predictor = build_predictor(spec, seed=0)
    state = read_tensors(folder, PREDICTOR_TENSORS)
    check_same_tensors(state, predictor.state_dict(), f"{folder.address}/{PREDICTOR_TENSORS}")
    predictor.load_state_dict(state)
    return predictor


def check_same_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError unless names and shapes agree; the message names one tensor that does not."""
    missing, surplus = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or surplus:
        example = f"{missing[0]} is missing" if missing else f"{surplus[0]} is not known here"
        raise CheckpointError(f"{what}: {len(missing)} tensors missing, {len(surplus)} unknown ({example}); it is of another model")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(
                f"{what}: {name} has shape {list(given[name].shape)}, this model needs {list(tensor.shape)}; it is of another model"
            )

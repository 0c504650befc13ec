"""Reading safetensors files straight into a worker's shards, on its device, tensor by tensor.

The model is built without weights (`hollow_model`), gets its adapters and is sharded; then each worker reads its rows of each tensor.
Besides its shards a worker holds one slice at a time, whatever the size of the model.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parameter import Parameter

from clinjepa.model.pretrained.model_files import INDEX, SINGLE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLES, _SAMPLE_BYTES = 64, 4096
_ROWS = 8192
"""Rows of a weight that are compared at a time."""


def weight_files(source: str, revision: str | None, local_files_only: bool) -> list[Path]:
    """The safetensors files of a model folder or a public model. Raises OSError if there are none."""
    from transformers.utils.hub import cached_file

    def path(name: str) -> Path:
        found = cached_file(source, name, revision=revision, local_files_only=local_files_only)
        if found is None:
            raise OSError(f"{name} is missing")
        return Path(found)

    single = cached_file(source, SINGLE, revision=revision, local_files_only=local_files_only, _raise_exceptions_for_missing_entries=False)
    if single is not None:
        return [Path(single)]
    index = json.loads(path(INDEX).read_text(encoding="utf-8"))
    return [path(name) for name in sorted(set(index["weight_map"].values()))]


def content_digest(files: Sequence[Path]) -> str:
    """SHA-256 in hex over config.json and each file's size, header and samples: differs between models of the same shape, reads little."""
    config = (files[0].parent / "config.json").read_bytes()
    return sampled_digest(config, ((path.stat().st_size, partial(_read_range, path)) for path in files))


def sampled_digest(config: bytes, files: Iterable[tuple[int, Callable[[int, int], bytes]]]) -> str:
    """`content_digest` of files in any storage. files: (size in bytes, read(start, end)); raises struct.error for a truncated file."""
    digest = hashlib.sha256(config)
    for size, read in files:
        (header,) = struct.unpack("<Q", read(0, 8))
        digest.update(struct.pack("<Q", size) + read(8, 8 + header))
        for place in range(_SAMPLES):
            start = 8 + header + (size - 8 - header) * place // _SAMPLES
            if start < size:
                digest.update(read(start, min(start + _SAMPLE_BYTES, size)))
    return digest.hexdigest()


def _read_range(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def hollow_model(source: str, dtype: torch.dtype, revision: str | None, local_files_only: bool) -> PreTrainedModel:
    """The causal language model of a folder or public model without weights, on the meta device. Buffers that no file holds are computed.

    Args:
        source: folder or model id.
        dtype: of the weights.
        revision: of a public model.
        local_files_only: do not reach the Hugging Face hub.

    Raises:
        ValueError: the class has buffers that cannot be computed without weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, revision=revision, local_files_only=local_files_only)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    for module in model.modules():
        # Buffers that are in no file (rotary frequencies) are computed by the constructor of their module.
        unsaved = module._non_persistent_buffers_set
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta and name in unsaved]
        if not missing:
            continue
        try:
            fresh = dict(type(module)(module.config).named_buffers(recurse=False))
        except (AttributeError, TypeError):
            raise ValueError(f"{type(module).__name__} has buffers that cannot be made without its weights") from None
        for name in missing:
            module._buffers[name] = fresh[name]
    model.eval()
    return model


@contextmanager
def hollow_on_cpu(model: nn.Module) -> Iterator[None]:
    """In this context, hollow weights are CPU tensors of one repeated element, so that peft creates adapters on the CPU."""
    hollow = {name: parameter for name, parameter in model.named_parameters() if parameter.is_meta}
    stand_ins = {p: Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=False) for p in hollow.values()}
    _replace(model, stand_ins)
    try:
        yield
    finally:
        _replace(model, {stand_in: parameter for parameter, stand_in in stand_ins.items()})


def fits(model: nn.Module, files: Sequence[Path], names: Mapping[str, str]) -> bool:
    """Whether the files contain every weight and buffer in `names` (name in the model -> name in files) with its shape."""
    shapes = stored_shapes(files)
    tensors = chain(model.named_parameters(), model.named_buffers())
    return all(shapes.get(names[name]) == list(tensor.shape) for name, tensor in tensors if name in names)


def stored_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    """Tensor name -> shape over all files."""
    shapes: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    return shapes


def ties_differ(model: PreTrainedModel, files: Sequence[Path]) -> bool:
    """Whether the files hold other values for a weight than for the one that the class ties it to; transformers then ties neither."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    where: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            where |= dict.fromkeys(opened.keys(), path)
    return any(
        not _equal(where[one], one, where[other], other) for one, other in tied.items() if one in where and other in where and one != other
    )


def _equal(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    with safe_open(path, framework="pt") as opened, safe_open(other_path, framework="pt") as other:
        a, b = opened.get_slice(name), other.get_slice(other_name)
        if a.get_shape() != b.get_shape():
            return False
        rows = a.get_shape()[0]
        return all(torch.equal(a[first : first + _ROWS], b[first : first + _ROWS]) for first in range(0, rows, _ROWS))


def fill_from_files(model: nn.Module, files: Sequence[Path], names: Mapping[str, str], device: torch.device | str) -> int:
    """Fill every hollow parameter in `names` from the files: whole, or this worker's rows where it is sharded. Hollow buffers are whole.

    Both are replaced by new objects, so call it before an optimizer is made.

    Args:
        model: the model.
        files: safetensors files that contain all tensors in `names` (`fits`).
        names: name of a parameter or buffer -> name in files.
        device: of plain parameters and buffers; sharded ones are on their mesh's device.

    Returns:
        Bytes read.
    """
    wanted: dict[str, list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in names and parameter.is_meta:
            wanted.setdefault(names[name], []).append(parameter)
    num_bytes = 0
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for name in sorted(wanted.keys() & set(opened.keys())):
                for parameter in wanted[name]:
                    filled, read = _filled(parameter, opened.get_slice(name), device)
                    _replace(model, {parameter: filled})
                    num_bytes += read
    return num_bytes + _fill_buffers(model, files, names, device)


def _fill_buffers(model: nn.Module, files: Sequence[Path], names: Mapping[str, str], device: torch.device | str) -> int:
    """The part of `fill_from_files` for buffers."""
    hollow: dict[str, list[tuple[nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            key = f"{prefix}.{name}" if prefix else name
            if buffer.is_meta and key in names:
                hollow.setdefault(names[key], []).append((module, name))
    num_bytes = 0
    for path in files if hollow else ():
        with safe_open(path, framework="pt") as opened:
            for name in sorted(hollow.keys() & set(opened.keys())):
                stored: Tensor = opened.get_tensor(name)
                num_bytes += stored.numel() * stored.element_size()
                for module, own in hollow[name]:
                    module._buffers[own] = stored.to(device=device, dtype=module.get_buffer(own).dtype, copy=True)
    return num_bytes


def _filled(parameter: Parameter, stored: Any, device: torch.device | str) -> tuple[Parameter, int]:
    """(a filled parameter in place of a hollow one, bytes read). stored: a slice of a safetensors file."""
    if not isinstance(parameter, DTensor):
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        return Parameter(values, parameter.requires_grad), _copy_rows(values, stored, 0)
    mesh, (placement,) = parameter.device_mesh, parameter.placements
    if not isinstance(placement, Shard) or placement.dim != 0:
        raise ValueError(f"weights are sharded by rows, not by {placement}")
    rows = -(-parameter.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * rows, parameter.shape[0])
    values = torch.empty(parameter.to_local().shape, dtype=parameter.dtype, device=mesh.device_type)
    read = _copy_rows(values, stored, first)
    whole = DTensor.from_local(values, mesh, (placement,), run_check=False, shape=parameter.shape, stride=parameter.stride())
    return Parameter(whole, parameter.requires_grad), read


def _copy_rows(values: Tensor, stored: Any, first: int) -> int:
    """Fill `values` with the stored rows from `first` on; returns the bytes read."""
    if not values.numel():
        return 0
    part: Tensor = stored[first : first + len(values)]
    values.copy_(part)
    return part.numel() * part.element_size()


def _replace(model: nn.Module, new: Mapping[Parameter, Parameter]) -> None:
    """Replace parameters wherever they occur; a tied weight occurs more than once."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter in new:
                module._parameters[name] = new[parameter]


def public_content(model: str, revision: str | None) -> str | None:
    """Content digest of a public model's files; None if they are not on this machine."""
    try:
        return content_digest(weight_files(model, revision, local_files_only=True))
    except (OSError, ValueError):
        return None

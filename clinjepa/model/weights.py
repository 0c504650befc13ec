"""From safetensors files straight to where the weights belong: this worker's shards, on its device, tensor by tensor.

The model is made without weights (`hollow_model`), gets its adapters, is sharded, and only then each worker reads its rows of
each tensor. Beside its shards a worker holds one slice at a time, however large the model is.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parameter import Parameter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLES, _SAMPLE_BYTES = 64, 4096
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(source: str, revision: str | None, local_files_only: bool) -> list[Path]:
    """The safetensors files of a model folder or a public model, one or several. Raises OSError when there are none."""
    from transformers.utils import cached_file

    options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    single = cached_file(source, _SINGLE, _raise_exceptions_for_missing_entries=False, **options)
    if single is not None:
        return [Path(single)]
    index = json.loads(Path(cached_file(source, _INDEX, **options)).read_text(encoding="utf-8"))
    return [Path(cached_file(source, name, **options)) for name in sorted(set(index["weight_map"].values()))]


def content_digest(files: Sequence[Path]) -> str:
    """Tells models of the same shape apart without reading all of them: SHA-256 over config.json, and each file's header and samples."""
    config = (files[0].parent / "config.json").read_bytes()
    return sampled_digest(config, ((path.stat().st_size, partial(_read_range, path)) for path in files))


def sampled_digest(config: bytes, files: Iterable[tuple[int, Callable[[int, int], bytes]]]) -> str:
    """`content_digest` of files wherever they lie. files: (size in bytes, read(start, end)) each; raises struct.error for one cut short."""
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


def hollow_model(source: str, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model of a folder or public model without weights, on the meta device; its computed buffers are real.

    options: of `AutoConfig.from_pretrained`. Raises ValueError for a class whose buffers cannot be made again.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype, trust_remote_code=False)
    for module in model.modules():
        # What is in no file (rotary frequencies) is computed again where it was computed first: by the module's own constructor.
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        if not missing:
            continue
        try:
            fresh = dict(type(module)(module.config).named_buffers(recurse=False))
        except (AttributeError, TypeError):
            raise ValueError(f"{type(module).__name__} has buffers that cannot be made without its weights") from None
        for name in missing:
            module._buffers[name] = fresh[name]
    return model.eval()


@contextmanager
def hollow_on_cpu(model: nn.Module) -> Iterator[None]:
    """While it lasts, hollow weights pass for CPU weights (of one repeated element): adapters are made where their layer is."""
    hollow = {name: parameter for name, parameter in model.named_parameters() if parameter.is_meta}
    stand_ins = {p: Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=False) for p in hollow.values()}
    _replace(model, stand_ins)
    try:
        yield
    finally:
        _replace(model, {stand_in: parameter for parameter, stand_in in stand_ins.items()})


def fits(model: nn.Module, files: Sequence[Path], names: Mapping[str, str]) -> bool:
    """Whether the files hold every weight in `names` (parameter name → name in files) in its shape."""
    shapes: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    return all(shapes.get(names[name]) == list(parameter.shape) for name, parameter in model.named_parameters() if name in names)


def fill_from_files(model: nn.Module, files: Sequence[Path], names: Mapping[str, str], device: torch.device | str) -> int:
    """Give every hollow parameter in `names` (parameter name → name in files) its values or this worker's rows of them.

    Plain parameters are made on `device`, sharded ones on their mesh's device. Returns the bytes that were read. Call before
    an optimizer is made: the parameters are new objects.
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
    return num_bytes


def _filled(parameter: Parameter, stored: Any, device: torch.device | str) -> tuple[Parameter, int]:
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
    """Copy rows first, first + 1, … of what is stored into `values`; returns the bytes read."""
    if not values.numel():
        return 0
    part = stored[first : first + len(values)]
    values.copy_(part)
    return part.numel() * part.element_size()


def _replace(model: nn.Module, new: Mapping[Parameter, Parameter]) -> None:
    """Put other parameters in the place of some, wherever they are shared (tied embeddings)."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter in new:
                module._parameters[name] = new[parameter]


def public_content(model: str, revision: str | None) -> str | None:
    """Content digest of a public model's files; None where they are not on this machine."""
    from clinjepa.model.weights import content_digest, weight_files

    try:
        return content_digest(weight_files(model, revision, local_files_only=True))
    except (OSError, ValueError):
        return None

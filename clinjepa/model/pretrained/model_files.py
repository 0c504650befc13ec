"""May a model be read as it is? Looks at the files of a model folder, or of a public model in the local cache, before they are loaded.

What is refused here is what transformers would load as another model (an adapter beside its base, quantised weights), and folders that
cannot be read. The message says what is in the folder and what to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazily loaded, not declared
from safetensors import safe_open

from clinjepa.errors import ConfigError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
_LFS = b"version https://git-lfs"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_MERGE = "merge it into its base with peft (merge_and_unload, then save_pretrained to a new folder) and give the new folder"


def check_model_files(model: str, revision: str | None, local_files_only: bool = True) -> None:
    """Refuse a model whose files are not those of one whole model.

    Args:
        model: a folder, or the id of a public model. Of a public model only what is known to be wrong is refused.
        revision: of a public model.
        local_files_only: do not reach the Hugging Face hub.

    Raises:
        ConfigError: one line with what is there and what to do.
    """
    if os.path.isdir(model):
        folder = Path(model)
        _check_adapter(model, folder / _ADAPTER, (folder / _CONFIG).exists())
        _check_config(model, folder)
        for path in _weight_paths(model, folder):
            _check_weights(model, path)
    elif os.path.lexists(model):
        raise ConfigError(f"encoder.model={model} is a file; give the folder with its config.json and safetensors files")
    elif os.path.isabs(model) or model.startswith((".", "~")):
        raise ConfigError(f"encoder.model={model}: there is no such folder on this machine; give the path of a model folder")
    elif not _can_be_id(model):
        raise ConfigError(
            f"encoder.model={model or '(empty)'} is no folder on this machine and cannot be a model id (owner/name); give one of them"
        )
    else:
        found = _cached(model, _ADAPTER, revision, local_files_only)
        if found is not None:
            _check_adapter(model, found, _cached(model, _CONFIG, revision, local_files_only) is not None)
        config = _cached(model, _CONFIG, revision, True)
        if config is not None:
            _read_config(model, config)


def _can_be_id(model: str) -> bool:
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _cached(model: str, name: str, revision: str | None, local_files_only: bool) -> Path | None:
    """A file of a public model; None if it has none, or cannot be reached."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            model,
            name,
            revision=revision,
            local_files_only=local_files_only,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None  # a faulty id: loading raises the error with its cause
    return Path(found) if found is not None else None


def _check_adapter(model: str, path: Path, has_model: bool) -> None:
    if not path.exists():
        return
    base = _read_object(model, path).get("base_model_name_or_path")
    of = f"an adapter of {base}" if base else "an adapter"
    if has_model:
        raise ConfigError(
            f"encoder.model={model} holds a model and beside it {of} ({_ADAPTER}), which transformers would apply; {_MERGE}, "
            f"or remove {_ADAPTER} to encode with the model alone"
        )
    raise ConfigError(f"encoder.model={model} is {of} and no model; {_MERGE}")


def _check_config(model: str, folder: Path) -> None:
    if not (folder / _CONFIG).exists():
        below = sorted(path.parent for pattern in (f"*/{_CONFIG}", f"snapshots/*/{_CONFIG}") for path in folder.glob(pattern))
        there = f"give {below[-1]}, which has one" if below else "give the folder that save_pretrained wrote, or copy its files again"
        raise ConfigError(f"encoder.model={model} has no {_CONFIG}; {there}")
    _read_config(model, folder / _CONFIG)


def _read_config(model: str, path: Path) -> None:
    config = _read_object(model, path)
    if not config.get("model_type"):
        raise ConfigError(f"encoder.model={model}: its {_CONFIG} names no model_type; get the file of a transformers model")
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ConfigError(
            f"encoder.model={model} has quantised weights ({method or 'quantization_config'}), which are not read; "
            "give the same model in bfloat16, float16 or float32"
        )


def _read_object(model: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError(
            f"encoder.model={model}: its {path.name} cannot be read as JSON in UTF-8 without a byte-order mark: it was altered or cut; "
            "copy it again"
        )
    return content


def _weight_paths(model: str, folder: Path) -> list[Path]:
    """The files that transformers would read. Raises ConfigError if they are of another format, or not all there."""
    if (folder / SINGLE).is_dir():
        raise ConfigError(f"encoder.model={model}: its {SINGLE} is a folder and no file; copy the file itself there")
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise ConfigError(f"encoder.model={model}: {_instead(folder)}")
    named = _read_object(model, folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ConfigError(f"encoder.model={model}: its {INDEX} names no files: it was altered or cut; copy it again")
    names = sorted(set(named.values()))
    lost = [name for name in names if not (folder / name).is_file()]
    if lost:
        raise ConfigError(
            f"encoder.model={model}: {len(lost)} of the {len(names)} files in its {INDEX} are missing ({lost[0]}); copy them there"
        )
    return [folder / name for name in names]


def _instead(folder: Path) -> str:
    """What lies where model.safetensors is expected, and what to do."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _NO_WEIGHTS)
    convert = f"convert it: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(a new folder), which writes safetensors"
    if any(name.endswith((".bin", ".bin.index.json", ".pt", ".pth")) for name in names):
        return f"its weights are in the .bin format, and only safetensors are read; {convert}"
    if any(name.endswith((".h5", ".msgpack", ".gguf")) for name in names):
        return (
            "its weights are of another program (.h5, .msgpack or .gguf), and only safetensors are read; get the safetensors of this model"
        )
    parts = [name for name in names if name.endswith(".safetensors")]
    if parts:
        return f"it has {parts[0]} but neither {SINGLE} nor {INDEX}, by which transformers finds the weights; copy the missing one there"
    return f"it has {_CONFIG} but no weights; copy {SINGLE}, or all its parts with {INDEX}, there"


def _check_weights(model: str, path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ConfigError(f"encoder.model={model}: {path.name} is a pointer of Git LFS and not the weights; run git lfs pull there")
    try:
        other = sorted(set(_types(path)) - _FLOATS)
    except (OSError, safetensors.SafetensorError):
        raise ConfigError(
            f"encoder.model={model}: {path.name} is no whole safetensors file: it was altered or cut; copy it again"
        ) from None
    if other:
        raise ConfigError(
            f"encoder.model={model}: {path.name} has weights of type {', '.join(other)}, as quantised models have, which are not read; "
            "give the same model in bfloat16, float16 or float32"
        )


def _types(path: Path) -> Iterator[str]:
    """Types of the tensors that belong to weights (masks and counters of old versions aside)."""
    with safe_open(path, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            if name.endswith("weight"):
                yield opened.get_slice(name).get_dtype()

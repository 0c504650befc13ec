"""The base: a Hugging Face causal language model as a folder of `config.json` and `model.safetensors`.

Small bases are made here with random weights. Public ones are referred to by model id and revision and never copied. The encoder adds
adapters to a base (`adapters.py`) and turns it into text -> latent (`encoder.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from clinjepa.errors import CheckpointError, ConfigError, StoreError, first_line
from clinjepa.model.pretrained.model_files import check_model_files
from clinjepa.model.specs import EncoderSpec
from clinjepa.model.tensor_files import write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clinjepa.storage import Folder

MADE_HERE = "Qwen3ForCausalLM"
"""Class of the bases that are made here."""

BASE_CONFIG, BASE_TENSORS = "config.json", "model.safetensors"
NAMED_BASE = "model.json"
"""File of a base folder that refers to a public model: model, revision, content digest."""


def make_base(spec: EncoderSpec, seed: int, out: Folder) -> None:
    """Write a small Qwen3 with tied embeddings and random weights that depend on `seed` only."""
    model = random_model(spec, seed)
    write_base(out, base_config(model), dict(model.named_parameters()) | saved_buffers(model))


def random_model(spec: EncoderSpec, seed: int) -> PreTrainedModel:
    """A small Qwen3 of `spec`'s sizes, fp32, with random weights that depend on `seed` only; the global generator is not advanced."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.hidden_size // spec.num_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=spec.eos_id,
        bos_token_id=None,
        architectures=[MADE_HERE],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    return model


def make_random_base(spec: EncoderSpec, seed: int, out: Folder) -> None:
    """Write a base with the architecture of `spec.model` and random weights in `spec.dtype` that depend on `seed` only.

    Raises ConfigError when the model's configuration is not on this machine.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with open_base(spec, None) as source, torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(
            source.source, revision=source.revision, local_files_only=source.local_files_only, trust_remote_code=False
        )
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {name: parameter.to(spec.torch_dtype) for name, parameter in model.named_parameters()}
    write_base(out, base_config(model), state | saved_buffers(model))


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to a model's files beside its weights, by name: `layer_scalar` of Gemma 4, the routers' biases of DeepSeek-V3."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def base_config(model: PreTrainedModel) -> dict[str, Any]:
    """The content of `config.json`, without the path that the model was loaded from."""
    written: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    written.pop("_name_or_path", None)
    return written


def write_base(out: Folder, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a base folder. state: whole weights and saved buffers under Hugging Face's names, without a tied output layer."""
    write_tensors(out, BASE_TENSORS, state)
    out.write_json(BASE_CONFIG, dict(config))


@dataclass(frozen=True)
class BaseSource:
    """Where a base can be read: a local folder, or a public model and its revision."""

    source: str
    revision: str | None = None
    local_files_only: bool = True
    content: str | None = None
    """Content digest of the public model that the run began with, if known (`clinjepa.model.pretrained.weights`)."""


@contextlib.contextmanager
def open_base(spec: EncoderSpec, base: Folder | None, allow_download: bool = False) -> Iterator[BaseSource]:
    """The base in a folder, or `spec.model` at `spec.revision` if there is no folder or the folder refers to a public model.

    Only safetensors files are read, and no code of a model repository is run.

    Args:
        spec: names the public model.
        base: folder of the base, or None.
        allow_download: let the Hugging Face hub be reached.

    Raises:
        StoreError: the folder has no readable base (also while reading it inside the context).
        ConfigError: the public model cannot be loaded, or none is set.
    """
    if base is not None and not base.exists(NAMED_BASE):
        with base.local_copy("") as path:
            try:
                yield BaseSource(os.fspath(path))
            except (OSError, ValueError, safetensors.SafetensorError) as error:
                raise StoreError(f"{base.address} holds no readable base model ({first_line(error)}); remove it and run again") from None
        return
    if spec.model is None:
        raise ConfigError("no base folder was given and encoder.model is not set; set encoder.model, or encoder.init=config")
    content = base.read_json(NAMED_BASE).get("content") if base is not None else None
    check_model_files(spec.model, spec.revision, not allow_download)
    try:
        yield BaseSource(spec.model, spec.revision, not allow_download, content)
    except (OSError, ValueError, ImportError, StrictDataclassError, safetensors.SafetensorError) as error:
        what = f"encoder.model={spec.model}" + (f" (revision {spec.revision})" if spec.revision else "")
        raise ConfigError(f"{what} cannot be loaded ({first_line(error)}); {_remedy(spec.model, error, allow_download)}") from None


def _remedy(model: str, error: BaseException, allow_download: bool) -> str:
    """What to do about a public model or a model folder that transformers could not load."""
    if not isinstance(error, OSError):
        return "give a causal language model that this version of transformers has a class for, with all its weights"
    if os.path.isdir(model):
        return "check the files of this folder, or copy them again"
    return "check the id and the network" if allow_download else "fetch it first, or set encoder.allow_download=true"


def check_content(model: str | None, begun_with: str | None, found: str) -> None:
    """Raise CheckpointError if the model is not the one that the run began with: adapters belong to one base."""
    if begun_with not in (None, found):
        raise CheckpointError(
            f"encoder.model={model} is not the model that this run began with (its files were replaced); put that one back, "
            "or give the new one another folder or revision, which starts a new run"
        )


def load_base(source: BaseSource, dtype: torch.dtype, needs_head: bool = True) -> PreTrainedModel:
    """The whole base in `dtype` on the CPU, loaded by transformers, which also supports files of other names and layouts.

    A base without an output layer in its files gets a placeholder. Raises ValueError if `needs_head`, or if other tensors are missing or
    have another shape; `open_base` converts it and the errors of transformers.
    """
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained  # declared to return the model alone, whatever `output_loading_info` is
    model: PreTrainedModel
    with quiet():
        try:
            model, found = load(
                source.source,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with the shapes
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                revision=source.revision,
                local_files_only=source.local_files_only,
            )
        except RuntimeError as error:
            if "report" in str(error):  # transformers' own, in a log that a worker does not show
                raise ValueError("transformers cannot convert its tensors to those of this class") from None
            raise ValueError(first_line(error)) from None
    missing, head = set(found["missing_keys"]), _head_names(model)
    if missing and missing <= head:
        if needs_head:
            raise ValueError(
                f"its files have no output layer ({min(missing)}), which SFT and adapters on it need; choose recipes without SFT"
            )
        remove_head(model)
        missing.clear()
    # transformers would continue with random values in their place.
    if found["mismatched_keys"]:
        name, stored, wanted = min(found["mismatched_keys"], key=str)
        raise ValueError(
            f"{len(found['mismatched_keys'])} tensors have another shape than {BASE_CONFIG} gives them, such as {name}: "
            f"{_shape(stored)} in the files, {_shape(wanted)} by {BASE_CONFIG}"
        )
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing (such as {min(missing)})")
    return model


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


class NoHead(nn.Module):
    """Placeholder for an output layer that was not read."""


def drop_head(model: PreTrainedModel, adapted: Collection[str]) -> None:
    """Replace an output layer that shares no weights with the embeddings and gets no adapter: only next-token losses need it.

    adapted: names of the layers that get adapters, as peft matches them.
    """
    head = model.get_output_embeddings()
    if head is None or isinstance(head, NoHead) or head.weight is model.get_input_embeddings().weight:
        return
    if not is_adapted_head(model, adapted):
        remove_head(model)


def is_adapted_head(model: PreTrainedModel, adapted: Collection[str]) -> bool:
    """Whether the output layer gets an adapter. adapted: as in `drop_head`."""
    name = _head_name(model)
    return any(name == wanted or name.endswith("." + wanted) for wanted in adapted)


def remove_head(model: PreTrainedModel) -> None:
    """Replace the output layer by a placeholder."""
    model.set_submodule(_head_name(model), NoHead())


def _head_name(model: PreTrainedModel) -> str:
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


def _head_names(model: PreTrainedModel) -> set[str]:
    """Names of the output layer's own tensors."""
    name = _head_name(model)
    return {f"{name}.{each}" for each, _ in model.get_output_embeddings().named_parameters()} if name else set()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable transformers' progress bars, which every worker would show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

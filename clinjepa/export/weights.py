"""The weights of an export, in formats that other programs read: a PEFT adapter, a Hugging Face model, safetensors.

| what was trained | `encoder/` | `base/` |
|---|---|---|
| LoRA on a public base | PEFT adapter that names the base and its revision | – |
| LoRA on a base made here | PEFT adapter | Hugging Face model |
| all weights, or nothing on a base made here | Hugging Face model | – |
| nothing on a public base | no weights | – |

A public base is named and never copied. `encoder/encoder.json` describes how a latent is computed (`TextEncoder`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from torch import Tensor

from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.curriculum.steps.encoder_specs import encoder_spec, special_ids_of
from clinjepa.errors import CheckpointError, ConfigError
from clinjepa.model.encoding.text_encoder import ADAPTER_TENSORS, DESCRIPTION, NOT_DESCRIBED, SCHEMA_VERSION
from clinjepa.model.predictor import PREDICTOR_SPEC, PREDICTOR_TENSORS, load_predictor
from clinjepa.model.pretrained.adapters import lora_config
from clinjepa.model.pretrained.base_model import BASE_CONFIG, BASE_TENSORS
from clinjepa.model.specs import EncoderSpec
from clinjepa.model.tensor_files import read_tensors, write_tensors
from clinjepa.storage import Folder

ADAPTER_CONFIG = "adapter_config.json"
PUBLIC_BASE = "model.json"


@dataclass(frozen=True)
class TrainedParts:
    """Folders in storage of the parts that are exported."""

    base: Folder
    """`config.json` and `model.safetensors` of a base made here, or `model.json`, the name of a public one."""

    online: Folder | None
    """Folder with `online.safetensors`; None when the base itself encodes."""

    trajectories: Folder
    """The store with the tokenizer that was trained with."""

    predictor: Folder


@dataclass(frozen=True)
class TokenizerFacts:
    """What the export states of the tokenizer that the encoder was trained with."""

    pretrained: bool
    """True for the tokenizer of a public model; False for one that was trained here, which is then copied."""
    max_tokens: int
    """Tokens at which a text is cut."""


class Reference(TypedDict):
    """A public model by id and revision. `local` is True where the id was a folder; then only its last name is given."""

    model: str
    revision: str | None
    local: bool


class Beside(TypedDict):
    """A model that was written with the export: its folder, relative to `encoder/`."""

    folder: str


class Written(TypedDict):
    """What was written, for the manifest and the model card."""

    base: Reference | Beside
    tokenizer: Reference | Beside
    adapted: bool
    num_trained_encoder: int
    num_predictor: int
    predictor: dict[str, Any]


def write_weights(parts: TrainedParts, encoder_settings: EncoderSettings, facts: TokenizerFacts, out: Folder) -> Written:
    """Write `encoder/`, `predictor/` and, where they were made here, `base/` and `tokenizer/`.

    Args:
        parts: Where the trained parts are in storage.
        encoder_settings: The settings of the encoder that was trained.
        facts: Origin and length limit of its tokenizer.
        out: The folder of the export.

    Raises:
        CheckpointError: The weights do not belong together.
    """
    spec = encoder_spec(encoder_settings, parts.trajectories)
    public = parts.base.read_json(PUBLIC_BASE) if parts.base.exists(PUBLIC_BASE) else None
    base, num_trained = _write_encoder(parts, spec, public, out)
    adapted = parts.online is not None and spec.adaptation == "lora"
    tokenizer: Reference | Beside = {"folder": "../tokenizer"}
    if facts.pretrained:
        tokenizer = _reference({"model": encoder_settings.model, "revision": encoder_settings.revision})
    else:
        for name in ("tokenizer.json", "special_tokens.json"):
            (out / "tokenizer").write_bytes(name, parts.trajectories.read_bytes(name))
    before, after = special_ids_of(parts.trajectories)
    (out / "encoder").write_json(
        DESCRIPTION,
        {
            "schema_version": SCHEMA_VERSION,
            "base": base,
            "adapted": adapted,
            "tokenizer": tokenizer,
            "eos": parts.trajectories.read_json("special_tokens.json")["eos"],
            "before": before,
            "after": after,
            "max_tokens": facts.max_tokens,
            "token_budget": encoder_settings.token_budget,
            "spec": {name: value for name, value in asdict(spec).items() if name not in NOT_DESCRIBED},
        },
    )
    predictor = load_predictor(parts.predictor)  # a check: a predictor that cannot be loaded here cannot be loaded elsewhere
    for name in (PREDICTOR_TENSORS, PREDICTOR_SPEC):
        (out / "predictor").write_bytes(name, parts.predictor.read_bytes(name))
    return {
        "base": base,
        "tokenizer": tokenizer,
        "adapted": adapted,
        "num_trained_encoder": num_trained,
        "num_predictor": sum(parameter.numel() for parameter in predictor.parameters()),
        "predictor": predictor.spec.to_dict(),
    }


def _write_encoder(parts: TrainedParts, spec: EncoderSpec, public: Mapping[str, Any] | None, out: Folder) -> tuple[Reference | Beside, int]:
    """Write the encoder's weights in the form of the module's table; returns its base and the number of trained parameters."""
    base: Reference | Beside = _reference(public) if public else {"folder": "."}
    if parts.online is None:
        if public is None:
            _copy_model(parts.base, out / "encoder")
        return base, 0
    state = read_tensors(parts.online, "online.safetensors")
    if spec.adaptation == "full":
        _write_model(state, parts.base, public, out / "encoder")
        base = {"folder": "."}
    else:
        if public is None:
            _copy_model(parts.base, out / "base")
            base = {"folder": "../base"}
        _write_adapter(state, spec, base, out / "encoder")
    return base, sum(tensor.numel() for tensor in state.values())


def _reference(public: Mapping[str, Any]) -> Reference:
    """A public model by id and revision; a local folder by its name alone, since its path means nothing elsewhere."""
    model = str(public["model"])
    local = os.path.isabs(model) or os.path.isdir(model)
    return {"model": os.path.basename(os.path.normpath(model)) if local else model, "revision": public["revision"], "local": local}


def _copy_model(base: Folder, out: Folder) -> None:
    for name in (BASE_TENSORS, BASE_CONFIG):
        out.write_bytes(name, base.read_bytes(name))


def _write_model(state: Mapping[str, Tensor], base: Folder, public: Mapping[str, Any] | None, out: Folder) -> None:
    config = base.read_json(BASE_CONFIG) if public is None else _public_config(public)
    write_tensors(out, BASE_TENSORS, state)
    out.write_json(BASE_CONFIG, config | {"dtype": "float32"})  # trained weights are fp32 whatever the base came in


def _public_config(public: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        loaded = AutoConfig.from_pretrained(public["model"], revision=public["revision"], local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        raise ConfigError(f"encoder.model={public['model']}: its config.json is not on this machine; export where it was trained") from None
    plain: dict[str, Any] = loaded.to_dict()
    return {name: value for name, value in plain.items() if name != "_name_or_path"} | {"architectures": loaded.architectures}


def _write_adapter(state: Mapping[str, Tensor], spec: EncoderSpec, base: Reference | Beside, out: Folder) -> None:
    """peft's own two files. The tensors' names in storage are peft's without the adapter's name, which is also how peft saves them."""
    unknown = [name for name in state if ".lora_" not in name]
    if unknown:
        raise CheckpointError(f"online.safetensors: {len(unknown)} of {len(state)} tensors are no LoRA tensors; check encoder.adaptation")
    config: Any = lora_config(spec, spec.lora_dropout)  # peft's methods have no annotations
    config.inference_mode = True
    config.base_model_name_or_path, config.revision = base.get("model"), base.get("revision")
    write_tensors(out, ADAPTER_TENSORS, state)
    # Sets have no fixed order, and the file must be the same each time.
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    out.write_json(ADAPTER_CONFIG, dict(sorted(plain.items())))

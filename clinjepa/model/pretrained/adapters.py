"""Two LoRA adapters, `online` and `target`, on one frozen base (peft), and the switch between them.

Tensor names in files are those of peft without the adapter's name, so online and target states have the same names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from clinjepa.errors import ConfigError
from clinjepa.model.specs import EncoderSpec

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_ADAPTER_NAME = re.compile(r"^(.*\.lora_[A-Za-z_]+)\.(online|target)(\..*)?$")


def add_adapters(model: PreTrainedModel, spec: EncoderSpec, seed: int, with_target: bool) -> nn.Module:
    """Wrap `model` in fresh fp32 adapters and freeze everything else.

    B = 0, so the model computes as the base does; A depends on `seed` only. The target adapter has no dropout and takes no gradient;
    `build_encoder` makes it a copy of the online one.

    Args:
        model: the base.
        spec: sizes of the adapters.
        seed: of A.
        with_target: add the target adapter.

    Raises:
        ConfigError: a LoRA target matches no layer.
    """
    from peft import PeftModel

    check_targets(model, spec.lora_targets)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft reads a transformers attribute by its deprecated name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # peft finds the layout of a layer's weight by itself, and reports it.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        torch.manual_seed(seed)
        adapted = PeftModel(model, lora_config(spec, spec.lora_dropout), adapter_name="online", autocast_adapter_dtype=True)
        if with_target:
            adapted.add_adapter("target", lora_config(spec, 0.0), autocast_adapter_dtype=True)
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # In bf16, autocast would round peft's fp32 inputs back to bf16: the same values, with one more copy per adapter.
            module.cast_input_dtype_enabled = spec.dtype == "float32"  # type: ignore[assignment]  # an attribute of peft's layers
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(adapter_of(name)[1] == "online")
    return adapted


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Raise ConfigError if a LoRA target matches no linear layer (GPT-2's `Conv1D` is one). A model on `meta` is enough."""
    from transformers.pytorch_utils import Conv1D

    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    unmatched = [wanted for wanted in targets if not any(name == wanted or name.endswith("." + wanted) for name in names)]
    if unmatched:
        layers = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
        raise ConfigError(f"encoder.lora.targets: {', '.join(unmatched)} match no linear layer of this model; it has {layers or 'none'}")


def lora_config(spec: EncoderSpec, dropout: float) -> LoraConfig:
    """The configuration of one adapter, as peft takes it."""
    from peft import LoraConfig

    return LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]  # declared int; any number scales by lora_alpha / r
        target_modules=list(spec.lora_targets),
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )


def adapter_of(name: str) -> tuple[str, str | None]:
    """(tensor name in files, `online` | `target` | None for the base) of a parameter of an adapted model."""
    match = _ADAPTER_NAME.match(name)
    if match:
        return match[1] + (match[3] or ""), match[2]
    return name.removeprefix("base_model.model.").replace(".base_layer.", "."), None


def switch_adapter(adapted: nn.Module, which: str) -> None:
    """Use adapter `which` from the next forward on. `requires_grad` stays as it is; peft's `set_adapter` alone would change it."""
    parameters = [parameter for name, parameter in adapted.named_parameters() if ".lora_" in name]
    trainable = [parameter.requires_grad for parameter in parameters]

    cast("PeftModel", adapted).set_adapter(which)
    for parameter, required in zip(parameters, trainable, strict=True):
        parameter.requires_grad_(required)

"""Sizes and choices of encoder and predictor, as plain JSON-able values.

They mirror the configuration's sections `encoder` and `predictor` without pydantic, so that the model runs with torch, transformers and
peft only. Defaults follow Clin-JEPA (arXiv 2605.10840).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clinjepa.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: a Hugging Face causal language model, how a latent is read from it, and which weights are trained."""

    init: str
    """`config`: a small Qwen3 of the sizes below. `pretrained`: `model` at `revision`."""

    model: str | None
    revision: str | None
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_size: int
    adaptation: str
    """`lora`: adapters on a frozen base. `full`: all weights, in fp32. `frozen`: the base alone, in `dtype`; nothing is trained."""

    lora_rank: int
    lora_alpha: float
    lora_targets: tuple[str, ...]
    lora_dropout: float
    latent_from: str
    """`post_norm` or `pre_norm`: after or before the model's final norm."""

    append_eos: bool
    dtype: str
    """Precision of a frozen base and of all matrix products (`float32`, `bfloat16`); trainable weights are always fp32."""

    vocab_size: int
    eos_id: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("init", ("config", "pretrained")),
            ("adaptation", ("lora", "full", "frozen")),
            ("latent_from", ("post_norm", "pre_norm")),
            ("dtype", tuple(_DTYPES)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"encoder.{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], vocab_size: int, eos_id: int) -> EncoderSpec:
        """From the configuration's section `encoder`.

        Args:
            settings: the section as plain values; its `lora` is None without adapters.
            vocab_size: tokens of the tokenizer.
            eos_id: the tokenizer's end-of-text token.
        """
        lora = settings["lora"] or {"rank": 0, "alpha": 0.0, "targets": (), "dropout": 0.0}
        plain = ("init", "model", "revision", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size")
        read = ("adaptation", "latent_from", "append_eos", "dtype")
        return cls(
            **{name: settings[name] for name in plain + read},
            lora_rank=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_targets=tuple(lora["targets"]),
            lora_dropout=lora["dropout"],
            vocab_size=vocab_size,
            eos_id=eos_id,
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of matrix products and of latents."""
        return _DTYPES[self.dtype]

    @property
    def end_id(self) -> int | None:
        """The token to append to a text before encoding; None to append nothing."""
        return self.eos_id if self.append_eos else None


@dataclass(frozen=True)
class PredictorSpec:
    """The predictor's sizes; the defaults have 92,514,304 parameters."""

    latent_dim: int = 4096
    hidden_size: int = 1024
    num_layers: int = 6
    num_heads: int = 8
    ffn_size: int = 4096
    dropout: float = 0.15
    attention_dropout: float = 0.1
    max_hours: int = 72
    mode: str = "absolute"
    """`absolute`: predicts the next hour's latent. `residual`: predicts its difference from this hour's."""
    trained_hours: int | None = None
    """Hours of the longest window that the predictor was trained on; None before a training has ended."""

    def __post_init__(self) -> None:
        if self.mode not in ("absolute", "residual"):
            raise ConfigError(f"predictor.mode={self.mode!r} is not one of absolute, residual")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"predictor.hidden_size={self.hidden_size} is not a multiple of predictor.num_heads={self.num_heads}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], latent_dim: int) -> PredictorSpec:
        """From the configuration's section `predictor` as plain values and the encoder's latent width."""
        return cls(latent_dim=latent_dim, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `PredictorSpec(**values)` reads them back."""
        return asdict(self)

    @property
    def reach_hours(self) -> int:
        """Input hours of a window whose positions training could reach.

        The last hour of a training window is a target and never read for a loss, so its position gets no gradient. Hence hours 0 to
        reach_hours - 1 may be inputs, and the latest hour that may be predicted is reach_hours.
        """
        return min(self.max_hours, self.trained_hours or self.max_hours) - 1

    @property
    def num_positions(self) -> int:
        """Number of learned positions: the static token and two tokens for each of max_hours + 2 hours (149 for 72 h)."""
        return 2 * (self.max_hours + 2) + 1

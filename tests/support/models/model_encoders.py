"""Small encoders and texts for the model's tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.specs import EncoderSpec

VOCAB = 200
SETTINGS: dict[str, Any] = {
    "init": "config",
    "model": None,
    "revision": None,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_size": 48,
    "adaptation": "lora",
    "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "dropout": 0.0},
    "latent_from": "post_norm",
    "append_eos": False,
    "dtype": "float32",
    "token_budget": 512,
}


def encoder_spec(**changes: Any) -> EncoderSpec:
    """The small encoder with some settings changed."""
    return EncoderSpec.from_settings(SETTINGS | changes, VOCAB, eos_id=1)


def random_texts(num_texts: int, longest: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Texts of 1..longest random token ids."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, VOCAB, size) for size in generator.integers(1, longest + 1, num_texts)]


def move_online(encoder: Encoder, seed: int = 3, scale: float = 0.05) -> None:
    """Give the online weights other values, as training would, so that online and target differ."""
    generator = torch.Generator().manual_seed(seed)
    encoder.load_online({name: t + scale * torch.randn(t.shape, generator=generator) for name, t in encoder.online_state().items()})

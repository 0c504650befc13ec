"""Sizes of the models by arithmetic: parameters, and the bytes a layer keeps for its backward pass.

No model is built and torch is not needed. Derivations: docs/scaling.md; tests hold the counts to really built models and the
bytes to measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clinjepa.errors import ConfigError

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Qwen3 decoder: grouped-query attention with normed queries and keys, gated feed-forward, no biases."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """From the values of a model's `config.json`. Raises ConfigError when one is missing."""
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            return cls(
                hidden=hidden,
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                ffn=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as missing:
            raise ConfigError(f"the model's config.json has no {missing.args[0]}; its memory cannot be planned") from None

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: q and o, k and v, two norms of queries and keys, three feed-forward matrices, two norms."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key + 2 * self.head_dim
        return attention + 3 * self.hidden * self.ffn + 2 * self.hidden

    @property
    def product_parameters(self) -> int:
        """Weights of all layers' matrix products; each costs a token 2 FLOPs."""
        return self.layers * (2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.ffn)

    @property
    def latent_product_parameters(self) -> int:
        """As `product_parameters` where only latents are read: of the last layer a token needs its key and value only."""
        return self.product_parameters - (2 * self.hidden * self.query + 3 * self.hidden * self.ffn)

    @property
    def root_parameters(self) -> int:
        """Weights outside the layers: embeddings, the output layer where it is not tied to them, the last norm."""
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def head_parameters(self) -> int:
        """Weights of an untied output layer, which only next-token training loads; 0 where it is tied to the embeddings."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.root_parameters

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of adapters of `rank` on the named projections. Raises ConfigError for an unknown name."""
        sides = {
            "q_proj": self.hidden + self.query,
            "k_proj": self.hidden + self.key,
            "v_proj": self.hidden + self.key,
            "o_proj": self.query + self.hidden,
            "gate_proj": self.hidden + self.ffn,
            "up_proj": self.hidden + self.ffn,
            "down_proj": self.ffn + self.hidden,
        }
        if unknown := [name for name in targets if name not in sides]:
            raise ConfigError(f"encoder.lora.targets: {', '.join(unknown)} cannot be planned; known are {', '.join(sides)}")
        return self.layers * rank * sum(sides[name] for name in targets)

    def kept_bytes(self, compute_bytes: int, what: str, trained_whole: bool, fused_norms: bool = True) -> int:
        """Bytes per token that one layer keeps for its backward pass.

        Args:
            compute_bytes: of a value of a matrix product (2 in bf16, 4 in fp32).
            what: activation checkpointing, `none`, `selective` or `full`.
            trained_whole: all weights take gradients, so the inputs of all products are kept too.
            fused_norms: as on a GPU (`clinjepa.model.norms`), where weights have the precision of products; otherwise norms keep an fp32
                copy of their inputs.
        """
        c, h, q, k, f = compute_bytes, self.hidden, self.query, self.key, self.ffn
        if what == "full":
            return c * h
        if what == "selective":
            return c * (h + (q + 2 * k + h) + q + (2 * f + h)) + 4 * self.heads
        if fused_norms and not (trained_whole and c == 2):
            norms = c * (2 * h + q + k) + 4 * (2 + self.heads + self.kv_heads)
        else:
            norms = 4 * (2 * h + q + k)
        inputs = c * (h + q)
        attention = c * 4 * q + 4 * self.heads
        feed_forward = c * 3 * f
        whole = c * (h + f + 2 * h + q + k) if trained_whole else 0
        return norms + inputs + attention + feed_forward + whole

    def working_bytes(self, compute_bytes: int, graph: bool) -> int:
        """Temporary bytes per token in a layer: of the backward pass (`graph`), or of a forward pass without a graph."""
        return compute_bytes * (2 if graph else 4) * self.ffn + 8 * self.hidden


def predictor_parameters(latent_dim: int, settings: Mapping[str, Any]) -> int:
    """Weights of the predictor with the configuration's `predictor` section as plain values."""
    d, h, f = latent_dim, int(settings["hidden_size"]), int(settings["ffn_size"])
    positions = 2 * (int(settings["max_hours"]) + 2) + 1
    layer = 4 * (h * h + h) + 4 * h + (h * f + f) + (f * h + h)
    return 3 * (d * h + h) + positions * h + int(settings["num_layers"]) * layer + h * d + d


def predictor_kept_bytes(latent_dim: int, settings: Mapping[str, Any], windows: int, hours: int, rollout_steps: int) -> int:
    """Bytes of the predictor's fp32 graph for a micro-batch with a native rollout.

    Args:
        latent_dim: width of the latents.
        settings: the configuration's `predictor` section as plain values.
        windows: windows of the micro-batch.
        hours: hours of each window.
        rollout_steps: hours of the rollout.
    """
    h, f, heads = int(settings["hidden_size"]), int(settings["ffn_size"]), int(settings["num_heads"])
    length = 2 * hours + 1
    tokens = windows * length
    # Two norms in and out, qkv, keys and values again, attention in and out, three dropout masks of a byte; feed-forward in and out.
    # Attention weights, their dropout mask and product count in fp32, as where attention is not fused (CPU).
    layer = 4 * (11.5 * h + 2.25 * f) + 4 * 3 * heads * length
    rollout = 4 * 2 * h * max(0, rollout_steps - 1)
    outputs = 4 * latent_dim * windows * hours * 3
    return int(tokens * int(settings["num_layers"]) * (layer + rollout)) + outputs


def known_model(name: str) -> Architecture | None:
    """Sizes of a public model listed in models.yaml; None for any other."""
    values = yaml.safe_load((_FOLDER / "models.yaml").read_text(encoding="utf-8")).get(name)
    return None if values is None else Architecture.from_config(values)


def known_gpus() -> dict[str, dict[str, float]]:
    """Memory (GiB) and peaks (TFLOP/s) of gpus.yaml, by kind of GPU."""
    gpus: dict[str, dict[str, float]] = yaml.safe_load((_FOLDER / "gpus.yaml").read_text(encoding="utf-8"))
    return gpus

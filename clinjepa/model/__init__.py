"""Encoder, predictor, losses and rollout: torch, transformers and peft only, so that the model also runs where nothing else is.

| module | what it holds |
|---|---|
| `specs` | sizes and choices of encoder and predictor |
| `base`, `adapters`, `encoder` | a causal language model, its LoRA adapters, and both as text -> latent |
| `identity` | which encoder it is, by content, without loading it |
| `packing` | texts as few dense rows; encoding a list of texts |
| `predictor`, `rollout`, `losses` | the world model, its autoregressive use, what it is trained on |
| `diagnostics` | collapse and error figures that are logged next to the loss |
| `recompute` | activation checkpointing |
| `text_encoder` | an exported encoder with its tokenizer: strings -> latents |
| `sharding`, `weights`, `io` | FSDP2 placement; a base's files straight into it; tensors in files |
"""

from clinjepa.model.base_model import make_base
from clinjepa.model.encoder import Encoder, build_encoder, shard_encoder
from clinjepa.model.packing import Pack, encode_texts, pack_texts
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor, save_predictor, shard_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import EncoderSpec, PredictorSpec
from clinjepa.model.text_encoder import TextEncoder

__all__ = [
    "Encoder",
    "EncoderSpec",
    "Pack",
    "Predictor",
    "PredictorSpec",
    "TextEncoder",
    "build_encoder",
    "build_predictor",
    "encode_texts",
    "load_predictor",
    "make_base",
    "pack_texts",
    "rollout",
    "save_predictor",
    "shard_encoder",
    "shard_predictor",
]

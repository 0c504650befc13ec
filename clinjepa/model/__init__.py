"""Encoder, predictor, losses and rollout. Needs torch, transformers and peft only, so an exported model runs without the rest.

| module | contents |
|---|---|
| `specs` | sizes and choices of encoder and predictor |
| `base_model`, `adapters`, `encoder` | a causal language model, its LoRA adapters, and both as text -> latent |
| `identity` | content digest of an encoder, without loading it |
| `packing` | texts as few dense rows; encoding a list of texts |
| `predictor`, `rollout`, `losses` | the world model, its autoregressive use, its training losses |
| `diagnostics` | measures of collapse and error, logged beside the loss |
| `recompute`, `last_layer`, `norms` | activation checkpointing; a cheaper last layer; fused RMS norms |
| `text_encoder` | an exported encoder with its tokenizer: strings -> latents |
| `sharding`, `weights` | FSDP2 sharding; a base's files read straight into the shards |
| `tensor_files` | tensors and JSON in files |
| `shrink` | a public model made small, to rehearse a large run |
"""

from clinjepa.model.base_model import make_base
from clinjepa.model.encoder import Encoder, Loading, build_encoder, shard_encoder
from clinjepa.model.packing import Pack, encode_texts, pack_texts
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor, save_predictor, shard_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import EncoderSpec, PredictorSpec
from clinjepa.model.text_encoder import TextEncoder

__all__ = [
    "Encoder",
    "EncoderSpec",
    "Loading",
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

"""Encoder, predictor, losses and rollout. Needs torch, transformers and peft only, so an exported model runs without the rest.

| module or room | contents |
|---|---|
| `specs` | sizes and choices of encoder and predictor |
| `pretrained/` | a causal language model as files: reading, sharded loading, digest, LoRA adapters, a small copy to rehearse with |
| `encoding/` | text -> latent: encoder, packed rows, trial of a class, next-token loss, checkpointing, exported encoder |
| `predictor`, `rollout`, `losses` | the world model, its autoregressive use, its training losses |
| `diagnostics` | measures of collapse and error, logged beside the loss |
| `norms`, `sharding`, `tensor_files` | fused RMS norms; FSDP2 sharding; tensors and JSON in files |
"""

from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder, shard_encoder
from clinjepa.model.encoding.packing import Pack, encode_texts, pack_texts
from clinjepa.model.encoding.text_encoder import TextEncoder
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor, save_predictor, shard_predictor
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import EncoderSpec, PredictorSpec

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

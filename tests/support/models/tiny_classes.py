"""Tiny random models of transformers' classes, with weights large enough that attention matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from clinjepa.model.encoding.layers import inner_of
from clinjepa.model.specs import EncoderSpec

VOCAB, END = 96, 2
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": END}
_FEW_HEADS = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("ApertusConfig", _FEW_HEADS),
    "bert": ("BertConfig", _SIZES),
    "biogpt": ("BioGptConfig", _SIZES),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB}),
    "cohere": ("CohereConfig", _FEW_HEADS),
    "deepseek_v4": (
        "DeepseekV4Config",
        _SIZES
        | {"num_key_value_heads": 1, "head_dim": 16, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 2, "moe_intermediate_size": 16}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}
        | {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    ),
    "doge": ("DogeConfig", _FEW_HEADS | {"keep_window_size": 17}),
    "falcon": ("FalconConfig", _SIZES | {"alibi": False}),
    "falcon_alibi": ("FalconConfig", _SIZES | {"alibi": True}),
    "gemma2": ("Gemma2Config", _FEW_HEADS | {"query_pre_attn_scalar": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
    "gemma3n": (
        "Gemma3nTextConfig",
        _FEW_HEADS
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "laurel_rank": 8, "num_kv_shared_layers": 0}
        | {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0], "sliding_window": 8}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    "glm_moe_dsa": (
        "GlmMoeDsaConfig",
        _SIZES
        | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
        | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 6},
    ),
    "gemma4": (
        "Gemma4TextConfig",
        _FEW_HEADS
        | {"global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "num_kv_shared_layers": 0}
        | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt2": ("GPT2Config", _GPT2),
    "lfm2": ("Lfm2Config", _FEW_HEADS | {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]}),
    "llama": ("LlamaConfig", _FEW_HEADS),
    "llama_dynamic": (
        "LlamaConfig",
        _FEW_HEADS | {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "llama4": (
        "Llama4TextConfig",
        _FEW_HEADS
        | {"num_local_experts": 2, "intermediate_size_mlp": 48, "no_rope_layers": [1, 0]}
        | {"attn_temperature_tuning": True, "floor_scale": 16, "attn_scale": 0.5},
    ),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": VOCAB}),
    "mixtral": ("MixtralConfig", _FEW_HEADS | {"num_local_experts": 4}),
    "opt": ("OPTConfig", _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt_350m": ("OPTConfig", _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "qwen3": ("Qwen3Config", _FEW_HEADS),
}


def write_tiny(folder: Path, kind: str, scale: float = 6.0, vocab: int = VOCAB) -> torch.nn.Module:
    """Write a model of CLASSES and return it: matrices are `scale` times those of a new model, and saved buffers have other values."""
    name, sizes = CLASSES[kind]
    sizes = sizes | {key: vocab for key in ("vocab_size", "vocab_size_per_layer_input") if key in sizes}
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
        for name, buffer in model.state_dict().items():
            if buffer.is_floating_point() and name not in dict(model.named_parameters(remove_duplicate=False)):
                buffer.mul_(0.5 + torch.rand(buffer.shape)).add_(0.1)
    model.save_pretrained(folder)
    return model


def tiny_spec(folder: Path, **changes: Any) -> EncoderSpec:
    """A frozen encoder of a folder, with some settings changed."""
    values: dict[str, Any] = dict.fromkeys(("hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size"), 0)
    values |= {"init": "pretrained", "model": str(folder), "revision": None, "adaptation": "frozen", "lora": None}
    values |= {"latent_from": "post_norm", "append_eos": True, "dtype": "float32"}
    return EncoderSpec.from_settings(values | changes, VOCAB, END)


def some_texts(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [generator.integers(3, VOCAB, length) for length in lengths]


def latents_alone(model: Any, texts: list[np.ndarray]) -> Tensor:
    """What transformers gives for each text with its end token, one at a time: the last state."""
    with torch.no_grad():
        rows = [torch.from_numpy(np.append(text, END))[None] for text in texts]
        return torch.cat([inner_of(model)(input_ids=row, use_cache=False).last_hidden_state[:, -1] for row in rows])


def loss_alone(model: Any, texts: list[np.ndarray]) -> Tensor:
    """Hugging Face's cross-entropy of each text with its end token, summed over all."""
    total = torch.zeros((), dtype=torch.float64)
    for text in texts:
        ids = torch.from_numpy(np.append(text, END))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        total = total + F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum").double()
    return total

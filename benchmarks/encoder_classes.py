"""How encoders of transformers' classes behave: `python -m benchmarks.encoder_classes > docs/encoder_classes.md`.

Each class is made with tiny random weights, six times as large as those of a new model so that attention matters, and tried as a new
encoder is (`clinjepa.model.encoding.trial`). Then latents of texts of 1 to 300 tokens and the next-token loss are compared with what
transformers gives for each text alone; a class that differs more than TOLERANCE raises.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clinjepa.errors import ConfigError
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.layers import inner_of
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.encoding.trial import try_encoder
from clinjepa.model.specs import EncoderSpec

TOLERANCE = 1e-5
VOCAB, END = 120, 2
LENGTHS = (300, 90, 55, 30, 3, 120, 61, 1, 40)
SIZES: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "n_embd", "d_model", "attention_hidden_size", "lru_width", "embedding_size", "word_embed_proj_dim"), 32)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim"), 64)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "context_length"), 512)
    | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB, "moe_intermediate_size": 16}
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "decoder_start_token_id": 1, "query_pre_attn_scalar": 8}
)
_MIXERS: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
CLASSES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": _MIXERS | {"attn_layer_indices": [1]},
    "bart": {},
    "bert": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": {},
    "cohere2": {},
    "ctrl": {},
    "diffllama": {},
    "doge": {},
    "electra": {},
    "ernie4_5": {},
    "exaone4": {},
    "falcon": {"alibi": False},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "falcon_mamba": {"state_size": 8},
    "gemma": {},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "glm": {},
    "glm4": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {},
    "gpt_oss": {},
    "gptj": {"rotary_dim": 8},
    "granite": {"logits_scaling": 2.0},
    "granitemoe": {},
    "granitemoehybrid": _MIXERS | {"layer_types": ["mamba", "attention"]},
    "helium": {},
    "hunyuan_v1_dense": {},
    "jamba": {"num_hidden_layers": 8, "mamba_dt_rank": 4, "mamba_d_state": 8, "num_experts": 2},
    "jetmoe": {},
    "lfm2": {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {"attention_chunk_size": 16, "intermediate_size_mlp": 64},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
    "minimax": {},
    "ministral": {},
    "mistral": {"sliding_window": 16},
    "mixtral": {},
    "modernbert-decoder": {},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 16},
    "openai-gpt": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "prophetnet": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 64},
    "roberta": {},
    "rwkv": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {},
    "xglm": {},
    "xlnet": {},
    "zamba": {"num_hidden_layers": 8, "mamba_d_state": 8, "attention_hidden_size": 64, "attention_head_dim": 16},
}


class Row(NamedTuple):
    """A line of the table."""

    kind: str
    name: str
    in_a_row: str
    pre_norm: str
    sft: str


def tiny_model(kind: str, changes: Mapping[str, Any]) -> Any:
    """A random causal language model of a class, in evaluation mode. kind: transformers' `model_type`."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made_for = CONFIG_MAPPING[kind]
    defaults = made_for().to_dict()
    known = defaults.keys() | getattr(made_for, "attribute_map", {}).keys()
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "layer_types" in defaults:
        sizes["layer_types"] = None  # derived from the number of layers
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(sizes | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6)
    return model


def spec(latent_from: str) -> EncoderSpec:
    """A frozen fp32 encoder."""
    return EncoderSpec("pretrained", "tiny", None, 32, 2, 4, 2, 64, "frozen", 0, 0.0, (), 0.0, latent_from, False, "float32", VOCAB, END)


def tried(model: Any, latent_from: str, with_head: bool) -> Encoder | None:
    """The encoder after its trial; None if it is refused."""
    encoder = Encoder(spec(latent_from), model, lora=False, with_target=False).eval()
    try:
        try_encoder(encoder, with_head)
    except ConfigError as error:
        if "cannot encode token ids" in str(error):
            raise  # the sizes above do not fit the class
        return None
    return encoder


def measured(kind: str, changes: Mapping[str, Any]) -> Row:
    """Try one class. Raises ValueError where an encoder that was not refused differs from transformers."""
    model = tiny_model(kind, changes)
    name = type(model).__name__
    encoder = tried(model, "post_norm", False)
    if encoder is None:
        return Row(kind, name, "refused", "–", "–")
    generator = np.random.default_rng(0)
    texts = [generator.integers(3, VOCAB, length) for length in LENGTHS]
    with torch.no_grad():
        z_ND = torch.stack(
            [inner_of(model)(input_ids=torch.from_numpy(text)[None], use_cache=False).last_hidden_state[0, -1] for text in texts]
        )
    gap = float((encode_texts(encoder, texts, 4096) - z_ND).abs().max() / z_ND.abs().max())
    in_a_row = "one" if encoder.one_text_per_row else "many"
    trained = tried(model, "post_norm", True)
    sft, loss_gap = "refused", 0.0
    if trained is not None:
        sft = "by the class" if trained.logits_by_class else "output layer"
        loss_gap = abs(float(packed_loss(trained, texts) / loss_alone(model, texts)) - 1)
    if max(gap, loss_gap) > TOLERANCE:
        raise ValueError(f"{name}: latents differ by {gap:.1e}, losses by {loss_gap:.1e}")
    return Row(kind, name, in_a_row, "yes" if tried(model, "pre_norm", False) else "refused", sft)


@torch.no_grad()
def packed_loss(encoder: Encoder, texts: list[np.ndarray]) -> Tensor:
    """The next-token loss of all texts with their end tokens, summed."""
    packs = encoder.pack(texts, 4096, END)
    return torch.stack([encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L) for pack in packs]).double().sum()


@torch.no_grad()
def loss_alone(model: Any, texts: list[np.ndarray]) -> Tensor:
    """The same from transformers, one text at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for text in texts:
        ids = torch.from_numpy(np.append(text, END))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").double()
    return total


HEAD = """# Classes of encoders

`encoder.model` may be any causal language model that transformers has a class for. A new encoder is tried once with two tiny texts, with
its adapters and in its precision: texts packed in a row must give what transformers gives for each alone (in fp32 to 1e-4 of
the largest value), and another text in the row must change nothing. What fails gets one text a row, which takes more places for the same
tokens. What fails then is refused with the name of its class. Bases that are made here (`encoder.init: config`) are of the class
`Qwen3ForCausalLM` and are not tried again. The trial takes five forward passes of at most 14 tokens, some 25 ms for a small model.

* **texts in a row**: `many`, `one`, or `refused` (places see later places, so the model is no causal language model). Llama 4
  with `attn_temperature_tuning`: `many` up to `floor_scale` - 1 places, then `one`.
  Sparse attention that keeps `index_topk` or `keep_window_size` keys (Doge, DeepSeek-V3.2, GLM-DSA, HY-V4): `many` up to so many places;
  longer texts get rows of their own length. So do all texts of classes that compress keys in blocks (DeepSeek-V4, MiniMax-M3).
* **`pre_norm`**: whether `encoder.latent_from: pre_norm` can be used.
* **SFT**: the logits are the product of the `output layer`, or computed `by the class` (scaled, capped, or from transformed states);
  `refused` where that cannot be done.

Made by `python -m benchmarks.encoder_classes > docs/encoder_classes.md` with transformers {version}. Latents of texts of 1 to 300
tokens and SFT losses agree with transformers to 1e-5 in every line that is not refused. Another configuration can have another line.

| `model_type` | class | texts in a row | `pre_norm` | SFT |
|---|---|---|---|---|"""


def main() -> int:
    """Print the page."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    print(HEAD.replace("{version}", transformers.__version__))
    for kind, changes in CLASSES.items():
        print(f"| {' | '.join(measured(kind, changes))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The last layer is computed where it is read, and what is read stays what it was."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.packing import pack_texts
from tests.support.models.model_encoders import VOCAB, encoder_spec, random_texts

TEXTS = random_texts(24)
(PACK,) = pack_texts(TEXTS, 4096)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
MODELS = {
    "Qwen3": {},
    "Qwen2": {},
    "Llama": {},
    "Granite": {"residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "Qwen3 sliding": SLIDING,
}
KNOWN = ["Qwen3", "Qwen2", "Llama"]


def built(name: str) -> Encoder:
    kind = name.split()[0]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **MODELS[name])
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():  # norms and biases begin as ones and zeros, which would hide that one is left out
        nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.1)
    return Encoder(encoder_spec(adaptation="full"), model, lora=False, with_target=False)


def everywhere(encoder: Encoder, index_N: torch.Tensor) -> torch.Tensor:
    """What the model of the library says itself."""
    output = encoder.model.model(input_ids=PACK.input_ids_L, position_ids=PACK.position_ids_L, use_cache=False)
    return output.last_hidden_state.flatten(0, 1)[index_N]


def gradients(encoder: Encoder, z_ND: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.randn(z_ND.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad((z_ND * weights).sum(), list(encoder.model.model.parameters())))


@pytest.mark.parametrize("name", MODELS)
def test_latents_and_gradients_are_the_whole_models(name: str) -> None:
    encoder = built(name)
    found, expected = encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N), everywhere(encoder, PACK.last_index_N)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, whole in zip(gradients(encoder, found), gradients(encoder, expected), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)


def test_places_may_come_in_any_order_and_leave_rows_out() -> None:
    encoder = built("Qwen3")
    width = PACK.input_ids_L.shape[1]
    index_N = torch.tensor([3 * width + 5, 2, 3 * width + 1, 0, 2 * width - 1])
    found = encoder(PACK.input_ids_L, PACK.position_ids_L, index_N)
    torch.testing.assert_close(found, everywhere(encoder, index_N), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_the_last_feed_forward_part_runs_where_latents_are_read(name: str) -> None:
    encoder, rows = built(name), []
    for layer in encoder.layers():
        layer.mlp.register_forward_pre_hook(lambda _, args: rows.append(args[0].numel() // 32))
    encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N)
    assert rows == [PACK.input_ids_L.numel()] * 2 + [len(TEXTS)]


def test_next_token_losses_look_at_every_place() -> None:
    encoder = built("Qwen3")
    logits = encoder.model(input_ids=PACK.input_ids_L, position_ids=PACK.position_ids_L, use_cache=False).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), PACK.labels_L.flatten(), reduction="sum")
    torch.testing.assert_close(encoder(PACK.input_ids_L, PACK.position_ids_L, labels_L=PACK.labels_L), expected)


def test_most_of_a_two_layer_encoders_last_layer_is_saved() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    encoder = build_encoder(encoder_spec(), None, seed=0)
    with torch.no_grad(), FlopCounterMode(display=False) as pruned:
        encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        encoder.model.get_base_model().model(input_ids=PACK.input_ids_L, position_ids=PACK.position_ids_L, use_cache=False)
    assert pruned.get_total_flops() < 0.7 * whole.get_total_flops()

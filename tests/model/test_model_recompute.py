"""Activation checkpointing saves memory and changes no bit of a result."""

from __future__ import annotations

import pytest
import torch

from clinjepa.errors import ConfigError
from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from tests.support.models.live_bytes import LiveBytes
from tests.support.models.model_encoders import SETTINGS, encoder_spec, move_online, random_texts

TEXTS = random_texts(12)
(PACK,) = pack_texts(TEXTS, 4096)
VARIANTS = {
    "lora": {},
    "lora_bf16": {"dtype": "bfloat16"},
    "lora_dropout": {"lora": SETTINGS["lora"] | {"dropout": 0.3}},
    "full": {"adaptation": "full"},
}


def built(what: str, target: bool = False, **changes) -> Encoder:
    encoder = build_encoder(encoder_spec(**changes), None, seed=0, with_target=target)
    move_online(encoder)
    encoder.recompute(what)
    return encoder


def gradients(encoder: Encoder, target_between: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(7)
    loss = encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N).float().square().sum()
    if target_between:
        encode_texts(encoder, TEXTS, 4096, "target")
    loss.backward()
    return [loss.detach(), *(parameter.grad for _, parameter in encoder.online_parameters())]


def kept_bytes(encoder: Encoder) -> int:
    """Bytes that a forward's graph keeps alive, its parameters apart."""
    with LiveBytes(*encoder.parameters()) as live:
        loss = encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N).float().square().sum()
    assert loss.requires_grad
    return live.now


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ["selective", "full"])
def test_gradients_are_the_same_bit_for_bit(variant: str, what: str) -> None:
    plain, spared = gradients(built("none", **VARIANTS[variant])), gradients(built(what, **VARIANTS[variant]))
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


@pytest.mark.parametrize("what", ["selective", "full"])
def test_next_token_gradients_are_the_same_bit_for_bit(what: str) -> None:
    found = []
    for each in ("none", what):
        encoder = build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True)
        encoder.recompute(each)
        encoder(PACK.input_ids_L, PACK.position_ids_L, labels_L=PACK.labels_L).backward()
        found.append([parameter.grad for parameter in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("what", ["selective", "full"])
def test_a_target_forward_before_backward_is_not_what_is_recomputed(what: str) -> None:
    plain, spared = (gradients(built(each, target=True), target_between=True) for each in ("none", what))
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def test_layers_run_once_more_and_only_where_there_is_a_graph() -> None:
    encoder, runs = built("full"), []
    for layer in encoder.layers():
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    encode_texts(encoder, TEXTS, 4096)
    assert len(runs) == 2
    runs.clear()
    gradients(encoder)
    assert len(runs) == 4


def test_selective_runs_no_large_matrix_product_again() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def flops(what: str) -> int:
        encoder = built(what, lora=SETTINGS["lora"] | {"rank": 1})
        with FlopCounterMode(display=False) as counter:
            gradients(encoder)
        return counter.get_total_flops()

    none, selective, full = (flops(what) for what in ("none", "selective", "full"))
    assert none <= selective < 1.05 * none < 1.2 * none < full


def test_full_keeps_less_than_selective_and_selective_less_than_none() -> None:
    none, selective, full = (kept_bytes(built(what, dtype="bfloat16")) for what in ("none", "selective", "full"))
    assert full < 0.3 * none
    assert selective < 0.7 * none


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="none, selective, full"):
        built("some")

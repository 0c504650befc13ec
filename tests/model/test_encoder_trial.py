"""An encoder of any class gives what transformers gives for each text alone, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from clinjepa.errors import ConfigError
from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.layers import longest_shared_row, most_keys
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from tests.support.models.tiny_classes import END, latents_alone, loss_alone, some_texts, tiny_spec, write_tiny

TEXTS = some_texts(9, 31, 5, 1, 18, 40, 3)
ISOLATED = ["gpt2", "gemma2", "llama", "mixtral", "qwen3"]
NOT_ISOLATED = ["biogpt", "bloom", "falcon", "falcon_alibi", "lfm2", "mamba", "opt"]


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())


def loss_of(encoder: Encoder) -> torch.Tensor:
    packs = encoder.pack(TEXTS, 256, END)
    losses = [encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L) for pack in packs]
    return torch.stack(losses).double().sum()


@pytest.mark.parametrize("latent_from", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("kind", ISOLATED + NOT_ISOLATED)
def test_a_latent_is_that_of_the_text_alone(tmp_path: Path, kind: str, latent_from: str) -> None:
    model: Any = write_tiny(tmp_path, kind)
    encoder = build_encoder(tiny_spec(tmp_path, latent_from=latent_from), None, 0)
    assert encoder.one_text_per_row == (kind in NOT_ISOLATED)
    z_ND, expected_ND = encode_texts(encoder, TEXTS, 256), latents_alone(model, TEXTS)
    if latent_from == "pre_norm":
        norms = {"biogpt": "layer_norm", "opt": "decoder.final_layer_norm", "lfm2": "embedding_norm", "mamba": "norm_f"}
        inner = model.base_model
        z_ND = inner.get_submodule(norms.get(kind, "norm" if hasattr(inner, "norm") else "ln_f"))(z_ND).detach()
    assert gap(z_ND, expected_ND) < 1e-4


@pytest.mark.parametrize("with_head", [False, True])
def test_a_latent_has_the_width_of_the_states_and_not_of_the_layers(tmp_path: Path, with_head: bool) -> None:
    model = write_tiny(tmp_path, "opt_350m")
    encoder = build_encoder(tiny_spec(tmp_path), None, 0, with_head=with_head)
    z_ND = encode_texts(encoder, TEXTS, 256)
    assert encoder.dim == z_ND.shape[1] == 16
    assert gap(z_ND, latents_alone(model, TEXTS)) < 1e-4


def test_texts_share_no_row_in_which_a_class_scales_by_the_place_in_the_row(tmp_path: Path) -> None:
    model: Any = write_tiny(tmp_path, "llama4")
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="full"), None, 0, with_head=True).eval()
    assert not encoder.one_text_per_row  # the trial's rows are shorter than `floor_scale`
    assert gap(encode_texts(encoder, TEXTS, 256), latents_alone(model, TEXTS)) < 1e-4
    assert float(loss_of(encoder).detach()) == pytest.approx(float(loss_alone(model, TEXTS).detach()), rel=1e-5)


@pytest.mark.parametrize(("kind", "keys"), [("doge", 17), ("glm_moe_dsa", 6), ("deepseek_v4", 0), ("llama", None)])
def test_texts_share_rows_only_up_to_the_keys_that_sparse_attention_keeps(tmp_path: Path, kind: str, keys: int | None) -> None:
    """Longer rows would choose among the keys of all texts and unused places of the row, which the trial's few tokens do not show."""
    model: Any = write_tiny(tmp_path, kind)
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="full"), None, 0, with_head=True).eval()
    assert most_keys(encoder.causal) == keys
    texts = TEXTS + some_texts(33, 18, 31, 17, 16, 2)
    assert gap(encode_texts(encoder, texts, 256), latents_alone(model, texts)) < 1e-5
    assert float(loss_of(encoder).detach()) == pytest.approx(float(loss_alone(model, TEXTS).detach()), rel=1e-5)


@pytest.mark.parametrize("end_id", [None, 5])
def test_a_text_above_a_length_has_its_row_alone_and_shorter_ones_no_longer_row(end_id: int | None) -> None:
    texts = some_texts(90, 12, 41, 41, 13, 3, 2, 70, 1, 41, 11)
    packs = pack_texts(texts, 100, end_id, exact_above=12)
    assert sorted(i for pack in packs for i in pack.order.tolist()) == list(range(len(texts)))
    for pack in packs:
        lengths = {len(texts[i]) + (end_id is not None) for i in pack.order.tolist()}
        rows, width = pack.input_ids_L.shape
        if max(lengths) > 12:
            assert lengths == {width} and len(pack.order) == rows
        else:
            assert width <= 12
        for place, i in zip(pack.last_index_N.tolist(), pack.order.tolist(), strict=True):
            last = int(texts[i][-1]) if end_id is None else end_id
            assert int(pack.input_ids_L.flatten()[place]) == last


@pytest.mark.parametrize(
    ("settings", "longest"),
    [({"attn_temperature_tuning": True}, 8191), ({"attn_temperature_tuning": False}, None), ({"floor_scale": 70}, 69)],
)
def test_rows_are_shared_up_to_the_place_where_a_class_scales(settings: dict[str, Any], longest: int | None) -> None:
    defaults = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    defaults |= {"intermediate_size": 16, "intermediate_size_mlp": 16, "num_local_experts": 1, "vocab_size": 16, "pad_token_id": 0}
    model = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**(defaults | settings)))
    assert longest_shared_row(model) == longest


@pytest.mark.parametrize("kind", ["biogpt", "llama", "lfm2"])
def test_adapters_change_nothing_about_it(tmp_path: Path, kind: str) -> None:
    model = write_tiny(tmp_path, kind)
    lora = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"], "dropout": 0.1}
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="lora", lora=lora), None, 0, with_target=True)
    for which in ("online", "target"):
        assert gap(encode_texts(encoder, TEXTS, 256, which), latents_alone(model, TEXTS)) < 1e-4


def test_layers_of_gpt_2_get_adapters(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = write_tiny(tmp_path, "gpt2")
    lora = {"rank": 2, "alpha": 4.0, "targets": ["c_attn", "c_proj", "c_fc"], "dropout": 0.0}
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="lora", lora=lora), None, 0, with_target=True, with_head=True)
    loss_of(encoder).backward()
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]
    with torch.no_grad():
        for name, parameter in encoder.online_parameters():
            assert (float(parameter.grad.abs().max()) > 0) == ("lora_B" in name)
            parameter.sub_(parameter.grad * 0.1)
    assert gap(encode_texts(encoder, TEXTS, 256), latents_alone(model, TEXTS)) > 1e-3
    assert gap(encode_texts(encoder, TEXTS, 256, "target"), latents_alone(model, TEXTS)) < 1e-4


@pytest.mark.parametrize(("kind", "layers"), [("gpt2", "c_attn, c_fc, c_proj"), ("llama", "down_proj, gate_proj")])
def test_a_target_that_is_no_layer_is_answered_with_those_there_are(tmp_path: Path, kind: str, layers: str) -> None:
    write_tiny(tmp_path, kind)
    lora = {"rank": 2, "alpha": 4.0, "targets": ["qkv"], "dropout": 0.0}
    with pytest.raises(ConfigError, match=f"qkv match no linear layer of this model; it has {layers}"):
        build_encoder(tiny_spec(tmp_path, adaptation="lora", lora=lora), None, 0)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "biogpt", "falcon", "mamba"])
def test_the_trial_finds_the_same_in_bf16(tmp_path: Path, kind: str) -> None:
    model = write_tiny(tmp_path, kind).bfloat16()
    encoder = build_encoder(tiny_spec(tmp_path, dtype="bfloat16"), None, 0)
    assert encoder.one_text_per_row == (kind in NOT_ISOLATED)
    assert gap(encode_texts(encoder, TEXTS, 256), latents_alone(model, TEXTS).float()) < 0.05


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("kind", ["biogpt", "falcon"])
def test_a_leak_is_found_in_new_weights_too(tmp_path: Path, kind: str, scale: float) -> None:
    write_tiny(tmp_path, kind, scale)
    for dtype in ("float32", "bfloat16"):
        assert build_encoder(tiny_spec(tmp_path, dtype=dtype), None, 0).one_text_per_row


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_class_whose_places_see_later_ones_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    write_tiny(tmp_path, "bert")
    with pytest.raises(ConfigError, match="BertLMHeadModel gives a text another latent .* choose another encoder.model"):
        build_encoder(tiny_spec(tmp_path, dtype=dtype), None, 0)


@pytest.mark.parametrize("latent_from", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "biogpt", "mamba"])
def test_the_sft_loss_is_transformers_cross_entropy(tmp_path: Path, kind: str, latent_from: str) -> None:
    model = write_tiny(tmp_path, kind)
    expected = loss_alone(model, TEXTS)
    expected.backward()
    expected = expected.detach()
    spec = tiny_spec(tmp_path, latent_from=latent_from, adaptation="full")
    encoder = build_encoder(spec, None, 0, with_head=True).eval()
    loss = loss_of(encoder)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    largest = max(float(parameter.grad.abs().max()) for parameter in model.parameters())
    for (name, found), (_, wanted) in zip(encoder.online_parameters(), model.named_parameters(), strict=True):
        assert found.grad is not None, name
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5 * largest)


def test_unused_places_have_a_finite_gradient_where_padding_has_none(tmp_path: Path) -> None:
    write_tiny(tmp_path, "gemma3n")  # the embedding of its padding token, 0, is a vector of zeros
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="full"), None, 0, with_head=True)
    packs = encoder.pack(TEXTS, 256, END)
    assert any((pack.position_ids_L == 0).sum() > len(pack.order) for pack in packs)
    loss_of(encoder).backward()
    assert all(bool(parameter.grad.isfinite().all()) for _, parameter in encoder.online_parameters() if parameter.grad is not None)


def test_what_latents_are_read_from_changes_no_weight_of_sft(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    trained = []
    for latent_from in ("post_norm", "pre_norm"):
        encoder = build_encoder(tiny_spec(tmp_path, latent_from=latent_from, adaptation="full"), None, 0, with_head=True)
        optimizer = torch.optim.AdamW([parameter for _, parameter in encoder.online_parameters()], lr=1e-3)
        for _ in range(4):
            encode_texts(encoder, TEXTS, 256)
            optimizer.zero_grad()
            loss_of(encoder).backward()
            optimizer.step()
        trained.append(encoder.online_state())
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_chunked_logits_of_a_class_that_caps_them_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny(tmp_path, "gemma2")
    encoder = build_encoder(tiny_spec(tmp_path, adaptation="full"), None, 0, with_head=True)
    monkeypatch.setattr("clinjepa.model.encoding.next_token._LOGITS_AT_ONCE", 1000)
    loss = loss_of(encoder)
    loss.backward()
    assert encoder.logits_by_class
    assert float(loss.detach()) == pytest.approx(float(loss_alone(model, TEXTS).detach()), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_head", [False, True])
def test_the_class_of_bases_made_here_needs_no_trial(tmp_path: Path, dtype: str, with_head: bool) -> None:
    write_tiny(tmp_path, "qwen3")
    tried = build_encoder(tiny_spec(tmp_path, dtype=dtype), None, 0, with_head=with_head)
    assert not tried.one_text_per_row and not tried.logits_by_class


def test_one_text_per_row_leaves_unused_places_behind_each_text() -> None:
    texts = some_texts(4, 9, 2, 7)
    packs = pack_texts(texts, 20, None, one_per_row=True)
    assert [tuple(pack.input_ids_L.shape) for pack in packs] == [(2, 9), (2, 4)]
    for pack in packs:
        width = pack.input_ids_L.shape[1]
        rows = (pack.last_index_N // width).tolist()
        assert rows == list(range(len(rows)))
        for row, index in zip(rows, pack.order.tolist(), strict=True):
            assert pack.input_ids_L[row, : len(texts[index])].tolist() == texts[index].tolist()
        assert int((pack.labels_L != -100).sum()) == sum(len(texts[index]) - 1 for index in pack.order.tolist())


@pytest.mark.parametrize(("kind", "length"), [("gpt2", 128), ("biogpt", 128), ("llama_dynamic", 16)])
def test_a_text_beyond_the_positions_of_a_model_is_refused(tmp_path: Path, kind: str, length: int) -> None:
    model = write_tiny(tmp_path, kind)
    encoder = build_encoder(tiny_spec(tmp_path), None, 0)
    fitting = some_texts(length - 1, 4)
    assert gap(encode_texts(encoder, fitting, 512), latents_alone(model, fitting)) < 1e-4
    with pytest.raises(ConfigError, match=f"set tokenizer.max_tokens={length - 1} or less"):
        encode_texts(encoder, some_texts(length, 4), 512)

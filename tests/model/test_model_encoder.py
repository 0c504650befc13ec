"""What of the encoder is trained, what follows, and what never moves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, Qwen3Config

import clinjepa.model.encoding.next_token as next_token_module
from clinjepa.errors import CheckpointError, ConfigError, StoreError
from clinjepa.model.encoding.encoder import Encoder, build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts
from clinjepa.model.pretrained.adapters import add_adapters
from clinjepa.model.pretrained.base_model import make_base, write_base
from clinjepa.storage import Folder
from tests.support.models.model_encoders import VOCAB, encoder_spec, move_online, random_texts

TEXTS = random_texts(12)
(PACK,) = pack_texts(TEXTS, 4096)
BOTH = pytest.mark.parametrize("adaptation", ["lora", "full"])


def loss_of(encoder: Encoder) -> torch.Tensor:
    return encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N).square().sum()


def built(adaptation: str = "lora", **changes) -> Encoder:
    return build_encoder(encoder_spec(adaptation=adaptation, **changes), None, seed=0, with_target=True)


def test_lora_on_qwen3_8b_has_exactly_the_published_parameters() -> None:
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        lora = {"rank": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "dropout": 0.0}
        adapted = add_adapters(model, encoder_spec(lora=lora), seed=0, with_target=False)
    assert sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad) == 15_335_424


def test_fresh_adapters_leave_the_base_as_it_is(tmp_path) -> None:
    make_base(encoder_spec(), 4, Folder(tmp_path))
    adapted = build_encoder(encoder_spec(), Folder(tmp_path), seed=1)
    base = build_encoder(encoder_spec(), Folder(tmp_path), seed=1, whole_model_trainable=True)
    assert torch.equal(encode_texts(adapted, TEXTS, 512), encode_texts(base, TEXTS, 512))


@BOTH
def test_target_starts_equal_to_online(adaptation: str) -> None:
    encoder = built(adaptation)
    assert encoder.target_gap() == 0.0
    assert torch.equal(encode_texts(encoder, TEXTS, 512, "online"), encode_texts(encoder, TEXTS, 512, "target"))


@BOTH
def test_online_and_target_states_have_the_same_names_and_no_adapter_name(adaptation: str) -> None:
    encoder = built(adaptation)
    assert encoder.online_state().keys() == encoder.target_state().keys()
    assert not any("online" in name or "target" in name for name in encoder.online_state())


@BOTH
def test_each_side_encodes_with_its_own_weights(adaptation: str) -> None:
    encoder = built(adaptation)
    before = encode_texts(encoder, TEXTS, 512)
    move_online(encoder)
    assert torch.equal(encode_texts(encoder, TEXTS, 512, "target"), before)
    assert not torch.equal(encode_texts(encoder, TEXTS, 512, "online"), before)


@BOTH
def test_target_latents_carry_no_graph_and_leave_online_trainable(adaptation: str) -> None:
    encoder = built(adaptation)
    z_ND = encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N, which="target")
    assert not z_ND.requires_grad
    assert all(parameter.requires_grad for _, parameter in encoder.online_parameters())
    assert not any(parameter.requires_grad for _, parameter in encoder.target_parameters())


def test_a_target_forward_between_forward_and_backward_changes_no_gradient() -> None:
    gradients = []
    for interrupted in (False, True):
        encoder = built()
        loss = loss_of(encoder)
        if interrupted:
            encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N, which="target")
        loss.backward()
        gradients.append([parameter.grad for _, parameter in encoder.online_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@BOTH
def test_training_moves_online_and_nothing_else(adaptation: str) -> None:
    encoder = built(adaptation)
    before = copy.deepcopy(dict(encoder.named_parameters()))
    online = {id(parameter) for _, parameter in encoder.online_parameters()}
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    loss_of(encoder).backward()
    optimizer.step()
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in online), name


def test_a_frozen_encoder_takes_no_gradient() -> None:
    encoder = built()
    encoder.freeze()
    assert not loss_of(encoder).requires_grad
    encoder.unfreeze_online()
    loss_of(encoder).backward()
    assert all(parameter.grad is not None for _, parameter in encoder.online_parameters())


@BOTH
def test_ema_follows_its_closed_form(adaptation: str) -> None:
    encoder, momentum, steps = built(adaptation), 0.9, 20
    start = encoder.target_state()
    move_online(encoder)
    online = encoder.online_state()
    for _ in range(steps):
        encoder.ema_update(momentum)
    left = momentum**steps
    for name, target in encoder.target_state().items():
        torch.testing.assert_close(target, left * start[name] + (1 - left) * online[name], rtol=1e-5, atol=1e-6)


def test_hard_sync_closes_the_gap_exactly() -> None:
    encoder = built()
    move_online(encoder)
    assert encoder.target_gap() > 1e-3
    encoder.copy_online_to_target()
    assert encoder.target_gap() == 0.0


def test_states_come_back_bit_for_bit() -> None:
    first, second = built(), built()
    move_online(first)
    second.load_online(first.online_state())
    state, found, fresh = first.online_state(), second.online_state(), built().online_state()
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert any(not torch.equal(fresh[name], state[name]) for name in state)


def test_a_state_of_another_adaptation_is_refused() -> None:
    with pytest.raises(CheckpointError, match="another model"):
        built("lora").load_online(built("full").online_state())


def test_a_state_of_another_rank_is_refused() -> None:
    other = built(lora={"rank": 2, "alpha": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "dropout": 0.0})
    with pytest.raises(CheckpointError, match="has shape"):
        built().load_online(other.online_state())


def test_a_wholly_trained_base_comes_back_as_a_base(tmp_path) -> None:
    trained = build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True)
    move_online(trained)
    write_base(Folder(tmp_path), trained.base_config(), trained.base_state())
    again = build_encoder(encoder_spec(), Folder(tmp_path), seed=5)
    assert torch.equal(encode_texts(trained, TEXTS, 512), encode_texts(again, TEXTS, 512))


def test_base_state_of_an_adapted_encoder_is_the_base_itself() -> None:
    adapted, plain = build_encoder(encoder_spec(), None, seed=0), build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True)
    move_online(adapted)
    base = adapted.base_state()
    assert base.keys() == plain.base_state().keys()
    assert all(torch.equal(base[name], tensor) for name, tensor in plain.base_state().items())


def test_next_token_loss_is_that_of_the_language_model() -> None:
    encoder = build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True)
    expected = torch.zeros(())
    for text in TEXTS:
        ids = torch.from_numpy(text)[None]
        expected += F.cross_entropy(encoder.model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    torch.testing.assert_close(encoder(PACK.input_ids_L, PACK.position_ids_L, labels_L=PACK.labels_L), expected, rtol=1e-5, atol=1e-3)


def test_chunked_next_token_loss_equals_the_unchunked_one(monkeypatch) -> None:
    results = []
    for logits_at_once in (1 << 24, 10 * VOCAB):
        monkeypatch.setattr(next_token_module, "_LOGITS_AT_ONCE", logits_at_once)
        encoder = build_encoder(encoder_spec(), None, seed=0, whole_model_trainable=True)
        loss = encoder(PACK.input_ids_L, PACK.position_ids_L, labels_L=PACK.labels_L)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in encoder.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)


def test_latents_never_compute_logits(monkeypatch) -> None:
    encoder = built()

    def refuse(*_: object) -> None:
        raise RuntimeError("logits were computed")

    encoder.model.get_base_model().lm_head.register_forward_pre_hook(refuse)
    assert encode_texts(encoder, TEXTS, 512).shape == (len(TEXTS), encoder.dim)


def test_pre_norm_latents_become_post_norm_ones_through_the_models_norm() -> None:
    pre, post = built(latent_from="pre_norm"), built()
    norm = pre.model.get_base_model().model.norm
    torch.testing.assert_close(norm(encode_texts(pre, TEXTS, 512)).detach(), encode_texts(post, TEXTS, 512))


def test_a_bf16_base_has_fp32_adapters_and_bf16_latents() -> None:
    encoder = built(dtype="bfloat16")
    assert {tensor.dtype for tensor in encoder.base_state().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in encoder.online_state().values()} == {torch.float32}
    assert encode_texts(encoder, TEXTS, 512).dtype == torch.bfloat16
    loss_of(encoder).backward()
    assert {parameter.grad.dtype for _, parameter in encoder.online_parameters()} == {torch.float32}


def test_adapters_of_a_bf16_base_need_no_fp32_copy_of_their_inputs() -> None:
    found = []
    for cast in (False, True):
        encoder = built(dtype="bfloat16")
        move_online(encoder)
        layers = [module for module in encoder.modules() if hasattr(module, "cast_input_dtype_enabled")]
        assert layers and not any(module.cast_input_dtype_enabled for module in layers)
        for module in layers:
            module.cast_input_dtype_enabled = cast
        loss_of(encoder).backward()
        found.append((encode_texts(encoder, TEXTS, 512), [parameter.grad for _, parameter in encoder.online_parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    for without, with_copy in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(without, with_copy, rtol=0.02, atol=0.02 * float(with_copy.abs().max()))


def test_a_small_base_depends_on_its_seed_alone(tmp_path) -> None:
    torch.manual_seed(8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_base(encoder_spec(), seed, Folder(tmp_path / name))
    digests = [Folder(tmp_path / name).digest("model.safetensors") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_lora_target_that_matches_nothing_is_refused() -> None:
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "c_attn"], "dropout": 0.0}
    with pytest.raises(ConfigError, match="c_attn match no linear layer"):
        build_encoder(encoder_spec(lora=lora), None, seed=0)


def test_a_cut_base_is_a_store_error(tmp_path) -> None:
    make_base(encoder_spec(), 0, Folder(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(StoreError, match="no readable base model"):
        build_encoder(encoder_spec(), Folder(tmp_path), seed=0)


def test_a_base_without_some_of_its_tensors_is_a_store_error(tmp_path) -> None:
    whole = build_encoder(encoder_spec(), None, seed=0)
    state = whole.base_state()
    state.pop("model.norm.weight")
    write_base(Folder(tmp_path), whole.base_config(), state)
    with pytest.raises(StoreError, match="1 tensors are missing"):
        build_encoder(encoder_spec(), Folder(tmp_path), seed=0)


def test_a_public_model_that_is_not_on_the_machine_names_the_setting() -> None:
    spec = encoder_spec(init="pretrained", model="nobody/no-such-model")
    with pytest.raises(ConfigError, match="allow_download"):
        build_encoder(spec, None, seed=0)


def test_asking_for_a_target_that_was_not_built_is_refused() -> None:
    encoder = build_encoder(encoder_spec(), None, seed=0)
    with pytest.raises(ValueError, match="with_target=True"):
        encode_texts(encoder, TEXTS, 512, "target")


def test_a_base_written_again_does_not_say_where_it_was_loaded_from(tmp_path):
    spec = encoder_spec()
    make_base(spec, 0, Folder(tmp_path / "first"))
    encoder = build_encoder(spec, Folder(tmp_path / "first"), 0)
    assert str(tmp_path) not in str(encoder.base_config())

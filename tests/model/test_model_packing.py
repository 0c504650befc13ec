"""Packing changes where tokens lie, never what a text's latent is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts, pack_texts, unique_texts
from tests.support.models.model_encoders import encoder_spec, random_texts


def one_by_one(encoder, texts: list[np.ndarray]) -> torch.Tensor:
    rows = [encoder(torch.from_numpy(t), torch.arange(len(t)), torch.tensor([len(t) - 1])) for t in texts]
    return torch.cat(rows).detach()


@pytest.mark.parametrize("latent_from", ["post_norm", "pre_norm"])
def test_packed_latents_equal_encoding_one_by_one(latent_from: str) -> None:
    encoder = build_encoder(encoder_spec(latent_from=latent_from), None, seed=0)
    texts = random_texts(60) + random_texts(3, longest=150, seed=1)
    torch.testing.assert_close(encode_texts(encoder, texts, 256), one_by_one(encoder, texts), rtol=1e-5, atol=1e-5)


def test_texts_in_one_long_row_are_isolated_too() -> None:
    encoder, texts = build_encoder(encoder_spec(), None, seed=0), random_texts(20)
    lengths = torch.tensor([len(text) for text in texts])
    ids, positions = torch.from_numpy(np.concatenate(texts)), torch.cat([torch.arange(n) for n in lengths])
    z_ND = encoder(ids, positions, lengths.cumsum(0) - 1)
    torch.testing.assert_close(z_ND.detach(), one_by_one(encoder, texts), rtol=1e-5, atol=1e-5)


def test_every_text_is_packed_once_within_the_budget() -> None:
    texts = random_texts(300)
    packs = pack_texts(texts, 512)
    assert sorted(torch.cat([pack.order for pack in packs]).tolist()) == list(range(300))
    assert all(pack.input_ids_L.numel() <= 512 for pack in packs)


def test_rows_hold_the_texts_own_tokens() -> None:
    texts = random_texts(50)
    for pack in pack_texts(texts, 512):
        flat = pack.input_ids_L.flatten()
        for last, index in zip(pack.last_index_N.tolist(), pack.order.tolist(), strict=True):
            assert flat[last - len(texts[index]) + 1 : last + 1].tolist() == texts[index].tolist()


def test_little_room_is_left_over() -> None:
    texts = random_texts(1000)
    packs = pack_texts(texts, 4096)
    assert sum(pack.num_tokens for pack in packs) > 0.95 * sum(pack.input_ids_L.numel() for pack in packs)


def test_a_text_beyond_the_budget_is_a_chunk_of_its_own() -> None:
    packs = pack_texts([np.arange(5), np.arange(150), np.arange(7)], 100)
    assert [pack.num_tokens for pack in packs] == [150, 12]


def test_the_end_token_is_appended_and_read() -> None:
    encoder = build_encoder(encoder_spec(append_eos=True), None, seed=0)
    texts = random_texts(12)
    ended = [np.append(text, 1) for text in texts]
    torch.testing.assert_close(encode_texts(encoder, texts, 256), one_by_one(encoder, ended), rtol=1e-5, atol=1e-5)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 texts"):
        pack_texts([np.arange(3), np.array([], dtype=np.int64)], 100)


def test_labels_are_the_next_tokens_inside_each_text() -> None:
    texts = random_texts(30)
    labels = torch.cat([pack.labels_L.flatten() for pack in pack_texts(texts, 256)])
    expected = np.concatenate([text[1:] for text in texts])
    assert sorted(labels[labels != -100].tolist()) == sorted(expected.tolist())


def test_labels_never_cross_into_the_next_text() -> None:
    (pack,) = pack_texts([np.array([5, 6, 7]), np.array([8, 9])], 100)
    assert pack.labels_L.tolist() == [[6, 7, -100, 9, -100]]


def test_equal_texts_are_encoded_once() -> None:
    texts = random_texts(10)
    distinct, index_of = unique_texts(texts + texts[:4])
    assert len(distinct) == 10
    assert index_of.tolist() == [*range(10), 0, 1, 2, 3]


def test_no_texts_give_no_latents() -> None:
    encoder = build_encoder(encoder_spec(), None, seed=0)
    assert encode_texts(encoder, [], 256).shape == (0, encoder.dim)


def test_latents_are_kept_where_they_are_asked_to_be_and_not_on_the_encoders_device() -> None:
    encoder = build_encoder(encoder_spec(), None, seed=0)
    kept = encode_texts(encoder, random_texts(40), 256, keep_on="meta")
    assert kept.device.type == "meta" and kept.shape == (40, encoder.dim)


def test_encoding_is_without_dropout_whatever_the_mode() -> None:
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj"], "dropout": 0.5}
    encoder = build_encoder(encoder_spec(lora=lora), None, seed=0).train()
    encoder.load_online({name: torch.ones_like(t) for name, t in encoder.online_state().items()})
    texts = random_texts(10)
    assert torch.equal(encode_texts(encoder, texts, 256), encode_texts(encoder, texts, 256))
    assert encoder.training


def test_unused_places_hold_a_token_of_the_texts() -> None:
    texts = [np.array([5, 6, 7, 8]), np.array([7, 9])]
    for one_per_row in (False, True):
        for pack in pack_texts(texts, 200, None, one_per_row):
            assert set(pack.input_ids_L.flatten().tolist()) <= {5, 6, 7, 8, 9}

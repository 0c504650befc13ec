"""Trained tokenizers: reversible, digits in groups of up to three, independent of the order of texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.tokenizer import EOS_TOKEN, PAD_TOKEN, load_tokenizer, pretrained_tokenizer, train_tokenizer

TEXTS = [f"t={hour}h | Heart Rate: {60 + hour % 90} bpm. MAP: {50 + hour % 60}.{hour % 10} mmHg." for hour in range(400)]
TRAINED = train_tokenizer(TEXTS, 400)


@given(text=st.text(max_size=60))
def test_any_text_comes_back_from_its_ids(text):
    assert TRAINED.decode(TRAINED.encode([text])[0]) == text


def test_the_order_and_repetition_of_texts_changes_nothing():
    shuffled = TEXTS + TEXTS[:50]
    random.Random(0).shuffle(shuffled)
    assert train_tokenizer(shuffled, 400).tokenizer.to_str() == TRAINED.tokenizer.to_str()


def test_no_piece_has_more_than_three_digits():
    pieces = TRAINED.tokenizer.get_vocab()
    assert max(sum(character.isdigit() for character in piece) for piece in pieces) <= 3


def test_a_number_of_seven_digits_is_cut_in_groups_of_three():
    pretokens = TRAINED.tokenizer.pre_tokenizer.pre_tokenize_str("Platelets: 1234567 K/uL")
    assert [span for piece, span in pretokens if any(character.isdigit() for character in piece)] == [(10, 14), (14, 17), (17, 18)]


def test_special_tokens_have_ids_of_their_own_inside_the_vocabulary():
    assert {TRAINED.tokenizer.id_to_token(TRAINED.eos_id), TRAINED.tokenizer.id_to_token(TRAINED.pad_id)} == {EOS_TOKEN, PAD_TOKEN}
    assert TRAINED.vocab_size == 400


def test_a_saved_tokenizer_gives_the_same_ids(tmp_path):
    TRAINED.save(Folder(tmp_path))
    assert load_tokenizer(Folder(tmp_path)).encode(TEXTS[:20]) == TRAINED.encode(TEXTS[:20])


def test_a_cut_tokenizer_file_is_refused(tmp_path):
    TRAINED.save(Folder(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes()[:100])
    with pytest.raises(StoreError, match="altered or cut"):
        load_tokenizer(Folder(tmp_path))


def test_a_pretrained_tokenizer_is_taken_from_a_local_folder(tmp_path):
    TRAINED.tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "{EOS_TOKEN}", "pad_token": "{PAD_TOKEN}"}}'
    )
    loaded = pretrained_tokenizer(str(tmp_path), None, allow_download=False)
    assert loaded.encode(TEXTS[:20]) == TRAINED.encode(TEXTS[:20])
    assert loaded.eos_id == TRAINED.eos_id


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer there"):
        pretrained_tokenizer(str(tmp_path), None, allow_download=False)

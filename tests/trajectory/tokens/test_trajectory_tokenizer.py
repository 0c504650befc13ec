"""Trained tokenizers: reversible, digits in groups of up to three, independent of the order of texts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.tokenizer import EOS_TOKEN, PAD_TOKEN, TextTokenizer, load_tokenizer, pretrained_tokenizer, train_tokenizer

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


SPECIAL = {"<s>": 400, "[SEP]": 401}
TEMPLATES = {
    "before, as Llama": "<s> $A",
    "before and end, as Gemma": f"<s> $A {EOS_TOKEN}",
    "around, as BERT": "<s> $A [SEP]",
    "end alone, as Qwen3-Embedding": f"$A {EOS_TOKEN}",
}


def special_folder(folder: Path, template: str) -> str:
    """A tokenizer that adds special tokens by itself, and whose file cuts and pads, as those of sentence embeddings do."""
    tokenizer = Tokenizer.from_str(TRAINED.tokenizer.to_str())
    tokenizer.add_special_tokens(list(SPECIAL))
    ids = [(token, tokenizer.token_to_id(token)) for token in (*SPECIAL, EOS_TOKEN)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=200)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS_TOKEN, pad_token=PAD_TOKEN, bos_token="<s>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_texts_have_the_special_tokens_that_transformers_gives_to_the_model(tmp_path, template):
    folder = special_folder(tmp_path / "model", template)
    pretrained_tokenizer(folder, None, allow_download=False).save(Folder(tmp_path / "saved"))
    ours, theirs = load_tokenizer(Folder(tmp_path / "saved")), AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS[:20], "", "Age: 63 years."):
        expected = theirs(text).input_ids
        # The end of text is appended by the encoder.
        assert ours.encode([text])[0] == (expected[:-1] if expected[-1:] == [ours.eos_id] else expected)


@pytest.mark.parametrize("max_tokens", [4096, 30, 8])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_an_array_of_texts_is_encoded_and_cut_as_each_text(tmp_path, template, max_tokens):
    tokenizer = pretrained_tokenizer(special_folder(tmp_path, template), None, allow_download=False)
    texts = [*TEXTS[:30], "", "Age", *TEXTS[:5]]
    flat, kept, whole = tokenizer.encode_array(pa.array(texts), max_tokens)
    assert flat.tolist() == [token for ids in tokenizer.encode(texts, max_tokens) for token in ids]
    assert kept.tolist() == [len(ids) for ids in tokenizer.encode(texts, max_tokens)] and max(kept) <= max_tokens
    assert whole.tolist() == [len(ids) for ids in tokenizer.encode(texts)]
    before, after = tokenizer.before, tokenizer.after
    for ids in tokenizer.encode(texts, max_tokens):
        assert ids[: len(before)] == before and ids[len(ids) - len(after) :] == after


def test_an_empty_text_has_no_ids_where_texts_cannot_be_cut_into_words():
    backend = Tokenizer.from_str(TRAINED.tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    lower = TextTokenizer(backend, EOS_TOKEN, PAD_TOKEN)
    texts = ["", TEXTS[0], "Age"]
    flat, kept, _ = lower.encode_array(pa.array(texts), 4096)
    assert flat.dtype == np.int32 and flat.tolist() == [token for ids in lower.encode(texts) for token in ids] and kept[0] == 0


def test_a_folder_without_a_tokenizer_is_refused_without_advice_to_download(tmp_path):
    with pytest.raises(ConfigError, match="copy the tokenizer's files into this folder"):
        pretrained_tokenizer(str(tmp_path), None, allow_download=False)


def cut(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def marked(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text(), encoding="utf-8-sig")


def sentencepiece_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"model")


def without_end_of_text(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "eos_token"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "its tokenizer.json or tokenizer_config.json cannot be read"),
        (marked, "its tokenizer.json or tokenizer_config.json cannot be read"),
        (sentencepiece_only, "tokenizer.model and no tokenizer.json"),
        (without_end_of_text, "names no end-of-text token; set eos_token"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_said(tmp_path, damage, words):
    folder = special_folder(tmp_path, next(iter(TEMPLATES.values())))
    damage(tmp_path)
    with pytest.raises(ConfigError, match=words) as raised:
        pretrained_tokenizer(folder, None, allow_download=False)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer there"):
        pretrained_tokenizer(str(tmp_path), None, allow_download=False)

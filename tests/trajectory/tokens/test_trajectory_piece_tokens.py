"""Ids put together from words are those of the tokenizer, for every text and every tokenizer that may be cut."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from clinjepa.clinical import load_variables
from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition
from clinjepa.trajectory.tokens.piece_tokens import PieceEncoder, can_be_cut, cut, whole_text_ids
from clinjepa.trajectory.tokens.tokenizer import train_tokenizer
from tests.support.data.real_data import real

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NAMES = [(variable.text_name, variable.unit) for variable in load_variables().values()]
ODD = ["It's  here.", "x\n\n y", " a. b | c", "é. ü", "1234567 .5", "<|im_start|> <|pad|>", "they'LL go. ", "\t. z", "n°  3 %", "(a) [b] ."]


def corpus(number: int) -> list[str]:
    """Texts like those of hours, from all names and units of the dictionary."""
    generator = random.Random(number)
    phrases = [f"{name}: {round(generator.lognormvariate(3, 2), generator.randrange(3))} {unit}." for name, unit in NAMES * 4]
    generator.shuffle(phrases)
    return [f"t={hour}h | {' '.join(phrases[12 * hour % 400 : 12 * hour % 400 + hour % 14])}" for hour in range(300)]


def built(
    pattern: str | None, normalizer=None, added: list[AddedToken] | None = None, prefix: bool = False, behavior: str = "isolated"
) -> Tokenizer:
    """A small byte-level BPE; without a pattern it has that of GPT-2, built in."""
    tokenizer = Tokenizer(models.BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior=behavior)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, bytes_only]) if split else bytes_only
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(0) + ODD * 20, trainer)
    tokenizer.add_tokens(added or [])
    return tokenizer


SPECIAL = [AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<think>", normalized=False)]
KNOWN = {
    "trained": train_tokenizer(corpus(0) + ODD, 700).tokenizer,
    "qwen": built(QWEN, normalizers.NFC(), SPECIAL),
    "llama": built(LLAMA, None, SPECIAL),
    "gpt2": built(GPT2),
    "gpt2 built in": built(None),
}
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(
        [*" .,|:'\n\t\r\u00a0\u0301\u3000\u00e9", "  ", ". ", " | ", "'s", "'LL", "12345", "0.25", "Heart Rate: 88 bpm.", *ODD]
    ),
    max_size=14,
).map("".join)


def encoded(tokenizer: Tokenizer, texts: pa.StringArray) -> list[list[int]]:
    flat, lengths = PieceEncoder(tokenizer).encode(texts)
    assert flat.dtype == np.int32 and len(flat) == lengths.sum() and len(lengths) == len(texts)
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])] if len(texts) else []


@pytest.mark.parametrize("name", KNOWN)
def test_known_tokenizers_may_be_cut(name):
    assert can_be_cut(KNOWN[name])


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, max_size=12))
def test_any_texts_have_the_ids_of_the_tokenizer(name, texts):
    assert encoded(KNOWN[name], pa.array(texts, pa.string())) == whole_text_ids(KNOWN[name], texts)


@pytest.mark.parametrize("name", KNOWN)
def test_texts_of_hours_have_the_ids_of_the_tokenizer(name):
    texts = corpus(1)
    assert encoded(KNOWN[name], pa.array(texts)) == whole_text_ids(KNOWN[name], texts)


@pytest.mark.parametrize("name", ["trained", "qwen"])
def test_texts_of_real_stays_have_the_ids_of_the_tokenizer(name, real_texts):
    assert encoded(KNOWN[name], real_texts) == whole_text_ids(KNOWN[name], real_texts.to_pylist())


@pytest.fixture(scope="module")
def real_texts(tmp_path_factory) -> pa.StringArray:
    """One text in five of some twenty stays of the MIMIC-IV demo."""
    from tests.support.data.handmade_stays import lenient_config

    folder = real("mimic-iv-demo-meds", "https://physionet.org/content/mimic-iv-demo-meds/0.0.1/")
    source = open_source(SourceConfig(kind="meds", path=str(folder), num_partitions=7))
    out = Folder(tmp_path_factory.mktemp("texts"))
    build_partition(source, source.partitions()[0], lenient_config(), out, "p")
    hours = out.read_table("hours/p.parquet")
    lists = [hours[f"{kind}_texts"].combine_chunks().flatten() for kind in ("state", "action")]
    texts = pa.concat_arrays([hours["static_text"].combine_chunks(), *lists])
    return texts.take(pa.array(np.arange(0, len(texts), 5)))


def test_words_met_before_and_parts_of_arrays_change_nothing():
    encoder, tokenizer = PieceEncoder(KNOWN["qwen"]), KNOWN["qwen"]
    texts = pa.array(["", *corpus(1), *ODD, ""])
    whole = encoder.encode(texts)[1]
    again, lengths = encoder.encode(texts[7:90])
    assert lengths.tolist() == whole[7:90].tolist()
    assert again.tolist() == sum(whole_text_ids(tokenizer, texts[7:90].to_pylist()), [])


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], [None, "a. b", None], [" "], [" a", " b"], ["a ", " b"]], ids=repr)
def test_empty_texts_have_no_ids(texts):
    array = pa.array(texts, pa.string())
    assert encoded(KNOWN["trained"], array) == whole_text_ids(KNOWN["trained"], [text or "" for text in texts])


def test_a_text_is_cut_into_phrases_and_these_into_words():
    pieces, ends = cut(pa.array(["t=5h | pH: 7.4. MAP:  65 mmHg.", " x"]), phrases=True)
    assert pieces.to_pylist() == ["t=5h |", " pH: 7.4.", " MAP:  65 mmHg.", " x"]
    assert ends.tolist() == [3, 4]
    assert cut(pieces)[0].to_pylist() == ["t=5h", " |", " pH:", " 7.4.", " MAP:", "  65", " mmHg.", " x"]


def test_white_space_of_any_kind_and_letters_beyond_ascii_are_not_cut_off_from_a_space():
    assert cut(pa.array(["a\n b\u00a0 c\u00e9 d"]))[0].to_pylist() == ["a\n b\u00a0 c\u00e9 d"]


def lowered() -> Tokenizer:
    return built(QWEN, normalizers.Lowercase())


def truncated() -> Tokenizer:
    tokenizer = built(QWEN)
    tokenizer.enable_truncation(3)
    return tokenizer


def padded() -> Tokenizer:
    tokenizer = built(QWEN)
    tokenizer.enable_padding()
    return tokenizer


OTHERS = {
    "words in pairs": lambda: built(r"\S+ \S+|\s+|\S+"),
    "a space in front": lambda: built(QWEN, prefix=True),
    "another way to split": lambda: built(QWEN, behavior="merged_with_next"),
    "lower case": lowered,
    "truncation": truncated,
    "padding": padded,
    "an added token with a space": lambda: built(QWEN, None, [AddedToken("bpm. MAP", normalized=False)]),
    "an added token that takes the space before it": lambda: built(QWEN, None, [AddedToken("bpm", lstrip=True)]),
    "whole words only": lambda: built(QWEN, None, [AddedToken("bpm", single_word=True)]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_tokenizer_encodes_whole_texts(name):
    tokenizer, texts = OTHERS[name](), [*corpus(1)[:40], *ODD, "MAP: 65 bpm. MAP: 70 bpm."]
    assert not can_be_cut(tokenizer)
    assert encoded(tokenizer, pa.array(texts)) == whole_text_ids(tokenizer, texts)


def test_dropout_is_not_cut():
    tokenizer = built(QWEN)
    tokenizer.model.dropout = 0.5
    assert not can_be_cut(tokenizer)

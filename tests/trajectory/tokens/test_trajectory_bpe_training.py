"""Merges learned from counts are those that the `tokenizers` library learns from the texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trajectory_piece_tokens import corpus
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from clinjepa.trajectory.tokens.bpe_training import learn_merges
from clinjepa.trajectory.tokens.piece_tokens import PIECES
from clinjepa.trajectory.tokens.tokenizer import EOS_TOKEN, PAD_TOKEN, _hash_sample, train_tokenizer


def of_the_library(texts: list[str], vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD_TOKEN, EOS_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return tokenizer.to_str()


@pytest.mark.parametrize("vocab_size", [258, 300, 700, 100_000])
def test_texts_of_hours_give_the_tokenizer_of_the_library(vocab_size):
    texts = corpus(3)
    assert train_tokenizer(texts, vocab_size).tokenizer.to_str() == of_the_library(texts, vocab_size)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("aab. 1é\n", max_size=30) | st.text("ab", max_size=30), max_size=20),
    vocab_size=st.sampled_from([2, 259, 262, 280, 500]),
)
def test_any_texts_give_the_tokenizer_of_the_library(texts, vocab_size):
    assert train_tokenizer(texts, vocab_size).tokenizer.to_str() == of_the_library(texts, vocab_size)


def test_the_most_frequent_pair_comes_first_and_of_equal_ones_that_with_the_smaller_ids():
    vocabulary, merges = learn_merges({"bab": 3, "cd": 5, "ab": 2}, 8, ["<s>"], "abcd")
    assert vocabulary == {"<s>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "ab": 5, "cd": 6, "bab": 7}
    assert merges == [("a", "b"), ("c", "d"), ("b", "ab")]


def test_a_sample_of_texts_depends_on_their_set_alone():
    texts = [f"text {number}" for number in range(500)]
    sample = _hash_sample(iter(texts), 20)
    assert len(sample) == 20 and set(sample) == set(_hash_sample(iter([*reversed(texts), *texts[:100]]), 20))
    assert set(_hash_sample(iter(texts), 500)) == set(texts)

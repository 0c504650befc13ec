"""Byte-pair merges learned from counts of pre-tokens: the same merges as `tokenizers`' BpeTrainer, without reading each text.

Hourly texts repeat a few thousand pre-tokens millions of times, and only the counts matter. The order of merges is that of BpeTrainer: the
most frequent pair first, of equally frequent ones that with the smaller ids. Ids: special tokens, alphabet by code point, merges.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from clinjepa.trajectory.tokens.piece_tokens import cut

Pair = tuple[int, int]
_BATCH = 20_000


def count_pretokens(tokenizer: Tokenizer, texts: list[str]) -> Counter[str]:
    """Number of occurrences of each pre-token, for a tokenizer whose texts may be cut (`piece_tokens.can_be_cut`)."""
    words: Counter[str] = Counter()
    for start in range(0, len(texts), _BATCH):
        pieces = cut(pa.array(texts[start : start + _BATCH], pa.string()))[0].dictionary_encode()
        counts = np.bincount(pieces.indices.to_numpy(), minlength=len(pieces.dictionary))
        words.update(dict(zip(pieces.dictionary.to_pylist(), counts.tolist(), strict=True)))
    pretokens: Counter[str] = Counter()
    for word, count in words.items():
        for pretoken, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word):
            pretokens[pretoken] += count
    return pretokens


def learn_merges(
    pretokens: Mapping[str, int], vocab_size: int, special: Iterable[str], alphabet: Iterable[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn a vocabulary of at most `vocab_size` tokens.

    Args:
        pretokens: pre-token -> number of occurrences.
        vocab_size: largest size of the vocabulary, which always includes `special` and `alphabet`.
        special: special tokens; they get the first ids.
        alphabet: characters; they and those of the pre-tokens get the next ids.

    Returns:
        (token -> id, merges in order).
    """
    vocabulary = {token: number for number, token in enumerate(special)}
    for character in sorted({*alphabet, *(character for pretoken in pretokens for character in pretoken)}):
        vocabulary.setdefault(character, len(vocabulary))
    tokens = list(vocabulary)
    words = [[vocabulary[character] for character in pretoken] for pretoken in pretokens]
    counts = list(pretokens.values())
    num_pairs: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (word, count) in enumerate(zip(words, counts, strict=True)):
        for pair in zip(word, word[1:], strict=False):
            num_pairs[pair] += count
            places[pair].add(number)
    queue = [(-num_pairs[pair], pair) for pair in places]
    heapq.heapify(queue)
    merges: list[tuple[str, str]] = []
    while queue and len(vocabulary) < vocab_size:
        count, pair = heapq.heappop(queue)
        if -count != num_pairs[pair]:  # the count has changed since it was queued
            if num_pairs[pair] > 0:
                heapq.heappush(queue, (-num_pairs[pair], pair))
            continue
        left, right = tokens[pair[0]], tokens[pair[1]]
        merged = vocabulary.setdefault(left + right, len(vocabulary))
        if merged == len(tokens):
            tokens.append(left + right)
        merges.append((left, right))
        grown: set[Pair] = set()
        for number in places.pop(pair):
            for changed, step in _merge(words[number], pair, merged):
                num_pairs[changed] += step * counts[number]
                if step > 0:
                    places[changed].add(number)
                    grown.add(changed)
        num_pairs[pair] = 0
        for changed in grown:
            if num_pairs[changed] > 0:
                heapq.heappush(queue, (-num_pairs[changed], changed))
    return vocabulary, merges


def _merge(word: list[int], pair: Pair, merged: int) -> list[tuple[Pair, int]]:
    """Replace the pair in the word, from the left; returns the neighbouring pairs that were lost (-1) and gained (+1)."""
    changes: list[tuple[Pair, int]] = []
    position = 0
    while position < len(word) - 1:
        if (word[position], word[position + 1]) == pair:
            if position:
                changes += [((word[position - 1], pair[0]), -1), ((word[position - 1], merged), 1)]
            word[position : position + 2] = [merged]
            if position + 1 < len(word):
                changes += [((pair[1], word[position + 1]), -1), ((merged, word[position + 1]), 1)]
        position += 1
    return changes

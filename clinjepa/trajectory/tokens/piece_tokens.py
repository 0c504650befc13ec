"""Token ids of many texts, assembled from the ids of their words: equal to the tokenizer's ids, many times faster.

A byte-level BPE merges inside a pre-token only, and each pattern of `_PATTERNS` ends a pre-token wherever a space follows a printable
ASCII character: no alternative that matches such a character continues into a space, none looks behind, and `(?!\\S)` applies only
inside white space. A text may therefore be cut there. Hourly texts consist of a few thousand such words in varying order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

PIECES = r" ?\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
"""Pre-tokens of the trained tokenizer: digits in groups of up to three."""

QWEN_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Pre-tokens of Qwen 2, 2.5 and 3."""

_PATTERNS = {
    PIECES,
    QWEN_PIECES,
    # Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # GPT-2, as an explicit pattern
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
_SPACE, _FULL_STOP, _BAR = ord(" "), ord("."), ord("|")
_MAX_WORDS = 1 << 18
_BATCH = 8192


def whole_text_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each text from the `tokenizers` library, without special tokens."""
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return [encoding.ids for batch in batches for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]


class PieceEncoder:
    """Encodes arrays of texts and caches the ids of their words, 2^18 at most.

    With a tokenizer whose texts may not be cut (`can_be_cut`), each distinct text is encoded whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.cuts = can_be_cut(tokenizer)
        self._words: dict[str, np.ndarray] = {}

    def encode(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """(ids of all texts end to end, int32; ids per text, int64). A null counts as an empty text."""
        if texts.null_count:
            texts = texts.fill_null("")
        if not self.cuts:
            distinct = texts.dictionary_encode()
            return gather(*_flat(whole_text_ids(self.tokenizer, distinct.dictionary.to_pylist())), distinct.indices.to_numpy())
        phrases, ends = cut(texts, phrases=True)
        distinct = phrases.dictionary_encode()
        words, word_ends = cut(distinct.dictionary)
        distinct_words = words.dictionary_encode()
        # Ids of distinct words -> of distinct phrases (runs of words) -> of all texts (runs of phrases).
        flat, lengths = gather(*self._word_ids(distinct_words.dictionary.to_pylist()), distinct_words.indices.to_numpy())
        flat, lengths = gather(flat, _sum_runs(lengths, word_ends), distinct.indices.to_numpy())
        return flat, _sum_runs(lengths, ends)

    def _word_ids(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if len(self._words) + len(words) > _MAX_WORDS:
            self._words.clear()
        new = [word for word in words if word not in self._words]
        self._words.update(zip(new, (np.asarray(ids, np.int32) for ids in whole_text_ids(self.tokenizer, new)), strict=True))
        return _flat([self._words[word] for word in words])


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether the ids of every text are those of its words, end to end.

    True for a byte-level BPE without dropout, with a known pattern of pre-tokens, no normaliser or NFC (which joins nothing across
    a space), no truncation or padding, and added tokens that contain no space and strip none around them.
    """
    model = tokenizer.model
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(model, models.BPE)
        and not model.dropout
        and (tokenizer.normalizer is None or _state(tokenizer.normalizer) == {"type": "NFC"})
        and _known_pattern(tokenizer)
        and tokenizer.truncation is None
        and tokenizer.padding is None
        and not any(" " in token.content or token.lstrip or token.rstrip or token.single_word for token in added)
    )


def cut(texts: pa.StringArray, phrases: bool = False) -> tuple[pa.StringArray, np.ndarray]:
    """(pieces of all texts end to end, sharing the texts' memory; number of pieces up to each text's end).

    A word starts at a space after a printable ASCII character; a phrase only at one after `.` or `|`.
    """
    _, offset_buffer, data = texts.buffers()
    if not len(texts) or data is None:
        return pa.array([], pa.string()), np.zeros(len(texts), np.int64)
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    spaces = np.flatnonzero(content == _SPACE)
    before = content[spaces - 1]
    ends_piece = (before == _FULL_STOP) | (before == _BAR) if phrases else (before > _SPACE) & (before < 0x7F)
    is_start = np.zeros(len(content) + 1, dtype=bool)
    is_start[spaces[ends_piece]] = True
    is_start[offsets - offsets[0]] = True
    is_start[-1] = True
    starts = np.flatnonzero(is_start)
    pieces = pa.StringArray.from_buffers(len(starts) - 1, pa.py_buffer((starts + offsets[0]).astype(np.int32)), data)
    return pieces, np.searchsorted(starts, offsets[1:] - offsets[0])


def gather(flat: np.ndarray, lengths: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, lengths) of the runs `which` of a ragged array, given by its values and the length of each run."""
    starts = np.cumsum(lengths) - lengths
    taken = lengths[which]
    ends = np.cumsum(taken)
    shift = np.repeat(starts[which] - (ends - taken), taken)
    return flat[shift + np.arange(len(shift))], taken


def _sum_runs(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of consecutive runs of `values`; run i ends before position `ends[i]`."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[ends], prepend=0)


def _flat(ids: Sequence[np.ndarray] | Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.concatenate([np.zeros(0, np.int32), *(np.asarray(each, np.int32) for each in ids)]), lengths  # [] alone is float64


def _known_pattern(tokenizer: Tokenizer) -> bool:
    match _state(tokenizer.pre_tokenizer) if tokenizer.pre_tokenizer is not None else {}:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return True
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern in _PATTERNS
    return False


def _state(part: Normalizer | PreTokenizer) -> dict[str, object]:
    """The description of a normaliser or pre-tokeniser, as in `tokenizer.json`."""
    state: dict[str, object] = json.loads(part.__getstate__())
    return state

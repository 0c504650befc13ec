"""Tokenizers: a byte-level BPE trained on the training split's texts, or that of the pretrained encoder.

The trained one splits digits into groups of up to three, so that numbers of equal length have equally many tokens. Both are stored as
`tokenizer.json` (Hugging Face `tokenizers`) and `special_tokens.json`. They turn the texts of `hours/` into the trajectory store.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.bpe_training import count_pretokens, learn_merges
from clinjepa.trajectory.tokens.piece_tokens import PIECES, PieceEncoder, whole_text_ids

if TYPE_CHECKING:
    from clinjepa.trajectory.settings import TokenizerSettings

PAD_TOKEN = "<|pad|>"
EOS_TOKEN = "<|endoftext|>"
MAX_TRAINING_TEXTS = 200_000
"""Enough for a vocabulary of some thousand pieces. The texts with the smallest hashes are taken, so their order does not matter."""


class TextTokenizer:
    """Token ids of texts, with the `vocab_size`, `eos_id` and `pad_id` that the encoder needs.

    A text gets the special tokens that its tokenizer adds by itself, as transformers gives them to the model: `before` it (BOS of Llama,
    Gemma and Mistral) and `after` it. An end-of-text token at the very end is not stored; `encoder.append_eos` decides on it.
    """

    def __init__(self, tokenizer: Tokenizer, eos: str, pad: str) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.eos, self.pad = eos, pad
        eos_id, pad_id = (tokenizer.token_to_id(token) for token in (eos, pad))
        if eos_id is None or pad_id is None:
            raise StoreError(f"the tokenizer lacks its special tokens {eos} or {pad}; its files were altered or do not belong together")
        self.eos_id: int = eos_id
        self.pad_id: int = pad_id
        self.before, self.after = special_ids(tokenizer, eos_id)

    def encode(self, texts: list[str], max_tokens: int | None = None) -> list[list[int]]:
        """Ids of each text with its special tokens; a text is cut so that all are at most `max_tokens`."""
        room = None if max_tokens is None else max_tokens - len(self.before) - len(self.after)
        return [[*self.before, *ids[:room], *self.after] for ids in whole_text_ids(self.tokenizer, texts)]

    def encode_array(self, texts: pa.StringArray, max_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids of all texts end to end, int32; ids per text, int64; ids per text before cutting): equal to `encode`, from cached words."""
        flat, whole = self._pieces.encode(texts)
        num_special = len(self.before) + len(self.after)
        room = max_tokens - num_special
        kept = np.minimum(whole, room)
        if len(flat) > kept.sum():
            position = np.arange(len(flat)) - np.repeat(np.cumsum(whole) - whole, whole)
            flat = flat[position < room]
        if num_special:
            flat = self._with_special(flat, kept)
        return flat, kept + num_special, whole + num_special

    def _with_special(self, flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """`flat` with `before` and `after` around each text. lengths: ids per text."""
        ends = np.cumsum(lengths + len(self.before) + len(self.after))
        starts = ends - lengths - len(self.after)
        result = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int32)
        result[np.arange(len(flat)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)] = flat
        for offset, token in enumerate(self.before):
            result[starts - len(self.before) + offset] = token
        for offset, token in enumerate(self.after):
            result[ends - len(self.after) + offset] = token
        return result

    @cached_property
    def _pieces(self) -> PieceEncoder:
        return PieceEncoder(self.tokenizer)

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def save(self, folder: Folder) -> None:
        """Write `tokenizer.json` and `special_tokens.json`."""
        folder.write_bytes("tokenizer.json", self.tokenizer.to_str().encode())
        folder.write_json("special_tokens.json", {"eos": self.eos, "pad": self.pad})


def special_ids(tokenizer: Tokenizer, eos_id: int) -> tuple[list[int], list[int]]:
    """(ids that a tokenizer adds before every text, ids that it adds after it, without an end-of-text token at the end).

    Raises ConfigError for a tokenizer that changes the text's own ids when it adds them.
    """
    ids, whole = (tokenizer.encode("Heart Rate: 80 bpm.", add_special_tokens=special).ids for special in (False, True))
    for first in range(len(whole) - len(ids) + 1):
        if whole[first : first + len(ids)] == ids:
            after = whole[first + len(ids) :]
            return whole[:first], after[:-1] if after[-1:] == [eos_id] else after
    raise ConfigError("encoder.model: its tokenizer adds special tokens inside a text, which is not supported; choose another model")


def load_tokenizer(folder: Folder) -> TextTokenizer:
    """The tokenizer of a tokenizer artifact or trajectory store. Raises StoreError if it is missing or cannot be read."""
    special = folder.read_json("special_tokens.json")
    data = folder.read_bytes("tokenizer.json").decode(errors="replace")
    try:
        json.loads(data)
    except json.JSONDecodeError:
        raise StoreError(
            f"{folder.address}/tokenizer.json is not valid JSON: it was altered or cut; remove its folder and run again"
        ) from None
    return parse_tokenizer(data, special["eos"], special["pad"])


@lru_cache(maxsize=2)
def parse_tokenizer(content: str, eos: str, pad: str) -> TextTokenizer:
    """The tokenizer of a `tokenizer.json`; cached, so that all parts in a process share its word cache."""
    return TextTokenizer(Tokenizer.from_str(content), eos, pad)


def build_tokenizer(ingest: Folder, settings: TokenizerSettings, out: Folder) -> dict[str, int]:
    """Write the tokenizer that the settings ask for.

    Args:
        ingest: a finished ingest artifact; only texts of its training split are read.
        settings: to be trained, or of a pretrained model.
        out: the tokenizer artifact.

    Returns:
        {vocab_size, eos_id, pad_id, num_texts (texts trained on, 0 for a pretrained tokenizer)}.
    """
    num_texts = 0
    if settings.init == "pretrained":
        tokenizer = pretrained_tokenizer(settings.model, settings.revision, settings.allow_download)
    else:
        texts = _hash_sample(training_texts(ingest), MAX_TRAINING_TEXTS)
        num_texts = len(texts)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    tokenizer.save(out)
    return {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "num_texts": num_texts}


def train_tokenizer(texts: list[str], vocab_size: int) -> TextTokenizer:
    """Train a byte-level BPE of at most `vocab_size` pieces; the result depends on the set of texts only, not on their order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pretokens = count_pretokens(tokenizer, sorted(set(texts)))
    vocabulary, merges = learn_merges(pretokens, vocab_size, (PAD_TOKEN, EOS_TOKEN), pre_tokenizers.ByteLevel.alphabet())
    tokenizer.model = models.BPE(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens([PAD_TOKEN, EOS_TOKEN])
    return TextTokenizer(tokenizer, EOS_TOKEN, PAD_TOKEN)


def _why_no_tokenizer(model: str) -> str:
    """What is wrong with the tokenizer that transformers could not load, and what to do."""
    if not os.path.isdir(model):
        return "no tokenizer there; give a folder with tokenizer.json, or set encoder.allow_download=true"
    there = [name for name in ("tokenizer.json", "tokenizer_config.json") if os.path.exists(os.path.join(model, name))]
    if "tokenizer.json" in there:
        files = " or ".join(there)
        return f"its {files} cannot be read: altered, cut, or not UTF-8 without a byte-order mark; copy the tokenizer's files again"
    if os.path.exists(os.path.join(model, "tokenizer.model")):
        return "it has tokenizer.model and no tokenizer.json, which is read here; get the tokenizer.json of this model"
    return "no tokenizer there; copy the tokenizer's files into this folder"


def pretrained_tokenizer(model: str, revision: str | None, allow_download: bool) -> TextTokenizer:
    """The tokenizer of a model folder or public model id. Raises ConfigError if it is not on this machine and may not be downloaded."""
    from transformers import AutoTokenizer  # not at the top: every data task imports this module, and none needs transformers

    try:
        loaded = AutoTokenizer.from_pretrained(model, revision=revision, local_files_only=not allow_download, use_fast=True)
    except Exception:  # tokenizers raises plain Exceptions for damaged files
        raise ConfigError(f"encoder.model={model}: {_why_no_tokenizer(model)}") from None
    if not loaded.is_fast:
        raise ConfigError(f"encoder.model={model}: its tokenizer has no fast form (tokenizer.json); choose another model")
    if not loaded.eos_token:
        raise ConfigError(
            f"encoder.model={model}: its tokenizer names no end-of-text token; set eos_token in its tokenizer_config.json, or choose "
            "another model"
        )
    backend = loaded.backend_tokenizer
    # transformers sets both for each call; a file made for another use (sentence embeddings) may hold them.
    backend.no_truncation()
    backend.no_padding()
    return TextTokenizer(backend, loaded.eos_token, loaded.pad_token or loaded.eos_token)


def training_texts(ingest: Folder) -> Iterator[str]:
    """Texts of the training split's stays, part by part, each distinct text of a part once."""
    import polars as pl  # not at the top: training reads token stores and may run without polars

    stays = pl.DataFrame(ingest.read_table("stays.parquet", columns=["stay_id", "split", "part"])).filter(pl.col("split") == "train")
    for part in stays["part"].unique().sort().to_list():
        hours = pl.DataFrame(ingest.read_table(f"hours/{part}.parquet")).join(stays.select("stay_id"), on="stay_id", how="semi")
        yield from hours["static_text"].unique().to_list()
        for column in ("state_texts", "action_texts"):
            yield from hours[column].explode(empty_as_null=False).unique().to_list()


def _hash_sample(texts: Iterator[str], size: int) -> list[str]:
    """The `size` distinct texts with the smallest hashes: a sample that depends on the set of texts only."""
    kept: set[str] = set()
    while batch := list(islice(texts, size)):
        kept.update(batch)
        if len(kept) > 4 * size:
            kept = _smallest_hashes(kept, size)
    return list(kept if len(kept) <= size else _smallest_hashes(kept, size))


def _smallest_hashes(texts: set[str], size: int) -> set[str]:
    return set(sorted(texts, key=lambda text: (hashlib.blake2b(text.encode(), digest_size=8).digest(), text))[:size])

"""Texts to token ids: a byte-level BPE trained on the training split's texts, or the encoder's own tokenizer.

Digits are split into groups of up to three, so that numbers of one size cost the same. Both kinds are kept as
`tokenizer.json` (Hugging Face `tokenizers`) and `special_tokens.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.bpe_training import count_pretokens, learn_merges
from clinjepa.trajectory.tokens.piece_tokens import PIECES, PieceEncoder, encode_texts

if TYPE_CHECKING:
    from clinjepa.config.schema import Config

PAD_TOKEN = "<|pad|>"
EOS_TOKEN = "<|endoftext|>"
MAX_TRAINING_TEXTS = 200_000
"""A vocabulary of some thousand pieces needs no more; the texts taken are those with the smallest hash, whatever their order."""


class TextTokenizer:
    """Token ids of texts. `vocab_size`, `eos_id` and `pad_id` as the encoder needs them."""

    def __init__(self, tokenizer: Tokenizer, eos: str, pad: str) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.eos, self.pad = eos, pad
        ids = [tokenizer.token_to_id(token) for token in (eos, pad)]
        if None in ids:
            raise StoreError(f"the tokenizer lacks its special tokens {eos} or {pad}; its files were altered or do not belong together")
        self.eos_id, self.pad_id = ids

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, no special tokens added."""
        return encode_texts(self.tokenizer, texts)

    def encode_array(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """(flat ids int32 of all texts end to end, ids per text int64): those of `encode`, put together from cached words."""
        return self._pieces.encode(texts)

    @cached_property
    def _pieces(self) -> PieceEncoder:
        return PieceEncoder(self.tokenizer)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def save(self, folder: Folder) -> None:
        folder.write_bytes("tokenizer.json", self.tokenizer.to_str().encode())
        folder.write_json("special_tokens.json", {"eos": self.eos, "pad": self.pad})


def load_tokenizer(folder: Folder) -> TextTokenizer:
    """The tokenizer of a tokenizer artifact or trajectory store. Raises StoreError when it is missing or cannot be read."""
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
    """The tokenizer of a `tokenizer.json`; one object, with the words it has met, for all parts that a process works on."""
    return TextTokenizer(Tokenizer.from_str(content), eos, pad)


def build_tokenizer(ingest: Folder, config: Config, out: Folder) -> dict[str, Any]:
    """Write the tokenizer that `config` asks for to `out`; returns {vocab_size, eos_id, pad_id, num_texts}.

    ingest: a finished ingest artifact; only texts of its training split are looked at.
    """
    num_texts = 0
    if config.tokenizer.init == "pretrained":
        tokenizer = pretrained_tokenizer(config.encoder.model or "", config.encoder.revision, config.encoder.allow_download)
    else:
        texts = _hash_sample(training_texts(ingest), MAX_TRAINING_TEXTS)
        num_texts = len(texts)
        tokenizer = train_tokenizer(texts, config.tokenizer.vocab_size)
    tokenizer.save(out)
    return {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "num_texts": num_texts}


def train_tokenizer(texts: list[str], vocab_size: int) -> TextTokenizer:
    """Byte-level BPE with at most `vocab_size` pieces; the same for the same set of texts in any order."""
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


def pretrained_tokenizer(model: str, revision: str | None, allow_download: bool) -> TextTokenizer:
    """The tokenizer of a model folder or public model id. Raises ConfigError when it is not on the machine and may not be fetched."""
    from transformers import AutoTokenizer  # here, since every data task imports this module and none needs the model library

    try:
        loaded = AutoTokenizer.from_pretrained(model, revision=revision, local_files_only=not allow_download, use_fast=True)
    except (OSError, ValueError):
        raise ConfigError(
            f"encoder.model={model}: no tokenizer there; give a folder with tokenizer.json, or set encoder.allow_download=true"
        ) from None
    if not loaded.is_fast or not loaded.eos_token:
        raise ConfigError(f"encoder.model={model}: its tokenizer has no tokenizer.json or no end-of-text token; choose another model")
    return TextTokenizer(loaded.backend_tokenizer, loaded.eos_token, loaded.pad_token or loaded.eos_token)


def training_texts(ingest: Folder) -> Iterator[str]:
    """The texts of the training split's stays, part by part, repeated ones of a part once."""
    import polars as pl  # here: training reads token stores where polars may not be

    stays = pl.DataFrame(ingest.read_table("stays.parquet", columns=["stay_id", "split", "part"])).filter(pl.col("split") == "train")
    for part in stays["part"].unique().sort().to_list():
        hours = pl.DataFrame(ingest.read_table(f"hours/{part}.parquet")).join(stays.select("stay_id"), on="stay_id", how="semi")
        yield from hours["static_text"].unique().to_list()
        for column in ("state_texts", "action_texts"):
            yield from hours[column].explode(empty_as_null=False).unique().to_list()


def _hash_sample(texts: Iterator[str], size: int) -> list[str]:
    """The `size` distinct texts with the smallest hash: a sample that depends on the set of texts alone."""
    kept: set[str] = set()
    while batch := list(islice(texts, size)):
        kept.update(batch)
        if len(kept) > 4 * size:
            kept = _smallest_hashes(kept, size)
    return list(kept if len(kept) <= size else _smallest_hashes(kept, size))


def _smallest_hashes(texts: set[str], size: int) -> set[str]:
    return set(sorted(texts, key=lambda text: (hashlib.blake2b(text.encode(), digest_size=8).digest(), text))[:size])

"""Texts to latents with an exported encoder: tokenizer, base and adapters of a folder that `clinjepa export` wrote.

Needs torch, transformers, tokenizers, safetensors and, for adapters, peft. The folder's `encoder.json` describes the encoder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clinjepa.errors import CheckpointError, ConfigError
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.specs import EncoderSpec
from clinjepa.model.tensor_files import read_local_json, read_local_tensors

SCHEMA_VERSION = 1
DESCRIPTION = "encoder.json"
ADAPTER_TENSORS = "adapter_model.safetensors"
NOT_DESCRIBED = ("init", "model", "revision", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size")
"""Fields of `EncoderSpec` that `encoder.json` lacks, because the base determines them."""


class TextEncoder:
    """A frozen encoder with its tokenizer; call it with texts."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        max_tokens: int,
        token_budget: int,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ) -> None:
        """`before` and `after`: ids of the special tokens that the tokenizer adds around a text."""
        self.encoder, self.tokenizer = encoder, tokenizer
        self.before, self.after = tuple(before), tuple(after)
        self.max_tokens, self.token_budget = max_tokens, token_budget
        self.dim = encoder.dim
        encoder.freeze()
        encoder.eval()

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, allow_download: bool = False
    ) -> TextEncoder:
        """The encoder of an export's `encoder` folder, on the CPU.

        Args:
            folder: the `encoder` folder of an export.
            base: folder or model id to use in place of the export's base (and of its tokenizer, if that is the base's).
            allow_download: let the Hugging Face hub be reached for a public base.

        Raises:
            StoreError: a file is missing.
            ConfigError: the base is not on this machine.
            CheckpointError: files are damaged or do not belong together.
        """
        described = read_local_json(folder, DESCRIPTION)
        if described.get("schema_version") != SCHEMA_VERSION:
            raise CheckpointError(
                f"{Path(folder, DESCRIPTION)} has schema version {described.get('schema_version')}, this clinjepa reads {SCHEMA_VERSION}"
            )
        model, revision = _place(folder, described["base"], base)
        unread = dict.fromkeys(NOT_DESCRIBED, 0) | {"init": "pretrained", "model": model, "revision": revision}
        try:
            spec = EncoderSpec(**described["spec"] | unread)
        except TypeError:
            raise CheckpointError(f"{Path(folder, DESCRIPTION)} describes an encoder of another clinjepa; use that version") from None
        tokenizer = _tokenizer(folder, described["tokenizer"], base, allow_download)
        if (tokenizer.get_vocab_size(), tokenizer.token_to_id(described["eos"])) != (spec.vocab_size, spec.eos_id):
            raise CheckpointError(f"{os.fspath(folder)}: the tokenizer is not the one that this encoder was trained with")
        encoder = build_encoder(spec, None, seed=0, loading=Loading(allow_download=allow_download))
        if described["adapted"]:
            encoder.load_online(read_local_tensors(folder, ADAPTER_TENSORS))
        # An export of an earlier version has neither: its encoder was trained without them.
        special = described.get("before", ()), described.get("after", ())
        return cls(encoder, tokenizer, described["max_tokens"], described["token_budget"], *special)

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the weights; latents are returned there."""
        self.encoder.to(device)
        return self

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Latents z_ND of texts of at least one token, float32, without a graph; texts are cut at `max_tokens` tokens in all."""
        return self.encode(self.tokenise(texts)[0])

    def tokenise(self, texts: Sequence[str]) -> tuple[list[np.ndarray], list[bool]]:
        """(token ids of each text with its special tokens, int64, cut at `max_tokens`; whether it was cut)."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        room = self.max_tokens - len(self.before) - len(self.after)
        ids = [np.asarray([*self.before, *encoding.ids[:room], *self.after], dtype=np.int64) for encoding in encodings]
        return ids, [len(encoding.ids) > room for encoding in encodings]

    def encode(self, ids: Sequence[np.ndarray]) -> Tensor:
        """Latents z_ND of token ids that `tokenise` gave, float32, without a graph."""
        device = next(self.encoder.parameters()).device
        # cuDNN would build a kernel for every new shape of rows, which takes longer than the forward itself.
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return encode_texts(self.encoder, ids, self.token_budget, device=device).float()


def _place(folder: str | os.PathLike[str], where: Mapping[str, Any], instead: str | os.PathLike[str] | None) -> tuple[str, str | None]:
    """(folder or model id, revision) of a base or tokenizer. where: its entry in `encoder.json`; instead: given in its place."""
    if "folder" in where:
        return os.path.normpath(Path(folder, where["folder"])), None
    if instead is not None:
        return os.fspath(instead), None
    if where["local"]:
        raise ConfigError(f"this export lies on a local model folder called {where['model']}; give from_pretrained(…, base=<that folder>)")
    return where["model"], where["revision"]


def _tokenizer(
    folder: str | os.PathLike[str], where: Mapping[str, Any], base: str | os.PathLike[str] | None, allow_download: bool
) -> Tokenizer:
    model, revision = _place(folder, where, base)
    if "folder" in where:
        return Tokenizer.from_str(json.dumps(read_local_json(model, "tokenizer.json")))
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(model, revision=revision, local_files_only=not allow_download, use_fast=True)
    except (OSError, ValueError):
        raise ConfigError(f"the tokenizer of {model} is not on this machine; give base=<its folder>, or allow_download=True") from None
    loaded.backend_tokenizer.no_truncation()
    loaded.backend_tokenizer.no_padding()
    return loaded.backend_tokenizer

"""Packing texts of different lengths into few dense rows: positions restart at every text, and no text attends to another.

A row is as long as the longest text of its chunk (at least 64 tokens), not as the whole chunk: the attention mask and its work grow with
the square of a row's length, and one row for all texts is several times slower on a CPU (measured: chunks of 16 k tokens, texts of 5-120
tokens; rows of 64-128 tokens 65-75k tokens/s forward, rows of 1024 22k). Rows are filled best-fit, longest text first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Encoder: TypeAlias = Any  # `clinjepa.model.encoding.encoder` imports this module

SHORTEST_ROW = 64
"""Places of a row that texts share, at least."""


@dataclass(frozen=True)
class Pack:
    """One chunk of texts: L = R·S token places laid out as R rows of S."""

    input_ids_L: Tensor
    """int64 [R, S]; a token of the texts in unused places, since an id that no text has (padding) may have no finite gradient."""

    position_ids_L: Tensor
    """int64 [R, S]; restarts at 0 with every text and at every unused place."""

    last_index_N: Tensor
    """int64 [N]: place (in the flattened rows) of each text's last token."""

    order: Tensor
    """int64 [N]: index of each text in the packed list, so `z[pack.order] = encoder(…)`."""

    num_tokens: int
    """Tokens of the texts, without unused places."""

    @property
    def labels_L(self) -> Tensor:
        """int64 [R, S]: the next token of the same text; -100 at a text's last token and in unused places."""
        flat, positions = self.input_ids_L.flatten(), self.position_ids_L.flatten()
        labels = torch.full_like(flat, -100)
        goes_on = positions[1:] > 0
        labels[:-1][goes_on] = flat[1:][goes_on]
        return labels.view_as(self.input_ids_L)


def pack_texts(
    texts: Sequence[np.ndarray], token_budget: int, end_id: int | None = None, one_per_row: bool = False, exact_above: int | None = None
) -> list[Pack]:
    """Divide texts into chunks of at most `token_budget` places, longest texts first; deterministic.

    Args:
        texts: 1-D integer arrays of at least one token each.
        token_budget: largest number of places R·S of a chunk; a longer text is a chunk by itself.
        end_id: token appended to every text, or None.
        one_per_row: one text a row, unused places behind it: for classes that do not isolate packed texts (`Encoder.one_text_per_row`).
        exact_above: a text of more tokens than this gets rows of its own length, with no other text and no unused place, and rows of other
            texts are not longer (`layers.most_keys`); None for no such length.

    Raises:
        ValueError: a text has no token.
    """
    extra = 0 if end_id is None else 1
    lengths = np.array([len(text) + extra for text in texts], dtype=np.int64)
    if len(texts) and int(lengths.min()) < 1:
        raise ValueError(f"{int((lengths < 1).sum())} of {len(texts)} texts have no token and no end token is appended")
    packs: list[Pack] = []
    rows: _Rows | None = None
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        exact = exact_above is not None and length > exact_above
        fits = rows is not None and (rows.length == length if exact else exact_above is None or rows.length <= exact_above)
        if rows is None or not fits or not rows.add(index, length):
            if rows is not None:
                packs.append(_lay_out(texts, lengths, rows, end_id))
            shortest = SHORTEST_ROW if token_budget >= SHORTEST_ROW and not one_per_row and not exact else 1
            rows = _Rows(max(shortest if exact_above is None else min(shortest, exact_above), length), token_budget, one_per_row or exact)
            rows.add(index, length)
    if rows is not None:
        packs.append(_lay_out(texts, lengths, rows, end_id))
    return packs


class _Rows:
    """Rows of one length, filled best-fit: a text goes into the row where it leaves the least room."""

    def __init__(self, length: int, token_budget: int, one_per_row: bool) -> None:
        self.length, self._max_rows, self._one_per_row = length, max(1, token_budget // length), one_per_row
        self.texts: list[list[int]] = []
        self._by_room: dict[int, list[int]] = {}
        self._rooms = 0  # bit r is set while some row has room for exactly r tokens

    def add(self, index: int, length: int) -> bool:
        """Add a text; returns False if neither a row nor the budget has room."""
        fitting = self._rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = self._by_room[room].pop()
            if not self._by_room[room]:
                self._rooms &= ~(1 << room)
        elif len(self.texts) < self._max_rows:
            room, row = self.length, len(self.texts)
            self.texts.append([])
        else:
            return False
        self.texts[row].append(index)
        if self._one_per_row:
            return True
        left = room - length
        self._by_room.setdefault(left, []).append(row)
        self._rooms |= 1 << left
        return True


def _lay_out(texts: Sequence[np.ndarray], lengths: np.ndarray, rows: _Rows, end_id: int | None) -> Pack:
    """The pack of some rows. lengths: tokens of every text, its end token included."""
    order = np.array([index for row in rows.texts for index in row], dtype=np.int64)
    sizes = lengths[order]
    used = [int(sum(lengths[index] for index in row)) for row in rows.texts]
    width = max(used)
    row_starts = np.repeat(np.arange(len(used)) * width, [len(row) for row in rows.texts])
    ends = np.cumsum(sizes)
    before_row = np.repeat(np.concatenate([[0], np.cumsum(used)[:-1]]), [len(row) for row in rows.texts])
    starts = row_starts + ends - sizes - before_row
    within = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes)
    places = np.repeat(starts, sizes) + within
    end = np.array([] if end_id is None else [end_id], dtype=np.int64)
    tokens = np.concatenate([part for index in order for part in (texts[index], end)])
    ids, positions = np.full(len(used) * width, tokens[0], dtype=np.int64), np.zeros(len(used) * width, dtype=np.int64)
    ids[places], positions[places] = tokens, within
    shape = (len(used), width)
    return Pack(
        torch.from_numpy(ids).view(shape),
        torch.from_numpy(positions).view(shape),
        torch.from_numpy(starts + sizes - 1),
        torch.from_numpy(order),
        int(ends[-1]),
    )


def unique_texts(texts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """(distinct texts in order of first appearance; for every given text the index of its distinct one, int64)."""
    first: dict[bytes, int] = {}
    distinct: list[np.ndarray] = []
    index_of = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        key = np.ascontiguousarray(text, dtype=np.int64).tobytes()
        if key not in first:
            first[key] = len(distinct)
            distinct.append(text)
        index_of[i] = first[key]
    return distinct, index_of


def encode_texts(
    encoder: Encoder,
    texts: Sequence[np.ndarray],
    token_budget: int,
    which: str = "online",
    device: torch.device | str = "cpu",
    keep_on: torch.device | str | None = None,
) -> Tensor:
    """Latents z_ND of texts, without a graph and without dropout, in the texts' order and in `spec.dtype`.

    Equal texts are encoded once. The end token is appended if the spec has one.

    Args:
        encoder: the encoder.
        texts: 1-D token ids of at least one token each.
        token_budget: largest number of places of a chunk.
        which: `online` or `target` weights.
        device: of the encoder.
        keep_on: device of the latents, by default `device`; with `cpu` a GPU holds the latents of one chunk at a time.

    Raises:
        ValueError: a text has no token, or the encoder has no target weights.
    """
    distinct, index_of = unique_texts(texts)
    keep_on = device if keep_on is None else keep_on
    z_UD = torch.empty(len(distinct), encoder.dim, dtype=encoder.spec.torch_dtype, device=keep_on)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            for pack in encoder.pack(distinct, token_budget, encoder.spec.end_id):
                ids, positions, last = (each.to(device) for each in (pack.input_ids_L, pack.position_ids_L, pack.last_index_N))
                z_UD[pack.order.to(keep_on)] = encoder(ids, positions, last, which=which).to(keep_on)
    finally:
        encoder.train(was_training)
    return z_UD[torch.from_numpy(index_of).to(keep_on)]

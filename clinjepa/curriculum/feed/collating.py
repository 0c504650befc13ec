"""Windows and texts collated into named arrays, padded to the longest window of the micro-batch.

Arrays of a phase's micro-batch of B windows, padded to its longest T:
- always: `valid` bool [B, T], `window_ids` int64 [B], `rollout_starts` int64 [B] (-1: too short to roll out);
- with latents: `z_static` [B, D], `z_state` [B, T, D], `z_action` [B, T, D], 0 in the padding, float32 or bfloat16 as they are stored;
- with texts: `tokens` int32, the unique texts end to end (those of states first), `text_lengths` int32 [U], and the number of the text
  at each place: `state_texts` int32 [B, T] (-1 in the padding); `static_texts` [B] and `action_texts` [B, T] unless only targets, which
  are states, are encoded.
- with values: `values` float32 and `measured` bool [B, T, V], 0 and False in the padding, `value_rates` float32 [V]
  (`clinjepa/trajectory/hour_values.py`).
Arrays of an SFT micro-batch: `tokens` int32 (texts end to end, without EOS), `text_lengths` int32 [N].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from clinjepa.curriculum.feed.stored_latents import StoredLatents, Window
from clinjepa.trajectory.hour_values import HourValues
from clinjepa.trajectory.tokens.trajectory_store import StayTokens

Arrays = dict[str, np.ndarray]


def place_arrays(windows: Sequence[Window], window_ids: np.ndarray, rollout_starts: np.ndarray) -> Arrays:
    """`valid`, `window_ids` and `rollout_starts`."""
    hours = np.array([window.num_hours for window in windows])
    return {
        "valid": np.arange(hours.max())[None, :] < hours[:, None],
        "window_ids": np.asarray(window_ids, dtype=np.int64),
        "rollout_starts": np.asarray(rollout_starts, dtype=np.int64),
    }


def latent_arrays(windows: Sequence[Window], stored: Iterable[StoredLatents], dim: int, dtype: np.dtype) -> Arrays:
    """`z_static`, `z_state` and `z_action`; stored: the windows' latents in order, of width `dim` and type `dtype`."""
    longest = _longest(windows)
    z_static = np.zeros((len(windows), dim), dtype=dtype)
    z_state = np.zeros((len(windows), longest, dim), dtype=dtype)
    z_action = np.zeros((len(windows), longest, dim), dtype=dtype)
    for i, parts in enumerate(stored):
        hours = windows[i].num_hours
        z_static[i], z_state[i, :hours], z_action[i, :hours] = parts
    return {"z_static": z_static, "z_state": z_state, "z_action": z_action}


def text_arrays(windows: Sequence[Window], stays: Sequence[StayTokens], states_only: bool) -> Arrays:
    """Unique texts and their places; stays: the texts of each window's whole stay."""
    unique, longest = _UniqueTexts(), _longest(windows)
    static = np.zeros(len(windows), dtype=np.int32)
    state = np.full((len(windows), longest), -1, dtype=np.int32)
    action = np.full((len(windows), longest), -1, dtype=np.int32)
    for i, (_, start, hours) in enumerate(windows):
        state[i, :hours] = [unique.number(tokens) for tokens in stays[i].states[start : start + hours]]
    if not states_only:
        for i, (_, start, hours) in enumerate(windows):
            static[i] = unique.number(stays[i].static)
            action[i, :hours] = [unique.number(tokens) for tokens in stays[i].actions[start : start + hours]]
    arrays = end_to_end(unique.texts) | {"state_texts": state}
    return arrays if states_only else arrays | {"static_texts": static, "action_texts": action}


def value_arrays(windows: Sequence[Window], reader: HourValues) -> Arrays:
    """`values`, `measured` and `value_rates`."""
    shape = (len(windows), _longest(windows), len(reader.names))
    values, measured = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
    for i, window in enumerate(windows):
        values[i, : window.num_hours], measured[i, : window.num_hours] = reader.window(*window)
    return {"values": values, "measured": measured, "value_rates": reader.statistics.rate_V}


def end_to_end(texts: Sequence[np.ndarray]) -> Arrays:
    """`tokens` and `text_lengths`."""
    tokens = np.concatenate(texts).astype(np.int32) if len(texts) else np.zeros(0, dtype=np.int32)
    return {"tokens": tokens, "text_lengths": np.array([len(text) for text in texts], dtype=np.int32)}


class _UniqueTexts:
    """Numbers texts by content, in order of first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self.texts: list[np.ndarray] = []

    def number(self, tokens: np.ndarray) -> int:
        key = tokens.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(tokens)
        return self._numbers[key]


def _longest(windows: Sequence[Window]) -> int:
    return max(window.num_hours for window in windows)

"""What the frozen encoder and predictor know at a prediction point: its history, and the futures that they imagine from it.

History: hours 0…h of the stay, at most the last (predictor's longest window − rollout) of them. Future: a rollout of the
hours after h, once with the last known action repeated, once with the recorded actions (an upper bound, since those
are known only afterwards; beyond the end of the stay its last action is repeated, so that the length of the rollout
tells nothing). Poolings: Clin-JEPA leaves open how a history becomes one vector, so the choices are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from clinjepa.errors import ConfigError
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor
from clinjepa.model.rollout import rollout

COLUMNS = ("history_only", "actions_carried_forward", "recorded_actions")
_STAYS_AT_ONCE = 128


@dataclass(frozen=True)
class _Window:
    """The history of one point, cut to what the predictor can hold: rows `point`, and the stay's hours start…stop−1."""

    point: int
    start: int
    stop: int


@dataclass(frozen=True)
class PointFeatures:
    """Vectors per point, float32: history_NF, and the futures carried_NG (actions carried forward) and recorded_NG."""

    history_NF: np.ndarray
    carried_NG: np.ndarray
    recorded_NG: np.ndarray

    def column(self, name: str, rows_N: np.ndarray) -> np.ndarray:
        """Features of one table column for some rows: the history, with the future of that column appended where it has one."""
        if name == "history_only":
            return self.history_NF[rows_N]
        future_NG = {"actions_carried_forward": self.carried_NG, "recorded_actions": self.recorded_NG}[name]
        return np.concatenate([self.history_NF[rows_N], future_NG[rows_N]], axis=1)


def point_features(
    predictor: Predictor,
    latents: Latents,
    stay_N: np.ndarray,
    hour_N: np.ndarray,
    *,
    rollout_hours: int,
    pooling: str,
    device: str = "cpu",
    batch_size: int = 64,
) -> PointFeatures:
    """Features of the points (stay_N, hour_N), which are sorted by stay.

    pooling: `last`, `mean` or `last+mean` of the state latents (future: of the predicted ones), or `context`, the predictor's hidden
    state at s_h (future: at the last predicted hour). Raises ConfigError when the rollout leaves no room for a history.
    """
    max_history = predictor.spec.max_hours - rollout_hours
    if max_history < 1:
        raise ConfigError(
            f"evaluation.downstream.rollout_hours={rollout_hours} leaves no history inside "
            f"predictor.max_hours={predictor.spec.max_hours}; shorten it"
        )
    predictor = predictor.to(device).eval()
    parts: list[tuple[np.ndarray, ...]] = []
    unique, first_S = np.unique(stay_N, return_index=True)
    for chunk in range(0, len(unique), _STAYS_AT_ONCE):
        begin = first_S[chunk]
        end = first_S[chunk + _STAYS_AT_ONCE] if chunk + _STAYS_AT_ONCE < len(unique) else len(stay_N)
        known = {int(stay_id): latents.stay(int(stay_id)) for stay_id in unique[chunk : chunk + _STAYS_AT_ONCE]}
        work = _Chunk(predictor, known, stay_N[begin:end], hour_N[begin:end], max_history, rollout_hours, pooling, device, batch_size)
        parts.append((work.history(), work.future(recorded=False), work.future(recorded=True)))
    if not parts:
        empty = np.zeros((0, 0), dtype=np.float32)
        return PointFeatures(empty, empty, empty)
    return PointFeatures(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Chunk:
    """The points of some stays, whose latents are in memory."""

    predictor: Predictor
    known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    stay_N: np.ndarray
    hour_N: np.ndarray
    max_history: int
    rollout_hours: int
    pooling: str
    device: str
    batch_size: int

    def windows(self) -> list[_Window]:
        return [_Window(point, max(0, int(hour) + 1 - self.max_history), int(hour) + 1) for point, hour in enumerate(self.hour_N)]

    def history(self) -> np.ndarray:
        """[N, F] from hours up to each point's own."""
        if self.pooling == "context":
            return self._context()
        rows = []
        for window in self.windows():
            z_state_TD = self.known[int(self.stay_N[window.point])][1][window.start : window.stop]
            rows.append(_pool(z_state_TD[None], self.pooling)[0])
        return np.stack(rows)

    def future(self, *, recorded: bool) -> np.ndarray:
        """[N, G] from a rollout after each point's hour."""
        pooled_NG: np.ndarray | None = None
        for context, windows in self._equal_contexts():
            batch = [self._given(window, recorded) for window in windows]
            z_static_BD, z_state_BTD, z_action_BUD = (torch.from_numpy(np.stack(part)).to(self.device) for part in zip(*batch, strict=True))
            with torch.no_grad():
                predicted_BHD, hidden_BHW = rollout(self.predictor, z_static_BD, z_state_BTD, z_action_BUD, context, self.rollout_hours)
            if self.pooling == "context":
                pooled_BG = hidden_BHW[:, -1].float().cpu().numpy()
            else:
                pooled_BG = _pool(predicted_BHD.float().cpu().numpy(), self.pooling)
            if pooled_NG is None:
                pooled_NG = np.zeros((len(self.hour_N), pooled_BG.shape[1]), dtype=np.float32)
            pooled_NG[[window.point for window in windows]] = pooled_BG
        if pooled_NG is None:
            raise ValueError("a chunk without points has no features")
        return pooled_NG

    def _context(self) -> np.ndarray:
        """The predictor's hidden state at s_h: one causal pass serves all points whose windows begin at the same hour."""
        by_start: dict[tuple[int, int], list[_Window]] = {}
        for window in self.windows():
            by_start.setdefault((int(self.stay_N[window.point]), window.start), []).append(window)
        sequences = sorted(by_start.items(), key=lambda item: (max(window.stop - window.start for window in item[1]), item[0]))
        hidden_NW: np.ndarray | None = None
        for begin in range(0, len(sequences), self.batch_size):
            batch = sequences[begin : begin + self.batch_size]
            lengths = [max(window.stop for window in windows) - start for (_, start), windows in batch]
            states_BTD = np.zeros((len(batch), max(lengths), self.known[batch[0][0][0]][1].shape[1]), dtype=np.float32)
            actions_BTD, valid_BT = np.zeros_like(states_BTD), np.zeros(states_BTD.shape[:2], dtype=bool)
            for row, (((stay_id, start), _), length) in enumerate(zip(batch, lengths, strict=True)):
                states_BTD[row, :length] = self.known[stay_id][1][start : start + length]
                actions_BTD[row, :length] = self.known[stay_id][2][start : start + length]
                valid_BT[row, :length] = True
            static_BD = np.stack([self.known[stay_id][0] for (stay_id, _), _ in batch])
            with torch.no_grad():
                inputs = (torch.from_numpy(part).to(self.device) for part in (static_BD, states_BTD, actions_BTD, valid_BT))
                hidden_BTW = self.predictor(*inputs)[1].float().cpu().numpy()
            if hidden_NW is None:
                hidden_NW = np.zeros((len(self.hour_N), hidden_BTW.shape[2]), dtype=np.float32)
            for row, ((_, start), windows) in enumerate(batch):
                for window in windows:
                    hidden_NW[window.point] = hidden_BTW[row, window.stop - start - 1]
        if hidden_NW is None:
            raise ValueError("a chunk without points has no features")
        return hidden_NW

    def _equal_contexts(self) -> Iterator[tuple[int, list[_Window]]]:
        """Batches of windows with equally many history hours."""
        by_length: dict[int, list[_Window]] = {}
        for window in self.windows():
            by_length.setdefault(window.stop - window.start, []).append(window)
        for length, windows in sorted(by_length.items()):
            for begin in range(0, len(windows), self.batch_size):
                yield length, windows[begin : begin + self.batch_size]

    def _given(self, window: _Window, recorded: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z_static_D, the history's z_state_CD, and z_action_UD: the history's and one for each rollout hour."""
        z_static_D, z_state_TD, z_action_TD = self.known[int(self.stay_N[window.point])]
        last = window.stop + self.rollout_hours if recorded else window.stop
        z_action_UD = z_action_TD[window.start : min(last, len(z_action_TD))]
        missing = window.stop - window.start + self.rollout_hours - len(z_action_UD)
        z_action_UD = np.concatenate([z_action_UD, np.repeat(z_action_UD[-1:], missing, axis=0)])
        return z_static_D, z_state_TD[window.start : window.stop], z_action_UD


def _pool(z_BTD: np.ndarray, pooling: str) -> np.ndarray:
    parts = {"last": lambda: z_BTD[:, -1], "mean": lambda: z_BTD.mean(1)}
    return np.concatenate([parts[name]() for name in pooling.split("+")], axis=-1)

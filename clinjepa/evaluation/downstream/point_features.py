"""Features of a prediction point from the frozen encoder and predictor: its history and two rollouts from it.

History: hours 0 to h of the stay. If history and rollout together exceed the hours whose positions training could reach
(`PredictorSpec.reach_hours`), the history begins at the first multiple of 12 h that fits (of `max_history` hours where that is less than
12). With the default stride training windows begin at such hours too, and points of one stay with the same beginning share a forward pass.
Future: a rollout of the hours after h, once with the last known action repeated and once with the recorded actions. The second is an upper
bound, since those actions are known only afterwards. Beyond the end of a stay its last action is repeated, so the length of the rollout
does not leak the length of the stay.
Pooling: Clin-JEPA does not state how a history becomes one vector, so it is a setting.

One causal pass over a stay serves all its points: each rollout starts from the cached keys and values of the hours up to its prediction
hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clinjepa.errors import ConfigError
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Cache, Predictor, joined_caches

COLUMNS = ("history_only", "actions_carried_forward", "recorded_actions")
WINDOW_START_HOURS = 12
"""A history that must be cut begins at a multiple of this many hours."""
_STAYS_AT_ONCE = 128
_BATCH_SIZE = 64
"""Most sequences, and points, in one forward pass."""
_Stay = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PointFeatures:
    """Vectors per point, float32: history_NF, and the futures carried_NG (actions carried forward) and recorded_NG; None where a future
    was not computed."""

    history_NF: np.ndarray
    carried_NG: np.ndarray | None
    recorded_NG: np.ndarray | None
    cut_N: np.ndarray
    """Points whose history begins after hour 0 of the stay."""

    def column(self, name: str) -> np.ndarray:
        """Features of one column of the report's table: the history, then the future of that column where it has one."""
        if name == "history_only":
            return self.history_NF
        future_NG = {"actions_carried_forward": self.carried_NG, "recorded_actions": self.recorded_NG}[name]
        if future_NG is None:
            raise ValueError(f"the rollouts of {name} were not computed")
        return np.concatenate([self.history_NF, future_NG], axis=1)


@dataclass(frozen=True)
class _Request:
    """What is computed at every point."""

    rollout_hours: int
    pooling: str
    recorded: tuple[bool, ...]
    """Rollouts of a point: False with the last known action repeated, True with the recorded actions."""
    batch_size: int


@dataclass(frozen=True)
class _Window:
    """Hours start…stop−1 of a stay, which are the history of the point in row `point`."""

    point: int
    stay_id: int
    start: int
    stop: int

    @property
    def last(self) -> int:
        """The point's hour, counted from the window's start."""
        return self.stop - self.start - 1


def point_features(
    predictor: Predictor,
    latents: Latents,
    stay_N: np.ndarray,
    hour_N: np.ndarray,
    *,
    rollout_hours: int,
    pooling: str,
    batch_size: int = _BATCH_SIZE,
) -> PointFeatures:
    """Features of N >= 1 points, computed on the predictor's device.

    Args:
        predictor: The trained predictor; it is set to evaluation mode.
        latents: Latents of the points' stays.
        stay_N: Stay of each point, ascending.
        hour_N: Hour of each point.
        rollout_hours: Hours of each rollout.
        pooling: `last`, `mean` or `last+mean` of the state latents (future: of the predicted latents), or `context`, the predictor's hidden
            state after the state of hour h (future: of the last predicted hour).
        batch_size: Largest number of sequences, and of points, in one forward pass.

    Raises:
        ConfigError: The rollout leaves no room for a history within the windows that the predictor was trained on.
    """
    return _computed(predictor, latents, stay_N, hour_N, _Request(rollout_hours, pooling, (False, True), batch_size))


def known_features(
    predictor: Predictor,
    latents: Latents,
    stay_N: np.ndarray,
    hour_N: np.ndarray,
    *,
    rollout_hours: int,
    pooling: str,
    carried: bool = True,
) -> PointFeatures:
    """The features of `point_features` that are known at the prediction hour: without the rollouts of recorded actions.

    Of each stay the hours up to its last point are read. carried: whether rollouts with the last known action are computed; the other
    arguments and the errors are those of `point_features`.
    """
    return _computed(predictor, latents, stay_N, hour_N, _Request(rollout_hours, pooling, (False,) if carried else (), _BATCH_SIZE))


@dataclass(frozen=True)
class ReadHours:
    """Hours start … start + T − 1 of one stay as the predictor has read them: latents z_state_TD, the last action's latent z_action_D, the
    predicted next state pred_11D and the hidden state hidden_11W after the last hour, and the keys and values of all T hours."""

    start: int
    z_state_TD: np.ndarray
    z_action_D: np.ndarray
    pred_11D: torch.Tensor
    hidden_11W: torch.Tensor
    cache: Cache


def history_start(predictor: Predictor, num_hours: int, rollout_hours: int, pooling: str) -> int:
    """First hour of the history of a point after `num_hours` hours, with rollouts of `rollout_hours`."""
    return _window_start(num_hours, _hours_with_trained_positions(predictor, pooling) - rollout_hours)


def features_of_read_hours(predictor: Predictor, read: Sequence[ReadHours], rollout_hours: int, pooling: str) -> PointFeatures:
    """The features of `known_features` for N points, each after the last hour of what was read; rows in the order of `read`."""
    with torch.no_grad():
        if pooling == "context":
            history_NF = torch.cat([each.hidden_11W[:, 0] for each in read]).cpu().numpy()
        else:
            history_NF = np.concatenate([_pool(each.z_state_TD[None], pooling) for each in read])
        device = read[0].pred_11D.device
        action_N1D = torch.from_numpy(np.stack([each.z_action_D for each in read])).to(device)[:, None]
        state_N1D = torch.cat([each.pred_11D for each in read])
        later_NHD = action_N1D.expand(-1, rollout_hours, -1)
        carried_NG = _future(predictor, joined_caches([each.cache for each in read]), state_N1D, later_NHD, pooling)
    return PointFeatures(history_NF, carried_NG, None, np.array([each.start > 0 for each in read]))


def _computed(predictor: Predictor, latents: Latents, stay_N: np.ndarray, hour_N: np.ndarray, asked: _Request) -> PointFeatures:
    most = _hours_with_trained_positions(predictor, asked.pooling)
    max_history = most - asked.rollout_hours
    if max_history < 1:
        raise ConfigError(
            f"evaluation.downstream.rollout_hours={asked.rollout_hours} leaves no history inside the {most} h that the predictor was "
            "trained to read and predict; shorten it"
        )
    predictor = predictor.eval()
    columns: list[np.ndarray] = []
    cut_N = np.zeros(len(stay_N), dtype=bool)
    for stay_ids, windows in _chunks(stay_N, hour_N, max_history):
        known = _known(latents, stay_ids, windows, whole=True in asked.recorded)
        for sequences in _batches_of_sequences(windows, asked.batch_size):
            for window, vectors in _features(predictor, known, sequences, asked):
                if not columns:
                    columns = [np.zeros((len(stay_N), len(vector)), dtype=np.float32) for vector in vectors]
                for column, vector in zip(columns, vectors, strict=True):
                    column[window.point] = vector
                cut_N[window.point] = window.start > 0
    futures = dict(zip(asked.recorded, columns[1:], strict=True))
    return PointFeatures(columns[0], futures.get(False), futures.get(True), cut_N)


def _known(latents: Latents, stay_ids: list[int], windows: list[_Window], whole: bool) -> dict[int, _Stay]:
    """Latents of the stays: of all hours, or of those up to the last point."""
    if whole:
        return {stay_id: latents.stay(stay_id) for stay_id in stay_ids}
    stop: dict[int, int] = {}
    for window in windows:
        stop[window.stay_id] = max(window.stop, stop.get(window.stay_id, 0))
    return {stay_id: latents.stay(stay_id, 0, stop[stay_id]) for stay_id in stay_ids}


def rollout_that_fits(predictor: Predictor, wanted_hours: int, pooling: str) -> int:
    """`wanted_hours`, or half of the hours that training could reach where that is less: history and rollout then have the same room."""
    return max(1, min(wanted_hours, _hours_with_trained_positions(predictor, pooling) // 2))


def _hours_with_trained_positions(predictor: Predictor, pooling: str) -> int:
    """Most hours of history and rollout together; with `context` the last predicted hour is an input too, for its hidden state."""
    return predictor.spec.reach_hours + (pooling != "context")


def _chunks(stay_N: np.ndarray, hour_N: np.ndarray, max_history: int) -> Iterator[tuple[list[int], list[_Window]]]:
    """Stay ids and windows of _STAYS_AT_ONCE stays at a time, which bounds the latents in memory."""
    unique, first_S = np.unique(stay_N, return_index=True)
    bounds = [*first_S[::_STAYS_AT_ONCE].tolist(), len(stay_N)]
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        windows = [
            _Window(point, int(stay_N[point]), _window_start(int(hour_N[point]) + 1, max_history), int(hour_N[point]) + 1)
            for point in range(begin, end)
        ]
        yield unique[number * _STAYS_AT_ONCE : (number + 1) * _STAYS_AT_ONCE].tolist(), windows


def _window_start(num_hours: int, max_history: int) -> int:
    """First hour of the window: 0, or the smallest multiple of `grid` that leaves at most `max_history` hours."""
    grid = min(WINDOW_START_HOURS, max_history)
    return max(0, -(-(num_hours - max_history) // grid) * grid)


def _batches_of_sequences(windows: list[_Window], batch_size: int) -> Iterator[list[list[_Window]]]:
    """Windows of one stay that begin at the same hour are one sequence; sequences of similar length are one batch."""
    by_start: dict[tuple[int, int], list[_Window]] = {}
    for window in windows:
        by_start.setdefault((window.stay_id, window.start), []).append(window)
    sequences = sorted(by_start.values(), key=lambda sequence: max(window.last for window in sequence))
    for begin in range(0, len(sequences), batch_size):
        yield sequences[begin : begin + batch_size]


def _features(
    predictor: Predictor, known: dict[int, _Stay], sequences: list[list[_Window]], asked: _Request
) -> Iterator[tuple[_Window, tuple[np.ndarray, ...]]]:
    """(window, (history_F, each rollout that is asked for _G)) of every window of a batch of sequences."""
    pooling, rollout_hours, batch_size = asked.pooling, asked.rollout_hours, asked.batch_size
    device = next(predictor.parameters()).device
    lengths = [max(window.last for window in sequence) + 1 for sequence in sequences]
    dim = len(known[sequences[0][0].stay_id][0])
    z_state_BTD = np.zeros((len(sequences), max(lengths), dim), dtype=np.float32)
    z_action_BTD, valid_BT = np.zeros_like(z_state_BTD), np.zeros(z_state_BTD.shape[:2], dtype=bool)
    for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        hours = slice(sequence[0].start, sequence[0].start + length)
        z_state_BTD[row, :length] = known[sequence[0].stay_id][1][hours]
        z_action_BTD[row, :length] = known[sequence[0].stay_id][2][hours]
        valid_BT[row, :length] = True
    z_static_BD = np.stack([known[sequence[0].stay_id][0] for sequence in sequences])
    with torch.no_grad():
        inputs = (torch.from_numpy(part).to(device) for part in (z_static_BD, z_state_BTD, z_action_BTD, valid_BT))
        pred_BTD, hidden_BTW, cache = predictor(*inputs, keep_cache=True)
        points = sorted(((row, window) for row, sequence in enumerate(sequences) for window in sequence), key=lambda point: point[1].last)
        for begin in range(0, len(points), batch_size):
            batch = points[begin : begin + batch_size]
            row_P = torch.tensor([row for row, _ in batch], device=device)
            last_P = torch.tensor([window.last for _, window in batch], device=device)
            if pooling == "context":
                history_PF = hidden_BTW[row_P, last_P].cpu().numpy()
            else:
                history_PF = np.stack([_pool(z_state_BTD[row, None, : window.last + 1], pooling)[0] for row, window in batch])
            # points are sorted by `last`, so the batch's last point needs the most hours
            seen = _rows(cache, row_P, num_hours=batch[-1][1].last + 1).up_to(last_P)
            futures = []
            for recorded in asked.recorded:
                actions = [_next_actions(known[window.stay_id][2], window, rollout_hours, recorded) for _, window in batch]
                actions_PHD = torch.from_numpy(np.stack(actions)).to(device)
                futures.append(_future(predictor, seen, pred_BTD[row_P, last_P][:, None], actions_PHD, pooling))
            for (_, window), *vectors in zip(batch, history_PF, *futures, strict=True):
                yield window, tuple(vectors)


def _future(predictor: Predictor, cache: Cache, state_P1D: torch.Tensor, actions_PHD: torch.Tensor, pooling: str) -> np.ndarray:
    """Pooled rollout [P, G] from the first predicted state on, each hour with its action.

    Only `context` needs the pass over the last predicted hour: the others pool predictions, and that hour's place may be untrained.
    """
    predicted = [state_P1D]
    num_hours = actions_PHD.shape[1]
    cache = cache.with_room(num_hours)
    for step in range(num_hours if pooling == "context" else num_hours - 1):
        state_P1D, hidden_P1W, cache = predictor(None, state_P1D, actions_PHD[:, step : step + 1], cache=cache, keep_cache=True)
        predicted.append(state_P1D)
    if pooling == "context":
        return np.asarray(hidden_P1W[:, 0].cpu().numpy())
    return _pool(torch.cat(predicted, dim=1).cpu().numpy(), pooling)


def _rows(cache: Cache, row_P: torch.Tensor, num_hours: int) -> Cache:
    """The first `num_hours` hours of some rows of a cache; `row_P` may name a row more than once."""
    num_tokens = 2 * num_hours + 1  # one static token, then a state and an action token per hour
    return Cache(
        tuple(key[row_P, :, :num_tokens] for key in cache.keys),
        tuple(value[row_P, :, :num_tokens] for value in cache.values),
        cache.hour_BN[row_P, :num_tokens],
        cache.visible_BN[row_P, :num_tokens],
        cache.next_hour_B[row_P],
    )


def _next_actions(z_action_TD: np.ndarray, window: _Window, rollout_hours: int, recorded: bool) -> np.ndarray:
    """Actions [H, D] of the hours after the window: as recorded, or the window's last one repeated."""
    hours = window.stop + np.arange(rollout_hours) if recorded else np.full(rollout_hours, window.stop - 1)
    return np.asarray(z_action_TD[np.minimum(hours, len(z_action_TD) - 1)])


def _pool(z_BTD: np.ndarray, pooling: str) -> np.ndarray:
    return np.concatenate([z_BTD[:, -1] if name == "last" else z_BTD.mean(1) for name in pooling.split("+")], axis=-1)

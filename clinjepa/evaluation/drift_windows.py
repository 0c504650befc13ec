"""Rollouts of the drift evaluation: which windows there are, with which actions they are rolled out, and how far they are off.

A window begins at hour s of a stay. Its first C hours are given; the hour at horizon h is s + C + h − 1. The history is read once per
window; rollouts with several versions of the later actions start from its cached keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import pyarrow as pa
import torch

from clinjepa.evaluation.drift_doses import NO_CHANGE, OTHER_DOSES, LatentsWithDoses
from clinjepa.evaluation.metrics import finite_scores
from clinjepa.evaluation.space import Latents
from clinjepa.evaluation.threads import side_by_side
from clinjepa.model.predictor import Cache, Predictor

MODEL = "recorded"
"""The rollout with the actions that were recorded."""
WRONG_ACTIONS = ("carried_forward", "none", "shuffled", "late")
"""The other rollouts: the last given action repeated; no action tokens; those of another patient; the recorded ones LATE_HOURS late."""
CONTROLS = ("copy_forward", "linear_extrapolation")
LATE_HOURS = 6


@dataclass(frozen=True)
class Windows:
    """Windows of one context, sorted by how far they reach: stay_W, start_W, subject_W, and reach_W, the longest horizon in hours."""

    context: int
    stay_W: np.ndarray
    start_W: np.ndarray
    subject_W: np.ndarray
    reach_W: np.ndarray

    def __len__(self) -> int:
        return len(self.stay_W)

    def num_patients(self, horizon: int) -> int:
        """Patients with a window that reaches the horizon."""
        return len(np.unique(self.subject_W[self.reach_W >= horizon]))


@dataclass(frozen=True)
class Errors:
    """Per window and horizon [W, H], NaN beyond a window's reach: L1 summed over D, centred cosine, norm ratio, and `spread`, the squared
    distance of the prediction to the training mean latent."""

    l1_WH: np.ndarray
    cosine_WH: np.ndarray
    norm_ratio_WH: np.ndarray
    spread_WH: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Errors by method, and of the real latents the L1 and the squared distance to the training mean latent [W, H]."""

    errors: Mapping[str, Errors]
    mean_l1_WH: np.ndarray
    spread_WH: np.ndarray
    first_change_W: np.ndarray
    """Hours from the end of the context to the first action with another dose; NO_CHANGE without one."""


def drift_windows(stays: pa.Table, context: int, starts: Sequence[int], longest: int, max_horizon: int) -> Windows:
    """The windows of all stays from every start that leave at least one hour to predict.

    Args:
        stays: Stays with stay_id, subject_id, num_hours.
        context: Given hours C.
        starts: Hours of a stay at which a window may begin.
        longest: Most hours of context and horizon together.
        max_horizon: Longest horizon that is asked for.
    """
    starts_W = np.repeat(np.array(sorted(set(starts))), stays.num_rows)
    stay_W, subject_W, hours_W = (np.tile(stays[name].to_numpy(), len(set(starts))) for name in ("stay_id", "subject_id", "num_hours"))
    reach_W = np.minimum(np.minimum(hours_W - starts_W, longest) - context, max_horizon)
    order = np.lexsort((starts_W, stay_W, reach_W))
    kept = order[reach_W[order] >= 1]
    return Windows(context, stay_W[kept], starts_W[kept], subject_W[kept], reach_W[kept])


def measure_windows(
    predictor: Predictor, latents: Latents, windows: Windows, horizons: Sequence[int], mean_D: np.ndarray, seed: int, batch_size: int
) -> Measured:
    """Errors of the model, of its rollouts with other actions, and of the controls without a model.

    Args:
        predictor: The predictor, in evaluation mode.
        latents: Latents of the windows' stays; `LatentsWithDoses` for the rollouts with other doses too.
        windows: At least one window.
        horizons: Horizons in hours, ascending.
        mean_D: Training mean latent.
        seed: Seed of the draw of other patients' actions.
        batch_size: Windows of one rollout.
    """
    names = (*_versions(latents), "none", *CONTROLS)
    shape = (len(windows), len(horizons))
    errors = {name: Errors(*(np.full(shape, np.nan) for _ in range(4))) for name in names}
    mean_l1_WH, spread_WH = np.full(shape, np.nan), np.full(shape, np.nan)
    donors_W, first_change_W = _donors(windows.subject_W, seed), np.full(len(windows), NO_CHANGE)
    one_reads = Lock()

    def measure(begin: int) -> None:
        rows = np.arange(begin, min(begin + batch_size, len(windows)))
        with one_reads:
            batch = _read(latents, windows, rows, donors_W)
        first_change_W[rows] = batch.first_change_B
        columns = np.array([column for column, h in enumerate(horizons) if h <= batch.steps])
        steps_H = np.array(horizons)[columns]
        inside_BH = steps_H <= windows.reach_W[rows][:, None]
        at = np.ix_(rows, columns)
        true_BHD = batch.z_state_BTD[:, windows.context + steps_H - 1].astype(np.float64)
        mean_l1_WH[at] = np.abs(true_BHD - mean_D).sum(-1)
        spread_WH[at] = ((true_BHD - mean_D) ** 2).sum(-1)
        for name, predicted_BHD in _predictions(predictor, batch, windows.context, steps_H):
            finite_scores(predicted_BHD[inside_BH], "a predicted latent")
            for target_WH, values_BH in zip(vars(errors[name]).values(), _compare(predicted_BHD, true_BHD, mean_D), strict=True):
                target_WH[at] = np.where(inside_BH, values_BH, np.nan)

    for _ in side_by_side(measure, range(0, len(windows), batch_size), next(predictor.parameters()).device):
        pass
    return Measured(errors, mean_l1_WH, spread_WH, first_change_W)


@dataclass(frozen=True)
class _Batch:
    """Latents of some windows: states NaN beyond a window's reach; actions of hours C … C + steps − 1 by version."""

    z_static_BD: np.ndarray
    z_state_BTD: np.ndarray
    z_action_BCD: np.ndarray
    later_BHD: Mapping[str, np.ndarray]
    first_change_B: np.ndarray
    steps: int


def _versions(latents: Latents) -> tuple[str, ...]:
    """Names of the rollouts that are fed actions."""
    fed = (MODEL, *(name for name in WRONG_ACTIONS if name != "none"))
    return (*fed, OTHER_DOSES) if isinstance(latents, LatentsWithDoses) else fed


def _donors(subject_W: np.ndarray, seed: int) -> np.ndarray:
    """For every window the row of a window of another patient; −1 where all windows are of one patient."""
    rng = np.random.default_rng([seed, 0xAC7])
    donors_W = np.full(len(subject_W), -1)
    for row, subject in enumerate(subject_W):
        others = np.flatnonzero(subject_W != subject)
        if len(others):
            donors_W[row] = rng.choice(others)
    return donors_W


def _read(latents: Latents, windows: Windows, rows: np.ndarray, donors_W: np.ndarray) -> _Batch:
    context, steps = windows.context, int(windows.reach_W[rows].max())
    z_state_BTD = np.full((len(rows), context + steps, latents.dim), np.nan, dtype=np.float32)
    z_static_BD = np.zeros((len(rows), latents.dim), dtype=np.float32)
    z_action_BCD = np.zeros((len(rows), context, latents.dim), dtype=np.float32)
    hours_H = context + np.arange(steps)
    later_BHD = {name: np.zeros((len(rows), steps, latents.dim), dtype=np.float32) for name in _versions(latents)}
    first_change_B = np.full(len(rows), NO_CHANGE)
    for place, row in enumerate(rows):
        num_hours = context + int(windows.reach_W[row])
        z_static_D, z_state_TD, z_action_TD = latents.stay(int(windows.stay_W[row]), int(windows.start_W[row]), num_hours)
        z_static_BD[place], z_state_BTD[place, :num_hours], z_action_BCD[place] = z_static_D, z_state_TD, z_action_TD[:context]
        donor = int(donors_W[row])
        other_TD = z_action_TD
        if donor >= 0:
            donor_hours = context + int(windows.reach_W[donor])
            other_TD = latents.stay(int(windows.stay_W[donor]), int(windows.start_W[donor]), donor_hours)[2]
        last = num_hours - 1
        later_BHD[MODEL][place] = z_action_TD[np.minimum(hours_H, last)]
        later_BHD["carried_forward"][place] = z_action_TD[context - 1]
        later_BHD["shuffled"][place] = other_TD[np.minimum(hours_H, len(other_TD) - 1)]
        later_BHD["late"][place] = z_action_TD[np.clip(hours_H - LATE_HOURS, 0, last)]
        if isinstance(latents, LatentsWithDoses):
            begin = int(windows.start_W[row])
            dosed_TD, first_change_B[place] = latents.other_actions(int(windows.stay_W[row]), begin, context, z_action_TD)
            later_BHD[OTHER_DOSES][place] = dosed_TD[np.minimum(hours_H, last)]
    return _Batch(z_static_BD, z_state_BTD, z_action_BCD, later_BHD, first_change_B, steps)


def _predictions(predictor: Predictor, batch: _Batch, context: int, steps_H: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(method, predicted_BHD float64) at the horizons `steps_H`."""
    device = next(predictor.parameters()).device
    versions = list(batch.later_BHD)
    with torch.no_grad():
        given = (batch.z_static_BD, batch.z_state_BTD[:, :context], batch.z_action_BCD)
        pred_BTD, _, cache = predictor(*(torch.from_numpy(part).to(device) for part in given), keep_cache=True)
        first_B1D = pred_BTD[:, -1:]
        later_BHD = torch.from_numpy(np.concatenate([batch.later_BHD[name] for name in versions])).to(device)
        num_hours = int(steps_H[-1])
        together = roll(predictor, cache.with_room(num_hours, len(versions)), first_B1D.repeat(len(versions), 1, 1), later_BHD, steps_H)
        without = roll(predictor, cache.with_room(num_hours), first_B1D, None, steps_H)
    for number, name in enumerate(versions):
        yield name, together[number * len(first_B1D) : (number + 1) * len(first_B1D)]
    yield "none", without
    last_B1D = batch.z_state_BTD[:, context - 1, None].astype(np.float64)
    slope_B1D = last_B1D - batch.z_state_BTD[:, max(context - 2, 0), None]
    yield "copy_forward", np.repeat(last_B1D, len(steps_H), axis=1)
    yield "linear_extrapolation", last_B1D + steps_H[None, :, None] * slope_B1D


def roll(predictor: Predictor, cache: Cache, state_B1D: torch.Tensor, later_BHD: torch.Tensor | None, steps_H: np.ndarray) -> np.ndarray:
    """Predictions [B, H, D] at the horizons `steps_H`, each hour with its action, or without one where there are none."""
    wanted, kept = set(steps_H.tolist()), []
    for h in range(1, int(steps_H[-1]) + 1):
        if h > 1:
            action_B1D = None if later_BHD is None else later_BHD[:, h - 2 : h - 1]
            state_B1D, _, cache = predictor(None, state_B1D, action_B1D, cache=cache, keep_cache=True)
        if h in wanted:
            kept.append(state_B1D)
    return torch.cat(kept, dim=1).cpu().numpy().astype(np.float64)


def _compare(predicted_BHD: np.ndarray, true_BHD: np.ndarray, mean_D: np.ndarray) -> tuple[np.ndarray, ...]:
    """L1, centred cosine, norm ratio and squared distance to the mean latent [B, H], in the order of `Errors`."""
    centred_predicted, centred_true = predicted_BHD - mean_D, true_BHD - mean_D
    norms = np.linalg.norm(centred_predicted, axis=-1) * np.linalg.norm(centred_true, axis=-1)
    return (
        np.abs(predicted_BHD - true_BHD).sum(-1),
        (centred_predicted * centred_true).sum(-1) / np.maximum(norms, 1e-12),
        np.linalg.norm(predicted_BHD, axis=-1) / np.maximum(np.linalg.norm(true_BHD, axis=-1), 1e-12),
        (centred_predicted**2).sum(-1),
    )

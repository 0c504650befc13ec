"""Rollout drift: the distance between an autoregressive rollout and the latents of the recorded hours.

A rollout starts after the first C hours of a stay and is fed the recorded actions. At horizon h it is compared with the latent of hour
C + h − 1 (h = 1 is the first hour not given). Definitions: Clin-JEPA (arXiv 2605.10840), evaluation of rollouts.
Near-constant predictions drift little. Therefore the L1 relative to the training mean latent, the centred cosine, and two controls without
a model (copy-forward and linear extrapolation) are measured too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import torch

from clinjepa.config.schema import DriftConfig
from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.metrics import patient_draws, patient_index, ratio_draws, sums_by_patient
from clinjepa.evaluation.space import Latents, stays_of, train_mean_latent, trained_windows
from clinjepa.model.predictor import Predictor
from clinjepa.model.rollout import rollout

MIN_PATIENTS = 5
"""A horizon that fewer patients reach is not reported."""
_METHODS = ("model", "copy_forward", "linear_extrapolation")


class Horizon(TypedDict):
    """Measures at one horizon; None where the reference error is 0 or too few patients reach the horizon."""

    l1: Figure | None
    """Mean over stays of the L1 summed over D, latent units."""
    l1_per_dimension: Figure | None
    """The same over D."""
    centred_cosine: Figure | None
    """Mean cosine after the training mean latent is subtracted from both sides."""
    norm_ratio: Figure | None
    """Mean of |z_predicted| / |z|."""
    mase: Figure | None
    """L1 over the L1 of repeating the last given hour's latent."""
    vs_mean: Figure | None
    """L1 over the L1 of the training mean latent."""
    reason: NotRequired[str]
    """Why a measure is None."""


class Curve(TypedDict):
    """Measures of one method by horizon in hours, and its drift L1(h_max) / L1(1) − 1."""

    horizons: dict[str, Horizon]
    drift: Figure | None
    reason: NotRequired[str]
    """Why `drift` is None."""


class ContextDrift(Curve):
    """The model's curve after one context, with the controls' curves. All figures are over the same stays."""

    h_max: int | None
    """Longest horizon that MIN_PATIENTS patients reach, hours."""
    num_stays: int
    """Stays that last C + h_max hours."""
    controls: dict[str, Curve]


def evaluate_drift(
    predictor: Predictor,
    latents: Latents,
    stays: pa.Table,
    settings: DriftConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, ContextDrift]:
    """{context in hours: drift curves}, computed on the predictor's device.

    Args:
        predictor: The trained predictor; it is set to evaluation mode.
        latents: Latents of the stays, from the encoder that the predictor was trained with.
        stays: Stays with stay_id, subject_id, split, num_hours.
        settings: Contexts, horizons and number of bootstrap draws.
        split: The split that is evaluated.
        seed: Seed of the bootstrap and of the training mean's sample.
        batch_size: Stays of one rollout.
    """
    mean_D = train_mean_latent(latents, stays, seed=seed)
    chosen = stays_of(stays, split)
    max_hours = predictor.spec.reach_hours + 1
    predictor = predictor.eval()
    wanted = sorted({1, *settings.horizons})
    lengths_S = np.minimum(chosen["num_hours"].to_numpy(), max_hours)
    subjects_S = chosen["subject_id"].to_numpy()
    result: dict[str, ContextDrift] = {}
    for context in settings.contexts:
        reached = [h for h in wanted if len(np.unique(subjects_S[lengths_S >= context + h])) >= MIN_PATIENTS]
        if not reached:
            result[str(context)] = _unreached(wanted, _too_few(predictor, context, 1))
            continue
        kept = chosen.filter(pa.array(lengths_S >= context + reached[-1]))
        errors = _errors(predictor, latents, kept["stay_id"].to_numpy(), context, reached, mean_D, batch_size)
        draws = _Bootstrap(kept["subject_id"].to_numpy(), settings.num_bootstrap, seed)
        curves = {method: _curve(errors[method], errors, reached, latents.dim, draws) for method in _METHODS}
        model = curves.pop("model")
        for h in sorted(set(wanted) - set(reached)):
            model["horizons"][str(h)] = _unknown_horizon(_too_few(predictor, context, h))
        result[str(context)] = {"h_max": reached[-1], "num_stays": kept.num_rows, **model, "controls": curves}
    return result


def _too_few(predictor: Predictor, context: int, horizon: int) -> str:
    if context + horizon > predictor.spec.reach_hours + 1:
        return f"{context} + {horizon} h are beyond the predictor's reach: {trained_windows(predictor.spec)}"
    return f"fewer than {MIN_PATIENTS} patients have {context} + {horizon} h"


def _unreached(horizons: Sequence[int], reason: str) -> ContextDrift:
    unknown = {str(h): _unknown_horizon(reason) for h in horizons}
    return {"h_max": None, "num_stays": 0, "horizons": unknown, "controls": {}, "drift": None, "reason": reason}


def _unknown_horizon(reason: str) -> Horizon:
    return {
        "l1": None,
        "l1_per_dimension": None,
        "centred_cosine": None,
        "norm_ratio": None,
        "mase": None,
        "vs_mean": None,
        "reason": reason,
    }


@dataclass
class _Errors:
    """Per stay and horizon [S, H]: L1 summed over D, cosine around the training mean, norm ratio; and the L1 of the mean latent."""

    l1_SH: np.ndarray
    cosine_SH: np.ndarray
    norm_ratio_SH: np.ndarray
    mean_l1_SH: np.ndarray


class _Bootstrap:
    """One set of patient resamplings, used for every figure of a context."""

    def __init__(self, subjects_S: np.ndarray, num_draws: int, seed: int) -> None:
        self.index_S, self.num_patients = patient_index(subjects_S)
        self.counts_RP = patient_draws(self.num_patients, num_draws, seed)

    def ratio(self, numerator_S: np.ndarray, denominator_S: np.ndarray, shift: float = 0.0) -> Figure | None:
        """sum(numerator) / sum(denominator) + shift over stays [S]; None where the denominator is 0."""
        numerator_P, denominator_P = (
            sums_by_patient(values_S, self.index_S, self.num_patients) for values_S in (numerator_S, denominator_S)
        )
        if denominator_P.sum() == 0:
            return None
        draws_R = ratio_draws(numerator_P, denominator_P, self.counts_RP)
        return figure(numerator_P.sum() / denominator_P.sum() + shift, draws_R + shift, self.num_patients)


def _curve(errors: _Errors, all_errors: dict[str, _Errors], horizons: Sequence[int], dim: int, draws: _Bootstrap) -> Curve:
    copy_l1_SH = all_errors["copy_forward"].l1_SH
    ones_S = np.ones(len(errors.l1_SH))
    measures: dict[str, Horizon] = {}
    for column, h in enumerate(horizons):
        l1_S = errors.l1_SH[:, column]
        measured: Horizon = {
            "l1": draws.ratio(l1_S, ones_S),
            "l1_per_dimension": draws.ratio(l1_S / dim, ones_S),
            "centred_cosine": draws.ratio(errors.cosine_SH[:, column], ones_S),
            "norm_ratio": draws.ratio(errors.norm_ratio_SH[:, column], ones_S),
            "mase": draws.ratio(l1_S, copy_l1_SH[:, column]),
            "vs_mean": draws.ratio(l1_S, errors.mean_l1_SH[:, column]),
        }
        if None in measured.values():
            measured["reason"] = "the reference error is zero: the latents are constant"
        measures[str(h)] = measured
    if horizons[-1] == 1:
        return {"horizons": measures, "drift": None, "reason": "no horizon beyond 1 h is reached"}
    drift = draws.ratio(errors.l1_SH[:, -1], errors.l1_SH[:, 0], shift=-1.0)
    if drift is None:
        return {"horizons": measures, "drift": None, "reason": "the error at 1 h is exactly 0"}
    return {"horizons": measures, "drift": drift}


def _errors(
    predictor: Predictor,
    latents: Latents,
    stay_ids: np.ndarray,
    context: int,
    horizons: Sequence[int],
    mean_D: np.ndarray,
    batch_size: int,
) -> dict[str, _Errors]:
    """Errors of the model and of both controls at every horizon, over stays that last context + horizons[-1] hours."""
    device = next(predictor.parameters()).device
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {method: [] for method in _METHODS}
    steps_H = np.array(horizons)
    for z_static_BD, z_state_BTD, z_action_BTD in _batches(latents, stay_ids, context + horizons[-1], batch_size):
        given = [torch.from_numpy(part).to(device) for part in (z_static_BD, z_state_BTD[:, :context], z_action_BTD)]
        with torch.no_grad():
            rolled_BHD, _ = rollout(predictor, given[0], given[1], given[2], context, horizons[-1])
        last_BHD = z_state_BTD[:, context - 1, None]
        slope_BHD = last_BHD - z_state_BTD[:, max(context - 2, 0), None]
        predicted = {
            "model": rolled_BHD.float().cpu().numpy()[:, steps_H - 1],
            "copy_forward": np.broadcast_to(last_BHD, (len(last_BHD), len(steps_H), last_BHD.shape[2])),
            "linear_extrapolation": last_BHD + steps_H[None, :, None] * slope_BHD,
        }
        true_BHD = z_state_BTD[:, context + steps_H - 1].astype(np.float64)
        for method, predicted_BHD in predicted.items():
            parts[method].append(_compare(predicted_BHD.astype(np.float64), true_BHD, mean_D))
    return {method: _Errors(*(np.concatenate(columns) for columns in zip(*rows, strict=True))) for method, rows in parts.items()}


def _compare(predicted_BHD: np.ndarray, true_BHD: np.ndarray, mean_D: np.ndarray) -> tuple[np.ndarray, ...]:
    centred_predicted, centred_true = predicted_BHD - mean_D, true_BHD - mean_D
    norms = np.linalg.norm(centred_predicted, axis=-1) * np.linalg.norm(centred_true, axis=-1)
    return (
        np.abs(predicted_BHD - true_BHD).sum(-1),
        (centred_predicted * centred_true).sum(-1) / np.maximum(norms, 1e-12),
        np.linalg.norm(predicted_BHD, axis=-1) / np.maximum(np.linalg.norm(true_BHD, axis=-1), 1e-12),
        np.abs(centred_true).sum(-1),
    )


def _batches(latents: Latents, stay_ids: np.ndarray, num_hours: int, batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """(z_static_BD, z_state_BTD, z_action_BTD) of the first `num_hours` hours of each stay."""
    for start in range(0, len(stay_ids), batch_size):
        rows = [latents.stay(int(stay_id), 0, num_hours) for stay_id in stay_ids[start : start + batch_size]]
        yield tuple(np.stack(column) for column in zip(*rows, strict=True))

"""Rollout drift: how far an autoregressive rollout strays from the latents of the hours that really came.

A rollout starts after the first C hours of a stay, is fed the recorded actions, and is compared at horizon h with the
latent of hour C + h − 1 (h = 1 is the first hour not given). Definitions: Clin-JEPA (arXiv 2605.10840), evaluation of
rollouts. Near-constant predictions drift little, so L1 relative to the training mean latent and the centred cosine
stand beside it, and two controls that need no model: copy-forward and linear extrapolation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from clinjepa.config.schema import DriftConfig
from clinjepa.evaluation.metrics import figure, patient_draws, patient_index, ratio_draws, sums_by_patient, unknown
from clinjepa.evaluation.space import Latents, stays_of, train_mean_latent
from clinjepa.model.predictor import Predictor
from clinjepa.model.rollout import rollout

MIN_PATIENTS = 5
"""A horizon that fewer patients reach is not reported."""
MEASURES = ("l1", "l1_per_dimension", "centred_cosine", "norm_ratio", "mase", "vs_mean")
_METHODS = ("model", "copy_forward", "linear_extrapolation")


def evaluate_drift(
    predictor: Predictor,
    latents: Latents,
    stays: pa.Table,
    settings: DriftConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, Any]:
    """Drift curves per context.

    stays: stay_id, subject_id, split, num_hours. Returns {context: {"h_max", "num_stays", "horizons": {h: {"l1", "l1_per_dimension",
    "centred_cosine", "norm_ratio", "mase", "vs_mean"}}, "drift", "controls": {method: {"horizons", "drift"}}}}. All figures of a context
    are over the same stays, those that last C + h_max hours; h_max is the longest horizon that at least MIN_PATIENTS patients reach.
    l1: mean over stays of the L1 summed over D, in latent units; norm_ratio: mean of |z_predicted| / |z|; mase: L1 over that of repeating
    the last given hour's latent; vs_mean: L1 over that of the training mean latent; drift: L1(h_max) / L1(1) − 1.
    """
    mean_D = train_mean_latent(latents, stays, seed=seed)
    chosen = stays_of(stays, split)
    max_hours = predictor.spec.max_hours
    predictor = predictor.to(device).eval()
    result: dict[str, Any] = {}
    for context in settings.contexts:
        wanted = sorted({1, *settings.horizons})
        lengths_S = np.minimum(chosen["num_hours"].to_numpy(), max_hours)
        subjects_S = chosen["subject_id"].to_numpy()
        reached = [h for h in wanted if len(np.unique(subjects_S[lengths_S >= context + h])) >= MIN_PATIENTS]
        if not reached:
            reason = f"fewer than {MIN_PATIENTS} patients have {context + 1} h within the predictor's {max_hours} h"
            horizons = {str(h): unknown(MEASURES, reason) for h in wanted}
            result[str(context)] = {"h_max": None, "num_stays": 0, "horizons": horizons, "controls": {}, **unknown(["drift"], reason)}
            continue
        kept = chosen.filter(pa.array(lengths_S >= context + reached[-1]))
        errors = _errors(predictor, latents, kept["stay_id"].to_numpy(), context, reached, mean_D, device, batch_size)
        draws = _Bootstrap(kept["subject_id"].to_numpy(), settings.num_bootstrap, seed)
        curves = {method: _curve(errors[method], errors, reached, latents.dim, draws) for method in _METHODS}
        for h in sorted(set(wanted) - set(reached)):
            reason = f"fewer than {MIN_PATIENTS} patients have {context} + {h} h within the predictor's {max_hours} h"
            curves["model"]["horizons"][str(h)] = unknown(MEASURES, reason)
        model = curves.pop("model")
        result[str(context)] = {"h_max": reached[-1], "num_stays": kept.num_rows, **model, "controls": curves}
    return result


@dataclass
class _Errors:
    """Per stay and horizon [S, H]: L1 summed over D, cosine around the training mean, norm ratio; and the L1 of the mean latent."""

    l1_SH: np.ndarray
    cosine_SH: np.ndarray
    norm_ratio_SH: np.ndarray
    mean_l1_SH: np.ndarray


class _Bootstrap:
    """The same patient resamplings for every figure of a context."""

    def __init__(self, subjects_S: np.ndarray, num_draws: int, seed: int) -> None:
        self.index_S, self.num_patients = patient_index(subjects_S)
        self.counts_RP = patient_draws(self.num_patients, num_draws, seed)

    def ratio(self, numerator_S: np.ndarray, denominator_S: np.ndarray, shift: float = 0.0) -> dict[str, Any] | None:
        """sum / sum + shift; None where the denominator is 0."""
        numerator_P, denominator_P = (
            sums_by_patient(values_S, self.index_S, self.num_patients) for values_S in (numerator_S, denominator_S)
        )
        if denominator_P.sum() == 0:
            return None
        draws_R = ratio_draws(numerator_P, denominator_P, self.counts_RP)
        return figure(numerator_P.sum() / denominator_P.sum() + shift, draws_R + shift, self.num_patients)


def _curve(errors: _Errors, all_errors: dict[str, _Errors], horizons: Sequence[int], dim: int, draws: _Bootstrap) -> dict[str, Any]:
    copy_l1_SH = all_errors["copy_forward"].l1_SH
    ones_S = np.ones(len(errors.l1_SH))
    curve: dict[str, Any] = {"horizons": {}}
    for column, h in enumerate(horizons):
        l1_S = errors.l1_SH[:, column]
        measured = {
            "l1": draws.ratio(l1_S, ones_S),
            "l1_per_dimension": draws.ratio(l1_S / dim, ones_S),
            "centred_cosine": draws.ratio(errors.cosine_SH[:, column], ones_S),
            "norm_ratio": draws.ratio(errors.norm_ratio_SH[:, column], ones_S),
            "mase": draws.ratio(l1_S, copy_l1_SH[:, column]),
            "vs_mean": draws.ratio(l1_S, errors.mean_l1_SH[:, column]),
        }
        if None in measured.values():
            measured["reason"] = "the reference never errs: these latents do not move, or are all the same"
        curve["horizons"][str(h)] = measured
    if horizons[-1] == 1:
        return {**curve, **unknown(["drift"], "no horizon beyond 1 h is reached")}
    drift = draws.ratio(errors.l1_SH[:, -1], errors.l1_SH[:, 0], shift=-1.0)
    return {**curve, **({"drift": drift} if drift else unknown(["drift"], "the error at 1 h is exactly 0"))}


def _errors(
    predictor: Predictor,
    latents: Latents,
    stay_ids: np.ndarray,
    context: int,
    horizons: Sequence[int],
    mean_D: np.ndarray,
    device: str,
    batch_size: int,
) -> dict[str, _Errors]:
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

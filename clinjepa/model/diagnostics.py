"""Diagnostics of latents and predictions, logged in every phase beside the loss: they show a collapse that the loss hides.

L1 is not scale-free: it falls when the latent space shrinks, and a near-constant prediction drifts little. Effective rank, spread, the
*centred* cosine, and L1 relative to two trivial forecasts (copy-forward, the global mean latent) therefore complement it. All functions
take valid rows only (the caller removes padding) and return floats, computed in fp32 or finer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NOISE_SHARE = 1e-5
"""Singular values below this share of the uncentred Frobenius norm are rounding errors of fp32 latents and count as 0."""


class Spectrum(NamedTuple):
    """How the variance of latents lies over the directions of their space."""

    rankme: float
    leading_share: float


def spectrum(z_ND: Tensor) -> Spectrum:
    """RankMe and the share of the first principal direction, of latents [N, D] from which their own mean is subtracted.

    `rankme` is the effective rank in [1, min(N - 1, D)]: exp of the entropy of the normalised singular values (RankMe, arXiv 2210.02885;
    there without centring). A mean that all latents share is one direction with a large singular value, so without centring "a mean plus
    one direction" has rank two. `leading_share` in [0, 1] is the largest part of the variance that lies in one direction: noise in many
    directions raises RankMe, and does not hide one direction here. Latents without spread give (1, 1), those with a NaN or an infinity
    (NaN, NaN).
    """
    z_ND = z_ND.detach().double()
    if not torch.isfinite(z_ND).all():
        return Spectrum(float("nan"), float("nan"))
    centred_ND = z_ND - z_ND.mean(dim=0)
    gram = centred_ND.T @ centred_ND if centred_ND.shape[1] <= centred_ND.shape[0] else centred_ND @ centred_ND.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    values = torch.where(values > NOISE_SHARE * z_ND.norm(), values, torch.zeros_like(values))
    total = values.sum()
    if total == 0:
        return Spectrum(1.0, 1.0)
    shares = values / total
    variances = values.square()
    rank = torch.exp(-torch.special.xlogy(shares, shares).sum())
    return Spectrum(float(rank), float(variances.max() / variances.sum()))


def rankme(z_ND: Tensor) -> float:
    """Effective rank of centred latents; see `spectrum`. The one definition of training, alarm and report."""
    return spectrum(z_ND).rankme


def latent_std(z_ND: Tensor) -> float:
    """Standard deviation over rows, averaged over dimensions, in latent units; 0 for fewer than two rows."""
    return float(z_ND.detach().float().std(dim=0).mean()) if len(z_ND) > 1 else 0.0


def latent_norm(z_ND: Tensor) -> float:
    """Mean Euclidean norm of a row, in latent units."""
    return float(z_ND.detach().float().norm(dim=-1).mean())


def centred_cosine(pred_ND: Tensor, target_ND: Tensor, mean_D: Tensor) -> float:
    """Mean cosine of prediction and truth after the global mean latent is subtracted from both, in [-1, 1]."""
    pred, target = pred_ND.detach().float() - mean_D, target_ND.detach().float() - mean_D
    return float(torch.nn.functional.cosine_similarity(pred, target, dim=-1).mean())


def norm_ratio(pred_ND: Tensor, target_ND: Tensor) -> float:
    """Mean norm of the predictions / mean norm of the truth; 1 is ideal, below 1 the predictions are shrunk towards zero."""
    return latent_norm(pred_ND) / max(latent_norm(target_ND), 1e-12)


def mean_l1(pred_ND: Tensor, target_ND: Tensor) -> float:
    """L1 summed over D, averaged over rows, in latent units: the scale of the loss."""
    return float((pred_ND.detach().float() - target_ND.detach().float()).abs().sum(-1).mean())


def latent_diagnostics(z_ND: Tensor) -> dict[str, float]:
    """`latent_std`, `rankme`, `leading_share`, `norm` of latents [N, D]."""
    return {"latent_std": latent_std(z_ND), **spectrum(z_ND)._asdict(), "norm": latent_norm(z_ND)}


def prediction_diagnostics(pred_ND: Tensor, target_ND: Tensor, current_ND: Tensor, mean_D: Tensor) -> dict[str, float]:
    """Predictions of the next hour's latents against the truth and against two trivial forecasts.

    Args:
        pred_ND: predictions.
        target_ND: the next hour's latents.
        current_ND: latents of the hours predicted from; they are the copy-forward forecast.
        mean_D: the mean latent of training hours; the report's `vs_mean` has the same denominator.

    Returns:
        {l1, centred_cosine, norm_ratio, l1_vs_copy, l1_vs_mean}. The last two are L1 divided by that of the trivial forecast; below 1 is
        better than that forecast.
    """
    l1 = mean_l1(pred_ND, target_ND)
    return {
        "l1": l1,
        "centred_cosine": centred_cosine(pred_ND, target_ND, mean_D),
        "norm_ratio": norm_ratio(pred_ND, target_ND),
        "l1_vs_copy": l1 / max(mean_l1(current_ND, target_ND), 1e-12),
        "l1_vs_mean": l1 / max(mean_l1(mean_D.expand_as(target_ND), target_ND), 1e-12),
    }

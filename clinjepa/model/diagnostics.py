"""Diagnostics of latents and predictions, logged in every phase beside the loss: they show a collapse that the loss hides.

L1 is not scale-free: it falls when the latent space shrinks, and a near-constant prediction drifts little. Effective rank, spread, the
*centred* cosine, and L1 relative to two trivial forecasts (copy-forward, the global mean latent) therefore complement it. All functions
take valid rows only (the caller removes padding) and return floats, computed in fp32 or finer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(z_ND: Tensor) -> float:
    """Effective rank in [1, min(N, D)]: exp of the entropy of the normalised singular values. Source: RankMe (arXiv 2210.02885).

    Not centred: identical latents give 1, and so does a latent space of zeros.
    """
    values = torch.linalg.svdvals(z_ND.detach().double())
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


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
    """`latent_std`, `rankme`, `norm` of latents [N, D]."""
    return {"latent_std": latent_std(z_ND), "rankme": rankme(z_ND), "norm": latent_norm(z_ND)}


def prediction_diagnostics(pred_ND: Tensor, target_ND: Tensor, current_ND: Tensor, mean_D: Tensor) -> dict[str, float]:
    """Predictions of the next hour's latents against the truth and against two trivial forecasts.

    Args:
        pred_ND: predictions.
        target_ND: the next hour's latents.
        current_ND: latents of the hours predicted from; they are the copy-forward forecast.
        mean_D: the global mean latent.

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

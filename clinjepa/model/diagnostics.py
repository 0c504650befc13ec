"""Figures that tell a good latent space and a good prediction from a shrinking one; logged in every phase next to the loss.

L1 is not scale-free: it falls when a space shrinks, and a near-constant prediction hardly drifts. So the effective rank, the
spread, the *centred* cosine and L1 relative to two trivial forecasts (copy-forward, the global mean latent) belong beside it.
All functions take rows that count only: the caller leaves padding out. Figures are floats, computed in fp32 or finer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(z_ND: Tensor) -> float:
    """Effective rank in [1, min(N, D)]: exp of the entropy of the normalised singular values. Source: RankMe (arXiv 2210.02885).

    Not centred: latents that are all alike give 1. A latent space of zeros gives 1.
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
    """Mean cosine of prediction and truth after the global mean latent is taken off both, in [-1, 1]."""
    pred, target = pred_ND.detach().float() - mean_D, target_ND.detach().float() - mean_D
    return float(torch.nn.functional.cosine_similarity(pred, target, dim=-1).mean())


def norm_ratio(pred_ND: Tensor, target_ND: Tensor) -> float:
    """Mean norm of the predictions over mean norm of the truth; 1 is right, below 1 is a prediction that hedges."""
    return latent_norm(pred_ND) / max(latent_norm(target_ND), 1e-12)


def mean_l1(pred_ND: Tensor, target_ND: Tensor) -> float:
    """L1 summed over D, mean over rows, in latent units: the loss's own scale."""
    return float((pred_ND.detach().float() - target_ND.detach().float()).abs().sum(-1).mean())


def latent_diagnostics(z_ND: Tensor) -> dict[str, float]:
    """`latent_std`, `rankme`, `norm` of latents [N, D]."""
    return {"latent_std": latent_std(z_ND), "rankme": rankme(z_ND), "norm": latent_norm(z_ND)}


def prediction_diagnostics(pred_ND: Tensor, target_ND: Tensor, current_ND: Tensor, mean_D: Tensor) -> dict[str, float]:
    """How predictions [N, D] of the next hour's latents compare with the truth and with two trivial forecasts.

    current_ND: latents of the hours predicted from (copy-forward); mean_D: the global mean latent. `l1_vs_copy` and
    `l1_vs_mean` are L1 over the trivial forecast's L1: below 1 is better than it.
    """
    l1 = mean_l1(pred_ND, target_ND)
    return {
        "l1": l1,
        "centred_cosine": centred_cosine(pred_ND, target_ND, mean_D),
        "norm_ratio": norm_ratio(pred_ND, target_ND),
        "l1_vs_copy": l1 / max(mean_l1(current_ND, target_ND), 1e-12),
        "l1_vs_mean": l1 / max(mean_l1(mean_D.expand_as(target_ND), target_ND), 1e-12),
    }

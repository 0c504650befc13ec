"""The latent space: the stays of a split, the training mean latent, sampled hours, and diagnostics of collapse.

The mean that other measures subtract comes from the training split only. The diagnostics are centred statistics and the effective rank,
because the norm hides collapse: a final RMSNorm holds it near sqrt(D).
"""

from __future__ import annotations

from typing import NotRequired, Protocol, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from clinjepa.model.diagnostics import spectrum
from clinjepa.model.specs import PredictorSpec


class Space(TypedDict):
    """Collapse diagnostics of a sample of hour latents; None, with a reason, for fewer than two hours."""

    latent_std: float | None
    """Mean over dimensions of the standard deviation over hours, latent units."""
    rankme: float | None
    """Effective rank of the centred latents (`clinjepa.model.diagnostics.spectrum`, as in training)."""
    leading_share: float | None
    """Share of the variance in the first principal direction."""
    isotropy: float | None
    """Participation ratio of the covariance over the dimensions: 1 / D for one direction, 1 for equal variance in all."""
    norm: float | None
    """Mean L2 norm, latent units."""
    cosine_of_random_hours: float | None
    """Mean cosine of unrelated hours; 1 when all latents point the same way."""
    num_hours: int
    """Size of the sample."""
    reason: NotRequired[str]


class Latents(Protocol):
    """What evaluation needs of a latent store (`clinjepa.trajectory.tokens.latent_store.LatentReader`)."""

    @property
    def dim(self) -> int: ...

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z_static_D, z_state_TD, z_action_TD of a stay's hours, float32."""
        ...


def trained_windows(spec: PredictorSpec) -> str:
    """The part of a sentence that says how far the positions of a predictor were trained."""
    return f"its training windows have at most {spec.reach_hours + 1} h, and positions beyond them were never trained"


def stays_of(stays: pa.Table, split: str) -> pa.Table:
    """The stays of one split, sorted by stay_id. Needs stay_id, subject_id, split, num_hours."""
    return stays.filter(pc.equal(stays["split"], split)).sort_by("stay_id")


def train_mean_latent(latents: Latents, stays: pa.Table, *, max_stays: int = 5000, seed: int = 0) -> np.ndarray:
    """Mean state latent over all hours of the training stays [D] float32 (of a seeded draw of `max_stays` when there are more)."""
    stay_ids = stays_of(stays, "train")["stay_id"].to_numpy()
    if len(stay_ids) == 0:
        raise ValueError("the training split has no stays to take the mean latent from")
    if len(stay_ids) > max_stays:
        stay_ids = np.sort(np.random.default_rng([seed, 0x3EA]).choice(stay_ids, max_stays, replace=False))
    total_D, num_hours = np.zeros(latents.dim), 0
    for stay_id in stay_ids:
        z_state_TD = latents.stay(int(stay_id))[1]
        total_D += z_state_TD.sum(0, dtype=np.float64)
        num_hours += len(z_state_TD)
    return (total_D / num_hours).astype(np.float32)


def sample_hours(stays: pa.Table, split: str, num_hours: int, seed: int) -> list[tuple[int, np.ndarray]]:
    """About `num_hours` hours of a split, drawn without replacement: [(stay_id, hours ascending)], sorted by stay_id."""
    chosen = stays_of(stays, split)
    lengths_S = chosen["num_hours"].to_numpy().astype(np.int64)
    ends_S = np.cumsum(lengths_S)
    total = int(ends_S[-1]) if len(ends_S) else 0
    picked_N = np.arange(total)
    if total > num_hours:
        picked_N = np.sort(np.random.default_rng([seed, 0x40]).choice(total, num_hours, replace=False))
    owner_N = np.searchsorted(ends_S, picked_N, side="right")
    hours_N = picked_N - (ends_S - lengths_S)[owner_N]
    stay_ids = chosen["stay_id"].to_numpy()
    groups = np.split(hours_N, np.flatnonzero(np.diff(owner_N)) + 1) if len(picked_N) else []
    return [(int(stay_ids[owner]), hours) for owner, hours in zip(np.unique(owner_N), groups, strict=True)]


def gather_hours(latents: Latents, hours: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """State latents of sampled hours [N, D] float32, in the order of `hours`."""
    if not hours:
        return np.zeros((0, latents.dim), dtype=np.float32)
    return np.concatenate([latents.stay(stay_id)[1][hours_n] for stay_id, hours_n in hours])


def describe_space(latents: Latents, stays: pa.Table, split: str = "held_out", *, num_hours: int = 4096, seed: int = 0) -> Space:
    """Collapse diagnostics of about `num_hours` hour latents of one split."""
    z_ND = gather_hours(latents, sample_hours(stays, split, num_hours, seed)).astype(np.float64)
    if len(z_ND) < 2:
        return {
            "latent_std": None,
            "rankme": None,
            "leading_share": None,
            "isotropy": None,
            "norm": None,
            "cosine_of_random_hours": None,
            "num_hours": len(z_ND),
            "reason": f"fewer than two hours in {split}",
        }
    found = spectrum(torch.from_numpy(z_ND))
    norms_N = np.linalg.norm(z_ND, axis=1)
    other_N = np.random.default_rng([seed, 0xC05]).permutation(len(z_ND))
    other_N = np.where(other_N == np.arange(len(z_ND)), (other_N + 1) % len(z_ND), other_N)
    cosine_N = (z_ND * z_ND[other_N]).sum(1) / np.maximum(norms_N * norms_N[other_N], 1e-12)
    return {
        "latent_std": float(z_ND.std(0).mean()),
        "rankme": found.rankme,
        "leading_share": found.leading_share,
        "isotropy": isotropy(z_ND),
        "norm": float(norms_N.mean()),
        "cosine_of_random_hours": float(cosine_N.mean()),
        "num_hours": len(z_ND),
    }


def isotropy(z_ND: np.ndarray) -> float:
    """Participation ratio of the covariance's eigenvalues, (Σ λ)² / Σ λ², over D: in [1 / D, 1]; 1 / D without spread."""
    centred_ND = z_ND - z_ND.mean(0)
    gram = centred_ND.T @ centred_ND if z_ND.shape[1] <= z_ND.shape[0] else centred_ND @ centred_ND.T
    squares = float((gram**2).sum())
    return float(np.trace(gram) ** 2 / squares / z_ND.shape[1]) if squares > 0 else 1.0 / z_ND.shape[1]

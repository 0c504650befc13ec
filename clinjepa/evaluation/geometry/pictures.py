"""Pictures of the latent space: sampled hours in two dimensions by UMAP and by PCA, with the paths of a cohort's two centres.

PCA is linear: the path of a centre is the projection of the mean latents, and distances are shares of the real ones. UMAP bends distances;
there a centre stands at the mean place of the sampled hours nearest to it. A centre is a mean over at least MIN_PAIRS stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.geometry.cohorts import Cohort, Pair
from clinjepa.evaluation.geometry.compiled_umap import umap_class
from clinjepa.evaluation.geometry.movement import MIN_PAIRS
from clinjepa.evaluation.space import Latents, gather_hours, sample_hours

MIN_POINTS = 20
NEAREST = 15
"""Sampled hours whose mean place stands for a centre on the UMAP picture."""


class Picture(TypedDict):
    """Coordinates [N, 2] and the group of each point; None with a reason where there are too few hours."""

    points: list[list[float]] | None
    groups: list[str] | None
    cohort: NotRequired[str]
    paths: NotRequired[dict[str, list[list[float]]]]
    """Group -> places of its centre at t0, t0 + 1 h, … t0 + k; absent for fewer than MIN_PAIRS pairs."""
    explained: NotRequired[list[float]]
    """PCA: shares of the variance in the two directions."""
    reason: NotRequired[str]


class Pictures(TypedDict):
    """Both pictures of a space; `umap` only where it is asked for."""

    pca: Picture
    umap: NotRequired[Picture]


class Shown(NamedTuple):
    """The cohort whose groups and paths are drawn, with its matched pairs and the length of the paths."""

    cohort: Cohort
    pairs: Sequence[Pair]
    k_hours: int


def space_pictures(latents: Latents, stays: pa.Table, shown: Shown, settings: GeometryConfig, *, split: str, seed: int) -> Pictures:
    """PCA and, with `settings.umap`, UMAP of sampled hour latents in random order; no point can be traced to a patient.

    The group of a point is `deteriorating` (from t0 on), `stable`, or `other` (before t0, or in neither cohort).

    Args:
        latents: Latents of the stays.
        stays: Stays with stay_id, subject_id, split, num_hours.
        shown: The cohort that gives the groups and the paths.
        settings: Hours that are drawn at most, and whether UMAP is computed.
        split: The split that the hours are drawn from.
        seed: Seed of the draw, the order and UMAP.
    """
    hours = sample_hours(stays, split, settings.max_umap_points, seed)
    z_ND = gather_hours(latents, hours)
    if len(z_ND) < MIN_POINTS:
        reason = f"{len(z_ND)} hours in {split}; at least {MIN_POINTS} are needed for a picture"
        none: Picture = {"points": None, "groups": None, "reason": reason}
        return {"pca": none, "umap": none} if settings.umap else {"pca": none}
    groups = np.concatenate([_groups(shown.cohort, stay_id, hours_n) for stay_id, hours_n in hours])
    order = np.random.default_rng([seed, 0x0DE]).permutation(len(z_ND))
    z_ND, named = z_ND[order].astype(np.float64), groups[order].tolist()
    centres = _centres(latents, shown.pairs, shown.k_hours)
    found: Pictures = {"pca": {**_pca(z_ND, centres), "groups": named, "cohort": shown.cohort.name}}
    if settings.umap:
        found["umap"] = {**_umap(z_ND, centres, seed), "groups": named, "cohort": shown.cohort.name}
    return found


def _centres(latents: Latents, pairs: Sequence[Pair], k_hours: int) -> dict[str, np.ndarray]:
    """Group -> mean latents [k + 1, D] from t0 to t0 + k; empty for fewer than MIN_PAIRS pairs."""
    if len(pairs) < MIN_PAIRS:
        return {}
    sides = {
        "deteriorating": [(pair.deteriorating, pair.t0) for pair in pairs],
        "stable": [(pair.stable, pair.t0) for pair in pairs],
    }
    means = {}
    for name, starts in sides.items():
        total_KD = np.zeros((k_hours + 1, latents.dim))
        for stay_id, t0 in starts:
            total_KD += latents.stay(stay_id, t0, k_hours + 1)[1]
        means[name] = total_KD / len(starts)
    return means


def _pca(z_ND: np.ndarray, centres: dict[str, np.ndarray]) -> Picture:
    mean_D = z_ND.mean(0)
    _, values, directions = np.linalg.svd(_reduced(z_ND - mean_D), full_matrices=False)
    axes_2D = directions[:2] * np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(1)])[:, None]
    variance = float(((z_ND - mean_D) ** 2).sum())
    return {
        "points": _rounded((z_ND - mean_D) @ axes_2D.T),
        "groups": None,
        "paths": {name: _rounded((path_KD - mean_D) @ axes_2D.T) for name, path_KD in centres.items()},
        "explained": [float(share) for share in values[:2] ** 2 / max(variance, 1e-300)],
    }


def _reduced(centred_ND: np.ndarray) -> np.ndarray:
    """Rows with the same right singular vectors and values, at most D of them."""
    return np.asarray(np.linalg.qr(centred_ND, mode="r")) if centred_ND.shape[0] > centred_ND.shape[1] else centred_ND


def _umap(z_ND: np.ndarray, centres: dict[str, np.ndarray], seed: int) -> Picture:
    from sklearn.decomposition import PCA  # here: it takes a second to import, and nothing else needs it

    if z_ND.shape[1] > 50 and len(z_ND) > 50:
        reduction = PCA(50, svd_solver="randomized", random_state=seed).fit(z_ND)
        z_ND = reduction.transform(z_ND)
        centres = {name: reduction.transform(path_KD) for name, path_KD in centres.items()}
    umap = umap_class()(n_neighbors=min(15, len(z_ND) - 1), min_dist=0.1, random_state=seed, n_jobs=1, init="pca")
    picture_N2 = umap.fit_transform(z_ND.astype(np.float32)).astype(np.float64)
    paths = {name: _rounded(np.stack([_place(z_ND, picture_N2, z_D) for z_D in path_KD])) for name, path_KD in centres.items()}
    return {"points": _rounded(picture_N2), "groups": None, "paths": paths}


def _place(z_ND: np.ndarray, picture_N2: np.ndarray, z_D: np.ndarray) -> np.ndarray:
    """Mean place of the sampled hours nearest to a latent."""
    nearest = np.argsort(((z_ND - z_D) ** 2).sum(1), kind="stable")[:NEAREST]
    return np.asarray(picture_N2[nearest].mean(0))


def _rounded(points_N2: np.ndarray) -> list[list[float]]:
    return np.round(points_N2, 3).tolist()  # type: ignore[no-any-return]


def _groups(cohort: Cohort, stay_id: int, hours: np.ndarray) -> np.ndarray:
    if stay_id in cohort.deteriorating:
        return np.where(hours >= cohort.deteriorating[stay_id], "deteriorating", "other")
    return np.full(len(hours), "stable" if stay_id in cohort.stable else "other")

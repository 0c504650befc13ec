"""Latent geometry: the displacement of deteriorating patients over that of stable ones, and a UMAP picture of the space.

The ratio is measured in the encoder's native space, without a probe or projection. It is the ratio of centroid displacements of Clin-JEPA
(arXiv 2605.10840), with the noise removed as `centroid_ratio.py` describes. The paper's cohorts are not public; `cohorts.py` defines
the ones used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.geometry.centroid_ratio import centroid_ratio, group_sums, linked_groups
from clinjepa.evaluation.geometry.cohorts import Cohort, Pair, death_cohort, match, onset_cohort
from clinjepa.evaluation.geometry.compiled_umap import umap_class
from clinjepa.evaluation.metrics import patient_draws, ratio_draws
from clinjepa.evaluation.space import Latents, Space, describe_space, gather_hours, sample_hours, stays_of

MIN_PAIRS = 5
"""Fewer matched pairs than this give no ratio."""
MIN_UMAP_POINTS = 20


class Ratios(TypedDict):
    """Displacement from t0 to t0 + k of the deteriorating over that of the stable; intervals are over patients."""

    ratio: Figure | None
    """Length of the mean displacement vectors without the part of noise (`centroid_ratio`), with its interval."""
    plain_ratio: NotRequired[Figure]
    """The same with the noise, for comparison with other work; without an interval."""
    mean_displacement_ratio: Figure | None
    """Means of the stays' own L1 displacements, with a bootstrap."""
    reason: NotRequired[str]
    """Why `ratio` is None."""
    interval_reason: NotRequired[str]
    """Why `ratio` has no interval."""


class PairedRatios(Ratios):
    """The ratios at one k, with the matched pairs that they rest on."""

    num_pairs: int


class HeadlineRatio(TypedDict):
    """The ratio at the headline k, as in `Ratios`."""

    ratio: Figure | None
    reason: NotRequired[str]
    plain_ratio: NotRequired[Figure]
    interval_reason: NotRequired[str]


class CohortGeometry(HeadlineRatio):
    """A cohort's ratio at the headline k, and all its ratios by k in hours."""

    cohort: str
    definition: str
    k_hours: int
    num_deteriorating: int
    num_stable: int
    by_k: dict[str, PairedRatios]


class Picture(TypedDict):
    """UMAP coordinates [N, 2] and the group of each point; None with a reason where there are too few hours."""

    points: list[list[float]] | None
    groups: list[str] | None
    cohort: NotRequired[str]
    reason: NotRequired[str]


class Geometry(CohortGeometry):
    """The death cohort's geometry, that of the onset cohorts by name, and the diagnostics of the space."""

    cohorts: dict[str, CohortGeometry]
    space: Space


class PicturedGeometry(Geometry):
    """The same with the picture of the space."""

    umap: Picture


def evaluate_geometry(
    latents: Latents,
    stays: pa.Table,
    labels: pa.Table,
    onset_tasks: Mapping[str, int],
    settings: GeometryConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
) -> Geometry | PicturedGeometry:
    """Displacement ratios of every cohort, diagnostics of the latent space, and its UMAP picture.

    Args:
        latents: Latents of the stays.
        stays: The ingest's `stays.parquet`.
        labels: Label table with stay_id, task, hour, label.
        onset_tasks: {early-event task: its horizon in hours}; each is a cohort beside the death cohort.
        settings: Displacement hours k, number of bootstrap draws, and whether to make the picture.
        split: The split that is evaluated.
        seed: Seed of the matching, the bootstrap and the picture.
    """
    chosen = stays_of(stays, split)
    subjects = dict(zip(chosen["stay_id"].to_pylist(), chosen["subject_id"].to_pylist(), strict=True))
    lengths = dict(zip(chosen["stay_id"].to_pylist(), chosen["num_hours"].to_pylist(), strict=True))

    def measure(cohort: Cohort) -> CohortGeometry:
        by_k: dict[str, PairedRatios] = {}
        for k in sorted({settings.headline_k, *settings.k_hours}):
            pairs = match(cohort, lengths, k, seed)
            by_k[str(k)] = {**displacement_ratios(latents, pairs, k, subjects, settings.num_bootstrap, seed), "num_pairs": len(pairs)}
        return _cohort_geometry(cohort, settings.headline_k, by_k)

    headline = death_cohort(chosen)
    onsets = [onset_cohort(chosen, labels, task, horizon) for task, horizon in onset_tasks.items()]
    result: Geometry = {
        **measure(headline),
        "cohorts": {cohort.name: measure(cohort) for cohort in onsets},
        "space": describe_space(latents, stays, split, seed=seed),
    }
    if settings.umap:
        return {**result, "umap": umap_picture(latents, stays, headline, settings.max_umap_points, split, seed)}
    return result


def _cohort_geometry(cohort: Cohort, headline_k: int, by_k: dict[str, PairedRatios]) -> CohortGeometry:
    first = by_k[str(headline_k)]
    headline: HeadlineRatio = {"ratio": first["ratio"]}
    if "reason" in first:
        headline["reason"] = first["reason"]
    if "plain_ratio" in first:
        headline["plain_ratio"] = first["plain_ratio"]
    if "interval_reason" in first:
        headline["interval_reason"] = first["interval_reason"]
    return {
        **headline,
        "cohort": cohort.name,
        "definition": cohort.definition,
        "k_hours": headline_k,
        "num_deteriorating": len(cohort.deteriorating),
        "num_stable": len(cohort.stable),
        "by_k": by_k,
    }


def displacement_ratios(
    latents: Latents, pairs: list[Pair], k_hours: int, subjects: Mapping[int, int], num_bootstrap: int, seed: int
) -> Ratios:
    """The displacement ratios of matched pairs; `ratio` is None, with a reason, where it cannot be estimated.

    A patient may be in several pairs. Therefore groups of pairs that share no patient with another group are resampled or left out.

    Args:
        latents: Latents of the pairs' stays.
        pairs: Pairs that last beyond t0 + k.
        k_hours: Hours of the displacement.
        subjects: Patient of each stay.
        num_bootstrap: Number of resamplings of the groups.
        seed: Seed of the resamplings.
    """
    if len(pairs) < MIN_PAIRS:
        return _unknown(f"{len(pairs)} matched pairs last {k_hours} h beyond t0; at least {MIN_PAIRS} are needed")
    patients = [(subjects[pair.deteriorating], subjects[pair.stable]) for pair in pairs]
    group_P = linked_groups(patients)
    num_groups = int(group_P.max()) + 1
    if num_groups < MIN_PAIRS:
        return _unknown(f"{len(pairs)} matched pairs of {num_groups} groups without a common patient; {MIN_PAIRS} are needed")
    moved_PD = _displacements(latents, [(pair.deteriorating, pair.t0) for pair in pairs], k_hours)
    stable_PD = _displacements(latents, [(pair.stable, pair.t0) for pair in pairs], k_hours)
    if not stable_PD.any():
        return _unknown("the stable cohort does not move at all: the latent space has collapsed")
    num_patients = len({patient for pair in patients for patient in pair})
    moved_G1, stable_G1 = (group_sums(np.abs(rows_PD).sum(1, keepdims=True), group_P) for rows_PD in (moved_PD, stable_PD))
    draws_R = ratio_draws(moved_G1[:, 0], stable_G1[:, 0], patient_draws(num_groups, num_bootstrap, seed))
    found: Ratios = {
        "ratio": None,
        "plain_ratio": figure(float(np.linalg.norm(moved_PD.sum(0)) / np.linalg.norm(stable_PD.sum(0))), None, num_patients),
        "mean_displacement_ratio": figure(moved_G1.sum() / stable_G1.sum(), draws_R, num_patients),
    }
    value, interval = centroid_ratio(group_sums(moved_PD, group_P), group_sums(stable_PD, group_P))
    if not np.isfinite(value):
        found["reason"] = "the stable stays' mean displacement cannot be told from noise, so nothing can be divided by it"
        return found
    found["ratio"] = {**figure(value, None, num_patients), "ci95": None if interval is None else list(interval)}
    if interval is None:
        found["interval_reason"] = "the stable stays' mean displacement is too near to noise: the ratio has no upper bound"
    return found


def _unknown(reason: str) -> Ratios:
    return {"ratio": None, "mean_displacement_ratio": None, "reason": reason}


def umap_picture(latents: Latents, stays: pa.Table, cohort: Cohort, max_points: int, split: str, seed: int) -> Picture:
    """UMAP coordinates of sampled hour latents in random order; no point can be traced to a patient.

    The group of a point is `deteriorating` (from t0 on), `stable`, or `other` (before t0, or in neither cohort).

    Args:
        latents: Latents of the stays.
        stays: Stays with stay_id, subject_id, split, num_hours.
        cohort: The cohort that gives the groups.
        max_points: Hours that are drawn at most.
        split: The split that they are drawn from.
        seed: Seed of the draw, the order and UMAP.
    """
    hours = sample_hours(stays, split, max_points, seed)
    z_ND = gather_hours(latents, hours)
    if len(z_ND) < MIN_UMAP_POINTS:
        reason = f"{len(z_ND)} hours in {split}; at least {MIN_UMAP_POINTS} are needed for a picture"
        return {"points": None, "groups": None, "reason": reason}
    groups = np.concatenate([_groups(cohort, stay_id, hours_n) for stay_id, hours_n in hours])
    order = np.random.default_rng([seed, 0x0DE]).permutation(len(z_ND))
    from sklearn.decomposition import PCA  # here: it takes a second to import, and nothing else needs it

    z_ND = z_ND[order]
    if z_ND.shape[1] > 50 and len(z_ND) > 50:
        z_ND = PCA(50, svd_solver="randomized", random_state=seed).fit_transform(z_ND)
    umap = umap_class()(n_neighbors=min(15, len(z_ND) - 1), min_dist=0.1, random_state=seed, n_jobs=1, init="pca")
    picture_N2 = umap.fit_transform(z_ND)
    return {"points": np.round(picture_N2.astype(np.float64), 3).tolist(), "groups": groups[order].tolist(), "cohort": cohort.name}


def _displacements(latents: Latents, starts: list[tuple[int, int]], k_hours: int) -> np.ndarray:
    states = (latents.stay(stay_id, t0, k_hours + 1)[1] for stay_id, t0 in starts)
    return np.stack([z_state_TD[-1].astype(np.float64) - z_state_TD[0] for z_state_TD in states])


def _groups(cohort: Cohort, stay_id: int, hours: np.ndarray) -> np.ndarray:
    if stay_id in cohort.deteriorating:
        return np.where(hours >= cohort.deteriorating[stay_id], "deteriorating", "other")
    return np.full(len(hours), "stable" if stay_id in cohort.stable else "other")

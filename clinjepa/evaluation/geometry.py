"""Latent geometry: do deteriorating patients move further through the encoder's space than stable ones, and a picture of it.

Measured in the encoder's native space, without any probe or projection. Definitions: ratio of centroid displacements as
in Clin-JEPA (arXiv 2605.10840), freed of noise as `centroid_ratio.py` says; its cohorts not being public, `cohorts.py` names
the ones used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.centroid_ratio import centroid_ratio, group_sums, linked_groups
from clinjepa.evaluation.cohorts import Cohort, Pair, death_cohort, match, onset_cohort
from clinjepa.evaluation.metrics import figure, patient_draws, ratio_draws, unknown
from clinjepa.evaluation.space import Latents, describe_space, gather_hours, sample_hours, stays_of

MIN_PAIRS = 5
"""Fewer matched pairs than this give no ratio."""
MIN_UMAP_POINTS = 20
_RATIOS = ("ratio", "mean_displacement_ratio")


def evaluate_geometry(
    latents: Latents,
    stays: pa.Table,
    labels: pa.Table,
    onset_tasks: Mapping[str, int],
    settings: GeometryConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
) -> dict[str, Any]:
    """Displacement ratios of every cohort and the UMAP picture.

    stays: ingest `stays.parquet`; labels: label table; onset_tasks: {early-event task: its horizon in hours}. Returns the death cohort's
    {"ratio" (centroid ratio at headline_k), "cohort", "definition", "k_hours", "num_deteriorating", "num_stable", "by_k": {k: {"ratio",
    "mean_displacement_ratio", "num_pairs"}}}, the same of the onset cohorts under "cohorts" by name, "space" (`describe_space`) and "umap".
    """
    chosen = stays_of(stays, split)
    subjects = dict(zip(chosen["stay_id"].to_pylist(), chosen["subject_id"].to_pylist(), strict=True))
    lengths = dict(zip(chosen["stay_id"].to_pylist(), chosen["num_hours"].to_pylist(), strict=True))

    def measure(cohort: Cohort) -> dict[str, Any]:
        by_k = {}
        for k in sorted({settings.headline_k, *settings.k_hours}):
            pairs = match(cohort, lengths, k, seed)
            by_k[str(k)] = {**displacement_ratios(latents, pairs, k, subjects, settings.num_bootstrap, seed), "num_pairs": len(pairs)}
        first = by_k[str(settings.headline_k)]
        return {
            **{name: first[name] for name in ("ratio", "reason", "plain_ratio", "interval_reason") if name in first},
            "cohort": cohort.name,
            "definition": cohort.definition,
            "k_hours": settings.headline_k,
            "num_deteriorating": len(cohort.deteriorating),
            "num_stable": len(cohort.stable),
            "by_k": by_k,
        }

    headline = death_cohort(chosen)
    onsets = [onset_cohort(chosen, labels, task, horizon) for task, horizon in onset_tasks.items()]
    result = {**measure(headline), "cohorts": {cohort.name: measure(cohort) for cohort in onsets}}
    result["space"] = describe_space(latents, stays, split, seed=seed)
    if settings.umap:
        result["umap"] = umap_picture(latents, stays, headline, settings.max_umap_points, split, seed)
    return result


def displacement_ratios(
    latents: Latents, pairs: list[Pair], k_hours: int, subjects: Mapping[int, int], num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Displacement from t0 to t0 + k of the deteriorating over that of the stable; intervals are over patients.

    ratio: lengths of the mean displacement vectors, without what noise adds (`centroid_ratio`, with its interval); plain_ratio: the same
    as they are, to compare with other work, without an interval; mean_displacement_ratio: means of the stays' own L1 displacements, with
    a bootstrap. A patient may stand in several pairs, so what is resampled or left out are groups of pairs that share no patient
    with another group. interval_reason: why `ratio` has no interval.
    """
    if len(pairs) < MIN_PAIRS:
        return unknown(_RATIOS, f"{len(pairs)} matched pairs last {k_hours} h beyond t0; at least {MIN_PAIRS} are needed")
    patients = [(subjects[pair.deteriorating], subjects[pair.stable]) for pair in pairs]
    group_P = linked_groups(patients)
    num_groups = int(group_P.max()) + 1
    if num_groups < MIN_PAIRS:
        return unknown(_RATIOS, f"{len(pairs)} matched pairs of {num_groups} groups without a common patient; {MIN_PAIRS} are needed")
    moved_PD = _displacements(latents, [(pair.deteriorating, pair.t0) for pair in pairs], k_hours)
    stable_PD = _displacements(latents, [(pair.stable, pair.t0) for pair in pairs], k_hours)
    if not stable_PD.any():
        return unknown(_RATIOS, "the stable cohort does not move at all: the latent space has collapsed")
    num_patients = len({patient for pair in patients for patient in pair})
    moved_G1, stable_G1 = (group_sums(np.abs(rows_PD).sum(1, keepdims=True), group_P) for rows_PD in (moved_PD, stable_PD))
    draws_R = ratio_draws(moved_G1[:, 0], stable_G1[:, 0], patient_draws(num_groups, num_bootstrap, seed))
    found: dict[str, Any] = {
        "ratio": None,
        "plain_ratio": figure(np.linalg.norm(moved_PD.sum(0)) / np.linalg.norm(stable_PD.sum(0)), None, num_patients),
        "mean_displacement_ratio": figure(moved_G1.sum() / stable_G1.sum(), draws_R, num_patients),
    }
    value, interval = centroid_ratio(group_sums(moved_PD, group_P), group_sums(stable_PD, group_P))
    if not np.isfinite(value):
        return found | {"reason": "the stable stays' mean displacement cannot be told from noise, so nothing can be divided by it"}
    found["ratio"] = {**figure(value, None, num_patients), "ci95": None if interval is None else list(interval)}
    if interval is None:
        found["interval_reason"] = "the stable stays' mean displacement is too near to noise: the ratio has no upper bound"
    return found


def umap_picture(latents: Latents, stays: pa.Table, cohort: Cohort, max_points: int, split: str, seed: int) -> dict[str, Any]:
    """UMAP coordinates of sampled hour latents in random order: {"points": [[x, y]], "groups", "cohort"}; nothing tells whose they are.

    A group is `deteriorating` (from t0 on), `stable`, or `other` (before t0, or in neither cohort). Null with a reason for too few hours.
    """
    hours = sample_hours(stays, split, max_points, seed)
    z_ND = gather_hours(latents, hours)
    if len(z_ND) < MIN_UMAP_POINTS:
        return unknown(["points", "groups"], f"{len(z_ND)} hours in {split}; at least {MIN_UMAP_POINTS} are needed for a picture")
    groups = np.concatenate([_groups(cohort, stay_id, hours_n) for stay_id, hours_n in hours])
    order = np.random.default_rng([seed, 0x0DE]).permutation(len(z_ND))
    # Imported here: umap compiles for seconds, and only this picture needs it.
    from sklearn.decomposition import PCA
    from umap import UMAP

    z_ND = z_ND[order]
    if z_ND.shape[1] > 50 and len(z_ND) > 50:
        z_ND = PCA(50, svd_solver="randomized", random_state=seed).fit_transform(z_ND)
    picture_N2 = UMAP(n_neighbors=min(15, len(z_ND) - 1), min_dist=0.1, random_state=seed, n_jobs=1, init="pca").fit_transform(z_ND)
    return {"points": np.round(picture_N2.astype(np.float64), 3).tolist(), "groups": groups[order].tolist(), "cohort": cohort.name}


def _displacements(latents: Latents, starts: list[tuple[int, int]], k_hours: int) -> np.ndarray:
    states = (latents.stay(stay_id, t0, k_hours + 1)[1] for stay_id, t0 in starts)
    return np.stack([z_state_TD[-1].astype(np.float64) - z_state_TD[0] for z_state_TD in states])


def _groups(cohort: Cohort, stay_id: int, hours: np.ndarray) -> np.ndarray:
    if stay_id in cohort.deteriorating:
        return np.where(hours >= cohort.deteriorating[stay_id], "deteriorating", "other")
    return np.full(len(hours), "stable" if stay_id in cohort.stable else "other")

"""Latent geometry: how deteriorating patients move compared with stable ones, and what the space looks like.

Everything but the pictures is measured in the encoder's native space, without a probe or projection. The headline is the ratio of centroid
displacements of Clin-JEPA (arXiv 2605.10840), with the noise removed as `centroid_ratio.py` describes. The paper's cohorts are not public;
`cohorts.py` defines the ones used here, and the rule by which one of them is the headline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.comparisons import holm
from clinjepa.evaluation.geometry.cohorts import (
    HEADLINE_RULE,
    Cohort,
    Pair,
    death_cohort,
    headline_cohort,
    match,
    num_independent,
    onset_cohort,
    sofa_cohort,
)
from clinjepa.evaluation.geometry.movement import Movement, SeverityCorrelation, pair_movement, severity_correlation
from clinjepa.evaluation.geometry.pictures import Pictures, Shown, space_pictures
from clinjepa.evaluation.geometry.severity import Severity
from clinjepa.evaluation.space import Latents, Space, describe_space, stays_of

SEED = 0
"""Of the matching, the bootstrap, the permutations and the pictures."""


class PairedMovement(Movement):
    """The movement from t0 to t0 + k, for one k in hours, with the matched pairs that it rests on."""

    num_pairs: int
    num_independent: int
    """Groups of pairs that share no patient with another group."""


class CohortGeometry(PairedMovement):
    """A cohort's movement over the headline k, and over all k. k is a number of hours after t0."""

    cohort: str
    definition: str
    k_hours: int
    num_deteriorating: int
    num_stable: int
    p_holm: float | None
    """`p_length` adjusted over all cohorts (Holm)."""
    severity: SeverityCorrelation | None
    """None where the source has no SOFA score."""
    by_k: dict[str, PairedMovement]
    """k in hours, as text -> the movement over it."""


class Geometry(CohortGeometry):
    """The headline cohort's geometry, that of every cohort by name, and the diagnostics of the space."""

    headline_rule: str
    cohorts: dict[str, CohortGeometry]
    absent: dict[str, str]
    """Cohort -> why the data cannot have it."""
    space: Space
    pictures: Pictures


def geometry_cohorts(
    stays: pa.Table, labels: pa.Table, onset_tasks: Mapping[str, int], severity: Severity | None = None, split: str = "held_out"
) -> list[Cohort]:
    """The cohorts of a split: SOFA + 2 where severity is known, death, and the onset of each task.

    Args:
        stays: The ingest's `stays.parquet`.
        labels: Label table with stay_id, task, hour, label.
        onset_tasks: {early-event task: its horizon in hours}.
        severity: SOFA and organ support by hour, or None.
        split: The split that is evaluated.
    """
    chosen = stays_of(stays, split)
    by_sofa = [] if severity is None else [sofa_cohort(severity)]
    return [*by_sofa, death_cohort(chosen), *(onset_cohort(chosen, labels, task, hours) for task, hours in onset_tasks.items())]


def evaluate_geometry(
    latents: Latents,
    stays: pa.Table,
    cohorts: Sequence[Cohort],
    settings: GeometryConfig,
    severity: Severity | None,
    *,
    severity_reason: str = "",
    split: str = "held_out",
) -> Geometry:
    """Movement of every cohort, diagnostics of the latent space, and its pictures.

    Args:
        latents: Latents of the stays.
        stays: The ingest's `stays.parquet`.
        cohorts: `geometry_cohorts` of the split; at least one.
        settings: Displacement hours k, number of bootstrap draws, and whether to make the UMAP picture.
        severity: SOFA by hour of the split's stays, or None.
        severity_reason: Why there is no severity (`severity_fault`); not read where there is.
        split: The split that is evaluated.

    Returns:
        Figures of the headline cohort and of every cohort, diagnostics, pictures; a figure that cannot be estimated is None with a reason.

    Raises:
        ValueError: There is no cohort.
    """
    chosen = stays_of(stays, split)
    subjects = dict(zip(chosen["stay_id"].to_pylist(), chosen["subject_id"].to_pylist(), strict=True))
    lengths = dict(zip(chosen["stay_id"].to_pylist(), chosen["num_hours"].to_pylist(), strict=True))
    k_hours = sorted({settings.headline_k, *settings.k_hours})
    pairs = {cohort.name: {k: match(cohort, lengths, k, SEED) for k in k_hours} for cohort in cohorts}
    headline = headline_cohort({name: by_k[settings.headline_k] for name, by_k in pairs.items()}, subjects)

    found: dict[str, CohortGeometry] = {}
    for cohort in cohorts:
        by_k = {k: _movement(latents, of_k, k, subjects, settings.num_bootstrap, SEED) for k, of_k in pairs[cohort.name].items()}
        found[cohort.name] = _of_cohort(cohort, settings.headline_k, by_k)
        if severity is not None:
            found[cohort.name]["severity"] = severity_correlation(
                latents, pairs[cohort.name][settings.headline_k], settings.headline_k, subjects, severity, settings.num_bootstrap, SEED
            )
    for name, adjusted in holm({name: one.get("p_length") for name, one in found.items()}).items():
        found[name]["p_holm"] = adjusted
    shown = Shown(next(one for one in cohorts if one.name == headline), pairs[headline][settings.headline_k], settings.headline_k)
    return {
        **found[headline],
        "headline_rule": HEADLINE_RULE,
        "cohorts": found,
        "absent": {"sofa_2_within_24h": severity_reason} if severity is None else {},
        "space": describe_space(latents, stays, split, seed=SEED),
        "pictures": space_pictures(latents, stays, shown, settings, split=split, seed=SEED),
    }


def _movement(
    latents: Latents, pairs: Sequence[Pair], k: int, subjects: Mapping[int, int], num_bootstrap: int, seed: int
) -> PairedMovement:
    found = pair_movement(latents, pairs, k, subjects, num_bootstrap, seed)
    return {**found, "num_pairs": len(pairs), "num_independent": num_independent(pairs, subjects)}


def _of_cohort(cohort: Cohort, headline_k: int, by_k: Mapping[int, PairedMovement]) -> CohortGeometry:
    return {
        **by_k[headline_k],
        "cohort": cohort.name,
        "definition": cohort.definition,
        "k_hours": headline_k,
        "num_deteriorating": len(cohort.deteriorating),
        "num_stable": len(cohort.stable),
        "p_holm": None,
        "severity": None,
        "by_k": {str(k): moved for k, moved in by_k.items()},
    }

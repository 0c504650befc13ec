"""Who deteriorates and who is stable: named cohorts for the geometry of the latent space, matched on time and remaining stay.

Definitions: SOFA + 2 within 24 h against a stable SOFA without new organ support; death within 48 h against survivors, in-hospital death
where the source has no death times (CinC 2012); and the onset of an early-event task within 24 h against none. Each deteriorating stay
enters once, at its earliest hour t0 that satisfies the definition, and is paired with one stable stay at the same t0 whose remaining
stay is nearest, so that a longer stay or a later hour cannot pass for deterioration.

The cohort of the headline is chosen by numbers of pairs alone (`headline_cohort`): no latent is read before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.evaluation.geometry.centroid_ratio import linked_groups
from clinjepa.evaluation.geometry.severity import Severity, StaySeverity

FIRST_T0 = 5
"""Earliest t0 (hour of the stay): six hours have been seen by then."""
DEATH_WITHIN_HOURS = 48
ONSET_WITHIN_HOURS = 24
SOFA_WITHIN_HOURS = 24
SOFA_RISE = 2
"""Points of the SOFA score that make a deterioration, as in Sepsis-3 (Singer et al., JAMA 2016)."""
SOFA_STABLE = 1
"""Points by which the SOFA score of a stable stay may differ, up or down."""
HEADLINE_PAIRS = 30
"""Pairs without a common patient that a cohort needs to be the headline before all onsets."""
PREFERRED = ("sofa_2_within_24h", "death_within_48h", "in_hospital_death")
"""Cohorts of general deterioration, in the order in which they are taken as the headline."""
HEADLINE_RULE = (
    f"the first of SOFA + 2, death within 48 h and death in hospital that has {HEADLINE_PAIRS} matched pairs without a common patient, "
    "else the cohort with the most such pairs; chosen before any latent is read"
)


@dataclass(frozen=True)
class Cohort:
    """Stays by group: deteriorating {stay_id: t0}, stable {stay_id: hours that may be t0, or None for all of them}."""

    name: str
    definition: str
    deteriorating: Mapping[int, int]
    stable: Mapping[int, frozenset[int] | None] = field(repr=False)


@dataclass(frozen=True)
class Pair:
    """A deteriorating and a stable stay compared from the same hour t0 on."""

    deteriorating: int
    stable: int
    t0: int


def sofa_cohort(severity: Severity) -> Cohort:
    """SOFA rises by 2 points or more within 24 h of t0; stable are hours with 24 h more in which it stays within 1 point.

    A stable hour begins no organ support within 24 h either. A stay that deteriorates at some hour is in the first group alone.
    """
    deteriorating: dict[int, int] = {}
    stable: dict[int, frozenset[int] | None] = {}
    for stay_id, found in severity.items():
        rises_T, stays_T = _sofa_hours(found)
        rises_T[:FIRST_T0] = stays_T[:FIRST_T0] = False
        if rises_T.any():
            deteriorating[stay_id] = int(np.argmax(rises_T))
        elif stays_T.any():
            stable[stay_id] = frozenset(np.flatnonzero(stays_T).tolist())
    definition = (
        f"deteriorating: SOFA rises by {SOFA_RISE} or more within {SOFA_WITHIN_HOURS} h of t0; "
        f"stable: {SOFA_WITHIN_HOURS} h more in the ICU with SOFA within {SOFA_STABLE} point of its value at t0, "
        "and no new vasopressor, ventilation or renal replacement"
    )
    return Cohort("sofa_2_within_24h", definition, deteriorating, stable)


def _sofa_hours(found: StaySeverity) -> tuple[np.ndarray, np.ndarray]:
    """(hours from which SOFA rises, hours that are stable): two bool [T]."""
    sofa_T, support_TS = found.sofa_T, found.support_TS
    hours = SOFA_WITHIN_HOURS
    padded = np.concatenate([sofa_T, np.full(hours, np.nan)])
    change_TH = np.lib.stride_tricks.sliding_window_view(padded[1:], hours) - sofa_T[:, None]
    with np.errstate(invalid="ignore"):
        rises_T = (change_TH >= SOFA_RISE).any(axis=1)
        moves_T = (np.abs(change_TH) > SOFA_STABLE).any(axis=1)
    ahead_TS = np.concatenate([support_TS, np.zeros((hours, support_TS.shape[1]), bool)])
    later_TS = np.lib.stride_tricks.sliding_window_view(ahead_TS[1:], hours, axis=0).any(axis=-1)
    new_support_T = (later_TS & ~support_TS).any(axis=1)
    lasts_T = np.arange(len(sofa_T)) + hours < len(sofa_T)
    return rises_T, lasts_T & ~np.isnan(sofa_T) & ~moves_T & ~new_support_T


def headline_cohort(pairs: Mapping[str, Sequence[Pair]], subjects: Mapping[int, int]) -> str:
    """Name of the cohort of the headline by HEADLINE_RULE. Equal numbers: the order of PREFERRED, then that of `pairs`.

    Args:
        pairs: Cohort -> its matched pairs at the headline k; at least one cohort.
        subjects: Patient of each stay.
    """
    numbers = {name: num_independent(of_cohort, subjects) for name, of_cohort in pairs.items()}
    order = [*(name for name in PREFERRED if name in numbers), *(name for name in numbers if name not in PREFERRED)]
    enough = [name for name in order if name in PREFERRED and numbers[name] >= HEADLINE_PAIRS]
    return enough[0] if enough else max(order, key=lambda name: numbers[name])


def num_independent(pairs: Sequence[Pair], subjects: Mapping[int, int]) -> int:
    """Number of groups of pairs that share no patient with another group."""
    return len(set(pair_groups(pairs, subjects).tolist()))


def pair_groups(pairs: Sequence[Pair], subjects: Mapping[int, int]) -> np.ndarray:
    """group_P of pairs: those that share a patient, directly or over other pairs, are in one group."""
    return linked_groups([(subjects[pair.deteriorating], subjects[pair.stable]) for pair in pairs])


def death_cohort(stays: pa.Table) -> Cohort:
    """Deaths against survivors of the hospital stay; `death_within_48h`, or `in_hospital_death` when no death times are known.

    stays: stay_id, intime, num_hours, died_in_hospital, death_time (ingest `stays.parquet`). Unknown outcomes are in neither group.
    """
    stay_ids = stays["stay_id"].to_pylist()
    died = stays["died_in_hospital"].to_pylist()
    lengths = stays["num_hours"].to_pylist()
    hours_to_death = _hours_between(stays["intime"], stays["death_time"])
    stable: dict[int, frozenset[int] | None] = {stay_id: None for stay_id, dead in zip(stay_ids, died, strict=True) if dead is False}
    if not np.isfinite(hours_to_death).any():
        late = {
            stay_id: max(FIRST_T0, hours - 1 - ONSET_WITHIN_HOURS)
            for stay_id, dead, hours in zip(stay_ids, died, lengths, strict=True)
            if dead
        }
        definition = (
            f"deteriorating: died in hospital (the source has no death times), from {ONSET_WITHIN_HOURS} h before the end of the record; "
            "stable: left the hospital alive"
        )
        return Cohort("in_hospital_death", definition, late, stable)
    soon = {
        stay_id: max(FIRST_T0, int(np.ceil(hours)) - DEATH_WITHIN_HOURS - 1)
        for stay_id, dead, hours in zip(stay_ids, died, hours_to_death, strict=True)
        if dead and np.isfinite(hours)
    }
    definition = f"deteriorating: dies within {DEATH_WITHIN_HOURS} h of t0; stable: left the hospital alive"
    return Cohort("death_within_48h", definition, soon, stable)


def onset_cohort(stays: pa.Table, labels: pa.Table, task: str, horizon_hours: int) -> Cohort:
    """Onset of an early-event task within 24 h of t0 against stays that never have a positive label.

    labels: stay_id, task, hour, label; a label 1 at hour h says that the event begins in the `horizon_hours` after it. An hour may be
    t0 only where the task has a label, that is, where the event is not there already.
    """
    rows = labels.filter(pc.and_(pc.equal(labels["task"].cast(pa.string()), task), pc.is_in(labels["stay_id"], stays["stay_id"])))
    hours_by_stay: dict[int, list[tuple[int, bool]]] = {}
    for stay_id, hour, label in zip(*(rows[name].to_pylist() for name in ("stay_id", "hour", "label")), strict=True):
        hours_by_stay.setdefault(stay_id, []).append((hour, label > 0.5))
    ahead = max(0, ONSET_WITHIN_HOURS - horizon_hours)
    deteriorating: dict[int, int] = {}
    stable: dict[int, frozenset[int] | None] = {}
    for stay_id, labelled in hours_by_stay.items():
        positive = [hour for hour, is_positive in labelled if is_positive]
        if not positive:
            stable[stay_id] = frozenset(hour for hour, _ in labelled)
            continue
        before = [hour for hour, _ in labelled if hour >= FIRST_T0 and any(hour <= onset <= hour + ahead for onset in positive)]
        if before:
            deteriorating[stay_id] = min(before)
    definition = f"deteriorating: {task} begins within {max(horizon_hours, ONSET_WITHIN_HOURS)} h of t0; stable: it never does"
    return Cohort(f"onset_within_24h:{task}", definition, deteriorating, stable)


def match(cohort: Cohort, num_hours: Mapping[int, int], k_hours: int, seed: int) -> list[Pair]:
    """Pairs at the same t0 that both last beyond t0 + k, nearest in remaining stay within max(6 h, 25 %); each stay at most once.

    num_hours: length of every stay. Ties are broken by a seeded order.
    """
    stable_ids = np.array(sorted(cohort.stable), dtype=np.int64)
    stable_ids = stable_ids[np.random.default_rng([seed, 0x3A7]).permutation(len(stable_ids))]
    lengths = np.array([num_hours[int(stay_id)] for stay_id in stable_ids])
    free = np.ones(len(stable_ids), dtype=bool)
    pairs = []
    for stay_id, t0 in sorted(cohort.deteriorating.items(), key=lambda item: (item[1], item[0])):
        own = num_hours[stay_id]
        if own <= t0 + k_hours:
            continue
        distance = np.abs(lengths - own)
        possible = free & (lengths > t0 + k_hours) & (distance <= max(6.0, 0.25 * (own - t0 - 1)))
        for index in np.flatnonzero(possible)[np.argsort(distance[possible], kind="stable")]:
            allowed = cohort.stable[int(stable_ids[index])]
            if allowed is None or t0 in allowed:
                free[index] = False
                pairs.append(Pair(stay_id, int(stable_ids[index]), t0))
                break
    return pairs


def _hours_between(start: pa.ChunkedArray, end: pa.ChunkedArray) -> np.ndarray:
    micros = pc.subtract(end.cast(pa.timestamp("us")).cast(pa.int64()), start.cast(pa.timestamp("us")).cast(pa.int64()))
    return np.asarray(micros.cast(pa.float64()).to_numpy() / 3.6e9)

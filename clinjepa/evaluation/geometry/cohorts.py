"""Who deteriorates and who is stable: named cohorts for the geometry of the latent space, matched on time and remaining stay.

Definitions: death within 48 h (decompensation) against survivors, in-hospital death where the source has no death times
(CinC 2012), and the onset of an early-event task within 24 h against none. Each deteriorating stay enters once, at its
earliest hour t0 that satisfies the definition, and is paired with one stable stay at the same t0 whose remaining
stay is nearest, so that a longer stay or a later hour cannot pass for deterioration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FIRST_T0 = 5
"""Earliest t0 (hour of the stay): six hours have been seen by then."""
DEATH_WITHIN_HOURS = 48
ONSET_WITHIN_HOURS = 24


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

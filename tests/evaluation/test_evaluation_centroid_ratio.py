"""The ratio of two centroids' displacements is right where the truth is known, and its interval covers it as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from clinjepa.evaluation.geometry.centroid_ratio import centroid_ratio, group_sums, linked_groups

TRUTH = 3.0


def world(
    seed: int, num_patients: int, *, dim: int = 24, signal: float = 0.5, pairs_each: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Displacements of pairs [P, D], deteriorating and stable, and each pair's patient: heavy tails, uneven spread, both of a pair partly
    alike, all pairs of a patient partly alike. The stable ones' mean is `signal` long, noise has length 1 on both sides."""
    rng = np.random.default_rng([seed, 7])
    patient_P = np.repeat(np.arange(num_patients), pairs_each)
    scale_D = np.linspace(1.5, 0.1, dim)
    scale_D /= np.linalg.norm(scale_D)

    def noise(num: int) -> np.ndarray:
        return rng.standard_t(5, size=(num, dim)) * np.sqrt(3 / 5) * scale_D

    own_PD = noise(num_patients)[patient_P]
    stable_D = rng.standard_normal(dim)
    stable_D *= signal / np.linalg.norm(stable_D)
    moved_D = np.full(dim, TRUTH * signal / np.sqrt(dim))
    shared_PD = noise(len(patient_P))
    sides = (centre_D + 0.7 * own_PD + 0.5 * shared_PD + 0.5 * noise(len(patient_P)) for centre_D in (moved_D, stable_D))
    return (*sides, patient_P)  # type: ignore[return-value]


def estimates(num_worlds: int, num_patients: int, pairs_each: int = 1, **options: float) -> tuple[np.ndarray, float]:
    """Values of all worlds and the share of the intervals that hold the truth."""
    values, covered = [], []
    for seed in range(num_worlds):
        moved_PD, stable_PD, patient_P = world(seed, num_patients, pairs_each=pairs_each, **options)
        value, interval = centroid_ratio(group_sums(moved_PD, patient_P), group_sums(stable_PD, patient_P))
        values.append(value)
        if interval is not None:
            covered.append(interval[0] <= TRUTH <= interval[1])
    assert len(covered) >= 0.9 * num_worlds
    return np.array(values), float(np.mean(covered))


@pytest.mark.parametrize(("num_patients", "pairs_each"), [(12, 1), (40, 1), (20, 3)])
def test_intervals_cover_the_known_ratio_about_as_often_as_they_say(num_patients: int, pairs_each: int) -> None:
    _, coverage = estimates(600, num_patients, pairs_each)
    assert 0.93 <= coverage <= 0.99


def test_the_estimate_lies_around_the_known_ratio_where_the_plain_one_is_drawn_to_that_of_the_noise() -> None:
    values, _ = estimates(600, 12)
    plain = []
    for seed in range(600):
        moved_PD, stable_PD, _ = world(seed, 12)
        plain.append(np.linalg.norm(moved_PD.sum(0)) / np.linalg.norm(stable_PD.sum(0)))
    assert abs(np.median(values) - TRUTH) < 0.1
    assert np.median(plain) < TRUTH - 0.3


def test_pairs_of_one_patient_that_are_counted_as_patients_cover_too_rarely() -> None:
    covered = []
    for seed in range(300):
        moved_PD, stable_PD, _ = world(seed, 20, pairs_each=3)
        _, interval = centroid_ratio(moved_PD, stable_PD)
        covered.append(interval is not None and interval[0] <= TRUTH <= interval[1])
    assert np.mean(covered) < 0.9


def test_the_same_pairs_twice_change_neither_value_nor_interval() -> None:
    moved_PD, stable_PD, patient_P = world(0, 30)
    once = centroid_ratio(group_sums(moved_PD, patient_P), group_sums(stable_PD, patient_P))
    twice_P = np.concatenate([patient_P, patient_P])
    twice = centroid_ratio(group_sums(np.tile(moved_PD, (2, 1)), twice_P), group_sums(np.tile(stable_PD, (2, 1)), twice_P))
    assert twice == pytest.approx(once) if once[1] is None else np.allclose([twice[0], *twice[1]], [once[0], *once[1]])


def test_a_stable_cohort_that_stays_gives_no_upper_bound_or_no_ratio_at_all() -> None:
    without_bound, without_ratio = 0, 0
    for seed in range(200):
        moved_PD, stable_PD, _ = world(seed, 20, signal=0.0)
        value, interval = centroid_ratio(moved_PD + 1.0, stable_PD)
        without_ratio += not np.isfinite(value)
        without_bound += interval is None
    assert without_ratio > 60 and without_bound >= 185


def test_pairs_that_share_a_patient_directly_or_over_others_are_one_group() -> None:
    pairs = [("a", "b"), ("c", "d"), ("e", "b"), ("f", "e"), ("g", "g")]
    assert linked_groups(pairs).tolist() == [0, 1, 0, 0, 2]

"""Movements of pairs against values worked out by hand, and permutation tests against worlds without a difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.geometry.cohorts import Cohort, Pair
from clinjepa.evaluation.geometry.movement import Displacements, coherence, pair_movement, permutation_p, severity_correlation, spearman
from clinjepa.evaluation.geometry.pictures import Shown, space_pictures
from clinjepa.evaluation.geometry.severity import StaySeverity
from clinjepa.evaluation.seeds import combine_seeds
from clinjepa.evaluation.space import isotropy
from tests.evaluation.test_evaluation_geometry import DriftingLatents, _stays

SAME = {stay_id: stay_id for stay_id in range(400)}


class JumpingLatents:
    """Stay i is at the origin in hour 0 and at `places[i]` in every later one."""

    def __init__(self, places: dict[int, np.ndarray]) -> None:
        self.places, self.dim = places, len(next(iter(places.values())))

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_TD = np.concatenate([np.zeros((1, self.dim)), np.tile(self.places[stay_id], (30, 1))]).astype(np.float32)
        z_TD = z_TD[start_hour : None if num_hours is None else start_hour + num_hours]
        return z_TD[0], z_TD, z_TD


def world(moved: np.ndarray, stable: np.ndarray) -> tuple[JumpingLatents, list[Pair]]:
    num = len(moved)
    places = {index: moved[index] for index in range(num)} | {num + index: stable[index] for index in range(num)}
    return JumpingLatents(places), [Pair(index, num + index, 0) for index in range(num)]


def test_per_patient_figures_are_those_worked_out_by_hand() -> None:
    """Lengths 5, 5, 1, 2, 3 against 1, 5, 2, 1, 1: farther in 3 of 5 pairs, equal in one."""
    moved = np.array([[3.0, 4.0], [5, 0], [1, 0], [0, 2], [3, 0]])
    stable = np.array([[1.0, 0], [0, 5], [2, 0], [0, 1], [1, 0]])
    found = pair_movement(*world(moved, stable), 12, SAME, 100, 0)
    assert found["farther_share"]["value"] == pytest.approx(3.5 / 5)
    assert found["mean_displacement_ratio"]["value"] == pytest.approx((7 + 5 + 1 + 2 + 3) / (1 + 5 + 2 + 1 + 1))
    assert found["plain_ratio"]["value"] == pytest.approx(np.linalg.norm([12, 6]) / np.linalg.norm([4, 6]))


def test_coherence_is_one_for_a_common_movement_and_the_mean_cosine_for_equal_lengths() -> None:
    def of(rows: list[list[float]]) -> dict:
        side = np.array(rows)
        return coherence(side, Displacements(side, side, np.arange(len(side)), 2 * len(side)))

    assert of([[2.0, 1.0]] * 6)["value"] == pytest.approx(1.0)
    # Unit vectors at 0°, 90°, 0°: the cosines of the three pairs are 0, 1, 0.
    assert of([[1.0, 0], [0, 1], [1, 0]])["value"] == pytest.approx(1 / 3)


def test_a_permutation_p_value_counts_the_observed_one() -> None:
    assert permutation_p(3.0, np.array([1.0, 3.0, 4.0])) == pytest.approx(3 / 4)
    assert permutation_p(9.0, np.zeros(99)) == pytest.approx(1 / 100)


def test_swaps_are_exact_for_five_pairs() -> None:
    """All 32 swaps: with every deteriorating stay farther, 2 of them (all or none) are as extreme: p is about 2/32."""
    moved, stable = np.full((5, 2), 4.0) + np.arange(5)[:, None], np.full((5, 2), 1.0)
    found = pair_movement(*world(moved, stable), 12, SAME, 20_000, 0)
    for name in ("p_length", "p_vector", "p_farther"):
        assert found[name] == pytest.approx(2 / 32, abs=0.01)


@pytest.mark.parametrize("pairs_each", [1, 3])
def test_cohorts_without_a_difference_have_uniform_p_values(pairs_each: int) -> None:
    """400 worlds in which both sides move alike, far and with heavy tails; all pairs of a patient in common."""
    p_values: dict[str, list[float]] = {"p_length": [], "p_vector": [], "p_farther": []}
    for seed in range(400):
        rng = np.random.default_rng([seed, 3])
        num = 12 * pairs_each
        shift = rng.normal(size=6)
        patient = np.repeat(np.arange(12), pairs_each)
        sides = [shift + np.repeat(rng.standard_t(4, size=(12, 6)), pairs_each, axis=0) + rng.normal(size=(num, 6)) for _ in range(2)]
        latents, pairs = world(*sides)
        subjects = {index: int(patient[index]) for index in range(num)} | {num + index: 100 + int(patient[index]) for index in range(num)}
        found = pair_movement(latents, pairs, 12, subjects, 99, seed)
        for name, values in p_values.items():
            values.append(found[name])  # type: ignore[literal-required]
    for name, values in p_values.items():
        assert scipy_stats.kstest(values, "uniform").pvalue > 0.01, name
        assert 0.02 <= np.mean(np.array(values) <= 0.05) <= 0.09, name


def test_a_difference_in_length_is_found_and_one_of_direction_alone_only_by_its_own_test() -> None:
    rng = np.random.default_rng(0)
    noise = [0.3 * rng.normal(size=(40, 4)) for _ in range(2)]
    further = pair_movement(*world(noise[0] + [3, 0, 0, 0], noise[1] + [1, 0, 0, 0]), 12, SAME, 999, 0)
    turned = pair_movement(*world(noise[0] + [0, 2, 0, 0], noise[1] + [2, 0, 0, 0]), 12, SAME, 999, 0)
    assert max(further["p_length"], further["p_vector"], further["p_farther"]) == pytest.approx(0.001)
    assert turned["p_vector"] == pytest.approx(0.001) and min(turned["p_length"], turned["p_farther"]) > 0.05


def test_spearman_is_that_of_scipy_with_ties_in_every_draw() -> None:
    x, y = np.array([1.0, 2, 2, 4, 5, 5]), np.array([3.0, 1, 2, 2, 9, 7])
    times = np.array([[1.0] * 6, [2, 0, 1, 3, 0, 1], [6, 0, 0, 0, 0, 0]])
    found = spearman(x, y, times)
    for draw in range(2):
        repeated = [np.repeat(values, times[draw].astype(int)) for values in (x, y)]
        assert found[draw] == pytest.approx(scipy_stats.spearmanr(*repeated).statistic)
    assert np.isnan(found[2]) and np.isnan(spearman(np.ones(6), y, times[:1])).all()


def test_displacement_follows_severity_where_it_is_made_to() -> None:
    """Every stay moves by its own change in SOFA along one axis, and by noise along the others."""
    rng = np.random.default_rng(1)
    change = np.append(rng.integers(2, 8, 30), rng.integers(-1, 2, 30)).astype(float)
    places = np.column_stack([change, 0.01 * rng.normal(size=(60, 3))])
    latents, pairs = world(places[:30], places[30:])
    severity = {index: StaySeverity(np.append([5.0], np.full(30, 5.0 + change[index])), np.zeros((31, 3), bool)) for index in range(60)}
    found = severity_correlation(latents, pairs, 12, SAME, severity, 100, 0)
    assert found["num_stays"] == 60 and "reason" not in found
    assert found["along_axis"]["value"] > 0.95 and found["distance"]["value"] > 0.95
    around_zero = 0
    for _ in range(20):
        shuffled = {index: severity[int(other)] for index, other in enumerate(rng.permutation(60))}
        low, high = severity_correlation(latents, pairs, 12, SAME, shuffled, 100, 0)["along_axis"]["ci95"]
        around_zero += low < 0 < high
    assert around_zero >= 16


def test_stays_without_a_known_score_are_left_out_with_a_reason() -> None:
    latents, pairs = world(np.ones((6, 2)), np.eye(6, 2) + 0.5)
    found = severity_correlation(latents, pairs, 12, SAME, {}, 50, 0)
    assert (found["distance"], found["along_axis"], found["num_stays"]) == (None, None, 0) and "SOFA is unknown" in found["reason"]


def test_isotropy_is_one_over_d_for_one_direction_and_one_for_all() -> None:
    line = np.outer(np.linspace(-1, 1, 9), [1.0, 2, 3, 4])
    assert isotropy(line) == pytest.approx(1 / 4)
    assert isotropy(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(1.0)
    assert isotropy(np.concatenate([np.eye(8), -np.eye(8)])[:, :4]) == pytest.approx(1.0)


def test_paths_of_the_pca_picture_are_projections_of_the_mean_latents() -> None:
    """Deteriorating stays move at 3 an hour along the axis with nearly all variance, stable ones at 1."""
    latents = DriftingLatents({index: 3.0 if index < 6 else 1.0 for index in range(12)}, noise=0.01)
    stays = _stays([True] * 6 + [False] * 6, [60.0] * 6 + [None] * 6)
    pairs = [Pair(index, 6 + index, 10) for index in range(6)]
    shown = Shown(Cohort("x", "", dict.fromkeys(range(6), 10), dict.fromkeys(range(6, 12))), pairs, 8)
    picture = space_pictures(latents, stays, shown, GeometryConfig(umap=False), split="held_out", seed=0)["pca"]
    for name, speed in (("deteriorating", 3.0), ("stable", 1.0)):
        path = np.array(picture["paths"][name])
        assert len(path) == 9
        assert np.linalg.norm(path[-1] - path[0]) == pytest.approx(8 * speed, rel=0.01)
    assert picture["explained"][0] > 0.9


def test_of_several_seeds_the_largest_p_value_is_kept_and_figures_are_means() -> None:
    combined = combine_seeds([{"p_length": 0.01, "p_holm": None, "num": 4}, {"p_length": 0.2, "p_holm": 0.3, "num": 6}])
    assert combined == {"p_length": 0.2, "p_holm": None, "num": 5.0}


def test_the_axis_of_a_stay_is_made_of_other_patients() -> None:
    """Ten pairs of noise in 400 dimensions: an axis that holds a pair's own noise would tell its two sides apart."""
    values = []
    for seed in range(20):
        rng = np.random.default_rng([seed, 4])
        latents, pairs = world(rng.normal(size=(10, 400)), rng.normal(size=(10, 400)))
        rises = {index: 5.0 + 3.0 * (index < 10) for index in range(20)}
        severity = {index: StaySeverity(np.append([5.0], np.full(30, rises[index])), np.zeros((31, 3), bool)) for index in range(20)}
        values.append(severity_correlation(latents, pairs, 12, SAME, severity, 10, 0)["along_axis"]["value"])
    assert abs(np.mean(values)) < 0.2

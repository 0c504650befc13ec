"""Latent geometry: cohorts are who they say they are, matching is fair, and the ratio is that of known movements."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.config.schema import GeometryConfig
from clinjepa.evaluation.geometry.cohorts import Cohort, Pair, death_cohort, match, onset_cohort
from clinjepa.evaluation.geometry.evaluate import Geometry, evaluate_geometry, geometry_cohorts
from clinjepa.evaluation.geometry.movement import MIN_PAIRS, pair_movement

START = datetime(2100, 1, 1)
SETTINGS = GeometryConfig(k_hours=[6, 12], headline_k=12, num_bootstrap=200, umap=False)


class DriftingLatents:
    """Every stay moves along the first axis at its own speed per hour, from a random place."""

    dim = 8

    def __init__(self, speeds: dict[int, float], noise: float = 0.0) -> None:
        self.speeds, self.noise = speeds, noise

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(stay_id)
        z_TD = np.tile(rng.normal(size=self.dim), (60, 1)) + self.noise * rng.normal(size=(60, self.dim))
        z_TD[:, 0] += self.speeds[stay_id] * np.arange(60)
        z_TD = z_TD[start_hour : None if num_hours is None else start_hour + num_hours].astype(np.float32)
        return z_TD[0], z_TD, z_TD


def _stays(died: list[bool | None], death_hours: list[float | None], num_hours: int = 60) -> pa.Table:
    num = len(died)
    return pa.table(
        {
            "stay_id": pa.array(range(num), pa.int64()),
            "subject_id": pa.array([1000 + i for i in range(num)], pa.int64()),
            "split": ["held_out"] * num,
            "num_hours": pa.array([num_hours] * num, pa.int32()),
            "intime": pa.array([START] * num, pa.timestamp("us")),
            "died_in_hospital": pa.array(died, pa.bool_()),
            "death_time": pa.array([hours and START + timedelta(hours=hours) for hours in death_hours], pa.timestamp("us")),
        }
    )


NO_LABELS = pa.table({"stay_id": pa.array([], pa.int64()), "task": pa.array([], pa.string()), "hour": [], "label": []})


def evaluated(latents: DriftingLatents, stays: pa.Table, settings: GeometryConfig = SETTINGS) -> Geometry:
    return evaluate_geometry(latents, stays, geometry_cohorts(stays, NO_LABELS, {}), settings, None, severity_reason="no SOFA here")


def test_ratio_is_that_of_the_known_speeds() -> None:
    stays = _stays([True] * 20 + [False] * 40, [60.0] * 20 + [None] * 40)
    latents = DriftingLatents({i: 3.0 if i < 20 else 1.0 for i in range(60)})
    result = evaluated(latents, stays)
    assert result["cohort"] == "death_within_48h"
    assert result["ratio"]["value"] == pytest.approx(3.0, rel=1e-5)
    assert result["by_k"]["6"]["mean_displacement_ratio"]["value"] == pytest.approx(3.0, rel=1e-5)
    assert (result["num_pairs"], result["num_independent"]) == (20, 20)
    assert result["absent"] == {"sofa_2_within_24h": "no SOFA here"}


def test_cohorts_that_move_alike_have_an_interval_around_one_about_as_often_as_it_says() -> None:
    latents, covered, num_pairs, num_worlds = DriftingLatents(dict.fromkeys(range(2000), 0.3), noise=1.0), 0, 20, 50
    for world in range(num_worlds):
        ids = np.arange(2 * num_pairs) + 2 * num_pairs * world
        pairs = [Pair(int(one), int(other), 10) for one, other in zip(ids[:num_pairs], ids[num_pairs:], strict=True)]
        subjects = {int(stay_id): int(stay_id) for stay_id in ids}
        low, high = pair_movement(latents, pairs, 12, subjects, num_bootstrap=200, seed=world)["ratio"]["ci95"]
        covered += low < 1.0 < high
    assert covered >= 0.85 * num_worlds


def test_deterioration_by_death_begins_at_most_48_hours_before_it() -> None:
    cohort = death_cohort(_stays([True, True, False, None], [59.5, 20.0, None, None]))
    # Prediction time of t0 is the end of hour t0; 59.5 h minus 12 h is within 48 h, minus 11 h is not.
    assert cohort.deteriorating == {0: 11, 1: 5}
    assert set(cohort.stable) == {2}


def test_without_death_times_in_hospital_death_stands_in() -> None:
    cohort = death_cohort(_stays([True, False, None], [None, None, None], num_hours=48))
    assert (cohort.name, cohort.deteriorating, set(cohort.stable)) == ("in_hospital_death", {0: 23}, {1})


def test_onset_cohort_takes_the_first_labelled_hour_within_24_hours_of_onset() -> None:
    hours = {0: [(5, 0), (20, 0), (30, 1)], 1: [(5, 0), (30, 0)]}
    rows = [(stay, hour, label) for stay, labelled in hours.items() for hour, label in labelled]
    labels = pa.table(
        {
            "stay_id": [row[0] for row in rows],
            "task": ["low"] * len(rows),
            "hour": [row[1] for row in rows],
            "label": [float(row[2]) for row in rows],
        }
    )
    cohort = onset_cohort(_stays([False, False], [None, None]), labels, "low", horizon_hours=8)
    assert cohort.deteriorating == {0: 20}  # hour 5 is 25 h and more before the event, hour 20 at most 18 h
    assert cohort.stable == {1: frozenset({5, 30})}


def test_pairs_have_near_remaining_stays_and_use_each_stay_once() -> None:
    lengths = {0: 60, 1: 61, 10: 60, 11: 63, 12: 200, 13: 12}
    pairs = match(Cohort("x", "", {0: 10, 1: 10}, dict.fromkeys([10, 11, 12, 13])), lengths, k_hours=6, seed=0)
    assert {(pair.deteriorating, pair.stable) for pair in pairs} == {(0, 10), (1, 11)}


def test_a_stable_stay_is_only_used_at_hours_that_it_allows() -> None:
    cohort = Cohort("x", "", {0: 10}, {1: frozenset({9}), 2: frozenset({10})})
    assert [pair.stable for pair in match(cohort, {0: 60, 1: 60, 2: 62}, k_hours=6, seed=0)] == [2]


def test_fewer_than_a_handful_of_pairs_give_null_with_a_reason() -> None:
    result = pair_movement(DriftingLatents({}), [], 12, {}, num_bootstrap=10, seed=0)
    assert result["ratio"] is None
    assert str(MIN_PAIRS) in result["reason"]


def test_pairs_of_few_patients_are_not_taken_for_many() -> None:
    latents = DriftingLatents(dict.fromkeys(range(40), 1.0), noise=0.5)
    pairs = [Pair(i, 20 + i, 10) for i in range(20)]
    subjects = {i: i % 4 for i in range(40)}
    result = pair_movement(latents, pairs, 12, subjects, num_bootstrap=100, seed=0)
    assert result["ratio"] is None and "20 matched pairs of 4 groups without a common patient" in result["reason"]


def test_intervals_do_not_change_when_every_patient_stands_there_three_times() -> None:
    """Three equal pairs of a patient say what one says: both intervals stay as wide."""
    latents = DriftingLatents({i: 1.0 + 0.05 * (i % 7) for i in range(60)}, noise=0.5)
    once = [Pair(i, 30 + i, 10) for i in range(30)]
    subjects = {i: i for i in range(60)}
    single, triple = (pair_movement(latents, pairs, 12, subjects, num_bootstrap=300, seed=0) for pairs in (once, once * 3))
    for name in ("ratio", "mean_displacement_ratio"):
        assert triple[name]["ci95"] == pytest.approx(single[name]["ci95"], rel=1e-9)
        assert triple[name]["value"] == pytest.approx(single[name]["value"], rel=1e-9)
        assert triple[name]["num_patients"] == 60


def test_picture_names_groups_but_no_patients() -> None:
    stays = _stays([True] * 2 + [False] * 4, [60.0] * 2 + [None] * 4)
    settings = SETTINGS.model_copy(update={"umap": True, "max_umap_points": 80})
    latents = DriftingLatents({i: 0.1 for i in range(6)}, noise=0.5)
    result = evaluated(latents, stays, settings)
    for picture in (result["pictures"]["umap"], result["pictures"]["pca"]):
        assert set(picture) <= {"points", "groups", "cohort", "paths", "explained"}
        assert len(picture["points"]) == len(picture["groups"]) == 80
        assert set(picture["groups"]) == {"deteriorating", "stable", "other"}
        assert picture["paths"] == {}  # of two pairs: a centre of few stays could be traced to them
    json.dumps(result, allow_nan=False)


def test_a_picture_is_the_same_whether_its_functions_were_compiled_or_loaded() -> None:
    """The second process loads what the first one wrote to disk: it compiles none of the three slow functions again."""
    code = (
        "import warnings; warnings.filterwarnings('ignore')\n"
        "import numpy as np, umap.umap_\n"
        "from clinjepa.evaluation.geometry.compiled_umap import umap_class\n"
        "z = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)\n"
        "picture = umap_class()(random_state=0, n_jobs=1, init='pca').fit_transform(z)\n"
        "print(picture.sum(), sum(umap.umap_.smooth_knn_dist.stats.cache_hits.values()))\n"
    )
    command = [sys.executable, "-c", code]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout.split() for _ in range(2))
    assert first[0] == second[0]
    assert int(second[1]) == 1

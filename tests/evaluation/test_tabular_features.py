"""Tabular features and round trip on a small grid with planted signals: exact features, no look ahead, known R²."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinjepa.evaluation.roundtrip import evaluate_roundtrip
from tests.support.data.planted_grid import Ingest


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    return Ingest(tmp_path, 120)


def test_window_features_are_those_of_the_trailing_hours(ingest: Ingest) -> None:
    ingest.values["map"][3, :14] = np.nan
    ingest.values["map"][3, [2, 9, 10, 12]] = [100.0, 60.0, 70.0, 80.0]
    found = ingest.features(3, 13)
    trailing = np.array([60.0, 70.0, 80.0])
    hours = np.array([9.0, 10.0, 12.0])
    assert found["map:last"] == 80.0
    assert found["map:missing_now"] == 1.0
    assert found["map:hours_since"] == 1.0
    assert found["map:mean_8h"] == pytest.approx(trailing.mean())
    assert (found["map:min_8h"], found["map:max_8h"], found["map:count_8h"]) == (60.0, 80.0, 3.0)
    assert found["map:std_8h"] == pytest.approx(trailing.std(ddof=1))
    assert found["map:slope_8h"] == pytest.approx(np.polyfit(hours, trailing, 1)[0])
    assert found["map:max_24h"] == 100.0


def test_windows_and_carried_values_stop_at_the_stay_s_begin(ingest: Ingest) -> None:
    ingest.values["map"][4, :3] = np.nan  # the stay before it in the part has values
    found = ingest.features(4, 2)
    assert np.isnan([found["map:last"], found["map:hours_since"], found["map:mean_24h"]]).all()
    assert found["map:count_24h"] == 0.0


def test_a_treatment_not_given_is_zero_and_an_observation_not_made_is_missing(ingest: Ingest) -> None:
    ingest.values["norepinephrine"][3, :11] = np.nan
    ingest.values["heart_rate"][3, :11] = np.nan
    found = ingest.features(3, 10)
    assert (found["norepinephrine:last"], found["norepinephrine:max_8h"]) == (0.0, 0.0)
    assert np.isnan(found["heart_rate:last"])


def test_features_do_not_look_beyond_the_prediction_hour(ingest: Ingest) -> None:
    before = ingest.features(3, 10)
    for values in ingest.values.values():
        values[3, 11:] = 1.0
    np.testing.assert_array_equal(list(ingest.features(3, 10).values()), list(before.values()))


class WrittenLatents:
    """Latents that hold the hour's heart rate, and nothing of its MAP."""

    dim = 4

    def __init__(self, heart_rate: np.ndarray, noise: float) -> None:
        rng = np.random.default_rng(1)
        self.z = rng.normal(size=(*heart_rate.shape, self.dim)).astype(np.float32)
        self.z[..., 0] = np.nan_to_num(heart_rate, nan=90.0) + noise * rng.normal(size=heart_rate.shape)

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_TD = self.z[stay_id][start_hour : None if num_hours is None else start_hour + num_hours]
        return z_TD[0], z_TD, z_TD


def test_round_trip_gives_the_share_of_variance_that_the_latent_holds(ingest: Ingest) -> None:
    latents = WrittenLatents(ingest.values["heart_rate"], noise=10.0)  # value and noise of equal variance: R² = 1/2
    result = evaluate_roundtrip(latents, ingest.write(), ingest.stays, 4000)
    low, high = result["figures"]["heart_rate"]["r2"]["ci95"]
    assert low < 0.5 < high
    assert result["variables"]["map"] < 0.05
    assert result["r2"]["value"] == pytest.approx((result["variables"]["heart_rate"] + result["variables"]["map"]) / 2)


def test_round_trip_of_an_exact_copy_is_near_one(ingest: Ingest) -> None:
    result = evaluate_roundtrip(WrittenLatents(ingest.values["heart_rate"], noise=0.0), ingest.write(), ingest.stays, 4000)
    assert result["variables"]["heart_rate"] > 0.99


def test_round_trip_of_too_few_hours_is_null_with_a_reason(tmp_path: Path) -> None:
    small = Ingest(tmp_path, 6)
    result = evaluate_roundtrip(WrittenLatents(small.values["heart_rate"], noise=0.0), small.write(), small.stays, 4000)
    assert result["r2"] is None
    assert result["reason"]


def test_a_weight_is_no_feature_before_it_was_charted(tmp_path):
    ingest = Ingest(tmp_path, 6)  # the first stay's weight was charted five hours after admission, the others' known at admission
    seen = [ingest.features(0, hour)["weight_kg"] for hour in (0, 4, 5, 9)]
    assert np.isnan(seen[:2]).all() and seen[2:] == [80.0, 80.0]
    assert ingest.features(1, 0)["weight_kg"] == 80.0

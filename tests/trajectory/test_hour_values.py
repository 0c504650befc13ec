"""Values of the hours as training reads them: normalised by the training split alone, absent where nothing was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory import hour_values
from clinjepa.trajectory.hour_values import HourValues, grid_digest, value_names
from tests.support.data.hour_grids import GRID, normalised_values
from tests.support.training.curriculum_store import make_trajectories

COLUMN = {name: value_names().index(name) for name in GRID}


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("values")
    make_trajectories(root, num_parts=4)
    return Folder(root / "ingest").address


def hours_of(ingest: str) -> dict[int, int]:
    stays = Folder(ingest).read_table("stays.parquet")
    return dict(zip(stays["stay_id"].to_pylist(), stays["num_hours"].to_pylist(), strict=True))


def test_values_are_those_of_a_plain_computation(ingest: str) -> None:
    reader = HourValues(Folder(ingest))
    for stay, hours in hours_of(ingest).items():
        values_TV, measured_TV = reader.window(stay, 1, hours - 1)
        assert values_TV.shape == measured_TV.shape == (hours - 1, len(value_names())) and values_TV.dtype == np.float32
        for hour in range(1, hours):
            expected, _ = normalised_values(ingest, stay, hour)
            assert {column: pytest.approx(value, abs=1e-5) for column, value in expected.items()} == {
                int(column): values_TV[hour - 1, column] for column in np.flatnonzero(measured_TV[hour - 1])
            }
    assert not values_TV[~measured_TV].any()


def test_what_training_hours_lack_or_never_vary_is_measured_nowhere(ingest: str) -> None:
    reader = HourValues(Folder(ingest))
    assert set(reader.described()) == {"heart_rate", "map"}
    for stay, hours in hours_of(ingest).items():
        assert not reader.window(stay, 0, hours).measured_TV[:, [COLUMN["lactate"], COLUMN["creatinine"]]].any()
    assert reader.statistics.rate_V[COLUMN["lactate"]] == 0 < reader.statistics.rate_V[COLUMN["map"]] < 0.5


def test_extremes_are_clipped(ingest: str) -> None:
    reader = HourValues(Folder(ingest))
    low, high, mean, std, _ = (part[COLUMN["heart_rate"]] for part in reader.statistics)
    seen = np.concatenate([reader.window(stay, 0, hours).values_TV[:, COLUMN["heart_rate"]] for stay, hours in hours_of(ingest).items()])
    assert seen.max() == pytest.approx((high - mean) / std) and seen.min() == pytest.approx((low - mean) / std)


def test_neither_the_order_of_windows_nor_what_is_kept_in_memory_changes_a_value(ingest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stays = hours_of(ingest)
    one = HourValues(Folder(ingest))
    expected = {stay: one.window(stay, 0, hours) for stay, hours in stays.items()}
    monkeypatch.setattr(hour_values, "CACHED_BYTES", 0)
    other = HourValues(Folder(ingest))
    for stay in reversed(list(stays)):
        for found, wanted in zip(other.window(stay, 0, stays[stay]), expected[stay], strict=True):
            assert found.tobytes() == wanted.tobytes()
    assert len(other._parts) == 1


def test_statistics_of_large_data_come_from_a_part_of_it(ingest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_values, "STATISTICS_STAYS", 8)
    reader = HourValues(Folder(ingest))
    assert list(reader._statistics_parts()) == ["p0", "p2"]
    assert reader.statistics.mean_V[COLUMN["map"]] != HourValues(Folder(ingest)).statistics.mean_V[COLUMN["heart_rate"]]
    reader.window(1, 0, 3)  # of a part that gave no statistics


def test_stays_of_another_ingest_are_refused(ingest: str) -> None:
    with pytest.raises(StoreError, match="lacks a stay of the trajectory store"):
        HourValues(Folder(ingest)).window(999, 0, 3)


def test_the_digest_is_that_of_the_recorded_parts(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    digests = []
    for digest in ("a", "b"):
        folder.write_json("data_card.json", {"parts": {"p0": [{"path": "grid/p0.parquet", "digest": digest}]}})
        digests.append(grid_digest(folder))
    assert digests[0] != digests[1]

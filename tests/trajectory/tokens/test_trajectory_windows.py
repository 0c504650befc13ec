"""Windows: what training sees of a stay (contracts, section 4)."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from clinjepa.config import Config, result_fields
from clinjepa.config.schema import WindowConfig
from clinjepa.trajectory.settings import TrajectorySettings
from clinjepa.trajectory.tokens.windows import stay_windows, window_table

CONFIGS = st.builds(
    lambda shortest, extra, stride: WindowConfig(min_hours=shortest, max_hours=shortest + extra, stride_hours=stride),
    st.integers(4, 20),
    st.integers(0, 60),
    st.integers(1, 40),
)


def test_starts_follow_the_stride_while_a_full_window_fits_and_one_more_ends_with_the_stay():
    config = WindowConfig(max_hours=72, stride_hours=12, min_hours=6)
    assert stay_windows(72 + 24, config) == [(0, 72), (12, 72), (24, 72)]
    assert stay_windows(72 + 25, config) == [(0, 72), (12, 72), (24, 72), (25, 72)]


def test_a_shorter_stay_is_one_window_and_one_below_the_minimum_has_none():
    config = WindowConfig(max_hours=72, stride_hours=12, min_hours=6)
    assert stay_windows(72, config) == [(0, 72)]
    assert stay_windows(6, config) == [(0, 6)]
    assert stay_windows(5, config) == []


def test_without_tail_hours_that_the_strides_leave_over_are_in_no_window():
    """The rule of Clin-JEPA's released code: starts 0, stride, … while a full window fits."""
    config = WindowConfig(max_hours=72, stride_hours=12, min_hours=6, tail=False)
    for num_hours in range(72, 160):
        assert stay_windows(num_hours, config) == [(start, 72) for start in range(0, num_hours - 72 + 1, 12)]
    assert stay_windows(71, config) == [(0, 71)]


def test_the_key_of_a_store_with_tail_is_the_one_it_always_had():
    settings = result_fields(TrajectorySettings.of(Config()))
    assert "tail" not in settings["windows"] and TrajectorySettings.model_validate(settings).windows.tail
    assert result_fields(TrajectorySettings.of(Config(windows={"tail": False})))["windows"]["tail"] is False


@given(num_hours=st.integers(1, 400), config=CONFIGS)
def test_windows_lie_inside_the_stay_and_reach_its_end(num_hours, config):
    windows = stay_windows(num_hours, config)
    assert bool(windows) == (num_hours >= config.min_hours)
    for start, length in windows:
        assert 0 <= start and config.min_hours <= length <= config.max_hours and start + length <= num_hours
    if windows:
        assert windows[0][0] == 0
        assert sum(start + length == num_hours for start, length in windows) == 1


@given(num_hours=st.integers(1, 400), config=CONFIGS)
def test_consecutive_windows_start_at_most_one_stride_apart(num_hours, config):
    starts = [start for start, _ in stay_windows(num_hours, config)]
    assert all(0 < later - earlier <= config.stride_hours for earlier, later in zip(starts, starts[1:], strict=False))


def test_window_ids_are_row_numbers_in_order_of_stay_and_hour_whatever_the_order_of_stays():
    stays = pa.table({"stay_id": [9, 3], "split": ["train", "held_out"], "num_hours": pa.array([80, 10], pa.int32())})
    table = window_table(stays, WindowConfig(max_hours=72, stride_hours=12, min_hours=6))
    assert table["window_id"].to_pylist() == [0, 1, 2]
    assert table["stay_id"].to_pylist() == [3, 9, 9]
    assert table["start_hour"].to_pylist() == [0, 0, 8]
    assert table["split"].to_pylist() == ["held_out", "train", "train"]
    assert table.equals(window_table(stays.take([1, 0]), WindowConfig(max_hours=72, stride_hours=12, min_hours=6)))

"""Forecasts of patients without a future: as in the evaluation, worked out by hand, under other actions, and without a look ahead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinjepa.clinical import load_task
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.forecasts.evaluate import ForecastInputs, ForecastOutcome, evaluate_forecasts
from clinjepa.evaluation.forecasts.forecaster import Forecaster, Steps
from clinjepa.evaluation.forecasts.patients import KnownHours, PatientForecasts, forecast_values
from clinjepa.evaluation.forecasts.points.measurements import Measurements, read_named
from clinjepa.evaluation.forecasts.points.readouts import Decoder, MeasuredHead
from clinjepa.evaluation.forecasts.scoring.distributions import Distribution, PlausibleRange
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec
from tests.evaluation.forecasts.test_forecast_evaluation import SETTINGS
from tests.support.data.forecast_world import TASK, ForecastWorld, stepping_predictor

BOUNDS = ("low_50", "high_50", "low_90", "high_90")
SWITCH = load_task("hypotension_8h")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ForecastWorld:
    return ForecastWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def outcome(world: ForecastWorld) -> ForecastOutcome:
    return evaluate_forecasts(
        ForecastInputs(stepping_predictor(), world, world.ingest(), world.stays, world.labels(), None), [TASK], SETTINGS
    )


def measured(world: ForecastWorld, names: Sequence[str] = ("heart_rate", "map")) -> Measurements:
    return read_named(world.ingest(), world.stays, np.arange(len(world.values_ST2)), names)


def test_forecasts_of_a_window_are_those_of_the_evaluation(world: ForecastWorld, outcome: ForecastOutcome) -> None:
    rows = outcome.forecasts.to_pandas()
    points = rows[["stay_id", "start_hour"]].drop_duplicates()
    known = KnownHours.of(points.stay_id.tolist(), (points.start_hour + SETTINGS.context - 1).tolist(), measured(world))
    assert outcome.forecaster is not None
    found = forecast_values(stepping_predictor(), world, outcome.forecaster, known, tasks=[TASK])
    own = found.values.to_pandas().assign(start_hour=lambda each: each.hour - SETTINGS.context + 1)
    both = rows.merge(own, on=["stay_id", "start_hour", "variable", "horizon"], suffixes=("", "_new"))
    assert len(both) == len(rows) > 400 and len(own) == len(points) * 4
    np.testing.assert_array_equal(both.model, both.point)
    for name in BOUNDS:
        np.testing.assert_array_equal(both[name], both[f"{name}_new"])
    seen = both[both.last_value_new.notna()]
    np.testing.assert_array_equal(seen.last_value, seen.last_value_new)
    events = outcome.events.to_pandas()
    events = events[events.method == "model"].merge(found.events.to_pandas(), on=["stay_id", "hour", "task"], suffixes=("", "_new"))
    np.testing.assert_array_equal(events.probability, events.probability_new)
    assert len(events) == outcome.events.num_rows // 2 and set(own.unit) == {"bpm", "mmHg"}


class Past:
    """Latents of a world with NaN after an hour of every stay."""

    dim = 4

    def __init__(self, world: ForecastWorld, hour: int) -> None:
        self.world, self.hour = world, hour

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_static_D, z_state_TD, z_action_TD = (part.copy() for part in self.world.stay(stay_id))
        z_state_TD[self.hour + 1 :], z_action_TD[self.hour + 1 :] = np.nan, np.nan
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return z_static_D, z_state_TD[hours], z_action_TD[hours]


def test_nothing_after_the_last_known_hour_changes_a_forecast(world: ForecastWorld, outcome: ForecastOutcome) -> None:
    hour, stays = 9, [4, 5, 10, 11]
    assert outcome.forecaster is not None
    own = measured(world)
    later = Measurements(own.names, own.values_RV.copy(), own.stay_R, own.first_row)
    after_R = np.arange(len(own.stay_R)) % world.num_hours > hour
    later.values_RV[after_R] = np.random.default_rng(5).normal(40, 5, later.values_RV[after_R].shape)
    before_R = ~after_R & np.isin(own.stay_R, stays)
    short = Measurements(own.names, own.values_RV[before_R], own.stay_R[before_R], {stay: i * (hour + 1) for i, stay in enumerate(stays)})

    def found(latents: Any, measurements: Measurements) -> PatientForecasts:
        known = KnownHours.of(stays, [hour] * len(stays), measurements)
        assert outcome.forecaster is not None
        return forecast_values(stepping_predictor(), latents, outcome.forecaster, known, tasks=[TASK])

    expected = found(world, own)
    for latents, measurements in ((Past(world, hour), later), (Past(world, hour), short)):
        again = found(latents, measurements)
        assert again.values.equals(expected.values) and again.events.equals(expected.events)
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        found(Past(world, hour - 1), own)


GROUPS = [np.arange(-9.0, 10.0), np.arange(10.0, 29.0)]
"""Nineteen errors each: the 90 % interval is from the first to the last, the 50 % interval from the fifth to the fifteenth."""


class Line:
    """One stay whose latent is the hour."""

    dim = 1

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_TD = np.arange(start_hour, start_hour + (num_hours or 50), dtype=np.float32)[:, None]
        return z_TD[0], z_TD, np.zeros_like(z_TD)


def by_hand(names: Sequence[str] = ("map",), **change: Any) -> Forecaster:
    """Values are 60 + 2 · latent; the predictor adds 1 to the latent each hour."""
    one, number = Standardiser(np.zeros(1, np.float32), np.ones(1, np.float32)), len(names)
    parts: dict[str, Any] = {
        "names": list(names),
        "units": ["mmHg"] * number,
        "steps": Steps(4, [1, 3], np.arange(1, 9)),
        "decoder": Decoder(one, np.full((1, number), 2.0, np.float32), np.full(number, 60.0, np.float32)),
        "mean_V": np.full(number, 70.0, np.float32),
        "ranges_V2": np.repeat(np.array([[0.0, 300.0]], np.float32), number, axis=0),
        "distributions": {
            "model": [
                [Distribution("by_recency", np.zeros(0), GROUPS)] * number,
                [Distribution("residuals", np.zeros(0), GROUPS[1:])] * number,
            ]
        },
        "heads": [MeasuredHead(one, np.ones((1, number)), np.zeros(number)), None],
        "paths": {"model": np.zeros((4, 8, number), np.float32)},
    }
    return Forecaster(**{**parts, **change})


def line_measurements(values: Sequence[float], name: str = "map") -> Measurements:
    return Measurements([name], np.array(values, dtype=np.float32)[:, None], np.zeros(len(values), dtype=np.int64), {0: 0})


def line_forecasts(forecaster: Forecaster, values: Sequence[float], **more: Any) -> PatientForecasts:
    """At hour 5 of a stay."""
    known = KnownHours.of(0, 5, line_measurements(values))
    return forecast_values(stepping_predictor(np.ones(1, np.float32)), Line(), forecaster, known, **more)


def test_intervals_are_those_worked_out_by_hand() -> None:
    """The latent of hour 6 is 6: 72 mmHg, and of hour 8 it is 8: 76 mmHg. The value of hour 4 is an hour old, that of hour 1 four hours."""
    nan = np.nan
    for values, bounds, last in (
        ([50, 51, 52, 53, 54, nan], (72, 72, 67, 77, 63, 81), (54, 1)),
        ([50, 51, nan, nan, nan, nan], (91, 91, 86, 96, 82, 100), (51, 4)),
        ([nan] * 6, (91, 91, 86, 96, 82, 100), (None, None)),
    ):
        near, far = line_forecasts(by_hand(), values).values.to_pylist()
        assert [near[name] for name in ("point", "median", *BOUNDS)] == list(bounds)
        assert (near["last_value"], near["hours_since"]) == last
        assert (near["stay_id"], near["hour"], near["variable"], near["unit"], near["horizon"]) == (0, 5, "map", "mmHg", 1)
        assert [far[name] for name in ("horizon", "point", "median", *BOUNDS)] == [3, 95, 95, 90, 100, 86, 104]
        assert near["distribution"] == "by_recency" and far["distribution"] == "residuals"
        assert near["measured_probability"] == pytest.approx(1 / (1 + np.exp(-6))) and far["measured_probability"] is None


def test_no_forecast_leaves_the_range_that_the_forecaster_keeps() -> None:
    """The range of the kept forecaster, 0 to 75 mmHg, not that of the dictionary: 95 mmHg 3 h ahead become 75, whole intervals with it."""
    narrow = PlausibleRange(0.0, 75.0)
    residuals = [[Distribution("residuals", np.zeros(0), GROUPS[:1], narrow)], [Distribution("residuals", np.zeros(0), GROUPS[1:], narrow)]]
    kept = by_hand(distributions={"model": residuals}, ranges_V2=np.array([narrow], np.float32))
    near, far = line_forecasts(kept, [50] * 6).values.to_pylist()
    assert [near[name] for name in ("point", "median", *BOUNDS)] == [72, 72, 67, 75, 63, 75]
    assert [far[name] for name in ("point", "median", *BOUNDS)] == [75] * 6
    without = by_hand(distributions={"model": [[None]] * 2}, ranges_V2=np.array([narrow], np.float32))
    assert [row["point"] for row in line_forecasts(without, [50] * 6).values.to_pylist()] == [72, 75]


def test_the_forecaster_alone_shows_what_the_tables_show() -> None:
    """As an export is read, without tables: the latent of hour 6 is 6."""
    row = line_forecasts(by_hand(), [50, 51, 52, 53, 54, 55]).values.to_pylist()[0]
    found = by_hand().shown_ahead(1, np.array([[6.0]], np.float32))
    assert found.point_N.tolist() == [[row["point"]]] and found.low_LN.tolist() == [[[row["low_50"]]], [[row["low_90"]]]]
    assert found.high_LN.tolist() == [[[row["high_50"]]], [[row["high_90"]]]]
    old = by_hand().shown_ahead(1, np.array([[6.0]], np.float32), np.array([[np.inf]]))
    assert old.point_N.tolist() == [[91.0]]
    with pytest.raises(EvaluationError, match="no horizon of 2 h; it has 1, 3"):
        by_hand().shown_ahead(2, np.zeros((1, 1), np.float32))


def test_a_third_of_the_forecasts_has_its_own_errors() -> None:
    thirds = Distribution("by_level", np.array([65.0, 74.0]), [GROUPS[0], GROUPS[1], -GROUPS[1][::-1]])
    near, far = line_forecasts(by_hand(distributions={"model": [[thirds]] * 2}), [60] * 6).values.to_pylist()
    assert (near["point"], near["median"], near["low_90"]) == (91, 91, 82) and (far["point"], far["median"], far["high_90"]) == (57, 57, 66)


def test_without_a_distribution_there_is_a_point_and_no_interval() -> None:
    row = line_forecasts(by_hand(distributions={"model": [[None]] * 2}), [60] * 6).values.to_pylist()[0]
    assert row["point"] == 72 and {row[name] for name in ("median", *BOUNDS, "distribution")} == {None}
    unfitted = Decoder(by_hand().decoder.standardise, np.full((1, 1), np.nan, np.float32), np.full(1, np.nan, np.float32))
    row = line_forecasts(by_hand(distributions={"model": [[None]] * 2}, decoder=unfitted), [60] * 6).values.to_pylist()[0]
    assert row["point"] is None and row["last_value"] == 60


def test_the_probability_of_an_event_is_the_share_of_paths() -> None:
    """The forecasts are 72 to 86 mmHg. One path of four is below 65 in hour 6, one has no measurement and is left out."""
    paths_JHV = np.zeros((4, 8, 1), np.float32)
    paths_JHV[0, 0], paths_JHV[1] = -7.5, np.nan
    tasks = [SWITCH, load_task("hyperglycaemia_8h"), load_task("in_hospital_death")]
    found = line_forecasts(by_hand(paths={"model": paths_JHV}), [80] * 6, tasks=tasks).events.to_pylist()
    assert [row["task"] for row in found] == [task.name for task in tasks]
    assert found[0]["probability"] == (1 + 0.5) / (3 + 1) and found[0]["reason"] is None and found[0]["in_event"] is False
    assert found[1]["probability"] is None and "glucose" in found[1]["reason"] and found[1]["in_event"] is None
    assert "no event" in found[2]["reason"] and {row["hour"] for row in found} == {5}
    low = line_forecasts(by_hand(paths={"model": paths_JHV}), [80, 80, 80, 80, 60, np.nan], tasks=tasks).events.to_pylist()[0]
    assert low["in_event"] is True and low["probability"] < (0.01 if SWITCH.switches_only else 1)
    short = by_hand(paths={"model": paths_JHV[:, :1]}, steps=Steps(4, [1, 3], np.array([1, 3])))
    assert "errors of 1 h in a row" in line_forecasts(short, [80] * 6, tasks=tasks).events.to_pylist()[0]["reason"]
    nothing = by_hand(paths={"model": np.full((4, 8, 1), np.nan, np.float32)})
    row = line_forecasts(nothing, [80] * 6, tasks=tasks).events.to_pylist()[0]
    assert row["probability"] is None and "no tuning window" in row["reason"]


def test_a_variable_that_is_not_measured_here_has_a_forecast_and_no_last_value() -> None:
    rows = line_forecasts(by_hand(("heart_rate", "map")), [50] * 6).values.to_pylist()
    assert [row["variable"] for row in rows] == ["heart_rate", "map"] * 2
    assert (rows[0]["point"], rows[0]["last_value"], rows[0]["low_90"]) == (91, None, 82) and (
        rows[1]["last_value"],
        rows[1]["low_90"],
    ) == (50, 63)


def random_predictor() -> Predictor:
    spec = PredictorSpec(latent_dim=1, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=40)
    return build_predictor(spec, seed=1)


def test_other_actions_change_the_hours_after_them() -> None:
    known = KnownHours.of([0, 0], [5, 7], line_measurements([60] * 8))

    def points(z_action: np.ndarray | None) -> np.ndarray:
        values = forecast_values(random_predictor(), Line(), by_hand(), known, z_action).values
        return np.asarray(values["point"].to_numpy()).reshape(2, 2)

    carried, last = points(None), 8
    np.testing.assert_array_equal(points(np.zeros((last - 1, 1))), carried)
    np.testing.assert_array_equal(points(np.concatenate([np.zeros((last - 1, 1)), np.full((3, 1), np.nan)])), carried)
    both = np.stack([np.zeros((last, 1)), np.full((last, 1), 2.0)])
    found = points(both)
    np.testing.assert_array_equal(found[0], carried[0])
    assert found[1, 0] == carried[1, 0] and found[1, 1] != carried[1, 1]
    np.testing.assert_array_equal(points(np.full((last, 1), 2.0))[1], found[1])
    first_only = np.zeros((last, 1))
    first_only[2:] = 2.0  # from hour 3 on: too late for the horizon of 3 h
    np.testing.assert_array_equal(points(first_only), carried)
    for wrong, words in (
        (np.zeros((last - 2, 1)), "H of at least 7"),
        (np.zeros((last, 2)), r"z_action has shape \[8, 2\]"),
        (np.zeros((3, last, 1)), "z_action has shape"),
        (np.full((last, 1), np.nan), "coming action is NaN"),
    ):
        with pytest.raises(EvaluationError, match=words):
            points(wrong)


def test_points_that_cannot_be_forecast_are_refused_without_their_ids(tmp_path: Path) -> None:
    own = line_measurements([60] * 8)
    for stay, hour, words in (
        ([0, 0], [2, 5], "1 of 2 prediction points have fewer than 4 known hours"),
        ([0, 4711], [5, 5], "last known hour of 1 of 2 prediction points"),
        ([0], [8], "last known hour of 1 of 1 prediction points"),
        ([0, 0], [5], "2 stays and 1 hours"),
    ):
        with pytest.raises(EvaluationError, match=words) as caught:
            forecast_values(random_predictor(), Line(), by_hand(), KnownHours.of(stay, hour, own))
        assert "4711" not in str(caught.value)
    with pytest.raises(EvaluationError, match="latents of 1 values, these have 4"):
        forecast_values(random_predictor(), ForecastWorld(tmp_path, 6), by_hand(), KnownHours.of(0, 5, own))


def test_no_points_are_no_rows() -> None:
    found = forecast_values(random_predictor(), Line(), by_hand(), KnownHours.of([], [], line_measurements([60] * 8)), tasks=[SWITCH])
    assert found.values.num_rows == found.events.num_rows == 0

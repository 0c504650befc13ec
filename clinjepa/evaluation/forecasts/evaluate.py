"""Forecasts of measured values from rolled-out latents: point forecasts, predictive distributions, events and next measurements.

A window has C given hours; the rollout carries the last given action forward. A linear decoder, fitted on recorded hours of training
patients, reads the values of a coming hour from its predicted latent. Errors on tuning patients make the forecast a distribution. Three
comparisons are scored on the same values with the same draws of patients. Hours beyond the predictor's trained window are not evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import ForecastConfig
from clinjepa.evaluation.drift_windows import Windows, drift_windows
from clinjepa.evaluation.forecasts.events import LEAST, event_probabilities, in_event_before, why_not_forecast
from clinjepa.evaluation.forecasts.points.decoder import Decoder, fit_decoder
from clinjepa.evaluation.forecasts.points.direct import read_direct
from clinjepa.evaluation.forecasts.points.measured import measured_scores
from clinjepa.evaluation.forecasts.points.measurements import (
    MIN_TRAIN_HOURS,
    Measurements,
    WindowValues,
    draw_stays,
    read_measurements,
    window_values,
)
from clinjepa.evaluation.forecasts.points.rollouts import rolled_out
from clinjepa.evaluation.forecasts.result import (
    LAST_VALUE,
    LIGHTGBM,
    MODEL,
    TRAIN_MEAN,
    ForecastResult,
    TaskForecast,
)
from clinjepa.evaluation.forecasts.scoring.event_scores import EventPoints, task_forecast
from clinjepa.evaluation.forecasts.scoring.horizon_scores import Horizon, all_variables, choose_kinds, score_horizon
from clinjepa.evaluation.forecasts.tables import FORECASTS, KeptEvents, forecast_rows
from clinjepa.evaluation.resampling import PatientBootstrap
from clinjepa.evaluation.space import Latents, stays_of, trained_windows
from clinjepa.model.predictor import Predictor
from clinjepa.storage import Folder


@dataclass(frozen=True)
class ForecastInputs:
    """What a forecast evaluation reads: the trained predictor, latents of its encoder, the ingest artifact, its `stays.parquet`, the label
    table (stay_id, task, hour, label), and the direct forecasts of the same windows (`direct.direct_forecasts`; None leaves them out)."""

    predictor: Predictor
    latents: Latents
    ingest: Folder
    stays: pa.Table
    labels: pa.Table
    direct: pa.Table | None


@dataclass(frozen=True)
class ForecastOutcome:
    """The result, and the forecasts and probabilities behind it as tables (`tables`)."""

    result: ForecastResult
    forecasts: pa.Table
    events: pa.Table


def evaluate_forecasts(
    inputs: ForecastInputs, tasks: Sequence[Task], settings: ForecastConfig, *, split: str = "held_out", seed: int = 0
) -> ForecastOutcome:
    """Forecasts of the windows of `split`, scored.

    Args:
        inputs: What is read.
        tasks: Event tasks whose probabilities are computed.
        settings: Windows, horizons, variables, decoder and bootstrap.
        split: The split that is scored.
        seed: Seed of every draw of stays, hours and patients.

    Returns:
        The result and its tables. Where no value can be forecast, the result has a `reason` and both tables are empty. A task without
        probabilities has a `reason` in `events`.

    Raises:
        EvaluationError: A predicted latent is NaN or infinite.
    """
    return _Evaluation(inputs, list(tasks), settings, split, seed).outcome()


@dataclass(frozen=True)
class _Split:
    """The W windows of one split: their measured values, rolled-out latents z_WHD of width D at the H horizons, and the decoded values
    model_WSV of V variables at the S steps. The steps are the hours after the history: the horizons and all hours that event tasks need."""

    windows: Windows
    values: WindowValues
    z_WHD: np.ndarray
    model_WSV: np.ndarray


class _Evaluation:
    """One evaluation; its parts are computed in the order of `outcome`."""

    def __init__(self, inputs: ForecastInputs, tasks: list[Task], settings: ForecastConfig, split: str, seed: int) -> None:
        self.inputs, self.tasks, self.settings, self.split, self.seed = inputs, tasks, settings, split, seed
        self.longest_window_hours = inputs.predictor.spec.reach_hours + 1
        self.inputs.predictor.eval()
        wanted = sorted(set(settings.horizons))
        self.horizons = [h for h in wanted if settings.context + h <= self.longest_window_hours]
        self.cut = [h for h in wanted if h not in self.horizons]
        ahead = [task.horizon_hours or 0 for task in tasks]
        hours = range(1, min(max(ahead, default=0), self.longest_window_hours - settings.context) + 1)
        self.steps_S = np.array(sorted({*self.horizons, *hours}), dtype=np.int64)

    def outcome(self) -> ForecastOutcome:
        result_base: ForecastResult = {"context": self.settings.context, "num_windows": {}, "horizons": {}, "variables": {}, "events": {}}
        if not self.horizons:
            reach = trained_windows(self.inputs.predictor.spec)
            return _without_forecasts(result_base, f"{self.settings.context} + 1 h are beyond the predictor's reach: {reach}")
        chosen = self._stays()
        measurements = self._measurements(chosen)
        windows = {split: self._windows(table) for split, table in chosen.items()}
        result_base["num_windows"] = {split: len(own) for split, own in windows.items()}
        reason = self._why_none(result_base["num_windows"], measurements)
        if reason is not None:
            return _without_forecasts(result_base, reason)
        fitted_on = pa.concat_tables([chosen["train"], chosen["tuning"]]).combine_chunks()
        decoder = fit_decoder(self.inputs.latents, measurements, fitted_on, self.settings.num_decoder_hours, self.seed)
        splits = {split: self._roll(own, measurements, decoder) for split, own in windows.items()}
        train_R = np.isin(measurements.stay_R, chosen["train"]["stay_id"].to_numpy())
        points = {split: self._points(splits[split], measurements, train_R) for split in ("tuning", self.split)}
        draws = PatientBootstrap(windows[self.split].subject_W, self.settings.num_bootstrap, self.seed)
        scored, table = self._horizons(splits, points, measurements.names, draws)
        events, kept = self._events(splits, points, measurements)
        result: ForecastResult = {**result_base, **scored, "events": events}  # type: ignore[typeddict-item]  # the names are the result's
        if self.cut:
            result["cut"] = f"{', '.join(map(str, self.cut))} h ahead are cut: {trained_windows(self.inputs.predictor.spec)}"
        return ForecastOutcome(result, table, kept)

    def _why_none(self, num_windows: Mapping[str, int], measurements: Measurements) -> str | None:
        """Why there is no forecast; None where there are windows of every split and variables."""
        without = [split for split, number in num_windows.items() if not number]
        if without:  # a window needs its start, the given hours and one hour to forecast
            hours = self.settings.context + min(self.settings.starts)
            return f"no stay of {' and '.join(without)} lasts more than {hours} h; lower evaluation.forecasts.context or use longer stays"
        if not measurements.names:
            return f"no variable is measured in {MIN_TRAIN_HOURS} hours of the train split; more training stays are needed"
        return None

    def _stays(self) -> dict[str, pa.Table]:
        splits = dict.fromkeys(("train", "tuning", self.split))
        return {split: draw_stays(stays_of(self.inputs.stays, split), self.settings.max_stays, self.seed) for split in splits}

    def _measurements(self, chosen: Mapping[str, pa.Table]) -> Measurements:
        stay_ids = np.concatenate([table["stay_id"].to_numpy() for table in chosen.values()])
        also = {name for task in self.tasks for name in task.variables}
        return read_measurements(self.inputs.ingest, self.inputs.stays, stay_ids, self.settings.num_variables, also)

    def _windows(self, stays: pa.Table) -> Windows:
        return drift_windows(stays, self.settings.context, self.settings.starts, self.longest_window_hours, int(self.steps_S[-1]))

    def _roll(self, windows: Windows, measurements: Measurements, decoder: Decoder) -> _Split:
        at_H = np.searchsorted(self.steps_S, self.horizons)
        z_WHD = np.zeros((len(windows), len(at_H), self.inputs.latents.dim), dtype=np.float32)
        model_WSV = np.zeros((len(windows), len(self.steps_S), len(measurements.names)), dtype=np.float32)
        for rows, z_BSD in rolled_out(self.inputs.predictor, self.inputs.latents, windows, self.steps_S):
            z_WHD[rows], model_WSV[rows] = z_BSD[:, at_H], decoder(z_BSD)
        return _Split(windows, window_values(measurements, windows, self.steps_S), z_WHD, model_WSV)

    def _points(self, own: _Split, measurements: Measurements, train_R: np.ndarray) -> dict[str, np.ndarray]:
        """Point forecasts by method, [W, S, V] at all steps; those of gradient boosting are at the horizons only."""
        mean_V = np.nanmean(measurements.values_RV[train_R], axis=0)
        last_WV = np.where(np.isfinite(own.values.last_WV), own.values.last_WV, mean_V)
        shape = own.model_WSV.shape
        found = {
            MODEL: own.model_WSV,
            LAST_VALUE: np.broadcast_to(last_WV[:, None], shape),
            TRAIN_MEAN: np.broadcast_to(mean_V, shape),
        }
        if self.inputs.direct is not None:
            found[LIGHTGBM] = np.full(shape, np.nan, dtype=np.float32)
            at_H = np.searchsorted(self.steps_S, self.horizons)
            found[LIGHTGBM][:, at_H] = read_direct(self.inputs.direct, own.windows, self.horizons, measurements.names)
        return found

    def _horizons(
        self, splits: Mapping[str, _Split], points: Mapping[str, dict[str, np.ndarray]], names: list[str], draws: PatientBootstrap
    ) -> tuple[dict[str, object], pa.Table]:
        horizons = {split: [self._horizon(splits[split], points[split], place) for place in range(len(self.horizons))] for split in points}
        kinds = choose_kinds(horizons["tuning"])
        variables: dict[str, dict[str, object]] = {name: {} for name in names}
        overall, tables = {}, []
        for place, h in enumerate(self.horizons):
            tuning, scored = horizons["tuning"][place], horizons[self.split][place]
            head_WV = self._measured(splits, place)
            found = score_horizon(tuning, scored, kinds, head_WV, draws)
            overall[str(h)] = all_variables(found, draws)
            for name, cell in zip(names, found.cells, strict=True):
                variables[name][str(h)] = cell
            tables.append(forecast_rows(splits[self.split].windows, h, names, scored, found.intervals))
        return {"horizons": overall, "variables": variables}, pa.concat_tables(tables)

    def _horizon(self, own: _Split, points: Mapping[str, np.ndarray], place: int) -> Horizon:
        step = int(np.searchsorted(self.steps_S, self.horizons[place]))
        return Horizon(
            {method: values_WSV[:, step] for method, values_WSV in points.items()},
            own.values.target_WSV[:, step],
            own.values.hours_since_WV,
            own.values.share_WV,
            own.windows.reach_W >= self.horizons[place],
            own.windows.subject_W,
        )

    def _measured(self, splits: Mapping[str, _Split], place: int) -> np.ndarray:
        """Log-odds [W, V] that each variable is measured at a horizon.

        NaN for the scored windows that do not reach it, and for all windows where none of train or none of tuning reaches it.
        """
        step = int(np.searchsorted(self.steps_S, self.horizons[place]))
        inside = {split: own.windows.reach_W >= self.horizons[place] for split, own in splits.items()}
        z = {split: own.z_WHD[inside[split], place] for split, own in splits.items()}
        known = {split: np.isfinite(own.values.target_WSV[inside[split], step]) for split, own in splits.items()}
        found_WV = np.full((len(inside[self.split]), known["train"].shape[1]), np.nan)
        if all(map(len, z.values())):
            scores = measured_scores(z["train"], known["train"], z["tuning"], known["tuning"], z[self.split])
            found_WV[inside[self.split]] = scores
        return found_WV

    def _events(
        self,
        splits: Mapping[str, _Split],
        points: Mapping[str, dict[str, np.ndarray]],
        measurements: Measurements,
    ) -> tuple[dict[str, TaskForecast], pa.Table]:
        scored, kept = splits[self.split], KeptEvents()
        row_W = measurements.rows(scored.windows.stay_W, scored.windows.start_W + self.settings.context - 1)
        found: dict[str, TaskForecast] = {}
        for task in self.tasks:
            labelled = EventPoints.of(task, self.inputs.labels, scored.windows)
            ahead = task.horizon_hours or 0
            reason = why_not_forecast(task, measurements.names)
            if reason is None and self.settings.context + ahead > self.longest_window_hours:
                reason = (
                    f"{self.settings.context} + {ahead} h are beyond the predictor's reach: {trained_windows(self.inputs.predictor.spec)}"
                )
            probabilities = {}
            for method in (MODEL, LAST_VALUE) if reason is None else ():
                errors_JHV = (splits["tuning"].values.target_WSV - points["tuning"][method])[:, :ahead]
                own_WHV = points[self.split][method][:, :ahead]
                probability_W = event_probabilities(task, measurements.names, own_WHV, errors_JHV, self.seed)
                if task.switches_only:
                    # Only a switch into the event is labelled 1. A window that ends in the event has no such label: least probability.
                    probability_W = np.where(in_event_before(task, measurements, row_W), LEAST, probability_W)
                probabilities[method] = probability_W
            if not all(np.isfinite(each_W).all() for each_W in probabilities.values()):
                reason, probabilities = "no tuning window has a measurement in the coming hours", {}
            for method, probability_W in probabilities.items():
                kept.add(task.name, method, labelled, probability_W)
            found[task.name] = task_forecast(task, labelled, probabilities, reason, self.settings.num_bootstrap)
        return found, kept.table()


def _without_forecasts(result: ForecastResult, reason: str) -> ForecastOutcome:
    """The outcome where nothing can be forecast: a reason and empty tables."""
    return ForecastOutcome({**result, "reason": reason}, FORECASTS.empty_table(), KeptEvents().table())

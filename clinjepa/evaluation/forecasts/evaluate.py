"""Forecasts of measured values from rolled-out latents: point forecasts, predictive distributions, events and next measurements.

A window has C given hours; the rollout carries the last given action forward. A linear decoder, fitted on recorded hours of training
patients, reads the values of a coming hour from its predicted latent. Errors on tuning patients make this estimate a distribution, whose
median is the point forecast; neither leaves the plausible range of the variable. Three comparisons are scored on the same values with the
same draws of patients. Hours beyond the predictor's trained window are not evaluated. All that is fitted is a `Forecaster`; with a given
one nothing is fitted, and no training or tuning stay is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import ForecastConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.drift_windows import Windows, drift_windows
from clinjepa.evaluation.forecasts.events import LEAST, event_probabilities, in_event_before, why_not_forecast
from clinjepa.evaluation.forecasts.fitting import Fitted, fit_forecaster
from clinjepa.evaluation.forecasts.forecaster import Forecaster, Steps
from clinjepa.evaluation.forecasts.points.measurements import (
    MIN_TRAIN_HOURS,
    Measurements,
    draw_stays,
    read_measurements,
    read_named,
)
from clinjepa.evaluation.forecasts.result import LAST_VALUE, LIGHTGBM, MODEL, ForecastResult, TaskForecast
from clinjepa.evaluation.forecasts.scoring.event_scores import EventPoints, task_forecast
from clinjepa.evaluation.forecasts.scoring.horizon_scores import all_variables, score_horizon
from clinjepa.evaluation.forecasts.tables import FORECASTS, KeptEvents, forecast_rows
from clinjepa.evaluation.forecasts.windows import (
    ForecastInputs,
    RolledWindows,
    at_horizons,
    check_fits,
    estimates,
    roll_windows,
)
from clinjepa.evaluation.resampling import PatientBootstrap
from clinjepa.evaluation.space import stays_of, trained_windows

__all__ = ["ForecastInputs", "ForecastOutcome", "evaluate_forecasts", "without_forecasts"]


@dataclass(frozen=True)
class ForecastOutcome:
    """The result, the forecasts and probabilities behind it as tables (`tables`), and the fitted parts that made them; None where nothing
    can be forecast."""

    result: ForecastResult
    forecasts: pa.Table
    events: pa.Table
    forecaster: Forecaster | None = None


def evaluate_forecasts(
    inputs: ForecastInputs,
    tasks: Sequence[Task],
    settings: ForecastConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    forecaster: Forecaster | None = None,
) -> ForecastOutcome:
    """Forecasts of the windows of `split`, scored.

    Args:
        inputs: What is read.
        tasks: Event tasks whose probabilities are computed.
        settings: Windows, horizons, variables, decoder and bootstrap.
        split: The split that is scored.
        seed: Seed of every draw of stays, hours and patients.
        forecaster: Fitted parts of an earlier evaluation with the same predictor. With them stays of `split` alone are read, and context,
            horizons and variables are the forecaster's, not those of `settings`. None: they are fitted on train and tuning.

    Returns:
        The result and its tables. Where no value can be forecast, the result has a `reason` and both tables are empty. A task without
        probabilities has a `reason` in `events`.

    Raises:
        EvaluationError: A predicted latent is NaN or infinite. The forecaster is of another predictor, or it was fitted without direct
            forecasts and `inputs` has some.
    """
    if forecaster is None:
        return _Evaluation(inputs, list(tasks), settings, split, seed).outcome()
    check_fits(forecaster, inputs.predictor, inputs.latents)
    if inputs.direct is not None and LIGHTGBM not in forecaster.distributions:
        raise EvaluationError("the forecaster was fitted without direct forecasts, so they have no distribution; leave `direct` out")
    return _Evaluation(inputs, list(tasks), settings, split, seed, forecaster).outcome()


class _Evaluation:
    """One evaluation; its parts are computed in the order of `outcome`. frozen: fitted parts; None: they are fitted here."""

    def __init__(
        self,
        inputs: ForecastInputs,
        tasks: list[Task],
        settings: ForecastConfig,
        split: str,
        seed: int,
        frozen: Forecaster | None = None,
    ) -> None:
        self.inputs, self.tasks, self.settings, self.split, self.seed, self.frozen = inputs, tasks, settings, split, seed, frozen
        self.longest_window_hours = inputs.predictor.spec.reach_hours + 1
        self.inputs.predictor.eval()
        self.steps, self.cut = (frozen.steps, []) if frozen is not None else self._steps()

    def _steps(self) -> tuple[Steps, list[int]]:
        """The hours after the history that the predictor reaches, and the horizons that it does not."""
        context, wanted = self.settings.context, sorted(set(self.settings.horizons))
        horizons = [h for h in wanted if context + h <= self.longest_window_hours]
        ahead = [task.horizon_hours or 0 for task in self.tasks]
        hours = range(1, min(max(ahead, default=0), self.longest_window_hours - context) + 1)
        steps_S = np.array(sorted({*horizons, *hours}), dtype=np.int64)
        return Steps(context, horizons, steps_S), [h for h in wanted if h not in horizons]

    def outcome(self) -> ForecastOutcome:
        context = self.steps.context
        result_base: ForecastResult = {"context": context, "num_windows": {}, "horizons": {}, "variables": {}, "events": {}}
        if not self.steps.horizons:
            return _without_forecasts(result_base, f"{context} + 1 h are beyond the predictor's reach: {self._reach()}")
        chosen = self._stays()
        measurements = self._measurements(chosen)
        windows = {split: self._windows(table) for split, table in chosen.items()}
        result_base["num_windows"] = {split: len(own) for split, own in windows.items()}
        reason = self._why_none(result_base["num_windows"], measurements)
        if reason is not None:
            return _without_forecasts(result_base, reason)
        forecaster, rolled = self._fitted(chosen, windows, measurements)
        scored = rolled.get(self.split)
        if scored is None:
            scored = roll_windows(self.inputs, self.steps, windows[self.split], measurements, forecaster.decoder)
        found = estimates(scored, self.steps, measurements.names, forecaster.mean_V, self.inputs.direct)
        figures, table = self._horizons(scored, found, forecaster, measurements)
        events, kept = self._events(scored, found, forecaster, measurements)
        result: ForecastResult = {**result_base, **figures, "events": events}  # type: ignore[typeddict-item]  # the names are the result's
        if self.cut:
            result["cut"] = f"{', '.join(map(str, self.cut))} h ahead are cut: {self._reach()}"
        return ForecastOutcome(result, table, kept, forecaster)

    def _reach(self) -> str:
        return trained_windows(self.inputs.predictor.spec)

    def _why_none(self, num_windows: Mapping[str, int], measurements: Measurements) -> str | None:
        """Why there is no forecast; None where there are windows of every split and variables."""
        without = [split for split, number in num_windows.items() if not number]
        if without:  # a window needs its start, the given hours and one hour to forecast
            hours = self.steps.context + min(self.settings.starts)
            return f"no stay of {' and '.join(without)} lasts more than {hours} h; lower evaluation.forecasts.context or use longer stays"
        if not measurements.names:
            return f"no variable is measured in {MIN_TRAIN_HOURS} hours of the train split; more training stays are needed"
        return None

    def _stays(self) -> dict[str, pa.Table]:
        splits = dict.fromkeys((*(() if self.frozen is not None else ("train", "tuning")), self.split))
        return {split: draw_stays(stays_of(self.inputs.stays, split), self.settings.max_stays, self.seed) for split in splits}

    def _measurements(self, chosen: Mapping[str, pa.Table]) -> Measurements:
        stay_ids = np.concatenate([table["stay_id"].to_numpy() for table in chosen.values()])
        if self.frozen is not None:
            return read_named(self.inputs.ingest, self.inputs.stays, stay_ids, self.frozen.names)
        also = {name for task in self.tasks for name in task.variables}
        return read_measurements(self.inputs.ingest, self.inputs.stays, stay_ids, self.settings.num_variables, also)

    def _windows(self, stays: pa.Table) -> Windows:
        return drift_windows(stays, self.steps.context, self.settings.starts, self.longest_window_hours, int(self.steps.steps_S[-1]))

    def _fitted(self, chosen: Mapping[str, pa.Table], windows: Mapping[str, Windows], measurements: Measurements) -> Fitted:
        if self.frozen is not None:
            return Fitted(self.frozen, {})
        return fit_forecaster(self.inputs, self.steps, chosen, windows, measurements, self.settings.num_decoder_hours, self.seed)

    def _horizons(
        self, scored: RolledWindows, made: Mapping[str, np.ndarray], forecaster: Forecaster, measurements: Measurements
    ) -> tuple[dict[str, object], pa.Table]:
        names = measurements.names
        draws = PatientBootstrap(scored.windows.subject_W, self.settings.num_bootstrap, self.seed)
        never_V = ~np.isfinite(measurements.values_RV).any(0) & (self.frozen is not None)
        variables: dict[str, dict[str, object]] = {name: {} for name in names}
        overall, tables = {}, []
        horizons = at_horizons(scored, made, self.steps, forecaster.ranges_V2)
        for place, (h, own) in enumerate(zip(self.steps.horizons, horizons, strict=True)):
            distributions = {method: forecaster.distributions[method][place] for method in made}
            found = score_horizon(own, distributions, _measured(scored, forecaster, place), draws)
            overall[str(h)] = all_variables(found, draws)
            for name, cell, never in zip(names, found.cells, never_V, strict=True):
                variables[name][str(h)] = {**cell, "reason": "these data have no value of the variable"} if never else cell
            tables.append(forecast_rows(scored.windows, h, names, own.observed_WV, found))
        return {"horizons": overall, "variables": variables}, pa.concat_tables(tables)

    def _events(
        self, scored: RolledWindows, made: Mapping[str, np.ndarray], forecaster: Forecaster, measurements: Measurements
    ) -> tuple[dict[str, TaskForecast], pa.Table]:
        kept = KeptEvents()
        row_W = measurements.rows(scored.windows.stay_W, scored.windows.start_W + self.steps.context - 1)
        found: dict[str, TaskForecast] = {}
        for task in self.tasks:
            labelled = EventPoints.of(task, self.inputs.labels, scored.windows)
            ahead = task.horizon_hours or 0
            reason = why_not_forecast(task, measurements.names) or self._why_too_far(ahead)
            probabilities = {}
            for method in (MODEL, LAST_VALUE) if reason is None else ():
                errors_JHV = forecaster.paths[method][:, :ahead]
                probability_W = event_probabilities(task, measurements.names, made[method][:, :ahead], errors_JHV, forecaster.ranges_V2)
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

    def _why_too_far(self, ahead: int) -> str | None:
        """Why hours 1 … `ahead` cannot be simulated; None where they can."""
        context = self.steps.context
        if context + ahead > self.longest_window_hours:
            return f"{context} + {ahead} h are beyond the predictor's reach: {self._reach()}"
        return self.steps.why_no_path(ahead)


def _measured(scored: RolledWindows, forecaster: Forecaster, place: int) -> np.ndarray:
    """Log-odds [W, V] that each variable is measured at a horizon; NaN for windows that do not reach it, and for all without heads."""
    inside_W = scored.windows.reach_W >= forecaster.steps.horizons[place]
    found_WV = np.full((len(inside_W), len(forecaster.names)), np.nan)
    head = forecaster.heads[place]
    if head is not None and inside_W.any():
        found_WV[inside_W] = head(scored.z_WHD[inside_W, place])
    return found_WV


def without_forecasts(context: int, reason: str) -> ForecastOutcome:
    """The outcome where there is no forecaster. context: given hours of the settings."""
    return _without_forecasts({"context": context, "num_windows": {}, "horizons": {}, "variables": {}, "events": {}}, reason)


def _without_forecasts(result: ForecastResult, reason: str) -> ForecastOutcome:
    """The outcome where nothing can be forecast: a reason and empty tables."""
    return ForecastOutcome({**result, "reason": reason}, FORECASTS.empty_table(), KeptEvents().table())

"""A finished run beside the bed: requests in, predictions out. The same code as the evaluation makes texts, latents and predictions.

Nothing is kept but what `reading` caches: latents and keys, by digests of texts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clinjepa
from clinjepa.clinical import Task, load_tasks
from clinjepa.config.schema import CohortConfig, TextConfig
from clinjepa.errors import StoreError
from clinjepa.evaluation.downstream.fitted import FittedProbes, TaskProbes
from clinjepa.evaluation.downstream.point_features import PointFeatures, features_of_read_hours, history_start
from clinjepa.evaluation.forecasts.forecaster import Forecaster
from clinjepa.evaluation.forecasts.patients import KnownHours, forecast_values
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.export.folder import MANIFEST, check_export, weights_digest
from clinjepa.export.serving_facts import FORECASTER, PROBES, ServingFacts, read_serving_facts, reads_by_map, takes_meds_rows
from clinjepa.model.encoding.text_encoder import TextEncoder
from clinjepa.model.predictor import Predictor
from clinjepa.serving.hours import StayHours, TextRules, stay_hours
from clinjepa.serving.meds_rows import meds_hours
from clinjepa.serving.reading import EncodedStay, Encoding, Reading
from clinjepa.serving.requests import RequestError, ScoreRequest
from clinjepa.serving.responses import EventProbability, Forecast, ModelIdentity, Risk, ScoreResponse
from clinjepa.storage import Folder
from clinjepa.trajectory.definitions import ingest_definitions

LATENT_CACHE_MB, KEY_CACHE_MB = 256, 512
_MB = 1 << 20
_HISTORY, _CARRIED = "history_only", "actions_carried_forward"


@dataclass(frozen=True)
class Caches:
    """Bounds of a replica's caches in MB: latents of texts; keys and values of stays."""

    latents_mb: int = LATENT_CACHE_MB
    keys_mb: int = KEY_CACHE_MB


@dataclass(frozen=True)
class _Parts:
    predictor: Predictor
    probes: FittedProbes | None
    forecaster: Forecaster | None
    event_tasks: Sequence[Task]


class ScoringModel:
    """An export that scores requests. For one thread at a time."""

    def __init__(self, facts: ServingFacts, identity: ModelIdentity, encoder: TextEncoder, parts: _Parts, caches: Caches) -> None:
        self.facts, self.identity = facts, identity
        text, cohort = TextConfig.model_validate(facts.text), CohortConfig.model_validate(facts.cohort)
        self.rules = TextRules(text, cohort, facts.source["event_time"], reads_by_map(facts.source))
        self.encoding = Encoding(encoder, caches.latents_mb * _MB)
        self.reading = Reading(parts.predictor, caches.keys_mb * _MB)
        self._parts = parts
        self._titles = {task.name: task for task in facts.tasks}

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        *,
        base: str | os.PathLike[str] | None = None,
        caches: Caches | None = None,
        verify: bool = True,
    ) -> ScoringModel:
        """The model of a local folder that `clinjepa export` wrote.

        Args:
            folder: The export.
            device: Where encoder and predictor run.
            base: Folder or model id of a base that the export names and does not hold.
            caches: Bounds of the caches.
            verify: Compare all files with their digests first.

        Raises:
            StoreError: A file is missing or altered, the export has neither probes nor a forecaster, or its texts follow other clinical
                definitions than those installed here.
            ConfigError: The base is not on this machine.
        """
        facts = read_serving_facts(folder)
        manifest = check_export(Folder(folder)) if verify else Folder(folder).read_json(MANIFEST)
        if ingest_definitions(TextConfig.model_validate(facts.text)) != facts.definitions:
            raise StoreError(
                f"{os.fspath(folder)}: its texts follow other variables or units than this clinjepa has; use the version that trained it"
            )
        encoder = TextEncoder.from_pretrained(Path(folder, "encoder"), base=base).to(device)
        predictor = Predictor.from_pretrained(Path(folder, "predictor")).to(device)
        probes = FittedProbes.from_pretrained(Path(folder, PROBES)) if Path(folder, PROBES).is_dir() else None
        forecaster = Forecaster.read(Path(folder, FORECASTER)) if Path(folder, FORECASTER).is_dir() else None
        if probes is not None:
            probes.check_predictor(predictor)
        elif forecaster is None:
            raise StoreError(f"{os.fspath(folder)} has neither probes nor a forecaster; evaluate the run and export it again")
        parts = _Parts(predictor, probes, forecaster, load_tasks(list(facts.event_tasks)))
        identity = ModelIdentity(
            run=facts.run, recipe=facts.recipe, seed=facts.seed, digest=weights_digest(manifest), version=clinjepa.__version__
        )
        return cls(facts, identity, encoder, parts, caches or Caches())

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResponse | RequestError]:
        """Predictions of several stays, computed together; a request that cannot be scored gets its error."""
        answers: dict[int, ScoreResponse | RequestError] = {}
        hours: dict[int, StayHours] = {}
        for place, request in enumerate(requests):
            try:
                hours[place] = self._hours(request)
            except RequestError as error:
                answers[place] = error
        stays = self.encoding.stays(list(hours.values()))
        risks_of, (values, events, why) = self._risks(stays), self._forecasts(list(hours.values()), stays)
        for row, ((place, own), stay, (risks, notes)) in enumerate(zip(hours.items(), stays, risks_of, strict=True)):
            cut = [f"{stay.num_cut} texts were cut at {self.encoding.encoder.max_tokens} tokens"] if stay.num_cut else []
            answers[place] = ScoreResponse(
                model=self.identity,
                num_hours=len(own),
                risks=risks,
                forecasts=values[row],
                events=events[row],
                dropped=own.dropped,
                notes=[*own.notes, *cut, *notes, *why[row]],
            )
        return [answers[place] for place in range(len(requests))]

    def clear_caches(self) -> None:
        """Forget all texts and stays."""
        self.encoding.cache.clear()
        self.reading.cache.clear()

    def counts(self) -> dict[str, int]:
        """Totals since the start: tokens encoded, hours read by the predictor, hits and misses of both caches."""
        latents, keys = self.encoding.cache, self.reading.cache
        return {
            "tokens": self.encoding.num_tokens,
            "hours_read": self.reading.num_steps,
            "latent_hits": latents.hits,
            "latent_misses": latents.misses,
            "stay_hits": keys.hits,
            "stay_misses": keys.misses,
        }

    def description(self) -> dict[str, Any]:
        """What `GET /v1/model` says: identity, tasks, forecast variables and horizons."""
        forecaster, probes = self._parts.forecaster, self._parts.probes
        return {
            **self.identity.model_dump(),
            "source": dict(self.facts.source),
            "tasks": [{"name": task.name, "title": task.title, "horizon_hours": task.horizon_hours} for task in self.facts.tasks],
            "kinds": list(probes.kinds) if probes is not None else [],
            "forecasts": {
                "variables": forecaster.names if forecaster is not None else [],
                "horizons": forecaster.steps.horizons if forecaster is not None else [],
                "given_hours": forecaster.steps.context if forecaster is not None else None,
            },
            "event_tasks": list(self.facts.event_tasks),
            "max_hours": self.facts.max_hours,
        }

    def _hours(self, request: ScoreRequest) -> StayHours:
        names = self._parts.forecaster.names if self._parts.forecaster is not None else []
        if request.rows is None:
            return stay_hours(request, self.rules, names)
        if reads_by_map(self.facts.source):
            raise RequestError("rows", "the run reads MEDS by another map of codes than MIMIC-IV's; give stay and events")
        if not takes_meds_rows(self.facts.source):
            raise RequestError("rows", "the run was not trained on MEDS; give stay and events")
        return meds_hours(request, self.rules, names)

    def _risks(self, stays: Sequence[EncodedStay]) -> list[tuple[list[Risk], list[str]]]:
        """(risks, notes) of each stay."""
        probes = self._parts.probes
        if probes is None or not stays:
            return [([], []) for _ in stays]
        able = {name: task for name, task in probes.tasks.items() if task.reason is None}
        features = {hours: self._features(stays, hours) for hours in sorted({task.rollout_hours for task in able.values()})}
        scores = {
            (name, column, kind): _in_words(task, probe(features[task.rollout_hours].column(column)))
            for name, task in able.items()
            for (column, kind), probe in task.probes.items()
            if column in (_HISTORY, _CARRIED)
        }
        found = []
        for row in range(len(stays)):
            risks = [self._risk(name, task, row, scores) for name, task in able.items()]
            cut = [hours for hours, each in features.items() if each.cut_N[row]]
            note = [f"the history of tasks with rollouts of {', '.join(map(str, cut))} h begins after the admission"] if cut else []
            found.append((risks, note))
        return found

    def _features(self, stays: Sequence[EncodedStay], rollout_hours: int) -> PointFeatures:
        probes, predictor = self._parts.probes, self._parts.predictor
        assert probes is not None
        pooling = probes.input.pooling
        starts = [history_start(predictor, len(stay.z_state_TD), rollout_hours, pooling) for stay in stays]
        read = [self.reading.read(stay, start) for stay, start in zip(stays, starts, strict=True)]
        return features_of_read_hours(predictor, read, rollout_hours, pooling)

    def _risk(self, name: str, task: TaskProbes, row: int, scores: dict[tuple[str, str, str], np.ndarray]) -> Risk:
        assert self._parts.probes is not None
        points, about = self._parts.probes.points, self._titles[name]
        by_column = {
            column: {kind: float(scores[name, column, kind][row]) for kind in self._parts.probes.kinds} for column in (_HISTORY, _CARRIED)
        }
        return Risk(
            task=name,
            title=about.title,
            horizon_hours=about.horizon_hours,
            predicted_at=task.predicted_at,
            prediction_hour=points.stay_prediction_hour if task.predicted_at == "prediction_hour" else None,
            output="probability" if task.output == "log_odds" else "number",
            unit=about.unit,
            **by_column,
        )

    def _forecasts(
        self, hours: Sequence[StayHours], stays: Sequence[EncodedStay]
    ) -> tuple[list[list[Forecast]], list[list[EventProbability]], list[list[str]]]:
        """(values, events, notes), each by stay."""
        forecaster = self._parts.forecaster
        values: list[list[Forecast]] = [[] for _ in stays]
        events: list[list[EventProbability]] = [[] for _ in stays]
        notes: list[list[str]] = [[] for _ in stays]
        if forecaster is None:
            return values, events, notes
        context = forecaster.steps.context
        long = [place for place, own in enumerate(hours) if len(own) >= context]
        for place in set(range(len(stays))) - set(long):
            notes[place].append(f"forecasts need {context} complete hours")
        if long:
            latents = StaysInMemory(dict(enumerate(stays)), self.facts.encoder_digest)
            known = KnownHours.of(long, [len(hours[place]) - 1 for place in long], _measurements(forecaster.names, hours, long))
            found = forecast_values(self._parts.predictor, latents, forecaster, known, tasks=self._parts.event_tasks)
            for row in found.values.to_pylist():
                values[row["stay_id"]].append(Forecast(horizon_hours=row["horizon"], **{name: row[name] for name in _KEPT}))
            titles = {task.name: task.title for task in self._parts.event_tasks}
            for row in found.events.to_pylist():
                plain = {name: row[name] for name in ("task", "horizon_hours", "probability", "in_event", "reason")}
                events[row["stay_id"]].append(EventProbability(title=titles[row["task"]], **plain))
        return values, events, notes


_KEPT = [name for name in Forecast.model_fields if name != "horizon_hours"]


class StaysInMemory:
    """Latents of some stays as evaluation reads them (`clinjepa.evaluation.space.Latents`)."""

    def __init__(self, stays: dict[int, EncodedStay], encoder_digest: str) -> None:
        self._stays, self.encoder_digest = stays, encoder_digest

    @property
    def dim(self) -> int:
        """Width of a latent."""
        return len(next(iter(self._stays.values())).z_static_D)

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z_static_D, z_state_TD, z_action_TD of a stay's hours."""
        own, hours = self._stays[stay_id], slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return own.z_static_D, own.z_state_TD[hours], own.z_action_TD[hours]


def _measurements(names: list[str], hours: Sequence[StayHours], places: Sequence[int]) -> Measurements:
    missing = {place: np.full(len(hours[place]), np.nan, dtype=np.float32) for place in places}
    values_RV = np.concatenate([np.stack([hours[p].measured.get(name, missing[p]) for name in names], axis=1) for p in places])
    stay_R = np.repeat(places, [len(hours[place]) for place in places])
    first = np.cumsum([0, *(len(hours[place]) for place in places)])[:-1]
    return Measurements(names, values_RV, stay_R, dict(zip(places, first.tolist(), strict=True)))


def _in_words(task: TaskProbes, scores_N: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds; numbers as they are."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -scores_N)) if task.output == "log_odds" else scores_N)

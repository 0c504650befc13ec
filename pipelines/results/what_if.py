"""`clinjepa forecast`: what if, for one stay of a finished run or scoring; written as `forecast.json` and `forecast.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clinjepa.addresses import plain_address
from clinjepa.clinical import load_tasks
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.settings import BaseSettings, ReadingSettings
from clinjepa.errors import StoreError
from clinjepa.evaluation.forecasts.forecaster import NAME, Forecaster
from clinjepa.evaluation.forecasts.points.measurements import read_named
from clinjepa.evaluation.forecasts.what_if import (
    NOTES,
    SCHEMA_VERSION,
    FrozenModel,
    OneStay,
    PlannedDrug,
    WhatIf,
    coming_hours,
    plan_warnings,
    stay_hours,
    variable_hours,
    what_if,
)
from clinjepa.model.predictor import load_predictor
from clinjepa.model.pretrained.identity import check_predictor
from clinjepa.report.document import finite
from clinjepa.report.what_if_page import render_what_if
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.show import check_access
from clinjepa.trajectory.hour_grid import num_stays_with
from clinjepa.trajectory.hours.action_plan import PlanEntry, read_plan
from clinjepa.trajectory.tokens.latent_rows import as_stored
from clinjepa.trajectory.tokens.latent_store import LatentReader
from pipelines.graph.finished_trial import ForecastTrial, forecast_trial

JSON_FILE, PAGE_FILE = "forecast.json", "forecast.html"


class Written(NamedTuple):
    """Addresses of both files, and what a reader must be warned of."""

    json: str
    page: str
    warnings: list[str]


class Question(NamedTuple):
    """What `clinjepa forecast` was asked for."""

    run: str
    stay: int
    hour: int | None = None
    """Last known hour of the stay; None: its last one."""
    actions: str | None = None
    """File of a plan."""
    recipe: str | None = None
    seed: int | None = None
    credentialed: bool = False
    """The user confirms that they may see single patients."""


def write_what_if(asked: Question, out: str) -> Written:
    """Forecast one stay and write both files, which only their owner may read.

    Args:
        asked: The run, the stay and the plan.
        out: Folder of the files.

    Raises:
        AccessError: The data are credentialed and `credentialed` is False.
        StoreError: The run is not finished, has no forecaster, was altered, or does not have the stay.
        ConfigError: The plan or a choice cannot be used.
        EvaluationError: The stay has too few hours for a forecast.
    """
    content = answer(asked)
    folder = Folder(out)
    folder.write_json(JSON_FILE, content)
    folder.write_bytes(PAGE_FILE, render_what_if(content).encode())
    return Written(f"{folder.address}/{JSON_FILE}", f"{folder.address}/{PAGE_FILE}", content["warnings"])


def answer(asked: Question) -> WhatIf:
    """The content of `forecast.json`. Raises what `write_what_if` raises."""
    trial = forecast_trial(asked.run, asked.recipe, asked.seed)
    check_access(trial.trajectories.folder, asked.credentialed)
    model, latents = _model(trial)
    stay = _stay(trial, asked, model.forecaster, latents)
    hours = coming_hours(model.forecaster, stay.hour)
    plan = None if asked.actions is None else read_plan(Path(plain_address(asked.actions)), stay.hour, hours.stop - 1)
    max_decimals = trial.ingest.settings["text"]["max_decimals"]
    versions = what_if(model, stay, _Encoder(trial, latents), plan, max_decimals)
    history, forecast = stay_hours(model.forecaster, stay)
    drugs = _planned_drugs(trial, plan or [])
    content: WhatIf = {
        "schema_version": SCHEMA_VERSION,
        "run": Folder(asked.run).address.rpartition("/")[2],
        "recipe": trial.recipe,
        "seed": trial.seed,
        "data": trial.trajectories.folder.read_json("data_card.json")["name"],
        "hour": stay.hour,
        "history": history,
        "forecast": forecast,
        "context_hours": model.forecaster.steps.context,
        "horizons": model.forecaster.steps.horizons,
        "notes": list(NOTES),
        "warnings": plan_warnings(drugs),
        "plan_drugs": drugs,
        "variables": variable_hours(model.forecaster, stay),
        "versions": versions,
    }
    checked: WhatIf = finite(content)
    return checked


def _planned_drugs(trial: ForecastTrial, plan: Sequence[PlanEntry]) -> list[PlannedDrug]:
    """The drugs of a plan, and how often the training split has them by its hour grid."""
    names = list(dict.fromkeys(entry.variable.name for entry in plan))
    counts = num_stays_with(trial.trained_on, "train", names) if names and trial.trained_on is not None else {}
    return [{"drug": name, "num_training_stays": counts.get(name)} for name in names]


def _model(trial: ForecastTrial) -> tuple[FrozenModel, LatentReader]:
    """The fitted parts, and the latents that they were fitted for."""
    fitted = trial.forecaster.folder
    if not fitted.exists(f"{NAME}.json"):
        reason = "its evaluation could not fit one"
        raise StoreError(f"{fitted.address} holds no forecaster: {reason}; report.json of the run says why its forecasts have no figures")
    latents = LatentReader(trial.latents.folder)
    check_predictor(trial.predictor.folder, latents.encoder_digest, f"that of the latents in {trial.latents.folder.address}")
    predictor = load_predictor(trial.predictor.folder)
    return FrozenModel(predictor, Forecaster.read(fitted), load_tasks(list(trial.event_tasks))), latents


def _stay(trial: ForecastTrial, asked: Question, forecaster: Forecaster, latents: LatentReader) -> OneStay:
    """The stay with its measured values and action texts."""
    ingest = trial.ingest.folder
    stays = ingest.read_table("stays.parquet")
    own = stays.filter(pa.array(stays["stay_id"].to_numpy() == asked.stay))
    if not own.num_rows:
        raise StoreError(
            f"{ingest.address} has no stay of that id among its {stays.num_rows}: it is not in the data, or the cohort's rules left it "
            "out; stays.parquet there lists all"
        )
    hours = ingest.read_table(f"hours/{own['part'][0].as_py()}.parquet", columns=["stay_id", "action_texts"])
    texts = hours.filter(pa.array(hours["stay_id"].to_numpy() == asked.stay))["action_texts"][0].as_py()
    if latents.num_hours(asked.stay) != len(texts):
        raise StoreError(f"{latents.folder.address} is not of {ingest.address}: the hours of a stay differ; remove it and run again")
    measurements = read_named(ingest, own, np.array([asked.stay]), forecaster.names)
    return OneStay(asked.stay, len(texts) - 1 if asked.hour is None else asked.hour, latents, measurements, texts)


class _Encoder:
    """Latents of action texts as the run's latent store would hold them; the encoder is loaded when the first text needs it."""

    def __init__(self, trial: ForecastTrial, latents: LatentReader) -> None:
        self._trial, self._latents = trial, latents

    def __call__(self, texts: list[str]) -> np.ndarray:
        trial = self._trial
        job = EmbedJob(
            out=trial.latents.folder.address,
            trajectories=trial.trajectories.folder.address,
            base=trial.base.folder.address,
            encoder=None if trial.encoder is None else trial.encoder.folder.address,
            base_settings=BaseSettings.from_json(trial.base_model.settings["encoder"]),
            reading=ReadingSettings.from_json(trial.latents.settings),
        )
        embedder = Embedder(job)
        self._latents.check_encoder(embedder.writer.encoder_digest, f"{job.base} with {job.encoder}" if job.encoder else job.base)
        flat, lengths, _ = embedder.reader.tokenizer.encode_array(pa.array(texts, pa.string()), trial.trajectories.settings["max_tokens"])
        tokens = np.split(flat, np.cumsum(lengths)[:-1])
        return as_stored(embedder.encoded(tokens, "action texts"), job.reading.dtype)

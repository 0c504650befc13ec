"""Scores of new patients, part by part: probabilities of tasks and forecasts of values, at every prediction point, without labels.

`risk/<part>.parquet` has the schema of `meds-evaluation` with empty labels (`PREDICTIONS_SCHEMA`), `values/<part>.parquet` and
`events/<part>.parquet` those of `forecasts.patients`. A part is one of the ingest artifact: the unit of memory, of parallel work and of
resuming. A point of hour h reads hours 0 … h only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import Task
from clinjepa.errors import StoreError
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.prediction import KnownColumn, predict_points
from clinjepa.evaluation.forecasts.forecaster import Forecaster
from clinjepa.evaluation.forecasts.patients import EVENTS, VALUES, KnownHours, forecast_values
from clinjepa.evaluation.forecasts.points.measurements import read_named
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor
from clinjepa.storage import Folder
from clinjepa.storage.parts import PartFile, finished_part, read_records, write_part_table, write_record
from clinjepa.trajectory.hour_grid import parts_of

SCHEMA_VERSION = 1
RISK, VALUES_FOLDER, EVENTS_FOLDER = "risk", "values", "events"


class ScoreRecord(TypedDict):
    """Record of a finished part: its files, its stays, and stays that are too short for a forecast."""

    schema_version: int
    files: list[PartFile]
    num_stays: int
    num_too_short: int


class ScoreTotals(TypedDict):
    """Of all parts: stays, rows of each table, and stays that are too short for a forecast."""

    num_stays: int
    num_predictions: int
    num_forecasts: int
    num_too_short: int


@dataclass(frozen=True)
class Frozen:
    """The parts of a run that score: predictor, probes, and the forecaster where the run fitted one, with the event tasks that it is asked
    for."""

    predictor: Predictor
    probes: FittedProbes
    forecaster: Forecaster | None
    event_tasks: Sequence[Task]


def score_part(frozen: Frozen, latents: Latents, ingest: Folder, part: str, out: Folder) -> ScoreRecord:
    """Score the stays of one part of an ingest artifact, unless the part is finished.

    Args:
        frozen: The parts of the run.
        latents: Latents of the stays, by the run's encoder.
        ingest: Ingest artifact of the new patients, made by the run's rules of texts.
        part: Name of one of its parts.
        out: Folder of the scores.

    Raises:
        StoreError: Probes and predictor are not of one training.
        EvaluationError: The latents have another width; a prediction is NaN or infinite.
    """
    finished = finished_part(out, part, SCHEMA_VERSION)
    if finished is not None:
        return cast(ScoreRecord, finished)
    stays = ingest.read_table("stays.parquet")
    stays = stays.filter(pc.equal(stays["part"], part)).sort_by("stay_id")
    risk = [predict_points(frozen.predictor, latents, stays, frozen.probes, column=column) for column in get_args(KnownColumn)]
    tables = {RISK: pa.concat_tables(risk)}
    num_too_short = 0
    if frozen.forecaster is not None:
        tables[VALUES_FOLDER], tables[EVENTS_FOLDER], num_too_short = _forecasts(frozen, frozen.forecaster, latents, ingest, stays)
    record: ScoreRecord = {
        "schema_version": SCHEMA_VERSION,
        "files": [write_part_table(out, f"{folder}/{part}.parquet", table) for folder, table in tables.items()],
        "num_stays": stays.num_rows,
        "num_too_short": num_too_short,
    }
    write_record(out, part, record)
    return record


def finish_scores(out: Folder, ingest: Folder) -> ScoreTotals:
    """The totals of all parts. Raises StoreError where a part of the ingest artifact is not scored."""
    records = cast("dict[str, ScoreRecord]", read_records(out, SCHEMA_VERSION))
    missing = set(parts_of(ingest.read_table("stays.parquet", columns=["stay_id", "part"]))) - set(records)
    if missing:
        raise StoreError(f"{out.address}: {len(missing)} parts are not scored; run again")
    rows = {RISK: 0, VALUES_FOLDER: 0, EVENTS_FOLDER: 0}
    for record in records.values():
        for file in record["files"]:
            rows[file["name"].partition("/")[0]] += file["num_rows"]
    return {
        "num_stays": sum(record["num_stays"] for record in records.values()),
        "num_predictions": rows[RISK],
        "num_forecasts": rows[VALUES_FOLDER],
        "num_too_short": sum(record["num_too_short"] for record in records.values()),
    }


def _forecasts(frozen: Frozen, forecaster: Forecaster, latents: Latents, ingest: Folder, stays: pa.Table) -> tuple[pa.Table, pa.Table, int]:
    """(forecasts, event probabilities, stays shorter than the history that a forecast needs), every `hourly_stride` hours."""
    context, stride = forecaster.steps.context, frozen.probes.points.hourly_stride
    places = [
        (stay_id, hour)
        for stay_id, num_hours in zip(stays["stay_id"].to_pylist(), stays["num_hours"].to_pylist(), strict=True)
        for hour in range(context - 1, num_hours, stride)
    ]
    num_too_short = int((stays["num_hours"].to_numpy() < context).sum())
    if not places:
        return VALUES.empty_table(), EVENTS.empty_table(), num_too_short
    stay_P, hour_P = np.array(places, dtype=np.int64).T
    measurements = read_named(ingest, stays, np.unique(stay_P), forecaster.names)
    found = forecast_values(frozen.predictor, latents, forecaster, KnownHours(stay_P, hour_P, measurements), tasks=frozen.event_tasks)
    return found.values, found.events, num_too_short

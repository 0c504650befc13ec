"""What a finished run's evaluations fitted, as a part of its export, and the facts that serving needs beside them."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from clinjepa.clinical import load_task
from clinjepa.clinical.code_maps import MAPS, MIMIC_MAP
from clinjepa.clinical.definitions import file_names
from clinjepa.config import Config
from clinjepa.config.schema import SourceConfig
from clinjepa.evaluation.downstream.fitted import PROBE_TENSORS, FittedProbes
from clinjepa.evaluation.downstream.fitted import PROBES as PROBE_FILE
from clinjepa.evaluation.forecasts.forecaster import NAME as FORECASTER_FILE
from clinjepa.export.serving_facts import FORECASTER, MIMIC_ITEMS, OWN_MAP, PROBES, ServedTask, ServingFacts
from clinjepa.model.predictor import load_predictor
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial


class Identity(TypedDict):
    """Which trial was exported."""

    run: str
    recipe: str
    seed: int


def fitted_stages(trial: Trial) -> dict[str, Stage]:
    """Folder of the export -> the evaluation that fits what is in it."""
    evaluations = {PROBES: "downstream", FORECASTER: "forecasts"}
    return {part: trial.evaluations[name] for part, name in evaluations.items() if name in trial.evaluations}


def write_fitted(artifacts: dict[str, Artifact], out: Folder) -> list[str]:
    """Copy what finished evaluations fitted; returns the folders that were written. An evaluation without enough data fitted nothing."""
    files = {
        PROBES: (PROBE_TENSORS, PROBE_FILE),
        FORECASTER: (f"{FORECASTER_FILE}.safetensors", f"{FORECASTER_FILE}.json"),
    }
    written = []
    for part, names in files.items():
        if part in artifacts and all(artifacts[part].folder.exists(name) for name in names):
            for name in names:
                (out / part).write_bytes(name, artifacts[part].folder.read_bytes(name))
            written.append(part)
    return written


class Digests(NamedTuple):
    """Of the configuration and of the encoder."""

    config: str
    encoder: str


def serving_facts(config: Config, trial: Trial, identity: Identity, digests: Digests, out: Folder) -> ServingFacts:
    """The content of `serving.json`. out: the export, whose predictor and fitted parts are written."""
    ingested, forecasts = trial.data.ingest.settings, trial.evaluations.get("forecasts")
    probes = FittedProbes.read(out / PROBES) if out.exists(PROBES) else None
    able = [load_task(name) for name, task in probes.tasks.items() if task.reason is None] if probes is not None else []
    return ServingFacts(
        **identity,
        config_digest=digests.config,
        encoder_digest=digests.encoder,
        source={
            "kind": config.source.kind,
            "name": config.source.name,
            "map": map_file(config.source),
            "event_time": config.source.event_time,
        },
        text=ingested["text"],
        cohort=ingested["cohort"],
        definitions=ingested["definitions"],
        max_hours=config.windows.max_hours,
        reach_hours=load_predictor(out / "predictor").spec.reach_hours,
        tasks=tuple(ServedTask(task.name, task.title, task.horizon_hours, task.label_unit) for task in able),
        event_tasks=tuple(forecasts.settings["event_tasks"] if forecasts is not None and out.exists(FORECASTER) else ()),
    )


def map_file(source: SourceConfig) -> str | None:
    """The file of `clinjepa/clinical/` that a source follows; OWN_MAP for a file of the user, whose place is not named."""
    if source.kind == "meds":
        packaged = f"{MAPS}/{source.map}.yaml" if source.map in file_names(MAPS) else OWN_MAP
        return MIMIC_ITEMS if source.map == MIMIC_MAP else packaged
    return f"maps/{source.kind}.yaml" if source.kind in file_names("maps") else None

"""The artifacts that make the forecasts of one finished trial, of a run or of a scoring, followed from the run's record by their manifests.

The graph of a scoring cannot be computed from its folder alone: what was fitted belongs to another run. Manifests name all inputs. The key
of an artifact is computed again from its manifest, so an artifact of another format version is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinjepa.config.schema import TextConfig
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.definitions import ingest_definitions
from pipelines.graph.artifacts import Artifact, content_key
from pipelines.graph.run_record import TrialRecord
from pipelines.graph.saved_run import FITTED, finished_trials, storage_of
from pipelines.graph.stage import FORMAT_VERSIONS

_REMEDY = "use the version of clinjepa that made it, or run it again"


@dataclass(frozen=True)
class Part:
    """One artifact: its folder and the settings of its stage."""

    folder: Folder
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ForecastTrial:
    """What forecasts patients of one finished trial: its stores, its model, and what its evaluation fitted."""

    recipe: str
    seed: int
    forecaster: Part
    """The forecast evaluation that fitted the forecaster: of the run itself, or of the run that a scoring froze."""
    event_tasks: Sequence[str]
    ingest: Part
    trained_on: Folder | None
    """Ingest artifact of the run that fitted the forecaster, whose training split it learnt from; None where it is no longer stored."""
    trajectories: Part
    latents: Part
    base: Part
    encoder: Part | None
    """The adapters that the latents were made with; None where the base itself encodes."""
    base_model: Part
    """The base before any training, whose settings say which model it is."""
    predictor: Part


def forecast_trial(address: str, recipe: str | None = None, seed: int | None = None) -> ForecastTrial:
    """The parts of one finished trial of `<storage>/runs/<name>`.

    Args:
        address: Folder of a run, or of a scoring with its evaluation.
        recipe: A recipe of the run; the first by default.
        seed: A seed of the run; the first by default.

    Raises:
        StoreError: The folder holds no finished run, the trial has no forecaster, or an artifact is missing, altered, of another format
            version or of other clinical definitions.
        ConfigError: The run has no such trial.
    """
    folder = Folder(address)
    trial = _chosen(finished_trials(folder), recipe, seed)
    walk = _Walk(Folder(storage_of(folder)))
    judged = _forecasts(walk, trial, folder.address)
    manifest = walk.manifest("forecasts", judged)
    inputs, fitted = manifest["inputs"], manifest["inputs"].get(FITTED, judged)
    latents = walk.inputs("embed", inputs["latents"])
    base = walk.kind_of(("sft", "base"), latents["base"])
    base_model = latents["base"] if base == "base" else walk.inputs(base, latents["base"])["base"]
    encoder = latents.get("encoder")
    ingest = walk.part("ingest", inputs["ingest"])
    if ingest.settings["definitions"] != ingest_definitions(TextConfig.model_validate(ingest.settings["text"])):
        raise StoreError(f"{ingest.folder.address} was made with other clinical definitions; {_REMEDY}")
    return ForecastTrial(
        recipe=trial["recipe"],
        seed=trial["seed"],
        forecaster=walk.part("forecasts", fitted),
        event_tasks=manifest["settings"]["event_tasks"],
        ingest=ingest,
        trained_on=walk.stored("ingest", walk.inputs("forecasts", fitted)["ingest"]),
        trajectories=walk.part("trajectories", latents["trajectories"]),
        latents=walk.part("embed", inputs["latents"]),
        base=walk.part(base, latents["base"]),
        encoder=None if encoder is None else walk.part(walk.kind_of(("phase", "sft"), encoder), encoder),
        base_model=walk.part("base", base_model),
        predictor=walk.part("phase", inputs["predictor"]),
    )


def _chosen(record: Sequence[TrialRecord], recipe: str | None, seed: int | None) -> TrialRecord:
    recipe = record[0]["recipe"] if recipe is None else recipe
    found = [trial for trial in record if trial["recipe"] == recipe and seed in (None, trial["seed"])]
    if not found:
        there = ", ".join(dict.fromkeys(f"{trial['recipe']}, seed {trial['seed']}" for trial in record))
        raise ConfigError(f"the run has no finished trial of recipe {recipe}{'' if seed is None else f' with seed {seed}'}; it has {there}")
    return found[0]


def _forecasts(walk: _Walk, trial: TrialRecord, address: str) -> str:
    """Key of the trial's own forecast evaluation: not the one that fitted what another one only reads."""
    keys = [name.partition("/")[2] for name in trial["artifacts"].values() if name.startswith("forecasts/")]
    read = {walk.manifest("forecasts", key)["inputs"].get(FITTED) for key in keys}
    own = [key for key in keys if key not in read]
    if not own:
        raise StoreError(
            f"{address} has no forecaster: its evaluation made no forecasts; set evaluation.forecasts.enabled=true and run "
            "`clinjepa evaluate` and `clinjepa report` again"
        )
    return own[-1]


class _Walk:
    """Manifests of one storage, each checked once."""

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        """The manifest of an artifact whose files are all there with their sizes and whose key is that of this version of its format."""
        if (kind, key) not in self._known:
            artifact = Artifact.at(self._storage, kind, key)
            if not artifact.is_complete():
                raise StoreError(f"{artifact.folder.address} is missing, which the run needs; run the run's command again to make it")
            found = artifact.verify()
            content = {"kind": kind, "format": FORMAT_VERSIONS[kind], "settings": found["settings"], "inputs": found["inputs"]}
            if content_key(content) != key:
                raise StoreError(f"{artifact.folder.address} has another format version than this clinjepa reads; {_REMEDY}")
            self._known[kind, key] = found
        return self._known[kind, key]

    def inputs(self, kind: str, key: str) -> dict[str, str]:
        """Role of an input -> its key."""
        found: dict[str, str] = self.manifest(kind, key)["inputs"]
        return found

    def part(self, kind: str, key: str) -> Part:
        settings = self.manifest(kind, key)["settings"]
        return Part(Artifact.at(self._storage, kind, key).folder, settings)

    def stored(self, kind: str, key: str) -> Folder | None:
        """Folder of an artifact whose files are all there; None otherwise."""
        artifact = Artifact.at(self._storage, kind, key)
        return artifact.folder if artifact.is_complete() else None

    def kind_of(self, kinds: Sequence[str], key: str) -> str:
        """The first of some kinds that has an artifact of that key; the last where none has."""
        return next((kind for kind in kinds if Artifact.at(self._storage, kind, key).is_complete()), kinds[-1])

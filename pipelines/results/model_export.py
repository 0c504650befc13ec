"""`clinjepa export`: a finished encoder and predictor, and what their evaluations fitted, as one folder that loads without Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypedDict

from clinjepa.config import Config, result_fields
from clinjepa.curriculum.recipes import Recipe
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.errors import ConfigError, StoreError
from clinjepa.export.card import data_terms, model_card, package_versions, report_figures
from clinjepa.export.folder import CARD, begin_export, finish_export
from clinjepa.export.serving_facts import write_serving_facts
from clinjepa.export.weights import TokenizerFacts, TrainedParts, Written, write_weights
from clinjepa.model.pretrained.identity import check_predictor, encoder_digest
from clinjepa.redaction import redacted
from clinjepa.sources.open_data import list_open_data
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, content_key
from pipelines.graph.code_digest import project_digest
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.graph.run_record import RUN_RECORD
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial
from pipelines.results.fitted_export import Digests, Identity, fitted_stages, serving_facts, write_fitted


class ExportRecord(Identity):
    """Content of `export.json` beside its list of files."""

    config_digest: str
    code_digest: str
    dataset: str
    access: str
    """open, synthetic or credentialed: decides whether the model may be shared."""

    base: Mapping[str, Any]
    """Where the base model is: a public model's id and revision, or a folder of the export."""

    tokenizer: Mapping[str, Any]
    stages: dict[str, str]
    """Exported part -> `<kind>/<key>` of its stage."""

    versions: dict[str, str]
    created: str


class _DataFacts(TypedDict):
    """Facts of the model card about the data."""

    access: str
    dataset: str
    licences: str
    num_stays: int
    num_patients: int


class _ModelFacts(TypedDict):
    """Facts of the model card about the model."""

    config_digest: str
    encoder_words: str
    latent_from: str
    append_eos: bool
    latent_dim: int
    trained_tokenizer: bool
    encoder_start: str
    phases: str
    served: list[str]
    """Folders with fitted parts: `probes`, `forecaster`."""


class _FigureFacts(TypedDict):
    """Figures of the model card, or why it has none."""

    split: str
    figures: list[tuple[str, str]]
    no_figures: str


def export_model(
    config: Config, folder: str, recipe: str | None = None, seed: int | None = None, experiment: Experiment | None = None
) -> ExportRecord:
    """Write the trained parts of one recipe and seed as one folder; starts nothing.

    Args:
        config: The configuration of the run.
        folder: Address to write to: a new folder, or an earlier export of the same run. Only the user may read it (modes 700 and 600)
            where the terms of the data forbid to share the model; otherwise the umask decides.
        recipe: Of `grid.recipes`; the first by default.
        seed: Of `grid.seeds`; the first by default.
        experiment: The stages of the run; None computes them from the configuration and the source's files.

    Returns:
        The content of `export.json` without the list of files.

    Raises:
        ConfigError: The grid has no such recipe or seed.
        StoreError: The stages are not finished, were altered or do not belong together, or `folder` holds something else.
    """
    address = Folder(folder).address
    experiment = experiment or plan_experiment(config, remember=False)
    trial = _trial(config, experiment, recipe, seed)
    stages = _stages(experiment, trial)
    storage, artifacts = Folder(config.storage), _whole_artifacts(config, trial, stages)
    data = _data_facts(config, artifacts["trajectories"].folder)
    out = Folder(address, private=not data_terms(data["access"])["may_be_shared"])
    base, online = artifacts["base"].folder, artifacts["encoder"].folder if "encoder" in artifacts else None
    encoder = encoder_digest(base, online)
    check_predictor(artifacts["predictor"].folder, encoder, f"that of {(online or base).address}")
    identity: Identity = {"run": config.name, "recipe": trial.recipe, "seed": trial.seed}
    begin_export(out, {**identity})
    parts = TrainedParts(
        base=base,
        online=online,
        trajectories=artifacts["trajectories"].folder,
        predictor=artifacts["predictor"].folder,
    )
    weights = write_weights(
        parts,
        EncoderSettings.from_json(result_fields(config.encoder)),
        TokenizerFacts(config.tokenizer.init == "pretrained", config.tokenizer.max_tokens),
        out,
    )
    own = next(each for each in experiment.recipes if each.name == trial.recipe)
    served = write_fitted(artifacts, out)
    model = _model_facts(config, own, trial, weights, served)
    if served:
        write_serving_facts(out, serving_facts(config, trial, identity, Digests(model["config_digest"], encoder), out))
    card = {**identity, **weights, **data, **model, **_figures(config, trial, storage)}
    out.write_bytes(CARD, redacted(model_card(card)).encode())
    record: ExportRecord = {
        **identity,
        "config_digest": model["config_digest"],
        "code_digest": project_digest(),
        "dataset": config.source.name,
        "access": data["access"],
        "base": weights["base"],
        "tokenizer": weights["tokenizer"],
        "stages": {part: f"{stage.kind}/{stage.key}" for part, stage in (stages | fitted_stages(trial)).items() if part in artifacts},
        "versions": package_versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    finish_export(out, {**record})
    return record


def _whole_artifacts(config: Config, trial: Trial, stages: dict[str, Stage]) -> dict[str, Artifact]:
    """The artifact of each part of the export; the files of the trained parts are checked by their digests.

    Raises:
        StoreError: A stage is not finished, or a file was altered.
    """
    storage = Folder(config.storage)
    artifacts = {part: Artifact.at(storage, stage.kind, stage.key) for part, stage in stages.items()}
    unfinished = [stages[part].label for part, artifact in artifacts.items() if not artifact.is_complete()]
    if unfinished:
        raise StoreError(
            f"nothing to export yet: {trial.recipe}, seed {trial.seed} of {config.name} lacks {', '.join(dict.fromkeys(unfinished))}; "
            "run `clinjepa pretrain` or `clinjepa run` first"
        )
    finished = {part: Artifact.at(storage, stage.kind, stage.key) for part, stage in fitted_stages(trial).items()}
    artifacts |= {part: artifact for part, artifact in finished.items() if artifact.is_complete()}
    for part in ("base", "encoder", "predictor", *finished):
        if part in artifacts:
            artifacts[part].verify(contents=True)
    return artifacts


def _trial(config: Config, experiment: Experiment, recipe: str | None, seed: int | None) -> Trial:
    if config.grid.axes:
        raise ConfigError(
            f"{config.name} has {len(experiment.trials)} trials along grid.axes; export one point of them: name the configuration, not the "
            f"run, and set 'grid.axes={{}}', and {', '.join(config.grid.axes)} to that point's values"
        )
    recipe = experiment.recipes[0].name if recipe is None else recipe
    seed = config.grid.seeds[0] if seed is None else seed
    for trial in experiment.trials:
        if (trial.recipe, trial.seed) == (recipe, seed):
            return trial
    raise ConfigError(
        f"{config.name} has no recipe {recipe} with seed {seed}; its recipes are {', '.join(each.name for each in experiment.recipes)}, "
        f"its seeds {', '.join(map(str, config.grid.seeds))}"
    )


def _stages(experiment: Experiment, trial: Trial) -> dict[str, Stage]:
    """The stages that hold what is exported; `encoder` only where the base was adapted."""
    predictor = [stage for stage in trial.phases if stage.kind == "phase"][-1]
    stages = {"trajectories": experiment.trajectories, "base": trial.embed.inputs["base"], "predictor": predictor}
    return stages | ({"encoder": trial.embed.inputs["encoder"]} if "encoder" in trial.embed.inputs else {})


def _data_facts(config: Config, trajectories: Folder) -> _DataFacts:
    data = trajectories.read_json("data_card.json")
    access = data.get("access", "synthetic" if config.source.kind == "simulator" else "credentialed")
    licences = [f"{each.name}, {each.licence}" for each in list_open_data() if each.source_kind == config.source.kind]
    return {
        "access": access,
        "dataset": config.source.name,
        "licences": "; ".join(licences) if access == "open" else "",
        "num_stays": data["num_stays"],
        "num_patients": data["num_patients"],
    }


def _model_facts(config: Config, recipe: Recipe, trial: Trial, weights: Written, served: list[str]) -> _ModelFacts:
    encoder, base = config.encoder, weights["base"]
    name = str(base.get("model") or f"Qwen3 of {encoder.num_layers} layers of {encoder.hidden_size}, made here")
    if weights["adapted"]:
        name += f", with LoRA of rank {encoder.lora.rank} on {', '.join(encoder.lora.targets)}"
    steps = {stage.settings["phase"]["name"]: stage.settings.get("num_steps") for stage in trial.phases}
    return {
        "config_digest": content_key(result_fields(config)),
        "encoder_words": name,
        "latent_from": encoder.latent_from,
        "append_eos": encoder.append_eos,
        "latent_dim": weights["predictor"]["latent_dim"],
        "trained_tokenizer": config.tokenizer.init == "train",
        "encoder_start": recipe.encoder_start,
        "phases": ", ".join(name + (f" ({count} steps)" if count else "") for name, count in steps.items()),
        "served": served,
    }


def _figures(config: Config, trial: Trial, storage: Folder) -> _FigureFacts:
    """Figures of the run's report, if that report is about these very weights."""
    found: _FigureFacts = {"split": config.evaluation.split, "figures": [], "no_figures": "the run has no report yet"}
    run = storage / f"runs/{config.name}"
    if not run.exists(RUN_RECORD) or not run.exists("report.json"):
        return found
    judged = {f"{stage.kind}/{stage.key}" for stage in trial.evaluations.values()}
    for record in run.read_json(RUN_RECORD)["trials"]:
        if (record["recipe"], record["seed"]) == (trial.recipe, trial.seed) and judged <= set(record["artifacts"].values()):
            figures = report_figures(run.read_json("report.json"), trial.recipe, config.evaluation.drift.headline_context)
            return {**found, "figures": figures}
    return {**found, "no_figures": "the report of the run is about another configuration"}

"""Scores of new patients: the parts of an ingest artifact side by side, each read once."""

from __future__ import annotations

from clinjepa.clinical import load_tasks
from clinjepa.errors import StoreError
from clinjepa.evaluation.settings import ScoreSettings
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader
from pipelines.graph.artifacts import RESULT, Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.tasks import map_parts


def run_scores_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `scores` stages. A finished part is skipped after a restart."""
    from clinjepa.evaluation.scores import finish_scores

    settings, out = ScoreSettings.model_validate(stage.settings), artifact.folder
    inputs = {name: context.artifact(upstream).folder for name, upstream in stage.inputs.items()}
    check_fitted(inputs)
    parts = [name.removesuffix(".json") for name in inputs["ingest"].names("parts")]

    def build(index: int) -> None:
        _score(inputs, settings, parts[index], out)

    map_parts(context, stage, len(parts), build)
    totals = dict(finish_scores(out, inputs["ingest"]))
    out.write_json(RESULT, totals)
    return totals


def check_fitted(inputs: dict[str, Folder]) -> None:
    """Raise StoreError where the predictor and the latents are not of one encoder."""
    from clinjepa.model.pretrained.identity import check_predictor

    latents = inputs["latents"]
    check_predictor(inputs["predictor"], LatentReader(latents).encoder_digest, f"that of the latents in {latents.address}")
    if not inputs["probes"].exists("probes.json"):
        raise StoreError(f"{inputs['probes'].address} holds no probes; evaluate the run again with `clinjepa evaluate`")


def _score(inputs: dict[str, Folder], settings: ScoreSettings, part: str, out: Folder) -> None:
    """Score one part; torch and the models load in the task that needs them."""
    import torch

    from clinjepa.evaluation.downstream.fitted import FittedProbes
    from clinjepa.evaluation.forecasts.forecaster import NAME, Forecaster
    from clinjepa.evaluation.scores import Frozen, score_part
    from clinjepa.model.predictor import load_predictor

    torch.set_num_threads(1)
    has_forecaster = "forecaster" in inputs and inputs["forecaster"].exists(f"{NAME}.json")
    frozen = Frozen(
        load_predictor(inputs["predictor"]),
        FittedProbes.read(inputs["probes"]),
        Forecaster.read(inputs["forecaster"]) if has_forecaster else None,
        load_tasks(settings.event_tasks),
    )
    score_part(frozen, LatentReader(inputs["latents"]), inputs["ingest"], part, out)

"""The encoder before any training, as an artifact with its own key. Apart from the data stages, whose tasks need no model library."""

from __future__ import annotations

from clinjepa.curriculum.settings import BaseSettings
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.tasks import run_remotely


def base_settings(stage: Stage) -> BaseSettings:
    """Which model the base of a stage is, from the settings of the base stage that it comes from."""
    while stage.kind != "base":
        stage = stage.inputs["base"]
    return BaseSettings.from_json(stage.settings["encoder"])


def run_base_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of the `base` stage: random weights made here, or the name of a public model (never a copy of it)."""
    tokenizer = context.artifact(stage.inputs["tokenizer"]).folder
    fresh = stage.settings.get("weights") == "random"
    return run_remotely(context, _write_base, tokenizer, artifact.folder, base_settings(stage), stage.settings["seed"], fresh)


def _write_base(tokenizer: Folder, out: Folder, settings: BaseSettings, seed: int, fresh: bool) -> dict[str, object]:
    """fresh: random weights in the architecture of a public model."""
    from clinjepa.curriculum.steps.encoder_specs import next_token_spec
    from clinjepa.model.pretrained.base_model import make_base, make_random_base
    from clinjepa.model.pretrained.weights import public_content

    if fresh:
        make_random_base(next_token_spec(settings, None, tokenizer), seed, out)
        return {"made_here": True}
    if settings.init == "pretrained":
        named = {"model": settings.model, "revision": settings.revision}
        out.write_json("model.json", named | {"content": public_content(str(settings.model), settings.revision)})
        return {"made_here": False}
    make_base(next_token_spec(settings, None, tokenizer), seed, out)
    return {"made_here": True}

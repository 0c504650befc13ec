"""The encoder before any training, as an artifact with its own key. Apart from the data stages, whose tasks need no model library."""

from __future__ import annotations

from typing import Any

from clinjepa.config import Config
from clinjepa.model.weights import public_content
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.tasks import run_remotely


def run_base_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    """The encoder before any training: random weights made here, or the name of a public model (never a copy of it)."""
    tokenizer = context.artifact(stage.inputs["tokenizer"]).folder
    return run_remotely(context, _write_base, tokenizer, artifact.folder, stage.settings["encoder"], stage.settings["seed"], context.config)


def _write_base(tokenizer: Folder, out: Folder, architecture: dict[str, Any], seed: int, config: Config) -> dict[str, Any]:
    from clinjepa.model.base_model import make_base
    from clinjepa.model.specs import EncoderSpec
    from clinjepa.trajectory.tokens.tokenizer import load_tokenizer

    if architecture["init"] == "pretrained":
        named = {name: architecture[name] for name in ("model", "revision")}
        out.write_json("model.json", named | {"content": public_content(**named)})
        return {"made_here": False}
    loaded = load_tokenizer(tokenizer)
    spec = EncoderSpec.from_settings(config.encoder.model_dump(mode="json"), loaded.vocab_size, loaded.eos_id)
    make_base(spec, seed, out)
    return {"made_here": True}

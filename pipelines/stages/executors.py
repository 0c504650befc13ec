"""Which function runs which kind of stage, and what it asks for."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.graph.context import Executor, StageFunction, one_cpu, one_task
from pipelines.stages.needs import embed_needs, least_embed_needs, least_training_needs, training_needs


def _run(kind: str, module: str) -> StageFunction:
    return StageFunction(f"pipelines.stages.{module}", f"run_{kind}_stage")


def _max_workers(config: Config) -> int:
    return config.execution.max_workers


def _embed_workers(config: Config) -> int:
    return config.execution.embed_workers


EXECUTORS: dict[str, Executor] = {
    "extract": Executor(_run("extract", "data"), one_cpu),
    "ingest": Executor(_run("ingest", "data"), one_cpu),
    "tokenizer": Executor(_run("tokenizer", "data"), one_task),
    "trajectories": Executor(_run("trajectories", "data"), one_cpu),
    "labels": Executor(_run("labels", "data"), one_task),
    "base": Executor(_run("base", "base_model"), one_task),
    "sft": Executor(_run("sft", "training"), training_needs, _max_workers, least_training_needs),
    "phase": Executor(_run("phase", "training"), training_needs, _max_workers, least_training_needs),
    "sync": Executor(_run("sync", "training"), one_task),
    "embed": Executor(_run("embed", "latents"), embed_needs, _embed_workers, least_embed_needs),
    "shifted_actions": Executor(_run("shifted_actions", "shifted_actions"), embed_needs, _embed_workers, least_embed_needs),
    "roundtrip": Executor(_run("roundtrip", "evaluation"), one_task),
    "drift": Executor(_run("drift", "evaluation"), one_task),
    "geometry": Executor(_run("geometry", "evaluation"), one_task),
    "forecasts": Executor(_run("forecasts", "evaluation"), one_task),
    "direct_forecasts": Executor(_run("direct_forecasts", "evaluation"), one_task),
    "downstream": Executor(_run("downstream", "evaluation"), one_task),
    "baselines": Executor(_run("baselines", "evaluation"), one_task),
    "added_value": Executor(_run("added_value", "evaluation"), one_task),
    "scores": Executor(_run("scores", "scoring"), one_cpu),
    "shift": Executor(_run("shift", "evaluation"), one_task),
}
"""By stage kind."""

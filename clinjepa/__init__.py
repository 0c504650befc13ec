"""clinjepa: a joint-embedding predictive world model of intensive-care patients (Clin-JEPA, arXiv 2605.10840).

`__all__` is the public API; docs/api.md describes each name. A name is loaded on first use, so `import clinjepa` loads no other
library. The rooms below this package hold more; what is not in `__all__` may change without notice.

No module of this package imports Ray. `pipelines/` runs on Ray what is defined here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinjepa.clinical.tasks import Task, list_tasks, load_task, load_tasks
    from clinjepa.clinical.variables import Variable, load_variables
    from clinjepa.config.load import load_config, save_config
    from clinjepa.config.schema import Config
    from clinjepa.curriculum.recipes import Phase, Recipe, load_recipe, recipe_names
    from clinjepa.errors import ClinJepaError
    from clinjepa.evaluation.downstream.evaluate import evaluate_downstream
    from clinjepa.evaluation.drift import evaluate_drift
    from clinjepa.evaluation.geometry.evaluate import evaluate_geometry, geometry_cohorts
    from clinjepa.model.encoding.encoder import Encoder, build_encoder
    from clinjepa.model.encoding.packing import encode_texts
    from clinjepa.model.encoding.text_encoder import TextEncoder
    from clinjepa.model.losses import rollout_loss, teacher_forcing_loss
    from clinjepa.model.predictor import Predictor, build_predictor, load_predictor
    from clinjepa.model.rollout import rollout
    from clinjepa.model.specs import EncoderSpec, PredictorSpec
    from clinjepa.report.document import report_schema
    from clinjepa.sources import open_source
    from clinjepa.sources.schema import Source, SourceTables
    from clinjepa.storage.folder import Folder
    from clinjepa.trajectory.labels.artifact import compute_labels
    from clinjepa.trajectory.tokens.latent_store import LatentReader
    from clinjepa.trajectory.tokens.trajectory_store import StayTokens, TrajectoryReader

__version__ = "0.1.0"

__all__ = [
    "ClinJepaError",
    "Config",
    "Encoder",
    "EncoderSpec",
    "Folder",
    "LatentReader",
    "Phase",
    "Predictor",
    "PredictorSpec",
    "Recipe",
    "Source",
    "SourceTables",
    "StayTokens",
    "Task",
    "TextEncoder",
    "TrajectoryReader",
    "Variable",
    "build_encoder",
    "build_predictor",
    "compute_labels",
    "encode_texts",
    "evaluate_downstream",
    "evaluate_drift",
    "evaluate_geometry",
    "geometry_cohorts",
    "list_tasks",
    "load_config",
    "load_predictor",
    "load_recipe",
    "load_task",
    "load_tasks",
    "load_variables",
    "open_source",
    "recipe_names",
    "report_schema",
    "rollout",
    "rollout_loss",
    "save_config",
    "teacher_forcing_loss",
]

_PUBLIC = {
    "config.load": ("load_config", "save_config"),
    "config.schema": ("Config",),
    "errors": ("ClinJepaError",),
    "storage.folder": ("Folder",),
    "clinical.variables": ("Variable", "load_variables"),
    "clinical.tasks": ("Task", "list_tasks", "load_task", "load_tasks"),
    "sources": ("open_source",),
    "sources.schema": ("Source", "SourceTables"),
    "trajectory.labels.artifact": ("compute_labels",),
    "trajectory.tokens.trajectory_store": ("StayTokens", "TrajectoryReader"),
    "trajectory.tokens.latent_store": ("LatentReader",),
    "model.specs": ("EncoderSpec", "PredictorSpec"),
    "model.encoding.encoder": ("Encoder", "build_encoder"),
    "model.encoding.packing": ("encode_texts",),
    "model.encoding.text_encoder": ("TextEncoder",),
    "model.predictor": ("Predictor", "build_predictor", "load_predictor"),
    "model.rollout": ("rollout",),
    "model.losses": ("rollout_loss", "teacher_forcing_loss"),
    "curriculum.recipes": ("Phase", "Recipe", "load_recipe", "recipe_names"),
    "evaluation.drift": ("evaluate_drift",),
    "evaluation.geometry.evaluate": ("evaluate_geometry", "geometry_cohorts"),
    "evaluation.downstream.evaluate": ("evaluate_downstream",),
    "report.document": ("report_schema",),
}
"""Module below this package -> its public names, in the order of docs/api.md."""

_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""The data card of a configuration's finished data stages: `data_card.json` and `data_card.html` in the run's folder."""

from __future__ import annotations

import time

from clinjepa.config import Config
from clinjepa.redaction import redacted
from clinjepa.report.data_card_page import render_data_card
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment

AUDIT = "audit.json"
CARD = "data_card.json"
PAGE = "data_card.html"
PREVALENCE = "prevalence.json"


def write_data_card(config: Config, experiment: Experiment) -> str:
    """Write the card of the finished trajectory store, with what the labels amount to and the leak audit where they are there; returns
    the page's address."""
    storage = Folder(config.storage)
    out = storage / f"runs/{config.name}"
    card = Artifact.at(storage, "trajectories", experiment.trajectories.key).folder.read_json(CARD)
    content: dict[str, object] = {
        "run": config.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **{name: value for name, value in card.items() if name != "parts"},
        "name": config.source.name,
        "artifacts": {stage.kind: stage.key for stage in experiment.data[0].stages},
    }
    labels = Artifact.at(storage, "labels", experiment.labels.key)
    if labels.is_complete():
        prevalence = labels.folder.read_json(PREVALENCE)
        content["prevalence"] = {name: prevalence[name] for name in ("tasks", "by_carried_event", "without_labels")}
    if out.exists(AUDIT) and (audit := out.read_json(AUDIT)).get("artifacts") == {"ingest": experiment.ingest.key}:
        content["audit"] = {name: audit[name] for name in ("sample", "num_leaks", "checks")}
    out.write_json(CARD, content)
    out.write_bytes(PAGE, redacted(render_data_card(content)).encode())
    return f"{out.address}/{PAGE}"

"""The model card of an export: contents, training data, terms, figures, and how it is loaded.

Figures are those of the run's `report.json`; the terms are in `terms.yaml`. The card contains no data of a single patient.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypedDict

import jinja2
import yaml

import clinjepa
from clinjepa.errors import counted

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors")
LINES = """\
from clinjepa.model import Predictor, TextEncoder, rollout

encoder = TextEncoder.from_pretrained("encoder"{base})
predictor = Predictor.from_pretrained("predictor")
static = "Age: 63 years. Gender: male. Race: unknown."
states = ["t=0h | Heart Rate: 88 bpm. MAP: 65 mmHg.", "t=1h | Heart Rate: 92 bpm.", "t=2h | No observations."]
actions = ["t=0h | Norepinephrine: 0.1 mcg/kg/min.", "t=1h | No active interventions.", "t=2h | No active interventions."]
z = encoder([static, *states, *actions])
next_hour, _ = rollout(predictor, z[:1], z[None, 1:4], z[None, 4:], context_hours=3, num_steps=1)
"""
"""How an export is loaded; docs/export.md shows the same lines, and a test runs those of a written card."""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown with a YAML header. facts: every name of `card_template.md` but `lines`, `terms` and `versions`.

    `access` (open | synthetic | credentialed) chooses the terms.
    """
    base = facts["base"]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    versions = package_versions()
    return environment.from_string(_resource("card_template.md")).render(
        {
            **facts,
            "counted": counted,
            "lines": LINES.format(base=', base="FOLDER"' if base.get("local") else ""),
            "terms": data_terms(facts["access"]),
            "base_model": base["model"] if "model" in base and not base["local"] else None,
            "versions": versions,
            "versions_text": ", ".join(f"{name} {version}" for name, version in versions.items()),
        }
    )


class Terms(TypedDict):
    """What may be done with data of one kind of access, and with a model that was trained on them."""

    title: str
    text: str
    may_be_shared: bool


def data_terms(access: str) -> Terms:
    """The terms of `access` (open, synthetic or credentialed). An unknown value gets the terms of credentialed data."""
    known: dict[str, Terms] = yaml.safe_load(_resource("terms.yaml"))["access"]
    return known.get(access, known["credentialed"])


def package_versions() -> dict[str, str]:
    """Versions of the packages that write the export."""
    found = {"clinjepa": clinjepa.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def report_figures(report: Mapping[str, Any], recipe: str, headline_context: int) -> list[tuple[str, str]]:
    """(name, text) of a recipe's figures in `report.json`; a figure that could not be estimated has its reason as text."""
    rows: list[tuple[str, str]] = []
    drift = report["drift"].get(recipe, {}).get(str(headline_context), {})
    for hours, metrics in drift.get("horizons", {}).items():
        for name, words in (("mase", "L1 over that of repeating the last hour"), ("vs_mean", "L1 over that of the mean latent")):
            if name in metrics:
                rows.append((f"rollout of {hours} h after {headline_context} h: {words}", _figure(metrics[name], metrics)))
    roundtrip = report["roundtrip"].get(recipe)
    if roundtrip and "r2" in roundtrip:
        rows.append(("round trip: linear R² of an hour's values from its latent", _figure(roundtrip["r2"], roundtrip)))
    geometry = report["geometry"].get(recipe)
    if geometry and "ratio" in geometry:
        rows.append(("geometry: displacement of deteriorating over stable stays", _figure(geometry["ratio"], geometry)))
    for task, methods in report["downstream"].items():
        for method, columns in methods.items():
            column = columns.get("history_only")
            if method.startswith(f"{recipe} · ") and column and "auroc" in column:
                rows.append((f"AUROC {task}, history only, {method.split(' · ')[1]} probe", _figure(column["auroc"], column)))
    return rows


def _figure(figure: Mapping[str, Any] | None, holder: Mapping[str, Any]) -> str:
    if figure is None:
        return f"not estimated: {holder.get('reason') or 'no reason was recorded'}"
    interval = figure.get("ci95")
    text = f"{figure['value']:.3g}"
    if interval:
        text += f" ({interval[0]:.3g} to {interval[1]:.3g})"
    return text + f", {counted(figure['num_patients'], 'patient')}, {counted(figure['num_seeds'], 'seed')}"


def _resource(name: str) -> str:
    return resources.files("clinjepa.export").joinpath(name).read_text(encoding="utf-8")

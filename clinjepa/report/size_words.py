"""The line at the top of the page that says how large the trained models are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from clinjepa.report.charts.parts import number


def size_words(config_yaml: str, trained: Sequence[tuple[int, int]], num_stays: int | None) -> str:
    """Encoder and predictor, steps, seeds and training stays, as one sentence; empty without a configuration.

    Args:
        config_yaml: The run's configuration as text.
        trained: Optimizer steps of the phases and number of seeds of every recipe.
        num_stays: Training stays, None where they are not known.
    """
    config: dict[str, Any] = yaml.safe_load(config_yaml) or {}
    if "encoder" not in config:
        return ""
    encoder, predictor = config["encoder"], config.get("predictor", {})
    parts = [f"encoder {encoder['model']}" if encoder.get("model") else f"encoder of {_layers(encoder)}"]
    parts += [f"predictor of {_layers(predictor)}"] if predictor else []
    parts += [f"{_range([steps for steps, _ in trained])} optimizer steps"] if trained else []
    parts += [f"seeds per recipe: {_range([seeds for _, seeds in trained])}"] if trained else []
    parts += [f"{number(num_stays)} training stays"] if num_stays is not None else []
    return f"Trained: {', '.join(parts)}."


def _layers(model: dict[str, Any]) -> str:
    return f"{model.get('num_layers')} layers × {model.get('hidden_size')} wide"


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return number(least) if least == most else f"{number(least)} to {number(most)}"

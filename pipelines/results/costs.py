"""What a trial cost, from the manifests of its finished stages: steps, tokens, seconds. Stages that trials share count for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.graph.trial_stages import Trial


@dataclass(frozen=True)
class TrialCosts:
    """Sums over the stages of a trial."""

    num_steps: int
    """Optimizer steps of the phases; SFT is not in them."""
    encoder_tokens: int
    """Tokens through the encoder in the phases; a token that passes twice counts twice. What `budget: encoder_tokens` makes equal."""
    sft_tokens: int
    """Tokens of SFT."""
    latent_tokens: int
    """Tokens encoded for latent stores."""
    predictor_tokens: int
    """Positions of the predictor's teacher-forced pass: 2 an hour and 1 a window. Rollouts are not in them."""
    seconds: float
    """Wall time of all stages, data stages included, when they ran."""

    def to_json(self) -> dict[str, int | float]:
        return asdict(self)


def trial_costs(trial: Trial, manifests: Mapping[str, Mapping[str, Any]]) -> TrialCosts:
    """The costs of a trial.

    Args:
        trial: the trial.
        manifests: by stage key; stages without one are not finished and count nothing.
    """
    done = [manifests[stage.key] for stage in trial.stages if stage.key in manifests]

    def total(kind: str, *names: str) -> int:
        return sum(int(each["metrics"].get(name) or 0) for each in done for name in names if each["kind"] == kind)

    return TrialCosts(
        num_steps=total("phase", "num_steps"),
        encoder_tokens=total("phase", "tokens_encoded"),
        sft_tokens=total("sft", "tokens_encoded"),
        latent_tokens=total("embed", "num_tokens"),
        predictor_tokens=total("phase", "predictor_tokens"),
        seconds=round(sum(each["seconds"] for each in done), 3),
    )

"""The mean of several baselines: greedy selection with replacement on the tuning split (Caruana et al. 2004)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clinjepa.evaluation.metrics import log_loss

NAME = "ensemble"
_ROUNDS = 20


def choose_members(predictions: Mapping[str, np.ndarray], label_N: np.ndarray, is_classification: bool) -> dict[str, float]:
    """{member: weight}, weights summing to 1, of the mean (of log-odds, or of numbers) that has the lowest tuning loss.

    It begins with all members once, so that a small tuning split cannot leave the choice to one of them.

    Args:
        predictions: {baseline: predictions at the tuning points [N]}.
        label_N: Labels of the tuning points.
        is_classification: Log-loss; otherwise squared error.
    """

    def loss(mean_N: np.ndarray) -> float:
        return log_loss(label_N, mean_N) if is_classification else float(np.mean((label_N - mean_N) ** 2))

    count = dict.fromkeys(predictions, 1)
    total_N = np.sum(list(predictions.values()), axis=0)
    for _ in range(_ROUNDS):
        size = sum(count.values())
        losses = {name: loss((total_N + own_N) / (size + 1)) for name, own_N in predictions.items()}
        best = min(losses, key=losses.__getitem__)
        if losses[best] >= loss(total_N / size):
            break
        count[best] += 1
        total_N = total_N + predictions[best]
    return {name: number / sum(count.values()) for name, number in count.items()}


def weighted(predictions: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The weighted mean [N]."""
    return np.asarray(np.sum([weight * predictions[name] for name, weight in weights.items()], axis=0))

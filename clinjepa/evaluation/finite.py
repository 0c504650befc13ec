"""The check that every number before a figure is one: without it, a diverged model would look like one that knows nothing."""

from __future__ import annotations

import numpy as np

from clinjepa.errors import EvaluationError


def finite_scores(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as an array. Raises EvaluationError, with the number but no value, when one of them is NaN or infinite."""
    values = np.asarray(values)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise EvaluationError(
            f"{name} is NaN or infinite ({bad} of {values.size}): the encoder, the predictor or the probe diverged; "
            "look at the training losses, lower the learning rate and train again"
        )
    return values

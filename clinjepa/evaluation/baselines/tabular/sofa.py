"""The SOFA score of the last 24 hours alone, where a data set has what it needs. Definition: `clinjepa/clinical/derived/sofa.yaml`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.evaluation.baselines.linear_fits import few_features
from clinjepa.evaluation.baselines.protocol import Baseline, Predictions, Problem, Settings, classification


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """From the score and whether it is known; an unknown score counts 0."""
    sofa_P = problem.inputs.sofa_P
    assert sofa_P is not None, "the inputs have the score"
    x_PF = np.stack([np.nan_to_num(sofa_P), np.isnan(sofa_P)], axis=1).astype(np.float32)
    return few_features(problem, x_PF, splits, seed)


BASELINE = Baseline(
    fit, docs="Control: a linear probe on the SOFA score, where the data have it.", reads=frozenset({"sofa"}), answers=classification
)

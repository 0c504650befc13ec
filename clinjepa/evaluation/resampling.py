"""The bootstrap over patients as one object: every figure of an evaluation, and every difference of two, uses the same draws.

Patients are resampled with all their rows, because the rows of one patient are not independent (percentile 95 % intervals). Two figures
that share the draws can be subtracted or divided draw by draw: the interval of the difference is then a paired one.
"""

from __future__ import annotations

import numpy as np

from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.metrics import patient_draws, patient_index, sums_by_patient


class PatientBootstrap:
    """Resamplings of the patients of N rows. An array [1 + R] holds the estimate first, then its R draws."""

    def __init__(self, subjects_N: np.ndarray, num_draws: int, seed: int) -> None:
        """subjects_N: patient of each row."""
        self.subjects_N = subjects_N
        self.index_N, self.num_patients = patient_index(subjects_N)
        once = np.ones((1, self.num_patients))
        self.counts_RP = np.concatenate([once, patient_draws(self.num_patients, num_draws, seed)])

    def total(self, values_N: np.ndarray, of_N: np.ndarray) -> np.ndarray:
        """Sum of the values of the rows in `of_N` (bool): [1 + R]."""
        return np.asarray(self.counts_RP @ sums_by_patient(np.where(of_N, values_N, 0.0), self.index_N, self.num_patients))

    def figure(self, values_R: np.ndarray, of_N: np.ndarray) -> Figure | None:
        """The figure of an array [1 + R] that rests on the rows in `of_N`; None where the estimate is not finite."""
        if not np.isfinite(values_R[0]):
            return None
        return figure(values_R[0], values_R[1:], len(np.unique(self.subjects_N[of_N])))


def ratio(numerator_R: np.ndarray, denominator_R: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator_R == 0, np.nan, numerator_R / denominator_R)

"""Nested subsets of the training patients: what a model learns from a share of them.

A patient comes with all stays and hours. One seeded permutation serves all shares and tasks, so a smaller subset is a part of every larger
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clinjepa.evaluation.space import stays_of


def drawn_patients(stays: pa.Table, most: int, seed: int) -> np.ndarray:
    """Subject ids of the training patients in a random order, at most `most` of them.

    Args:
        stays: Stays with stay_id, subject_id, split.
        most: Most patients; with more in the data so many are drawn without replacement.
        seed: Seed of the order.
    """
    patients = np.unique(stays_of(stays, "train")["subject_id"].to_numpy())
    return np.random.default_rng([seed, 0xADD]).permutation(patients)[:most]


def nested_subsets(drawn: np.ndarray, shares: Sequence[float]) -> dict[float, np.ndarray]:
    """Share in (0, 1] -> that share of the patients, rounded up, from the beginning of the order; the shares ascend."""
    # 0.1 * 30 is 3.0000000000000004, which must not round up to 4
    return {share: drawn[: math.ceil(share * len(drawn) - 1e-9)] for share in sorted(set(shares))}

"""Simulated features and tasks for the tests of probes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clinjepa.evaluation.downstream.probe_rows import ProbeTask, Standardiser

NUM_FEATURES = 12


def probe_points(
    label: Callable[[np.ndarray, int], np.ndarray], num_points: int, num_tasks: int, seed: int
) -> tuple[np.ndarray, list[ProbeTask]]:
    """Correlated features [N, NUM_FEATURES] of unequal scale with heavy tails, and tasks with labels at some points, from many to few.

    Args:
        label: (noisy linear signal [N], number of the task) -> its labels [N].
        num_points: N, in all three splits.
        num_tasks: Number of tasks.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    x_NF = rng.standard_t(2, size=(num_points, NUM_FEATURES)) @ rng.normal(size=(NUM_FEATURES, NUM_FEATURES))
    x_NF = (x_NF * 10.0 ** rng.integers(-2, 3, NUM_FEATURES) + rng.normal(size=NUM_FEATURES)).astype(np.float32)
    x_NF[:, 3] = 7.5  # a constant
    split_N = rng.choice(3, num_points, p=[0.6, 0.2, 0.2])
    z_NF = Standardiser.fit(x_NF)(x_NF)
    tasks = []
    for number in range(num_tasks):
        label_N = label(z_NF @ rng.normal(size=NUM_FEATURES) + 2 * rng.normal(size=num_points), number)
        labelled_N = rng.random(num_points) < 0.95 ** (number**2)
        rows = [np.flatnonzero((split_N == split) & labelled_N) for split in range(3)]
        tasks.append(ProbeTask(rows[0], rows[1], rows[2], label_N[rows[0]], label_N[rows[1]]))
    return x_NF, tasks

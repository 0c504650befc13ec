"""Diagnostics while a phase trains, on a fixed, seeded batch of tuning windows: is the space collapsing, is anything learned?

A falling L1 can be a shrinking space, so every L1 stands beside copy-forward, the constant mean latent and the centred
cosine (Clin-JEPA, arXiv 2605.10840, monitors std only; the rest is this project's). Padding is masked out everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import load

from clinjepa.curriculum.assembly import PhaseModules
from clinjepa.curriculum.batches import MicroBatchFetcher
from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.history import TrainingHistory
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.objective import PhaseObjective
from clinjepa.curriculum.plan import mix_seed
from clinjepa.errors import TrainingError
from clinjepa.model.diagnostics import latent_std, prediction_figures, rankme

NUM_WINDOWS = 16
"""Windows looked at; every worker computes all of them, so that the figures do not depend on the number of workers."""

MEASUREMENTS_PER_PHASE = 8
_WINDOWS_TAG, _DROPOUT_TAG = 6, 7


def is_diagnostic_step(done: int, num_steps: int) -> bool:
    """Whether to measure after `done` steps of a phase: at its end and about eight times before, whatever is logged or saved."""
    return done == num_steps or done % max(1, num_steps // MEASUREMENTS_PER_PHASE) == 0

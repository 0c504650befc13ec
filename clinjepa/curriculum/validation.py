"""Drift of a checkpoint's rollout on tuning windows, measured beside a training that goes on.

A coarse form of `clinjepa/evaluation/drift.py`: one context, one start, a seeded draw of windows, no intervals. It shows during a long
phase whether rollouts get better than copying the last state. No result depends on it.
"""

from __future__ import annotations

import numpy as np
import torch

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint, read_checkpoint
from clinjepa.curriculum.feed.payload import payload
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import mix_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor_state
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder

MAX_CONTEXT_HOURS = 12
"""Recorded hours before the rollout, at most half of the longest training window."""

HORIZONS = (1, 6, 12, 24)
"""Hours ahead."""

NUM_WINDOWS = 64
_MIN_WINDOWS = 5
"""A horizon that fewer windows reach is left out."""

_WINDOWS_TAG = 11


def can_validate(job: PhaseJob) -> bool:
    """Whether the phase trains a predictor on a latent store: then a checkpoint's predictor alone decides its rollout."""
    return job.phase.trains_predictor and job.reads_latents


@torch.no_grad()
def validation_drift(job: PhaseJob, place: Folder) -> dict[str, float]:
    """Rollout error of a checkpoint on tuning windows, under recorded actions.

    Args:
        job: a phase for which `can_validate` holds.
        place: folder of one of its checkpoints.

    Returns:
        `num_windows`, and for every horizon h that 5 windows reach `rollout_l1_<h>h` (L1 summed over D, in latent units) and
        `rollout_vs_copy_<h>h` (it over the L1 of copying the last state of the context; below 1 the rollout is better).

    Raises:
        CheckpointError: the checkpoint is gone, torn or of another version.
        StoreError: the latent store is not whole.
    """
    checkpoint = read_checkpoint(place)
    fetcher = WindowBatches(job)
    plan = fetcher.plan
    reach = min(plan.trained_hours, job.predictor_settings.max_hours)
    context = min(MAX_CONTEXT_HOURS, reach // 2)
    longest = min(max(HORIZONS), reach - context)
    long_enough = plan.tuning_ids[plan.num_hours[plan.tuning_ids] > context]
    chosen = np.sort(np.random.default_rng(mix_seed(_WINDOWS_TAG, job.seed)).permutation(long_enough)[:NUM_WINDOWS])
    if context < 1 or not len(chosen):
        return {"num_windows": 0.0}
    arrays = unpacked(payload(fetcher.window_arrays(chosen, np.full(len(chosen), -1))), torch.device("cpu"))
    z_static_BD, z_state_BTD, z_action_BTD = (arrays[name].float() for name in ("z_static", "z_state", "z_action"))
    predictor = _predictor(job, checkpoint, z_state_BTD.shape[-1])
    missing = context + longest - z_state_BTD.shape[1]
    if missing > 0:  # hours after the window, which no error is taken from
        z_state_BTD, z_action_BTD = (torch.nn.functional.pad(z, (0, 0, 0, missing)) for z in (z_state_BTD, z_action_BTD))
    pred_BHD, _ = rollout(predictor, z_static_BD, z_state_BTD, z_action_BTD, context, longest)
    hours_B = torch.from_numpy(plan.num_hours[chosen])
    found = {"num_windows": float(len(chosen))}
    for horizon in (each for each in HORIZONS if each <= longest):
        reached_B = hours_B >= context + horizon
        if int(reached_B.sum()) < _MIN_WINDOWS:
            continue
        truth_ND = z_state_BTD[reached_B, context + horizon - 1]
        error = (pred_BHD[reached_B, horizon - 1] - truth_ND).abs().sum(-1).mean()
        copied = (z_state_BTD[reached_B, context - 1] - truth_ND).abs().sum(-1).mean()
        found[f"rollout_l1_{horizon}h"] = float(error)
        if float(copied) > 0:
            found[f"rollout_vs_copy_{horizon}h"] = float(error / copied)
    return found


def _predictor(job: PhaseJob, checkpoint: Checkpoint, latent_dim: int) -> Predictor:
    predictor = build_predictor(PredictorSpec.from_settings(job.predictor_settings.to_json(), latent_dim), job.seed)
    load_predictor_state(predictor, checkpoint.tensors("predictor"))
    return predictor.eval()

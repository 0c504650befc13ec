"""The hard sync between two phases: target := online, an operation on checkpoints that takes no training steps and builds no model."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.jobs import SyncJob
from clinjepa.errors import CheckpointError
from clinjepa.model.tensor_files import ONLINE_TENSORS, TARGET_TENSORS, check_same_tensors, read_tensors, write_tensors
from clinjepa.storage import Folder

SYNC_GAP = 1e-5
"""Largest difference that the hard sync may leave between online and target (Clin-JEPA, arXiv 2605.10840)."""


class SyncSummary(TypedDict):
    """Largest absolute differences between online and target weights."""

    num_steps: int
    target_gap_before: float | None
    target_gap_after: float


def hard_sync(job: SyncJob) -> SyncSummary:
    """Write `target.safetensors` := the online state, read it back and check the gap.

    One process calls it. Raises CheckpointError when online and target are not of the same encoder, or when the gap is not below
    `SYNC_GAP` afterwards.
    """
    out = Folder(job.out)
    online = read_tensors(Folder(job.online), ONLINE_TENSORS)
    before = None
    if job.target:
        target = read_tensors(Folder(job.target), TARGET_TENSORS)
        check_same_tensors(target, online, f"{job.target}/{TARGET_TENSORS}")
        before = _gap(online, target)
    write_tensors(out, TARGET_TENSORS, online)
    after = _gap(online, read_tensors(out, TARGET_TENSORS))
    if not after < SYNC_GAP:
        raise CheckpointError(f"{out.address}: online and target still differ by {after:.3g} after the hard sync (limit {SYNC_GAP:g})")
    summary = SyncSummary(num_steps=0, target_gap_before=before, target_gap_after=after)
    out.write_json("metrics.json", {**TrainingHistory().metrics(), "target_gap_before": before, "target_gap_after": after})
    return summary


def _gap(online: dict[str, Tensor], target: dict[str, Tensor]) -> float:
    return max((float((online[name].float() - target[name].float()).abs().max()) for name in online if online[name].numel()), default=0.0)

"""Digests of a job's inputs by content: checkpoints record them, and latents and predictors must belong to the job's encoder.

Addresses are not part of a digest, so training resumes after the storage was moved. Folders are hashed, never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clinjepa.curriculum.jobs import PhaseJob, SftJob, TrainingJob, job_digest
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.predictor import PREDICTOR_TENSORS
from clinjepa.model.pretrained.identity import check_predictor, encoder_digest, tensors_digest
from clinjepa.model.tensor_files import HEAD_TENSORS, ONLINE_TENSORS, TARGET_TENSORS
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_values import grid_digest
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import store_digest


def agreed_digests(job: TrainingJob, inputs: Callable[[], Mapping[str, str]], dist: Dist) -> dict[str, str]:
    """{"settings": `job_digest`, input: digest of its content}, found by worker 0; all workers call it before any training.

    Args:
        job: the job whose settings are digested.
        inputs: finds the digests of its inputs (`phase_inputs`, `sft_inputs`); worker 0 alone calls it.
        dist: the workers that are to agree.

    Raises:
        StoreError: on all workers, when the latents are of another encoder than the job's or an input is missing.
    """
    return dist.from_main(lambda: {"settings": job_digest(job), **inputs()})


def sft_inputs(job: SftJob) -> dict[str, str]:
    """Digests of the inputs of SFT; raises StoreError when one is missing."""
    found = {"trajectories": store_digest(Folder(job.trajectories))}
    return found | ({"base": encoder_digest(Folder(job.base))} if job.base else {})


def phase_inputs(job: PhaseJob) -> dict[str, str]:
    """Digests of the inputs of a phase; raises StoreError as `agreed_digests`.

    A job without a base names no encoder by content: the digest recorded in its latent store is then taken as it is.
    """
    base = Folder(job.base) if job.base else None
    found = {"trajectories": store_digest(Folder(job.trajectories))}
    if base is not None:
        found["encoder"] = encoder_digest(base, Folder(job.encoder) if job.encoder else None)
    if job.reads_latents:
        latents = LatentReader(Folder(str(job.latents)))
        if base is not None:
            latents.check_encoder(found["encoder"], _in_words(job))
        found["latents"] = latents.encoder_digest
    if job.target and job.phase.needs_target:
        found["target"] = tensors_digest(Folder(job.target), TARGET_TENSORS)
    if job.ingest:
        found["grid"] = grid_digest(Folder(job.ingest))
    if job.heads:
        found["heads"] = tensors_digest(Folder(job.heads), HEAD_TENSORS)
    if job.predictor:
        if base is not None:
            check_predictor(Folder(job.predictor), found["encoder"], _in_words(job))
        found["predictor"] = tensors_digest(Folder(job.predictor), PREDICTOR_TENSORS)
    return found


def _in_words(job: PhaseJob) -> str:
    return f"{job.encoder}/{ONLINE_TENSORS} on {job.base}" if job.encoder else str(job.base)

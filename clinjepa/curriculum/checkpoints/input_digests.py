"""What a job starts from, by content: latents that belong to its encoder, and what its checkpoints remember of its inputs.

Addresses are no content: a storage that was moved goes on. Folders are hashed, never loaded.
"""

from __future__ import annotations

from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.jobs import Job, PhaseJob, job_digest
from clinjepa.model.identity import check_predictor, encoder_digest, tensors_digest
from clinjepa.model.predictor import PREDICTOR_TENSORS
from clinjepa.model.tensor_files import ONLINE_TENSORS, TARGET_TENSORS
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader
from clinjepa.trajectory.tokens.trajectory_store import store_digest


def agreed_digests(job: Job, dist: Dist) -> dict[str, str]:
    """{"settings": `job_digest`, input: digest of its content}, found by worker 0; all workers call it before any training.

    Raises StoreError, on all workers alike, when the latents are of another encoder than the job's or an input is missing.
    """
    return dist.from_main(lambda: {"settings": job_digest(job), **input_digests(job)})


def input_digests(job: Job) -> dict[str, str]:
    """Digests of what the job's result follows from beside its settings; raises StoreError as `agreed_digests`.

    A job without a base names no encoder by content: its latents are then believed, and remembered.
    """
    base = Folder(job.base) if job.base else None
    found = {"trajectories": store_digest(Folder(job.trajectories))}
    if not isinstance(job, PhaseJob):
        return found | ({"base": encoder_digest(base)} if base is not None else {})
    if base is not None:
        found["encoder"] = encoder_digest(base, Folder(job.encoder) if job.encoder else None)
    if job.reads_latents:
        latents = LatentReader(Folder(str(job.latents)))
        if base is not None:
            latents.check_encoder(found["encoder"], _in_words(job))
        found["latents"] = latents.encoder_digest
    if job.target and job.parsed_phase.needs_target:
        found["target"] = tensors_digest(Folder(job.target), TARGET_TENSORS)
    if job.predictor:
        if base is not None:
            check_predictor(Folder(job.predictor), found["encoder"], _in_words(job))
        found["predictor"] = tensors_digest(Folder(job.predictor), PREDICTOR_TENSORS)
    return found


def _in_words(job: PhaseJob) -> str:
    return f"{job.encoder}/{ONLINE_TENSORS} on {job.base}" if job.encoder else str(job.base)

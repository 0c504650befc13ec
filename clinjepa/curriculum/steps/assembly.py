"""Builds the modules of a phase, from the previous phase's folders or from a checkpoint, and captures their states.

A phase that only reads latents never builds the encoder. Phases write whole tensors and every worker reads its shards of them, so the
number of workers may change between phases and between attempts.
"""

from __future__ import annotations

from dataclasses import dataclass

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint
from clinjepa.curriculum.checkpoints.saving import Captured
from clinjepa.curriculum.feed.window_plan import mix_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import keep_gathered
from clinjepa.model.encoder import Encoder, Loading, build_encoder
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor_state, predictor_state, shard_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.model.tensor_files import read_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader

_INIT_TAG = 5


@dataclass
class PhaseModules:
    """The modules of a phase and their optimizer."""

    predictor: Predictor
    encoder: Encoder | None
    optimizer: GroupedAdamW

    def captured(self, job: PhaseJob) -> Captured:
        """Whole tensors of everything the phase changes, by file name, and the optimizer's JSON state; all workers call it."""
        moments, optimizer_state = self.optimizer.state()
        tensors = {"predictor": predictor_state(self.predictor), "optimizer": moments}
        if self.encoder is not None and job.trains_encoder:
            tensors["online"] = self.encoder.online_state()
        if self.encoder is not None and job.phase.ema_moves:
            tensors["target"] = self.encoder.target_state()
        return tensors, optimizer_state


def assemble(job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None) -> PhaseModules:
    """Build, fill and shard the modules of a phase; raises CheckpointError when stored tensors do not fit the settings."""
    predictor_folder = Folder(job.predictor) if job.predictor else None
    encoder = _encoder(job, dist, checkpoint) if job.needs_encoder else None
    latent_dim = encoder.dim if encoder is not None else _latent_dim(job)
    predictor = build_predictor(PredictorSpec.from_settings(job.predictor_settings.to_json(), latent_dim), mix_seed(_INIT_TAG, job.seed))
    if checkpoint is not None:
        load_predictor_state(predictor, checkpoint.tensors("predictor"))
    elif predictor_folder is not None:
        load_predictor_state(predictor, read_tensors(predictor_folder, "predictor.safetensors"))
    predictor.to(dist.device)
    mesh = dist.mesh()
    if mesh is not None:
        shard_predictor(predictor, mesh)
        keep_gathered(predictor)
    groups = {"predictor": list(predictor.named_parameters())}
    if job.trains_encoder and encoder is not None:
        groups["encoder"] = encoder.online_parameters()
    optimizer = GroupedAdamW(groups, job.curriculum_settings.weight_decay)
    if checkpoint is not None:
        optimizer.load(checkpoint.tensors("optimizer"), checkpoint.state()["optimizer"]["updates"])
    elif predictor_folder is not None:
        updates = predictor_folder.read_json("optimizer.json")["updates"]
        # The encoder joins with fresh moments whenever it joins (method: phase 2).
        optimizer.load(read_tensors(predictor_folder, "optimizer.safetensors"), {"predictor": updates["predictor"]})
    return PhaseModules(predictor, encoder, optimizer)


def _encoder(job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None) -> Encoder:
    phase = job.phase
    spec = encoder_spec(job.encoder_settings, Folder(job.trajectories))
    base = Folder(job.base) if job.base else None
    seed = mix_seed(_INIT_TAG, job.seed, 1)
    encoder = build_encoder(spec, base, seed, with_target=phase.needs_target, loading=Loading(dist.device, dist.mesh()))
    if checkpoint is not None and checkpoint.has("online"):
        encoder.load_online(checkpoint.tensors("online"))
    elif job.encoder:
        encoder.load_online(read_tensors(Folder(job.encoder), "online.safetensors"))
    if phase.needs_target:
        if checkpoint is not None and checkpoint.has("target"):
            encoder.load_target(checkpoint.tensors("target"))
        elif job.target:
            encoder.load_target(read_tensors(Folder(job.target), "target.safetensors"))
        else:
            encoder.copy_online_to_target()
    encoder.train(job.trains_encoder)  # adapter dropout only where the encoder learns
    if job.trains_encoder:
        encoder.recompute(job.activation_checkpointing)
    else:
        encoder.freeze()
    keep_gathered(encoder)
    return encoder


def _latent_dim(job: PhaseJob) -> int:
    return LatentReader(Folder(str(job.latents))).dim

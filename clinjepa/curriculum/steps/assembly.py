"""Builds the modules of a phase, from the previous phase's folders or from a checkpoint, and captures their states.

A phase that only reads latents never builds the encoder. Phases write whole tensors and every worker reads its shards of them, so the
number of workers may change between phases and between attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import Parameter

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint
from clinjepa.curriculum.checkpoints.saving import Captured
from clinjepa.curriculum.feed.window_plan import mix_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.curriculum.steps.loss import build_heads, phase_terms
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import keep_gathered
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor_state, predictor_state, shard_predictor
from clinjepa.model.sharding import fill, shard_layers, to_shards, whole
from clinjepa.model.specs import PredictorSpec
from clinjepa.model.tensor_files import HEAD_TENSORS, check_same_tensors, read_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader

_INIT_TAG = 5


@dataclass
class PhaseModules:
    """The modules of a phase and their optimizer."""

    predictor: Predictor | None
    """None in a phase that trains the encoder without it."""
    encoder: Encoder | None
    optimizer: GroupedAdamW
    heads: dict[str, nn.Module]
    """By name of their term."""

    def captured(self, job: PhaseJob) -> Captured:
        """Whole tensors of everything the phase changes, by file name, and the optimizer's JSON state; collective."""
        moments, optimizer_state = self.optimizer.state()
        tensors = {"optimizer": moments}
        if self.predictor is not None:
            tensors = {"predictor": predictor_state(self.predictor), **tensors}
        if self.heads:
            for head in self.heads.values():
                to_shards(head)
            tensors["heads"] = {name: whole(parameter) for name, parameter in _named(self.heads)}
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
    predictor = _predictor(job, dist, checkpoint, latent_dim) if job.phase.trains_predictor else None
    heads = _heads(job, dist, checkpoint, latent_dim)
    groups = {"predictor": list(predictor.named_parameters())} if predictor is not None else {}
    if job.trains_encoder and encoder is not None:
        groups["encoder"] = encoder.online_parameters()
    if heads:
        groups["heads"] = list(_named(heads))
    optimizer = GroupedAdamW(groups, job.curriculum_settings.weight_decay)
    if checkpoint is not None:
        optimizer.load(checkpoint.tensors("optimizer"), checkpoint.state()["optimizer"]["updates"])
    else:
        # The encoder joins with fresh moments whenever it joins (method: phase 2).
        _load_moments(optimizer, "predictor", predictor_folder if predictor is not None else None, groups)
        _load_moments(optimizer, "heads", Folder(job.heads) if job.heads else None, groups)
    return PhaseModules(predictor, encoder, optimizer, heads)


def _predictor(job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None, latent_dim: int) -> Predictor:
    predictor = build_predictor(PredictorSpec.from_settings(job.predictor_settings.to_json(), latent_dim), mix_seed(_INIT_TAG, job.seed))
    if checkpoint is not None:
        load_predictor_state(predictor, checkpoint.tensors("predictor"))
    elif job.predictor:
        load_predictor_state(predictor, read_tensors(Folder(job.predictor), "predictor.safetensors"))
    predictor.to(dist.device)
    mesh = dist.mesh()
    if mesh is not None:
        shard_predictor(predictor, mesh)
        keep_gathered(predictor)
    return predictor


def _heads(job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None, latent_dim: int) -> dict[str, nn.Module]:
    """The heads of the phase's terms, each from the checkpoint, else from the phase that trained it last, else fresh."""
    heads = build_heads(job, latent_dim, mix_seed(_INIT_TAG, job.seed, 2))
    if not heads:
        return heads
    known: Mapping[str, Tensor] = {}
    if checkpoint is not None:
        known = checkpoint.tensors("heads")
    elif job.heads:
        known = read_tensors(Folder(job.heads), HEAD_TENSORS)
    mesh = dist.mesh()
    for name, head in heads.items():
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in known.items() if key.startswith(f"{name}.")}
        if own:
            check_same_tensors(own, dict(head.named_parameters()), f"head {name}")
            for key, parameter in head.named_parameters():
                fill(parameter, own[key])
        head.to(dist.device)
        if mesh is not None:
            shard_layers(head, [], mesh)
            keep_gathered(head)
    return heads


def _named(heads: Mapping[str, nn.Module]) -> Iterator[tuple[str, Parameter]]:
    for name, head in heads.items():
        for key, parameter in head.named_parameters():
            yield f"{name}.{key}", parameter


def _load_moments(optimizer: GroupedAdamW, group: str, folder: Folder | None, groups: Mapping[str, list[tuple[str, Parameter]]]) -> None:
    """Go on with a group's moments where an earlier phase had the same tensors; otherwise they start fresh."""
    if folder is None or group not in groups:
        return
    updates, moments = folder.read_json("optimizer.json")["updates"], read_tensors(folder, "optimizer.safetensors")
    if group == "heads" and any(f"heads.{name}.exp_avg" not in moments for name, _ in groups[group]):
        return
    optimizer.load(moments, {group: updates[group]})


def _encoder(job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None) -> Encoder:
    phase = job.phase
    spec = encoder_spec(job.encoder_settings, Folder(job.trajectories))
    base = Folder(job.base) if job.base else None
    seed = mix_seed(_INIT_TAG, job.seed, 1)
    loading, with_head = Loading(dist.device, dist.mesh()), any(term.of_texts for term in phase_terms(job))
    encoder = build_encoder(spec, base, seed, with_target=phase.needs_target, with_head=with_head, loading=loading)
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
